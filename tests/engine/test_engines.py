"""What every engine does, against the model itself, computed from scratch for every token."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.engines import (
    ENGINES,
    MakeEngine,
    assert_scored,
    embedded,
    make_model,
    naive,
    plain,
    request,
    run_all,
    tokens_of,
)
from tests.models import KINDS, SLIDING_WINDOW
from treepo.engine.base import SampleRequest, SampleResult, SamplingParams
from treepo.engine.scripted import ScriptedEngine
from treepo.engine.transformers import TransformersEngine

EOS = 2
PROMPT = np.array([1, 5, 9, 4, 7, 3, 8], np.int32)


@pytest.fixture(scope="module", params=ENGINES, ids=lambda make: make.__name__)
def make(request: Any) -> MakeEngine:
    """(model, eos ids, batch) -> an engine of each sort."""
    return request.param


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_output_is_that_of_generate(make: MakeEngine, kind: str) -> None:
    """At temperature 0 the engine decodes what transformers does, windows and all, for prompts of several lengths."""
    reference: Any = make_model(kind, attention="sdpa")
    reference.generation_config.eos_token_id = None
    prompts = [PROMPT, PROMPT[:1], PROMPT[:4], np.tile(PROMPT, 10)]
    length = 3 * SLIDING_WINDOW
    results = run_all(make(make_model(kind)), [request(p, length, temperature=0.0) for p in prompts])
    for prompt, result in zip(prompts, results, strict=True):
        ids = torch.from_numpy(prompt).long()[None]
        expected = reference.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=length)
        assert result.token_ids.tolist() == expected[0, len(prompt) :].tolist()
        assert_scored(reference, prompt, result)


@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.7])
@pytest.mark.parametrize("kind", KINDS)
def test_logprobs_are_those_of_one_forward(make: MakeEngine, kind: str, temperature: float) -> None:
    """Segments, children, grandchildren and fallbacks into an earlier sequence are scored as by one whole forward."""
    reference, engine = make_model(kind, attention="sdpa"), make(make_model(kind))

    def grow(prefixes: Sequence[np.ndarray], seed: int) -> list[np.ndarray]:
        requests = [request(p, 17, seed + i, temperature) for i, p in enumerate(prefixes)]
        results = run_all(engine, requests)
        for prefix, result in zip(prefixes, results, strict=True):
            assert_scored(reference, prefix, result, temperature)
        return [np.concatenate([p, r.token_ids]) for p, r in zip(prefixes, results, strict=True)]

    first = grow([PROMPT] * 3, seed=0)
    children = grow([ids for ids in first for _ in range(2)], seed=10)
    grandchildren = grow(children + first[:1], seed=20)
    cuts = [grandchildren[i][:n] for i, n in ((0, 8), (1, 9), (2, 33), (3, 57), (4, 7), (5, 5))]
    grow([*cuts, grandchildren[0]], seed=30)


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_drawn_from_the_requests_own_streams(make: MakeEngine, kind: str) -> None:
    """Token by token what inverting the distribution function at each position's number gives: all engines agree."""
    reference, engine = make_model(kind, attention="sdpa"), make(make_model(kind), [EOS])
    for r, result in zip(mixed_requests()[:15], run_all(engine, mixed_requests()[:15]), strict=True):
        tokens, logprobs, ended = naive(reference, r, [EOS])
        assert (result.token_ids.tolist(), result.ended) == (tokens, ended)
        np.testing.assert_allclose(result.logprobs, logprobs, rtol=0, atol=1e-5)


