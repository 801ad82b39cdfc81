"""Which row of vLLM's batch draws from which stream; needs no vLLM."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from treepo.engine.base import SampleRequest, SamplingParams
from treepo.engine.sampling import BatchSamplingParams, sample_tokens, uniforms
from treepo.engine.vllm.engine import RequestGenerators


def request(name: int, prefix_len: int = 3, sampling: SamplingParams = SamplingParams()) -> SampleRequest:  # noqa: B008 - frozen
    """A request that can be told from others by its seed and its prefix."""
    return SampleRequest(name, np.arange(prefix_len, dtype=np.int32), 8, 100 + name, sampling)


def expected(r: SampleRequest, position: int, logits: torch.Tensor) -> tuple[int, float]:
    """The token that number `position` of a request's stream draws, and its log-probability."""
    s = r.sampling
    params = BatchSamplingParams.of([s])
    tokens, logprobs = sample_tokens(
        logits[None].clone(), np.arange(1), params, uniforms(np.array([r.seed]), np.array([position]))
    )
    return int(tokens[0]), float(logprobs[0])


def test_the_one_token_that_is_left_is_the_one_that_was_drawn() -> None:
    """Each row keeps one finite logit, that of its own stream at its own position and with its own sampling."""
    generators, logits = RequestGenerators(), torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    requests = [
        request(0, 3),
        request(1, 9, SamplingParams(0.7, top_k=5)),
        request(2, 4, SamplingParams(temperature=0.0)),
    ]
    outputs: list[list[int]] = [[], [4, 4], [1]]
    for r in requests:
        generators.begin(str(r.request_id), r)
    generators.update([], [(i, str(i), outputs[i]) for i in range(3)], [])
    forced = generators.sample_tokens(logits.clone())
    for i, r in enumerate(requests):
        token, logprob = expected(r, len(r.prefix_ids) + len(outputs[i]), logits[i])
        assert torch.isfinite(forced[i]).nonzero().tolist() == [[token]]
        assert generators.finish(str(i))[len(outputs[i])] == pytest.approx(logprob, abs=1e-6)


def test_the_last_draw_at_a_position_counts() -> None:
    """A prefix that is computed in two parts draws twice; what is noted is the second, which vLLM keeps."""
    generators = RequestGenerators()
    generators.begin("a", request(0))
    generators.update([], [(0, "a", [])], [])
    first, second = torch.randn(2, 1, 20, generator=torch.Generator().manual_seed(0))
    generators.sample_tokens(first.clone())
    generators.sample_tokens(second.clone())
    assert generators.finish("a")[0] == pytest.approx(expected(request(0), 3, second[0])[1], abs=1e-6)


def test_a_request_that_had_to_wait_goes_on_where_it_was() -> None:
    """vLLM takes a row away and gives another one with the tokens so far; earlier log-probabilities stay."""
    generators, tokens = RequestGenerators(), list[int]()
    logits = torch.randn(1, 20, generator=torch.Generator().manual_seed(0))
    generators.begin("a", request(0))
    generators.update([], [(0, "a", tokens)], [])
    generators.sample_tokens(logits.clone())
    before = expected(request(0), 3, logits[0])
    generators.begin("b", request(1))
    generators.update([0], [(0, "b", [])], [])
    generators.sample_tokens(logits.clone())
    generators.update([], [(1, "a", [before[0]])], [])
    generators.sample_tokens(logits.repeat(2, 1))
    noted = generators.finish("a")
    after = expected(request(0), 4, logits[0])
    np.testing.assert_allclose(noted[:2], [before[1], after[1]], rtol=0, atol=1e-6)


@given(st.data())
@settings(deadline=None)
def test_rows_are_followed_as_vllm_moves_them(data: st.DataObject) -> None:
    """Whatever is removed, added, moved and swapped, in the order that vLLM tells: a dictionary of rows agrees."""
    generators, rows, names = RequestGenerators(), dict[int, str](), 0
    for _ in range(data.draw(st.integers(1, 12))):
        removed = data.draw(st.lists(st.sampled_from(sorted(rows)), unique=True)) if rows else []
        for row in removed:
            del rows[row]
        added = []
        for row in data.draw(st.lists(st.integers(0, 6), unique=True)):
            if row not in rows:
                rows[row] = str(names)
                generators.begin(str(names), request(names))
                added.append((row, str(names), []))
                names += 1
        moved = []
        for source, target in data.draw(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=3)):
            is_swap = source in rows and target in rows
            if source == target or source not in rows:
                continue
            rows[target], other = rows.pop(source), rows.get(target)
            if is_swap and other is not None:
                rows[source] = other
            moved.append((source, target, is_swap))
        generators.update(removed, added, moved)
        held = {row: stream.request.request_id for row, (stream, _) in generators.rows.items()}
        assert held == {row: int(name) for row, name in rows.items()}
