"""TreePOTrainer: training from Python."""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import transformers
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

import treepo
from tests.models import save_tiny_model
from treepo.grow import Level
from treepo.tree import Tree

TINY: dict[str, Any] = {
    "tree": {"width": 4, "depth": 3, "segment_len": 8},
    "max_steps": 2,
    "prompts_per_step": 2,
    "learning_rate": 1e-3,
    "eval": {"num_problems": 4},
}
ROWS = [{"question": f"{a} + {b}?", "answer": f"Add.\n#### {a + b}"} for a in range(6) for b in range(5)]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_model(tmp_path_factory.mktemp("tiny") / "model"))


QUANTISED = {"load_in_4bit": True, "rank": 2}


def many_letters(completions: list[str], **columns: Any) -> list[float]:
    """A reward that any two answers differ in."""
    return [float(len(set(text))) for text in completions]


def trainer_of(tiny: Any, out: Path, **arguments: Any) -> treepo.TreePOTrainer:
    settings = TINY | arguments.pop("settings", {})
    arguments = {"train_dataset": ROWS, "reward_funcs": many_letters} | arguments
    return treepo.TreePOTrainer(tiny, config=treepo.TreePOConfig(output_dir=out, **settings), **arguments)


def test_a_reward_function_sees_everything(tiny: str, tmp_path: Path) -> None:
    """As TRL calls it, with the columns of each answer's own record; what it logs is a metric."""
    seen: list[dict[str, Any]] = []

    def reward(prompts, completions, completion_ids, answer, trainer_state, log_metric, **columns):
        seen.append(locals())
        log_metric("mean_len", np.mean([len(ids) for ids in completion_ids]))
        return many_letters(completions)

    with trainer_of(tiny, tmp_path / "run", reward_funcs=[treepo.verify.NumericVerifier(), reward]) as trainer:
        metrics = trainer.train()
        decode = trainer.run.policy.decode
    # Evaluated before the first step and after the last one.
    assert [call["trainer_state"].global_step for call in seen] == [0, 1, 2, 2]
    for call in seen:
        assert len(call["prompts"]) == len(call["completions"]) == len(call["columns"]["question"]) == 8
        by_question = {row["question"]: row["answer"] for row in ROWS}
        assert call["prompts"] == call["columns"]["question"]
        assert call["answer"] == [by_question[question] for question in call["prompts"]]
        assert call["columns"]["ground_truth"] == [answer.rpartition(" ")[2] for answer in call["answer"]]
        assert [decode(ids) for ids in call["completion_ids"]] == call["completions"]
        assert set(call["columns"]["stop_reason"]) <= {"answer", "eos", "length", "depth", "repetition"}
    assert {call["trainer_state"].max_steps for call in seen} == {2}, "evaluations had none, to be divided by"
    assert {"reward/correct", "reward/reward", "reward_metrics/mean_len", "accuracy", "eval/avg"} <= metrics.keys()
    assert metrics["reward/mean"] == pytest.approx(metrics["reward/correct"] + metrics["reward/reward"])


def test_the_same_run_from_python_and_by_steps(tiny: str, tmp_path: Path) -> None:
    """train() makes what the loop in the user's hands makes: the same metrics and weights."""
    with trainer_of(tiny, tmp_path / "a") as trainer:
        trainer.train()
        log = trainer.state.log_history
        weights = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    with trainer_of(tiny, tmp_path / "b") as trainer:
        steps = list(trainer.steps())
        assert all(torch.equal(v, weights[k]) for k, v in trainer.model.state_dict().items())
    assert untimed(log) == untimed([dict(step.metrics) for step in steps])
    for step in steps:
        assert len(step.trees) == len(step.rewards) == len(step.advantages) == 2
        assert "<" in step._repr_html_() and str(step.step) in repr(step)
        console = Console(file=StringIO(), record=True, width=200)
        step.show(console)
        shown = console.export_text()
        assert f"A tree of step {step.step}" in shown and "[reward " in shown and "by sequential" in shown


def untimed(history: list[dict[str, float]]) -> list[dict[str, float]]:
    """The metrics of steps that are the same in each run."""
    return [{k: v for k, v in one.items() if not k.startswith(("time/", "memory/"))} for one in history]