def mixed_requests() -> list[SampleRequest]:
    """Requests of several prompts, lengths, temperatures and seeds, some with shared beginnings."""
    rng = np.random.default_rng(0)
    prompts = [PROMPT, PROMPT[:4], np.tile(PROMPT, 3), *(rng.integers(3, 16, size=n) for n in (1, 2, 30, 55))]
    sizes, temperatures = (1, 2, 7, 25), (0.0, 0.8, 1.0)
    return [
        request(prompts[i % len(prompts)], sizes[i % 4], seed=1000 + i // 2, temperature=temperatures[i % 3])
        for i in range(45)
    ]


@pytest.fixture(scope="module")
def alone() -> list[list[int]]:
    """What each of the mixed requests gives, computed from scratch."""
    model = make_model(attention="sdpa")
    return [naive(model, r, [EOS])[0] for r in mixed_requests()]


@pytest.mark.parametrize("max_num_seqs", [1, 4, 37, 256])
def test_tokens_do_not_depend_on_the_batch(make: MakeEngine, max_num_seqs: int, alone: list[list[int]]) -> None:
    """Every request gives what it gives alone, in batches of any size, in any order, after any history."""
    requests = mixed_requests()
    engine = make(make_model(), [EOS], max_num_seqs)
    assert tokens_of(run_all(engine, requests)) == alone
    order = np.random.default_rng(max_num_seqs).permutation(len(requests))
    again = tokens_of(run_all(engine, [requests[i] for i in order]))
    assert again == [alone[i] for i in order]


def test_requests_may_join_while_others_run(make: MakeEngine, alone: list[list[int]]) -> None:
    """Submitted one by one between steps, each gives what it gives alone."""
    requests, engine = mixed_requests(), make(make_model(), [EOS], 37)
    results: dict[int, list[int]] = {}
    for i, r in enumerate(requests):
        engine.submit(replace(r, request_id=i))
        results |= {result.request_id: result.token_ids.tolist() for result in engine.step()}
    while len(results) < len(requests):
        results |= {result.request_id: result.token_ids.tolist() for result in engine.step()}
    assert [results[i] for i in range(len(requests))] == alone


@pytest.mark.parametrize("first", [1, 7, 19])
def test_a_request_in_two_parts_gives_the_same(make: MakeEngine, first: int) -> None:
    """A number of the stream belongs to a position, so cutting a segment in two changes no token."""
    engine = make(make_model())
    whole = run_all(engine, [request(PROMPT, 20, seed=5)])[0]
    upper = run_all(engine, [request(PROMPT, first, seed=5)])[0]
    prefix = np.concatenate([PROMPT, upper.token_ids])
    lower = run_all(engine, [request(prefix, 20 - first, seed=5)])[0]
    assert [*upper.token_ids, *lower.token_ids] == whole.token_ids.tolist()
    np.testing.assert_allclose([*upper.logprobs, *lower.logprobs], whole.logprobs, rtol=0, atol=1e-5)


def test_what_is_left_out_changes_tokens_and_no_logprob(make: MakeEngine) -> None:
    """Top-k, top-p and min-p leave unlikely tokens out; log-probabilities are those before that, as in the loss."""
    reference, engine = make_model(attention="sdpa"), make(make_model())
    for how in (
        SamplingParams(1.3, top_k=3),
        SamplingParams(0.9, top_p=0.7),
        SamplingParams(1.0, min_p=0.2),
        SamplingParams(2.0, 5, 0.8, 0.1),
    ):
        requests = [replace(request(PROMPT, 30, seed=i), sampling=how) for i in range(8)]
        results = run_all(engine, requests)
        for result in results:
            assert_scored(reference, PROMPT, result, how.temperature)
        free = run_all(engine, [replace(r, sampling=SamplingParams(how.temperature)) for r in requests])
        assert tokens_of(results) != tokens_of(free)
    only = run_all(
        engine, [replace(request(PROMPT, 30, seed=i), sampling=SamplingParams(1.7, top_k=1)) for i in range(3)]
    )
    assert tokens_of(only) == 3 * tokens_of(run_all(engine, [request(PROMPT, 30, temperature=0.0)]))


@pytest.mark.parametrize("penalty", [0.7, 1.3, 3.0])
def test_a_repetition_penalty_is_that_of_generate(make: MakeEngine, penalty: float) -> None:
    """Greedy answers with a penalty are transformers', for prompts of several lengths, two of them the same."""
    reference: Any = make_model(attention="sdpa")
    reference.generation_config.eos_token_id = None
    prompts = [PROMPT, PROMPT, PROMPT[:1], np.tile(PROMPT, 10)]
    sampling = SamplingParams(0.0, repetition_penalty=penalty)
    results = run_all(make(make_model()), [replace(request(p, 24), sampling=sampling) for p in prompts])
    free = run_all(make(make_model()), [request(p, 24, temperature=0.0) for p in prompts])
    assert tokens_of(results) != tokens_of(free)
    for prompt, result in zip(prompts, results, strict=True):
        ids = torch.from_numpy(prompt).long()[None]
        options = {"do_sample": False, "max_new_tokens": 24, "repetition_penalty": penalty}
        expected = reference.generate(ids, attention_mask=torch.ones_like(ids), **options)
        assert result.token_ids.tolist() == expected[0, len(prompt) :].tolist()


def penalized_requests() -> list[SampleRequest]:
    """The mixed requests with penalties, or none: neighbours share a prompt and differ in it."""
    penalties = (1.0, 1.4, 0.8, 2.0, 1.0)
    return [
        replace(r, sampling=replace(r.sampling, repetition_penalty=penalties[i % 5]))
        for i, r in enumerate(mixed_requests()[:20])
    ]


def test_penalties_may_be_mixed_in_a_batch(make: MakeEngine) -> None:
    """Each request gives what it gives alone, computed from scratch, with the log-probabilities of what was sampled
    from; so do requests of one prompt with and without a penalty."""
    reference, requests = make_model(attention="sdpa"), penalized_requests()
    requests += [replace(r, prefix_ids=PROMPT) for r in requests[:5]]
    for r, result in zip(requests, run_all(make(make_model(), [EOS], 8), requests), strict=True):
        tokens, logprobs, ended = naive(reference, r, [EOS])
        assert (result.token_ids.tolist(), result.ended) == (tokens, ended)
        np.testing.assert_allclose(result.logprobs, logprobs, rtol=0, atol=2e-5)


def test_a_penalty_knows_the_tokens_of_an_earlier_request(make: MakeEngine) -> None:
    """A segment in two requests, the second of which has the first one's output in its prefix, is that in one."""
    engine, sampling = make(make_model()), SamplingParams(0.9, repetition_penalty=1.5)
    whole = run_all(engine, [replace(request(PROMPT, 20, seed=5), sampling=sampling)])[0].token_ids
    prefix = np.concatenate([PROMPT, whole[:7]])
    rest = run_all(engine, [replace(request(prefix, 13, seed=5), sampling=sampling)])[0].token_ids
    assert rest.tolist() == whole[7:].tolist()


def test_releasing_a_group_ends_its_requests(make: MakeEngine) -> None:
    """Running or waiting, they end without a result; those of other groups go on as if they had never been."""
    engine = make(make_model(), (), 4)
    requests = [replace(request(PROMPT, 9, seed=i), group=i % 2, request_id=i) for i in range(10)]
    for r in requests:
        engine.submit(r)
    results = {r.request_id: r for _ in range(3) for r in engine.step()}
    engine.abort_group(1)
    results |= {r.request_id: r for _ in range(40) for r in engine.step() if r.request_id % 2 == 0}
    assert [i for i in sorted(results) if i % 2 == 0] == [0, 2, 4, 6, 8]
    reference = make_model(attention="sdpa")
    for r in requests[::2]:
        assert results[r.request_id].token_ids.tolist() == naive(reference, r, ())[0]
    assert engine.step() == []


def test_names_may_be_used_again(make: MakeEngine) -> None:
    """A request that was released and one after it with the same name are two."""
    engine = make(make_model())
    wanted = run_all(engine, [request(PROMPT, 9, seed=2)])[0]
    engine.submit(replace(request(PROMPT, 9, seed=1), group=5))
    engine.abort_group(5)
    assert tokens_of(run_all(engine, [request(PROMPT, 9, seed=2)])) == tokens_of([wanted])


def test_bfloat16_is_served(make: MakeEngine) -> None:
    """Scores are those of one forward within what rounding to 8 bits explains."""
    reference = make_model(attention="sdpa", dtype=torch.bfloat16)
    engine = make(make_model(dtype=torch.bfloat16))
    for result in run_all(engine, [request(PROMPT, 10, seed=i) for i in range(4)]):
        assert_scored(reference, PROMPT, result, atol=0.15)


def greedy_tokens(prompt: np.ndarray, length: int) -> list[int]:
    """What the tiny model decodes greedily."""
    return naive(make_model(attention="sdpa"), request(prompt, length, temperature=0.0), ())[0]


def test_eos_ends_a_segment_and_is_part_of_it(make: MakeEngine) -> None:
    """Any of several end-of-sequence tokens ends it; without one it runs to its length."""
    free = run_all(make(make_model()), [request(PROMPT, 30, seed=3)])[0]
    tokens = free.token_ids.tolist()
    assert not free.ended and len(tokens) == 30
    for eos_ids in ([tokens[9]], [tokens[9], tokens[14]], [tokens[14], 99_999, tokens[9]]):
        end = min(i for i, token in enumerate(tokens) if token in eos_ids)
        result = run_all(make(make_model(), eos_ids), [request(PROMPT, 30, seed=3)])[0]
        assert result.token_ids.tolist() == tokens[: end + 1]
        assert result.ended
        np.testing.assert_allclose(result.logprobs, free.logprobs[: end + 1], rtol=0, atol=1e-5)


def test_eos_may_be_the_very_first_token(make: MakeEngine) -> None:
    """A segment of end-of-sequence alone ends there, also below a cached prefix, and beside segments that go on."""
    first = greedy_tokens(PROMPT, 1)[0]
    engine = make(make_model(), [first])
    cut = run_all(engine, [request(PROMPT, 5, temperature=0.0), request(PROMPT[:3], 1, temperature=0.0)])
    assert (cut[0].token_ids.tolist(), cut[0].ended) == ([first], True)
    tokens = tokens_of(run_all(make(make_model()), [request(PROMPT, 12, seed=1)]))[0]
    new = next(i for i in range(2, 12) if tokens[i] not in tokens[:i])
    engine = make(make_model(), [tokens[new]])
    upper = run_all(engine, [request(PROMPT, new, seed=1)])[0]
    assert not upper.ended
    lower = run_all(engine, [request([*PROMPT, *upper.token_ids], 8, seed=1)])[0]
    assert (lower.token_ids.tolist(), lower.ended) == ([tokens[new]], True)


def test_eos_as_the_last_allowed_token_counts_as_ended(make: MakeEngine) -> None:
    """Length and end-of-sequence at once is an end."""
    engine = make(make_model(), greedy_tokens(PROMPT, 1))
    assert run_all(engine, [request(PROMPT, 1, temperature=0.0)])[0].ended


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_match_the_softmax(make: MakeEngine, temperature: float) -> None:
    """Over 4000 seeds the first tokens follow softmax(logits / temperature): a chi-square test."""
    num_samples = 4000
    reference = make_model(attention="sdpa")
    with torch.no_grad():
        logits = reference(input_ids=torch.from_numpy(PROMPT).long()[None]).logits[0, -1].double()
    expected = num_samples * torch.softmax(logits / temperature, -1).numpy()
    results = run_all(make(make_model()), [request(PROMPT, 1, seed, temperature) for seed in range(num_samples)])
    counts = np.bincount([int(r.token_ids[0]) for r in results], minlength=len(expected))
    # The rarest tokens, together at least five of them, count as one.
    rank = np.argsort(expected)
    rare = int(np.searchsorted(expected[rank].cumsum(), 5)) + 1
    counts = np.append(counts[rank[rare:]], counts[rank[:rare]].sum())
    expected = np.append(expected[rank[rare:]], expected[rank[:rare]].sum())
    degrees = len(expected) - 1
    statistic = float(((counts - expected) ** 2 / expected).sum())
    assert degrees >= 3
    assert statistic < degrees + 4 * np.sqrt(2 * degrees)


def test_distinct_seeds_give_distinct_samples_and_equal_seeds_equal_ones(make: MakeEngine) -> None:
    """Twenty tokens at temperature 1 differ between any two of 50 seeds and agree for the same one."""
    seeds = [*range(40), *(2**63 - 1 - i for i in range(10))]
    engine = make(make_model())
    results = tokens_of(run_all(engine, [request(PROMPT, 20, seed) for seed in seeds]))
    assert len({tuple(tokens) for tokens in results}) == len(seeds)
    assert tokens_of(run_all(engine, [request(PROMPT, 20, seed) for seed in seeds])) == results


def test_new_weights_are_followed_exactly(make: MakeEngine) -> None:
    """After each of three updates nothing of the old weights is left, of a long prefix neither: greedy tokens are those
    of transformers, and log-probabilities those of one forward."""
    model = make_model()
    engine = make(model)
    prompts = [PROMPT, np.tile(PROMPT, 10)]
    for seed in (None, 1, 2, 3):
        if seed is not None:
            model.load_state_dict(make_model(seed=seed).state_dict())
            engine.sleep()
            engine.update_weights(model)
        reference = make_model(seed=seed or 0, attention="sdpa")
        requests = [request(p, 20, temperature=t) for p in prompts for t in (0.0, 1.0)]
        for r, result in zip(requests, run_all(engine, requests), strict=True):
            assert result.token_ids.tolist() == naive(reference, r, ())[0]
            assert_scored(reference, r.prefix_ids, result)


def test_weights_change_only_between_requests(make: MakeEngine) -> None:
    """With a request waiting the change is refused; when it is done, it is not."""
    model = make_model()
    engine = make(model)
    engine.submit(request(PROMPT, 3))
    with pytest.raises(AssertionError, match="between requests"):
        engine.update_weights(model)
    results: list[SampleResult] = []
    while not results:
        results = engine.step()
    engine.update_weights(model)


def test_prefix_tokens_are_counted(make: MakeEngine) -> None:
    """All tokens of prefixes but their last are either computed or were known."""
    engine = make(make_model())
    before = engine.counters
    first = run_all(engine, [request(np.tile(PROMPT, 10), 30, seed=i) for i in range(6)])
    prefixes = [np.concatenate([np.tile(PROMPT, 10), r.token_ids]) for r in first]
    run_all(engine, [request(p, 30, seed=i) for i, p in enumerate(prefixes * 2)])
    used = engine.counters - before
    assert used.num_decoded == 18 * 30
    assert used.num_prefilled + used.num_cached == 6 * 69 + 12 * 99
    assert used.metrics()["engine/cached"] == used.num_cached


def test_logits_that_are_not_finite_are_an_error(make: MakeEngine) -> None:
    """A broken model does not hand out tokens."""
    model = make_model()
    with torch.no_grad():
        next(model.parameters())[5, 0] = float("nan")
    engine = make(model)
    engine.submit(request(PROMPT, 1))
    with pytest.raises(FloatingPointError, match="not finite"):
        engine.step()
    engine.abort_group(0)


def test_an_empty_engine_has_nothing_to_say(make: MakeEngine) -> None:
    """Stepping without requests returns nothing and computes nothing."""
    engine = make(make_model())
    assert engine.step() == []
    assert (engine.counters.num_prefilled, engine.counters.num_decoded) == (0, 0)
    assert engine.num_free_slots == 256
    assert engine.max_model_len >= 512


def test_closing_ends_all_requests() -> None:
    """Closing twice does nothing more. vLLM, whose engines share their process groups, and servers have their own."""
    for engine in (embedded(make_model()), plain(make_model()), ScriptedEngine(lambda ids, seed: (3, 0.0))):
        for name in range(3):
            engine.submit(replace(request(PROMPT, 200, name=name), group=name))
        if not isinstance(engine, TransformersEngine):
            engine.step()
        engine.close()
        engine.close()
        assert engine.num_free_slots == 256
        assert not engine.cache_bytes


@pytest.mark.parametrize(("prefix", "length"), [([], 3), ([3], 0)])
def test_impossible_requests_are_refused(make: MakeEngine, prefix: list[int], length: int) -> None:
    """A request has at least one token before it and one to decode."""
    with pytest.raises(AssertionError):
        make(make_model()).submit(request(prefix, length))


@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_random_request_trees_equal_the_naive_engine(make: MakeEngine, data: st.DataObject) -> None:
    """Whatever continues whatever, whenever it comes: the same tokens, scores and ends as from scratch."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1), label="seed"))
    eos_ids = data.draw(st.sampled_from([(), (EOS,), (EOS, 7)]), label="eos_ids")
    num_requests = data.draw(st.integers(1, 14), label="num_requests")
    max_num_seqs = data.draw(st.sampled_from([1, 4, 37, 256]), label="max_num_seqs")
    engine = make(make_model(), eos_ids, max_num_seqs)
    known: list[np.ndarray] = [rng.integers(3, 16, size=rng.integers(1, 40)) for _ in range(2)]
    requests: dict[int, SampleRequest] = {}
    results: dict[int, SampleResult] = {}
    while len(results) < num_requests:
        for _ in range(int(rng.integers(4))):
            if len(requests) < num_requests:
                base = known[int(rng.integers(len(known)))]
                prefix = base[: int(rng.integers(1, len(base) + 1))] if rng.random() < 0.6 else base
                seed, temperature = int(rng.integers(2**63)), float(rng.choice([0.0, 0.7, 1.0]))
                name = len(requests)
                requests[name] = request(prefix, int(rng.integers(1, 20)), seed, temperature, name)
                engine.submit(requests[name])
        for result in engine.step():
            results[result.request_id] = result
            known.append(np.concatenate([requests[result.request_id].prefix_ids, result.token_ids]))
    reference = make_model(attention="sdpa")
    for name, result in results.items():
        tokens, logprobs, ended = naive(reference, requests[name], eos_ids)
        assert (result.token_ids.tolist(), result.ended) == (tokens, ended)
        np.testing.assert_allclose(result.logprobs, logprobs, rtol=0, atol=1e-5)
