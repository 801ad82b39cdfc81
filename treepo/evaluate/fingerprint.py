"""Fingerprints of a model's weights and of its queries, so that answers are never mixed with those to other queries."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from treepo.data.problem import Problem
from treepo.errors import SettingError
from treepo.evaluate.store import FINGERPRINTS, replacing
from treepo.utils.files import read_plain
from treepo.utils.numeric import digest_of_parts

NUM_SAMPLED = 64
"""Numbers of each tensor that go into the fingerprint of a model."""


@dataclass(frozen=True)
class Fingerprint:
    """Digests of a model's weights and, by `problem_key`, of each query: prompt token ids and ground truth."""

    weights: str
    queries: dict[str, str]


FILE = TypeAdapter(dict[str, Fingerprint])
"""By model."""


def check_fingerprint(
    folder: Path, model: str, weights: Mapping[str, Tensor], problems: Sequence[Problem], answered: Collection[str]
) -> None:
    """Compare weights and queries with those that the folder's answers belong to, and record the new queries.

    answered: `problem_key` of the problems that the model has answered there; nothing is compared if there are none.
    Raises SettingError naming what has changed.
    """
    path = folder / FINGERPRINTS
    try:
        recorded = FILE.validate_json(read_plain(path)) if path.exists() else {}
    except (OSError, ValidationError) as error:
        reason = " ".join(str(error).split())[:200]
        raise SettingError("out", f"{str(path)!r} cannot be read: {reason}") from error
    now = Fingerprint(weights_digest(weights), {problem_key(p.dataset, p.id): problem_digest(p) for p in problems})
    before = recorded.get(model)
    if before is not None and answered:
        if before.weights != now.weights:
            raise SettingError("out", f"{str(folder)!r} holds answers of {model!r} from before its weights changed")
        for key in answered & now.queries.keys():
            if before.queries.get(key) != now.queries[key]:
                raise SettingError(
                    "out",
                    f"{str(folder)!r} holds answers to {key!r} from before its prompt, its ground truth or the "
                    f"model's tokenizer changed",
                )
        now = Fingerprint(now.weights, before.queries | now.queries)
    with replacing(path) as unfinished:
        unfinished.write_bytes(FILE.dump_json(recorded | {model: now}))


def problem_key(dataset: str, problem_id: str) -> str:
    """Identifies a problem within an evaluation."""
    return json.dumps([dataset, problem_id])


def problem_digest(problem: Problem) -> str:
    """Differs for another prompt or another ground truth."""
    return digest_of_parts([json.dumps([list(problem.prompt_ids), problem.ground_truth]).encode()]).hex()


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """A digest of some numbers of each tensor, on whichever device; differs, in practice, for other weights."""
    parts = []
    for name, tensor in sorted(weights.items()):
        flat = tensor.detach().flatten()
        sampled = flat[:: max(1, len(flat) // NUM_SAMPLED)].float().cpu().numpy()
        parts += [name.encode(), str(tuple(tensor.shape)).encode(), sampled.tobytes()]
    return digest_of_parts(parts).hex()
