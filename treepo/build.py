"""From settings to parts: the policy, the task, the engine, the sampler and the trainer, wired together."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from treepo.build_engine import EngineNeeds, build_engine, check_align, sampling_of
from treepo.engine import Engine
from treepo.evaluate import accuracy
from treepo.grow import Rules, TreeSampler
from treepo.learn.optim import make_optimizer
from treepo.learn.reference import AdapterOff, FrozenCopy, Reference
from treepo.learn.scoring import Scorer
from treepo.learn.trainer import Trainer
from treepo.learn.update import Updater
from treepo.model.attention import NotPackableError
from treepo.model.lora import add_adapter, has_adapter
from treepo.model.policy import Policy, load_policy
from treepo.model.recompute import recompute_activations
from treepo.model.served import has_plain_head
from treepo.seeds import derive_seed
from treepo.settings import Config, DataSettings
from treepo.task.base_model import Report, default_cache_folder, find_or_make_base_model
from treepo.task.chain_sums import LONGEST_PROMPT, ChainSums
from treepo.task.jsonl import JsonlFormat, JsonlTask, read_problems, split_held_out
from treepo.task.problem import Problem, Task

Notify = Callable[[str], None]


@dataclass(frozen=True)
class Run:
    """The parts of one training run."""

    config: Config
    policy: Policy
    task: Task
    trainer: Trainer

    def evaluate(self) -> dict[str, float]:
        """Held-out accuracy: eval/avg over answers at temperature 1, eval/greedy over one likeliest answer each."""
        settings = self.config.eval
        problems = self.task.held_out_problems(settings.num_problems)
        if not problems:
            return {}

        def measure(num_samples: int, temperature: float) -> float:
            response_len = self.config.tree.response_limit
            seed = derive_seed(self.config.train.seed, "eval")
            engine, decode = self.trainer.engine, self.policy.decode
            return accuracy(engine, self.task, problems, decode, response_len, num_samples, temperature, seed)

        return {"eval/avg": measure(settings.num_samples, 1.0), "eval/greedy": measure(1, 0.0)}


def build_run(config: Config, notify: Notify, report: Report) -> Run:
    """Load or make everything a run needs.

    notify: told in a line what was dropped. report: called while the base model is made. Raises ValueError naming
    the setting that cannot work.
    """
    policy = build_policy(config, notify, report)
    engine = engine_for(config, policy)
    task = build_task(config, policy, engine.longest, notify)
    return Run(config, policy, task, build_trainer(config, policy, task, engine))


def build_policy(config: Config, notify: Notify, report: Report) -> Policy:
    """The model that is named, or the built-in task's base model, with adapters if they are what is trained.

    A model that cannot be packed is taken as transformers runs it, and that is said.
    """
    if config.data.path and not config.model.path:
        raise ValueError(f"model.path: the problems of {config.data.path!r} need a model; none is given")
    path = config.model.path or find_base_model(report)
    settings = config.model
    how = path, settings.dtype, settings.device, settings.trust_remote_code
    policy, reason = None, ""
    try:
        policy = load_policy(*how)
    except NotPackableError as error:
        reason = str(error.__cause__).removeprefix("model.path: ")
    if policy is None:
        # Not while the error is handled: it keeps what was loaded alive.
        policy = load_policy(*how, packable=False)
        notify(f"nothing is shared: trajectories are sampled and trained one by one, since {reason}")
    if config.lora.rank:
        try:
            add_adapter(policy.model, config.lora, derive_seed(config.train.seed, "adapter"))
        except ValueError as error:
            raise ValueError(f"lora.{error}") from error
    if config.train.gradient_checkpointing:
        recompute_activations(policy.model)
    return policy


def find_base_model(report: Report) -> str:
    """The folder of the built-in task's base model, made if it is not there."""
    folder = default_cache_folder()
    try:
        return str(find_or_make_base_model(folder, seed=0, report=report))
    except OSError as error:
        raise ValueError(f"TREEPO_CACHE: cannot keep the base model in {str(folder)!r}: {error}") from error


def engine_for(config: Config, policy: Policy) -> Engine:
    """The engine of a run; see build_engine."""
    longest = config.data.max_prompt_len + config.tree.response_limit
    needs = EngineNeeds(longest, policy.eos_ids, autocast_of(config), config.train.rescoring)
    if config.engine.kind == "vllm":
        check_align("tree.align", config.tree.align, config.vllm.block_size_on(policy.model.device.type))
    settings = config.engine, config.vllm, config.servers
    return build_engine(policy, *settings, needs, config.model.trust_remote_code)


