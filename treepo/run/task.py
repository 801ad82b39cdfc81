"""From settings to problems and their judge."""

from collections.abc import Callable

from treepo.config.schema import Config
from treepo.data.datasets import Dataset, DatasetTask, Encode, LoadedDatasets, load_datasets, split_train_eval
from treepo.data.problem import Task
from treepo.data.sources import parse_source
from treepo.errors import VerifierStartError
from treepo.model.policy import Policy
from treepo.tasks.chain_sums import LONGEST_PROMPT, ChainSums
from treepo.verify.pool import VerifierPool
from treepo.verify.task import VerifiedTask, probe

NUM_PROBED = 16
"""Known answers that the verifier has to recognise before a run starts."""

Notify = Callable[[str], None]


def build_task(config: Config, policy: Policy, longest: int, notify: Notify) -> Task:
    """The built-in task, or the problems of the named sets that fit the model and the engine.

    longest: tokens that the engine holds. notify: told in a line what was dropped. Raises ValueError naming the
    setting that cannot work.
    """
    room = _prompt_room(config, policy, longest)
    if not config.data.is_given:
        if not isinstance(policy.tokenizer.bos_token_id, int):
            raise ValueError("data.train: the built-in task needs a tokenizer with a bos token; give sets of problems")
        return ChainSums(policy.tokenizer, config.train.seed)
    train, held_out = _read(config, config.prompt.encoder(policy.tokenizer), room, notify)
    if config.data.train and not any(s.problems for s in train):
        raise ValueError("data.train: all problems are held out; name others in data.eval")
    if config.data.weights and (empty := [s.name for s in train if not s.problems]):
        raise ValueError(f"data.weights: all problems of {empty[0]!r} are held out")
    if not held_out:
        notify("no problem is held out: nothing will be evaluated")
    data = DatasetTask(train, held_out, config.data.weights, config.train.seed)
    task = VerifiedTask(data, VerifierPool(config.verifier, config.verifier_pool), notify)
    try:
        _probe(task, [*train, *held_out], notify)
    except BaseException:
        task.close()
        raise
    return task


def _prompt_room(config: Config, policy: Policy, longest: int) -> int:
    """Most tokens of a prompt."""
    limit = config.tree.max_response_tokens
    room = min(config.data.max_prompt_len, longest - limit)
    if policy.max_len is not None:
        room = min(room, policy.max_len - limit)
    if room < (1 if config.data.is_given else LONGEST_PROMPT):
        raise ValueError(
            f"tree: responses of {limit} tokens (depth x segment_len, or max_response_len) leave no room for a prompt "
            f"in the model's {policy.max_len} positions or the engine's {longest} tokens (engine.max_cache_tokens, "
            f"vllm.max_model_len, or the servers' max-model-len)"
        )
    return room


def _read(config: Config, encode: Encode, room: int, notify: Notify) -> tuple[tuple[Dataset, ...], tuple[Dataset, ...]]:
    """(sets to train on, sets held out)."""
    settings, none = config.data, LoadedDatasets((), 0, 0)
    sources = *settings.train, *settings.eval
    if settings.own_fields and all(parse_source(source, "data").format for source in sources):
        name = settings.own_fields[0]
        raise ValueError(f"data.{name}: {getattr(settings, name)!r} is for sets that name no format, and all name one")
    train = held_out = none
    if settings.train:
        train = load_datasets(settings.train, settings, encode, room, "data.train", settings.eval)
    if settings.eval:
        held_out = load_datasets(settings.eval, settings, encode, room, "data.eval", settings.train)
    for name, read in (("data.train", train), ("data.eval", held_out)):
        kept = sum(len(s.problems) for s in read.sets)
        num_read = kept + read.num_too_long
        if read.num_too_long:
            notify(f"{name}: {read.num_too_long} of {num_read} problems dropped: prompts of more than {room} tokens")
        if read.num_repeated:
            notify(f"{name}: {read.num_repeated} problems dropped: asked before in the same set")
        if read.sets and not kept:
            raise ValueError(f"{name}: no problem has at most {room} prompt tokens")
        if config.data.weights and (empty := [s.name for s in read.sets if not s.problems]):
            raise ValueError(f"{name}: no problem of {empty[0]!r} has at most {room} prompt tokens")
    return split_train_eval(train.sets, held_out.sets)


def _probe(task: VerifiedTask, sets: list[Dataset], notify: Notify) -> None:
    for s in sets:
        try:
            unrecognised = probe(task.pool, [p.ground_truth for p in s.problems[:NUM_PROBED]])
        except VerifierStartError:
            # Names its setting itself, and has to do with no set.
            raise
        except ValueError as error:
            raise ValueError(f"verifier: of {s.name!r}: {error}") from error
        for line in unrecognised:
            notify(f"verifier: a known answer of {s.name!r} is not recognised: {line}")