def test_a_loop_that_is_left_is_resumed_bit_for_bit(tiny: str, tmp_path: Path) -> None:
    """Its history and best score, too: they began anew, and train() of a run that was over returned nothing."""
    with trainer_of(tiny, tmp_path / "whole") as trainer:
        last, state = trainer.train(), trainer.state
        expected = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    with trainer_of(tiny, tmp_path / "cut") as trainer:
        for step in trainer.steps():
            assert step.step == 1
            break
    with trainer_of(tiny, tmp_path / "cut") as trainer:
        trainer.train(resume=True)
        assert untimed(trainer.state.log_history) == untimed(state.log_history) and trainer.state.best == state.best
        assert all(torch.equal(v, expected[k]) for k, v in trainer.model.state_dict().items())
    with trainer_of(tiny, tmp_path / "cut") as trainer:
        assert untimed([trainer.train(resume=True)]) == untimed([last])


def test_other_settings_are_another_run(tiny: str, tmp_path: Path) -> None:
    with trainer_of(tiny, tmp_path / "run") as trainer:
        trainer.train()
    changed = {"learning_rate": 2e-3}
    with pytest.raises(treepo.SettingError, match=r"optim.lr was 0.001, now 0.002"):
        trainer_of(tiny, tmp_path / "run", settings=changed).train(resume=True)
    with pytest.raises(treepo.SettingError, match="out"):
        trainer_of(tiny, tmp_path / "run").train()