def autocast_of(config: Config) -> torch.dtype | None:
    """The type of the matrix products, if it is not that of the weights."""
    return torch.bfloat16 if config.train.autocast == "bfloat16" else None


def build_sampler(config: Config, policy: Policy, engine: Engine) -> TreeSampler:
    """What grows trees as the settings say."""
    rules = Rules(config.tree, config.initial_fork, config.branching, config.fallback, config.stopping, policy.decode)
    return TreeSampler(engine, rules, sampling_of(config.engine))


def build_trainer(config: Config, policy: Policy, task: Task, engine: Engine) -> Trainer:
    """The trainer of a policy on a task over an engine."""
    return Trainer(
        policy,
        task,
        engine,
        build_sampler(config, policy, engine),
        config.credit,
        build_updater(config, policy),
        config.train.problems_per_step,
        config.train.num_mini_batches,
        config.train.num_epochs,
        config.dynamic_sampling,
        config.train.seed,
        config.reward,
    )


def build_updater(config: Config, policy: Policy) -> Updater:
    """What turns credited trees into updates of a policy."""
    settings, model = config.train, policy.model
    is_packable = policy.is_packable
    has_head = has_plain_head(model, is_packable)
    scorer = Scorer(model, config.engine.temperature, has_head, is_packable, autocast_of(config))
    reference: Reference | None = None
    if config.penalties.kl:
        reference = AdapterOff(model) if has_adapter(model) else FrozenCopy.of(model)
    optimizer, schedule = make_optimizer(model, config.optim)
    return Updater(
        scorer,
        config.loss,
        config.aggregation,
        config.penalties,
        optimizer,
        schedule,
        settings.micro_batch_tokens,
        config.optim.max_grad_norm,
        settings.packing and is_packable,
        settings.rescoring,
        settings.max_importance,
        reference,
    )


def build_task(config: Config, policy: Policy, longest: int, notify: Notify) -> Task:
    """The built-in task, or the problems of a file that fit the model and the engine, which holds `longest` tokens."""
    limit = config.tree.response_limit
    room = min(config.data.max_prompt_len, longest - limit)
    if policy.max_len is not None:
        room = min(room, policy.max_len - limit)
    if room < (1 if config.data.path else LONGEST_PROMPT):
        raise ValueError(
            f"tree: responses of {limit} tokens (depth x segment_len, or max_response_len) leave no room for a prompt "
            f"in the model's {policy.max_len} positions or the engine's {longest} tokens (engine.max_tokens, "
            f"vllm.max_len, or the servers' max-model-len)"
        )
    seed = config.train.seed
    if not config.data.path:
        if not isinstance(policy.tokenizer.bos_token_id, int):
            raise ValueError("data.path: the built-in task needs a tokenizer with a bos token; give a file of problems")
        return ChainSums(policy.tokenizer, seed)
    train, held_out = read_split(config.data, policy)
    if not train:
        raise ValueError(
            f"data.path: all problems of {config.data.path!r} are held out; name others in data.held_out_path"
        )
    fitting_train, fitting_held_out = ([p for p in part if len(p.prompt_ids) <= room] for part in (train, held_out))
    num_dropped = len(train) + len(held_out) - len(fitting_train) - len(fitting_held_out)
    if num_dropped:
        notify(f"{num_dropped} of {len(train) + len(held_out)} problems dropped: prompts of more than {room} tokens")
    if not fitting_train:
        raise ValueError(f"data.path: no training problem of {config.data.path!r} has at most {room} prompt tokens")
    if not fitting_held_out:
        notify("no problem is held out: nothing will be evaluated")
    return JsonlTask(fitting_train, fitting_held_out, seed)


def read_split(settings: DataSettings, policy: Policy) -> tuple[list[Problem], list[Problem]]:
    """(train, held out) from one file or two; a problem that is held out is not trained on, wherever it stands."""
    form = JsonlFormat(settings.prompt_field, settings.answer_field, settings.answer_after)

    def encode(question: str) -> list[int]:
        return policy.encode_prompt(question + settings.instruction)

    problems = read_problems(Path(settings.path), form, encode)
    if not settings.held_out_path:
        return split_held_out(problems)
    held_out = read_problems(Path(settings.held_out_path), form, encode, setting="data.held_out_path")
    never_trained_on = {p.prompt for p in held_out}
    return [p for p in problems if p.prompt not in never_trained_on], held_out
