"""One tree for one prompt: grown, shown, and kept if a file is named."""

from dataclasses import dataclass, replace
from pathlib import Path

from treepo.config.load import read_recipe, resolve
from treepo.config.schema import BUILT_IN_TASK, Config, Settings
from treepo.data.problem import Problem
from treepo.grow.sampler import TreeSampler
from treepo.model.policy import Policy
from treepo.model.settings import LoraSettings
from treepo.report.terminal import Terminal
from treepo.report.tree_view import TreeView, summary
from treepo.report.trees import KeptTree, write_trees
from treepo.run.build import build_policy, build_sampler, engine_for
from treepo.tasks.chain_sums import ChainSums, encode_prompt, is_chain_tokenizer
from treepo.tree import Tree
from treepo.utils.rng import derive_seed


@dataclass(frozen=True)
class Sample:
    """The parts of one sample. out: where the tree is kept, or None."""

    policy: Policy
    sampler: TreeSampler
    problem: Problem
    seed: int
    out: Path | None


def sample_settings(model: str | None, recipe: str | None, overrides: Settings) -> Config:
    """The settings of a recipe or of the built-in task, of a model or of none, and of the command line on top.

    Raises ValueError for a model that is named twice and for what `resolve` refuses.
    """
    named = overrides.get("model", {}).get("path")
    if model == "":
        raise ValueError("model.path: no model given")
    if model is not None and named is not None:
        raise ValueError(f"model.path: given twice, {model!r} and {named!r}")
    base = read_recipe(Path(recipe)) if recipe is not None else {} if model or named else BUILT_IN_TASK
    config = resolve(base, {"model": {"path": model}} if model else {}, overrides)
    # Adapters that nothing has trained yet change nothing.
    return replace(config, lora=LoraSettings())


def prepare(config: Config, prompt: str | None, out: str | None, terminal: Terminal) -> Sample:
    """Build what it takes to grow the tree of `prompt`; None is the first training problem of the built-in task.

    Raises ValueError for settings that cannot work, for a prompt that the model cannot be asked and for a file that
    is already there.
    """
    path = None if out is None else _unused(out)
    if prompt is not None:
        _check_text(prompt)
    elif config.model.path:
        raise ValueError(f"prompt: none given for model {config.model.path!r}; give one with --prompt")
    with terminal.progress("making the base model") as report:
        policy = build_policy(config, terminal.say, report)
    problem = _problem(config, policy, prompt)
    engine = engine_for(config, policy)
    _check_fits(problem, config, policy, engine.max_model_len)
    sampler = build_sampler(config, policy, engine)
    return Sample(policy, sampler, problem, derive_seed(config.train.seed, "sample"), path)


def sample(parts: Sample, terminal: Terminal) -> Tree:
    """Grow the tree and show it; raises FloatingPointError if logits are not finite."""
    ((_, tree),) = parts.sampler.grow([parts.problem], parts.seed)
    terminal.console.print(TreeView(tree, parts.policy.decode), crop=False)
    terminal.say(summary(tree))
    return tree


def keep(parts: Sample, tree: Tree, terminal: Terminal) -> None:
    """Write the tree if a file is named for it; raises ValueError if that cannot be written."""
    if parts.out is None:
        return
    try:
        write_trees(parts.out, [KeptTree(tree)], parts.policy.decode)
    except OSError as error:
        raise ValueError(f"out: cannot write to {str(parts.out)!r}: {error}") from error
    terminal.say(f"The tree is in {parts.out}.")


def _unused(out: str) -> Path:
    if not out:
        raise ValueError("out: no file given")
    try:
        is_used = Path(out).exists()
    except OSError as error:
        raise ValueError(f"out: cannot use {out[:100]!r}: {error.strerror}") from error
    if is_used:
        raise ValueError(f"out: {out!r} is already there; give a new file")
    return Path(out)


def _check_text(prompt: str) -> None:
    if not prompt.strip():
        raise ValueError("prompt: empty")
    if any("\ud800" <= character <= "\udfff" for character in prompt):
        raise ValueError(f"prompt: {prompt[:100]!r} is no text in the terminal's encoding")


def _problem(config: Config, policy: Policy, prompt: str | None) -> Problem:
    """The question as training would ask it: as a problem of the built-in task, or like one of a file."""
    if prompt is None:
        return ChainSums(policy.tokenizer, config.train.seed).training_problems(0, 1)[0]
    if not is_chain_tokenizer(policy.tokenizer):
        prompt_ids = tuple(config.prompt.encoder(policy.tokenizer)(prompt))
        return Problem(prompt, prompt, prompt_ids, ground_truth="")
    prompt_ids = encode_prompt(policy.tokenizer, prompt)
    if policy.decode(prompt_ids) != prompt:
        raise ValueError(
            f"prompt: {prompt[:100]!r} has characters that the built-in task has no tokens for; "
            f"its problems look like 71a-3b-3c-5d-6:"
        )
    return Problem(prompt, prompt, prompt_ids, ground_truth="")


def _check_fits(problem: Problem, config: Config, policy: Policy, longest: int) -> None:
    prompt_len, response_len = len(problem.prompt_ids), config.tree.max_response_tokens
    if prompt_len == 0:
        raise ValueError("prompt: it has no tokens")
    if policy.max_len is not None and prompt_len + response_len > policy.max_len:
        raise ValueError(
            f"prompt: its {prompt_len} tokens and responses of {response_len} (tree: depth x segment_len, or "
            f"max_response_len) do not fit into the model's {policy.max_len} positions"
        )
    if prompt_len + response_len > longest:
        needed = prompt_len + response_len
        raise ValueError(
            f"prompt: prompt and response of {needed} tokens do not fit into the engine's {longest} "
            "(engine.max_cache_tokens, vllm.max_model_len, or the servers' max-model-len)"
        )
