"""What a program gives to `TreePOTrainer`: rewards and verifiers, checked when it is made."""

import tomllib
from dataclasses import dataclass

import pytest

import treepo
from treepo.config.load import to_toml
from treepo.run.arguments import reward_layer
from treepo.verify import ExactVerifier, MathVerifier, NoVerifier


def one(completions: list[str]) -> list[float]:
    return [1.0] * len(completions)


@dataclass(frozen=True)
class Own(ExactVerifier):
    """As in a script that is run: its module is __main__."""


Own.__module__ = "__main__"


def test_functions_without_a_dataset_are_added_to_the_built_in_task():
    """It was refused: the verifier that stands for none was taken for one that the task does not know."""
    trainer = treepo.TreePOTrainer(reward_funcs=one, reward_weights=[0.5])
    assert trainer.config.reward.correct == 1.0
    assert trainer.config.reward.functions == (one,)
    assert trainer.config.reward.function_weights == (0.5,)
    assert trainer.config.verifier == MathVerifier()


def test_functions_with_a_dataset_are_the_whole_reward():
    trainer = treepo.TreePOTrainer("some/model", one, train_dataset=[{"prompt": "1+1"}, {"prompt": "1+2"}])
    assert trainer.config.reward.correct == 0.0
    assert trainer.config.verifier == NoVerifier()


def test_a_verifier_judges_wherever_it_stands():
    layer = reward_layer([one, MathVerifier()], [0.1, 2.0], is_built_in_task=True)
    assert layer == {
        "reward": {"correct": 2.0, "functions": [one], "function_weights": [0.1]},
        "verifier": MathVerifier(),
    }


def test_a_function_for_a_strategy_stands_in_the_recipe_by_its_name():
    """The run's config.toml said builtins:function."""

    def give_up(finished, shape, rng):
        return None

    give_up.__module__, give_up.__qualname__ = "my_fallback", "give_up"
    config = treepo.TreePOTrainer(config=treepo.TreePOConfig(fallback=give_up)).config
    assert tomllib.loads(to_toml(config))["fallback"] == {"use": "my_fallback:give_up"}


def test_a_verifier_of_the_script_itself_is_refused_at_once():
    """Its workers could not import it, which was said only when the model had been loaded."""
    with pytest.raises(treepo.SettingError, match="define it in a file beside the script.*Own"):
        treepo.TreePOTrainer("some/model", Own(), train_dataset=[{"prompt": "1+1", "answer": "2"}])
