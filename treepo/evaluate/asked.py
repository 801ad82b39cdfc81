"""Which model was asked what, so that a folder's answers are all to the same questions of the same model."""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from treepo.evaluate.answer_file import StoreError, replacing
from treepo.task.problem import Problem

NUM_SAMPLED = 64
"""Numbers of each tensor that a model is recognised by."""


@dataclass(frozen=True)
class Asked:
    """A mark of the model's weights, and one of each problem: its prompt as token ids and its known answer."""

    weights: str
    problems: dict[str, str]


FILE = TypeAdapter(dict[str, Asked])


def check_asked(
    path: Path, model: str, weights: Mapping[str, Tensor], problems: Sequence[Problem], answered: Collection[str]
) -> None:
    """Compare with what the file says the model was asked before, and note what it is about to be asked.

    answered: the sets and ids, as `problem_key`, of problems with answers of this model; if there are none nothing
    binds. Raises StoreError naming what has changed.
    """
    try:
        known = FILE.validate_json(path.read_bytes()) if path.exists() else {}
    except (OSError, ValidationError) as error:
        reason = " ".join(str(error).split())[:200]
        raise StoreError(f"out: {str(path)!r} cannot be read: {reason}") from error
    now = Asked(weights_mark(weights), {problem_key(p.source, p.id): problem_mark(p) for p in problems})
    before = known.get(model)
    if before is not None and answered:
        if before.weights != now.weights:
            raise StoreError(f"out: {str(path.parent)!r} holds answers of {model!r} from before its weights changed")
        for key in answered & now.problems.keys():
            if before.problems.get(key) != now.problems[key]:
                raise StoreError(
                    f"out: {str(path.parent)!r} holds answers to {key!r} from before its prompt, its known answer or "
                    f"the model's tokenizer changed"
                )
        now = Asked(now.weights, before.problems | now.problems)
    with replacing(path) as unfinished:
        unfinished.write_bytes(FILE.dump_json(known | {model: now}))


def problem_key(source: str, problem_id: str) -> str:
    """What tells a problem from others of an evaluation."""
    return json.dumps([source, problem_id])


def problem_mark(problem: Problem) -> str:
    """Differs for another prompt or another known answer."""
    return _digest([json.dumps([list(problem.prompt_ids), problem.answer]).encode()])


def weights_mark(weights: Mapping[str, Tensor]) -> str:
    """Differs, in practice, for other weights: a digest of some numbers of each tensor, wherever they came from."""
    parts = []
    for name, tensor in sorted(weights.items()):
        flat = tensor.detach().flatten()
        sampled = flat[:: max(1, len(flat) // NUM_SAMPLED)].float().cpu().numpy()
        parts += [name.encode(), str(tuple(tensor.shape)).encode(), sampled.tobytes()]
    return _digest(parts)


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()