def test_a_loaded_model_is_trained_in_place_without_known_answers(tiny: str, tmp_path: Path) -> None:
    """Rows from an endless generator, rewards from a function alone: held-out rewards instead of an accuracy."""

    def rows() -> Iterator[dict[str, str]]:
        number = 0
        while True:
            yield {"prompt": f"Say {number}."}
            number += 1

    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny), AutoTokenizer.from_pretrained(tiny)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with trainer_of(tiny, tmp_path / "run", train_dataset=rows()) as trainer:
        by_name = trainer.train()
    given = treepo.TreePOTrainer(
        model,
        many_letters,
        config=treepo.TreePOConfig(output_dir=tmp_path / "given", **TINY),
        train_dataset=rows(),
        processing_class=tokenizer,
    )
    with given:
        metrics = given.train()
        assert given.model is model
    assert any(not torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert metrics["eval/reward/mean"] == pytest.approx(by_name["eval/reward/mean"], abs=1e-6)
    assert "eval/avg" not in metrics and "accuracy" not in metrics
    with pytest.raises(treepo.SettingError, match="processing_class"):
        treepo.TreePOTrainer(model, many_letters, train_dataset=rows())


@pytest.mark.parametrize(
    ("section", "setting"), [("model", {"dtype": "bfloat16"}), ("model", {"device": "cpu"}), ("lora", QUANTISED)]
)
def test_settings_that_a_loaded_model_decides_are_refused(tiny: str, section: str, setting: dict[str, Any]) -> None:
    """They were passed over without a word."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny), AutoTokenizer.from_pretrained(tiny)
    config = treepo.TreePOConfig(**{section: setting})
    name = "load_in_4bit" if section == "lora" else next(iter(setting))
    with pytest.raises(treepo.SettingError, match=rf"{section}.{name}: is that of the loaded model"):
        treepo.TreePOTrainer(model, many_letters, train_dataset=ROWS, processing_class=tokenizer, config=config)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_a_peft_model_is_trained_in_place(tiny: str, tmp_path: Path) -> None:
    """It was trained, and then the final model could not be written; its own forward raised ever after."""
    peft = pytest.importorskip("peft")
    whole = AutoModelForCausalLM.from_pretrained(tiny)
    model = peft.get_peft_model(whole, peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    settings = {"save_steps": 1, "checkpoint": {"save_model": True}}
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    with trainer_of(model, tmp_path / "run", processing_class=tokenizer, settings=settings) as trainer:
        trainer.train()
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed and all(".lora_" in name for name in changed)
    ids = torch.arange(5, 20)[None]
    expected = model.eval()(ids).logits
    for folder in ("adapter", "models/step-000002"):
        loaded = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny), tmp_path / "run" / folder)
        torch.testing.assert_close(loaded(ids).logits, expected)
    torch.testing.assert_close(AutoModelForCausalLM.from_pretrained(tmp_path / "run/model")(ids).logits, expected)
    with pytest.raises(treepo.SettingError, match="own adapter already"):
        trainer_of(model, tmp_path / "two", processing_class=tokenizer, settings={"lora": {"rank": 2}}).train()


def test_a_mixture_of_datasets_that_the_trainer_is_given(tiny: str, tmp_path: Path) -> None:
    """The config refused its weights: it knew of no dataset."""
    for name in ("a", "b"):
        lines = [f'{{"prompt": "{name}{i}", "answer": "1"}}' for i in range(4)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    paths = [str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")]
    config = treepo.TreePOConfig(data={"weights": [1.0, 2.0]})
    assert treepo.TreePOTrainer(tiny, many_letters, train_dataset=paths, config=config).config.data.weights == (1, 2)
    for given, message in ((paths[:1], "each of 1 datasets"), (None, "needs datasets to train on")):
        with pytest.raises(treepo.SettingError, match=rf"data.weights: .*{message}|train_dataset: .*{message}"):
            treepo.TreePOTrainer(tiny, many_letters, train_dataset=given, config=config)


@pytest.mark.parametrize(("model", "message"), [(torch.nn.Linear(2, 2), "must be a folder"), (3, "must be a folder")])
def test_what_is_no_model_is_refused(model: Any, message: str, tiny: str) -> None:
    """The message was an AttributeError; of a model without weights to train, one of torch's optimizer."""
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    with pytest.raises(treepo.SettingError, match=message):
        treepo.TreePOTrainer(model, many_letters, train_dataset=ROWS, processing_class=tokenizer)
    frozen = AutoModelForCausalLM.from_pretrained(tiny).requires_grad_(False)
    with pytest.raises(treepo.SettingError, match="no weights to train"):
        _ = treepo.TreePOTrainer(frozen, many_letters, train_dataset=ROWS, processing_class=tokenizer).run
    with pytest.raises(treepo.SettingError, match="config: must be a TreePOConfig"):
        treepo.TreePOTrainer(tiny, many_letters, train_dataset=ROWS, config={"max_steps": 1})  # pyright: ignore


def test_a_reward_model_is_loaded_once(tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was loaded again at every step and evaluation; one that cannot be is found before anything is grown."""
    loaded: list[str] = []

    def load(self: treepo.RewardModel) -> None:
        loaded.append(str(self.model))

    monkeypatch.setattr(treepo.RewardModel, "load", load)
    monkeypatch.setattr(treepo.RewardModel, "__call__", lambda self, completions: many_letters(completions))
    with trainer_of(tiny, tmp_path / "run", reward_funcs="org/reward") as trainer:
        assert "reward/reward" in trainer.train()
    assert loaded == ["org/reward"]
    monkeypatch.undo()
    with pytest.raises(treepo.SettingError, match=r"reward_funcs: no reward model"):
        trainer_of(tiny, tmp_path / "other", reward_funcs=str(tmp_path)).train()
    assert not (tmp_path / "other").exists()


def test_a_folder_in_use_is_named_as_it_was_given(tiny: str, tmp_path: Path) -> None:
    """It was called `out`, which is the command line's word."""
    (tmp_path / "file").write_text("mine")
    with pytest.raises(treepo.SettingError, match="^output_dir: "):
        trainer_of(tiny, tmp_path).train()


def test_a_step_leaves_out_answers_without_a_reward(tiny: str, tmp_path: Path) -> None:
    """They are neither credited nor forwarded; the others are credited as if these had not been sampled."""

    def all_but_the_first(completions: list[str]) -> list[float | None]:
        letters = many_letters(completions)
        return [None if i % 4 == 0 else value for i, value in enumerate(letters)]

    star = {"tree": {"width": 4, "depth": 1, "segment_len": 8}, "initial_fork": {"low": 4, "high": 4}}
    settings = star | {"credit": treepo.credit.GRPO(), "learning_rate": 1e-9}
    with trainer_of(tiny, tmp_path / "part", settings=settings, reward_funcs=all_but_the_first) as trainer:
        (step, _) = trainer.steps()
    with trainer_of(tiny, tmp_path / "whole", settings=settings) as trainer:
        (whole, _) = trainer.steps()
    for tree, advantages, rewards in zip(step.trees, step.advantages, step.rewards, strict=True):
        assert advantages is not None and np.isnan(rewards).tolist() == [True, False, False, False]
        part = tree.with_leaves(tree.leaves()[1:])
        np.testing.assert_array_equal(advantages.values[1:], treepo.credit.GRPO()(part, rewards[1:]))
        assert advantages.values[0] == 0
    assert step.metrics["tokens/decoded"] == whole.metrics["tokens/decoded"]
    assert step.metrics["tokens/forwarded"] < whole.metrics["tokens/forwarded"]
    assert step.metrics["reward/mean"] == pytest.approx(np.nanmean(np.concatenate(step.rewards)))


def test_nothing_verified_is_not_correct() -> None:
    """Every reward was 0, and abstentions counted."""
    with pytest.raises(treepo.SettingError, match=r"reward.correct: must be 0 where nothing is verified"):
        treepo.TreePOConfig(verifier=treepo.verify.NoVerifier())


def test_answers_that_need_a_verifier_must_be_known(tiny: str, tmp_path: Path) -> None:
    rows = [{"prompt": f"{i}?"} for i in range(30)]
    trainer = trainer_of(tiny, tmp_path / "run", train_dataset=rows, reward_funcs=treepo.verify.MathVerifier())
    with pytest.raises(treepo.SettingError, match="has no known answers"):
        trainer.train()


@dataclass(frozen=True)
class Flat:
    """GRPO's numerator, as somebody's own estimator."""

    per_node: ClassVar[bool] = False
    whiten: bool = False

    def __call__(self, tree: Tree, rewards: np.ndarray) -> np.ndarray:
        return rewards - rewards.mean()


class FirstOnly:
    """A branching that is no dataclass: all further children go to the first active path."""

    def __call__(self, level: Level, rng: np.random.Generator) -> list[int]:
        counts = [1] * len(level.nodes)
        counts[0] += max(0, level.shape.width - level.num_finished - len(counts))
        return counts


def test_own_estimators_and_strategies_are_objects(tiny: str, tmp_path: Path) -> None:
    own = {"credit": Flat(), "branching": FirstOnly()}
    with trainer_of(tiny, tmp_path / "run", settings=own) as trainer:
        (step, _) = trainer.steps()
        text = (tmp_path / "run" / "config.toml").read_text()
    for advantages, rewards in zip(step.advantages, step.rewards, strict=True):
        assert advantages is None or np.allclose(advantages.values, rewards - rewards.mean())
    assert 'use = "tests.test_trainer_api:Flat"' in text and "FirstOnly" in text
    with pytest.raises(treepo.SettingError, match="credit: must be an object that is called with"):
        treepo.TreePOConfig(credit=lambda one: one)
    with pytest.raises(treepo.SettingError, match="lacks"):
        treepo.TreePOConfig(loss=lambda batch: batch)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"settings": {"learning_rate": -1.0}}, "learning_rate: must be positive"),
        ({"settings": {"bf16": True, "model": {"dtype": "float64"}}}, "model.dtype: "),
        ({"settings": {"tree": {"wdith": 4}}}, "tree.wdith: unknown setting"),
        ({"settings": {"tree": 8}}, "tree: expected a table of settings, got 8"),
        ({"reward_weights": [1.0, 2.0]}, "reward_weights: needs a number for each of 1"),
        ({"reward_funcs": [3]}, "reward_funcs: must be functions"),
        ({"reward_funcs": ["no_such_module:reward"]}, "reward_funcs: cannot be imported"),
        ({"reward_weights": ["one"]}, "reward_weights: needs a number for each of 1"),
        ({"reward_funcs": len}, "reward_funcs: len takes 'obj' by position"),
        ({"callbacks": lambda trainer: None}, "callbacks: is called as f"),
        ({"processing_class": "name"}, "processing_class: is that of a loaded model"),
        ({"train_dataset": {"train": ROWS}}, "train_dataset: must be rows: one split"),
        ({"train_dataset": 3}, "train_dataset: must be a path"),
        ({"train_dataset": [3]}, "train_dataset: row 1 must be a mapping"),
        ({"train_dataset": []}, "train_dataset: holds no rows"),
        ({"train_dataset": "no/such/file.jsonl"}, "train_dataset: cannot read"),
    ],
)
def test_mistakes_are_settings_errors(tiny: str, tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(treepo.SettingError, match=message):
        trainer_of(tiny, tmp_path / "run", **arguments).train()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "meant"),
    [("lr", "learning_rate"), ("max_step", "max_steps"), ("clip_high", "loss={'clip_high': ...}"), ("xyz", "")],
)
def test_a_wrong_argument_says_which_is_meant(name: str, meant: str) -> None:
    with pytest.raises(treepo.SettingError) as caught:
        treepo.TreePOConfig(**{name: 1})
    message = f"{name}: no such argument of TreePOConfig"
    assert str(caught.value) == (f"{message}; did you mean {meant}?" if meant else message)


