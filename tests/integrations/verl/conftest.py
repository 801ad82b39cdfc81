"""Fixtures of the tests with verl: Ray, the TransferQueue, and a configuration."""

import warnings
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

if find_spec("verl") is None:
    collect_ignore_glob = ["*.py"]
else:
    # It warns of its own imports, and this suite makes errors of warnings.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import_module("verl.trainer.ppo.v1")

OVERRIDES = [
    "actor_rollout_ref.rollout.name=vllm",
    "actor_rollout_ref.rollout.n=4",
    "actor_rollout_ref.rollout.prompt_length=64",
    "actor_rollout_ref.rollout.response_length=32",
    "actor_rollout_ref.rollout.agent.num_workers=1",
    "actor_rollout_ref.rollout.val_kwargs.n=2",
    "algorithm.adv_estimator=grpo",
    "data.train_batch_size=4",
    "trainer.device=cpu",
    "trainer.n_gpus_per_node=1",
    "trainer.v1.trainer_mode=treepo",
    "transfer_queue.enable=True",
    # tq.init waits for ever, without a word, for storage units that Ray has no CPUs for.
    "transfer_queue.backend.SimpleStorage.num_data_storage_units=1",
]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the config and the tokenizer of a tiny model."""
    from transformers import LlamaConfig

    from tests.models import make_tiny_tokenizer

    folder = tmp_path_factory.mktemp("verl") / "tiny-llama"
    tokenizer = make_tiny_tokenizer(chat=True)
    tokenizer.save_pretrained(folder)
    architecture = {"architectures": ["LlamaForCausalLM"]}
    LlamaConfig(vocab_size=len(tokenizer), eos_token_id=2, **architecture).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def make_config(tiny_model: Path) -> Any:
    """verl's configuration with overrides as on its command line."""
    from hydra import compose, initialize_config_module

    def make(*overrides: str) -> Any:
        with initialize_config_module("verl.trainer.config", version_base=None):
            model = f"actor_rollout_ref.model.path={tiny_model}"
            return compose("ppo_trainer", overrides=[model, *OVERRIDES, *overrides])

    return make


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """Ray with as many CPUs, by its own count, as the actors of a test have."""
    import ray

    from tests.integrations.verl import stand_ins

    # verl installs a package `tests` of its own, which Ray's workers would look into.
    ray.cloudpickle.register_pickle_by_value(stand_ins)
    ray.init(num_cpus=8, include_dashboard=False, object_store_memory=200_000_000, log_to_driver=True)
    yield
    ray.shutdown()