def test_callbacks_see_steps_evaluations_and_files_and_may_stop(tiny: str, tmp_path: Path) -> None:
    seen: list[Any] = []

    class Noting(treepo.TrainerCallback):
        def on_step(self, trainer, step) -> None:
            seen.append(("step", step.step, trainer.state.global_step))
            assert step.trees[0].decode == trainer.run.policy.decode, "a callback could not show its trees"
            trainer.stop()

        def on_eval(self, trainer, metrics) -> None:
            seen.append(("eval", sorted(metrics) == sorted(m for m in metrics if m.startswith("eval/"))))

        def on_save(self, trainer, folder) -> None:
            seen.append(("save", folder.name))

    settings = {"save_steps": 1, "max_steps": 50}
    with trainer_of(tiny, tmp_path / "run", callbacks=[Noting()], settings=settings) as trainer:
        trainer.train()
    assert seen == [("eval", True), ("save", "checkpoints"), ("step", 1, 1), ("save", "model")]
    assert (tmp_path / "run" / "model" / "config.json").is_file()
    assert (tmp_path / "run" / "report.html").is_file()


def test_callbacks_that_nothing_would_call_are_refused_at_once(tiny: str) -> None:
    """A class in place of an object ended the run after its first step; hooks with the names of transformers were
    silently never called."""

    class OfTransformers(treepo.TrainerCallback):
        def on_step_end(self, args, state, control) -> None:
            control.should_training_stop = True

    for given, message in (
        ([treepo.TrainerCallback], "are objects of a subclass of treepo.TrainerCallback, or functions"),
        ([transformers.TrainerCallback()], "are objects of a subclass of treepo.TrainerCallback, or functions"),
        ([OfTransformers()], "OfTransformers overrides none of on_step, on_eval, on_save"),
    ):
        with pytest.raises(treepo.SettingError, match=f"^callbacks: {message}"):
            treepo.TreePOTrainer(tiny, len, train_dataset=ROWS, callbacks=given)
    with pytest.raises(treepo.SettingError, match=r"^args: no such argument of TreePOTrainer; did you mean config\?"):
        treepo.TreePOTrainer(tiny, len, train_dataset=ROWS, args=treepo.TreePOConfig())
    alone = treepo.TreePOTrainer(tiny, len, train_dataset=ROWS, callbacks=print, tools=None)
    assert alone.callbacks == [print]


def test_what_functions_ask_for_is_known_before_anything_is_grown(tiny: str, tmp_path: Path, monkeypatch) -> None:
    """A reward function that asks for a column which is not there was told so once the first trees had grown, a tool
    without type hints once the model was loaded; in words of recipes."""
    monkeypatch.setattr("treepo.grow.sampler.TreeSampler.grow", None)

    def asks(completions, level):
        return [0.0] * len(completions)

    with (
        trainer_of(tiny, tmp_path / "run", reward_funcs=asks) as trainer,
        pytest.raises(treepo.SettingError, match="^reward_funcs: asks asks for 'level'; there are .*answer"),
    ):
        trainer.train()
    monkeypatch.setattr("treepo.run.build.build_policy", None)
    with pytest.raises(treepo.SettingError, match="^tools: a tool needs type hints"):
        trainer_of(tiny, tmp_path / "run", tools=lambda x: x)


def test_growing_evaluating_and_saving(tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with trainer_of(tiny, tmp_path / "run") as trainer:
        tree = trainer.grow("<b>What</b> is 3 + 4?")
        assert len(tree.leaves()) == 4
        assert "&lt;b&gt;What" in tree._repr_html_() and "<b>What" not in tree._repr_html_()
        tree.show()
        assert "3 + 4" in capsys.readouterr().out
        assert repr(tree).startswith("Tree(") and len(repr(tree)) < 120
        assert "eval/reward/mean" in trainer.evaluate()
        trainer.save_model(tmp_path / "saved")
        assert "TreePOTrainer" in repr(trainer) and "TreePOTrainer" in trainer._repr_html_()
    AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert not (tmp_path / "run").exists()


def test_every_public_name_is_there_and_documented() -> None:
    for name in treepo.__all__:
        value = getattr(treepo, name)
        assert name == "__version__" or inspect.getdoc(value), name
    with pytest.raises(AttributeError, match="nothing"):
        _ = treepo.nothing
