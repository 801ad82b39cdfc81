"""The embedded engine against the model itself, computed from scratch for every token."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from tests.learn.reference import all_logprobs
from tests.models import KINDS, SLIDING_WINDOW, make_tiny_model
from treepo.engine import SampleRequest, SampleResult, Sampling
from treepo.engine.drawing import uniforms
from treepo.engine.torch import TorchEngine
from treepo.engine.torch.attention import GatherKernel
from treepo.engine.torch.pool import blocks_of
from treepo.engine.torch.prefixes import below

EOS = 2
NO_EOS: tuple[int, ...] = ()
PROMPT = np.array([1, 5, 9, 4, 7, 3, 8], np.int32)


def request(
    prefix: Sequence[int] | np.ndarray, length: int = 12, seed: int = 0, temperature: float = 1.0, name: int = 0
) -> SampleRequest:
    """A request with defaults."""
    return SampleRequest(name, np.array(prefix, np.int32), length, seed, Sampling(temperature))


def run_all(engine: TorchEngine, requests: Sequence[SampleRequest]) -> list[SampleResult]:
    """Results in the order of the requests, which get ids of their own."""
    for i, r in enumerate(requests):
        engine.submit(replace(r, request_id=i))
    results: dict[int, SampleResult] = {}
    while len(results) < len(requests):
        for result in engine.step():
            assert result.request_id not in results
            results[result.request_id] = result
    assert engine.step() == []
    return [results[i] for i in range(len(requests))]


def tokens_of(results: Sequence[SampleResult]) -> list[list[int]]:
    """The decoded ids alone."""
    return [r.token_ids.tolist() for r in results]


def naive(model: PreTrainedModel, r: SampleRequest, eos_ids: Sequence[int]) -> tuple[list[int], list[float], bool]:
    """(ids, log-probabilities, ended) by a whole forward of the plain model for every token, in numpy."""
    ids, logprobs = r.prefix_ids.tolist(), []
    for _ in range(r.max_new_tokens):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].double().numpy()
        scaled = logits / (r.sampling.temperature or 1.0)
        every = scaled - scaled.max()
        every -= np.log(np.exp(every).sum())
        number = uniforms(np.array([r.seed], np.uint64), np.array([len(ids)]))[0]
        sums = np.exp(every).cumsum()
        token = (
            int(every.argmax())
            if r.sampling.temperature == 0
            else int(np.searchsorted(sums, number * sums[-1], "right"))
        )
        ids.append(token)
        logprobs.append(float(every[token]))
        if token in eos_ids:
            return ids[len(r.prefix_ids) :], logprobs, True
    return ids[len(r.prefix_ids) :], logprobs, False


def assert_scored(plain: PreTrainedModel, prefix: np.ndarray, result: SampleResult, temperature: float = 1.0) -> None:
    """Its log-probabilities are those of one whole forward of the plain model."""
    ids = np.concatenate([prefix, result.token_ids])
    with torch.no_grad():
        every = all_logprobs(plain, ids.tolist(), temperature).numpy()
    expected = every[np.arange(len(prefix) - 1, len(ids) - 1), result.token_ids]
    np.testing.assert_allclose(result.logprobs, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_output_is_that_of_generate(kind: str) -> None:
    """At temperature 0 the engine decodes what transformers does, windows and all, for prompts of several lengths."""
    plain: Any = make_tiny_model(kind, attention="sdpa")
    plain.generation_config.eos_token_id = None
    engine = TorchEngine(make_tiny_model(kind), NO_EOS)
    prompts = [PROMPT, PROMPT[:1], PROMPT[:4], np.tile(PROMPT, 4)]
    results = run_all(engine, [request(p, 3 * SLIDING_WINDOW, temperature=0.0) for p in prompts])
    for prompt, result in zip(prompts, results, strict=True):
        ids = torch.from_numpy(prompt).long()[None]
        expected = plain.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=3 * SLIDING_WINDOW
        )
        assert result.token_ids.tolist() == expected[0, len(prompt) :].tolist()
        assert_scored(plain, prompt, result)


@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.7])
@pytest.mark.parametrize("kind", KINDS)
def test_logprobs_are_those_of_one_forward(kind: str, temperature: float) -> None:
    """Segments, children, grandchildren and fallbacks into an earlier sequence are scored as by one whole forward."""
    plain, engine = make_tiny_model(kind, attention="sdpa"), TorchEngine(make_tiny_model(kind), NO_EOS)

    def grow(prefixes: Sequence[np.ndarray], seed: int) -> list[np.ndarray]:
        requests = [request(p, 5, seed + i, temperature) for i, p in enumerate(prefixes)]
        results = run_all(engine, requests)
        for prefix, result in zip(prefixes, results, strict=True):
            assert_scored(plain, prefix, result, temperature)
        return [np.concatenate([p, r.token_ids]) for p, r in zip(prefixes, results, strict=True)]

    first = grow([PROMPT] * 3, seed=0)
    children = grow([ids for ids in first for _ in range(2)], seed=10)
    grandchildren = grow(children + first[:1], seed=20)
    cuts = [grandchildren[i][:n] for i, n in ((0, 8), (1, 9), (2, 13), (3, 17), (4, 7), (5, 5))]
    grow([*cuts, grandchildren[0]], seed=30)


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
    """What each of the mixed requests gives in an engine of its own."""
    model = make_tiny_model()
    return [tokens_of(run_all(TorchEngine(model, [EOS]), [r]))[0] for r in mixed_requests()]


@pytest.mark.parametrize("max_batch", [1, 4, 37, 256])
def test_tokens_do_not_depend_on_the_batch(max_batch: int, alone: list[list[int]]) -> None:
    """Every request gives what it gives alone, in batches of any size, in any order, after any history."""
    requests = mixed_requests()
    engine = TorchEngine(make_tiny_model(), [EOS], max_batch)
    assert tokens_of(run_all(engine, requests)) == alone
    order = np.random.default_rng(max_batch).permutation(len(requests))
    again = tokens_of(run_all(engine, [requests[i] for i in order]))
    assert again == [alone[i] for i in order]


def test_tokens_do_not_depend_on_the_prefill_budget(alone: list[list[int]]) -> None:
    """Prompts computed one at a time or many together give the same."""
    engine = TorchEngine(make_tiny_model(), [EOS], max_batch=16, max_prefill_tokens=1)
    assert tokens_of(run_all(engine, mixed_requests())) == alone


def test_requests_may_join_while_others_run(alone: list[list[int]]) -> None:
    """Submitted one by one between steps, each gives what it gives alone."""
    requests, engine = mixed_requests(), TorchEngine(make_tiny_model(), [EOS], max_batch=6)
    results: dict[int, list[int]] = {}
    for i, r in enumerate(requests):
        engine.submit(replace(r, request_id=i))
        results |= {result.request_id: result.token_ids.tolist() for result in engine.step()}
    while len(results) < len(requests):
        results |= {result.request_id: result.token_ids.tolist() for result in engine.step()}
    assert [results[i] for i in range(len(requests))] == alone


@pytest.mark.parametrize("first", [1, 7, 19])
def test_a_request_in_two_parts_gives_the_same(first: int) -> None:
    """A number of the stream belongs to a position, so cutting a segment in two changes no token."""
    engine = TorchEngine(make_tiny_model(), NO_EOS)
    whole = run_all(engine, [request(PROMPT, 20, seed=5)])[0]
    for other in (engine, TorchEngine(make_tiny_model(), NO_EOS)):
        upper = run_all(other, [request(PROMPT, first, seed=5)])[0]
        prefix = np.concatenate([PROMPT, upper.token_ids])
        lower = run_all(other, [request(prefix, 20 - first, seed=5)])[0]
        assert [*upper.token_ids, *lower.token_ids] == whole.token_ids.tolist()
        np.testing.assert_allclose([*upper.logprobs, *lower.logprobs], whole.logprobs, rtol=0, atol=1e-5)


def test_siblings_prefill_their_prompt_once_and_children_nothing() -> None:
    """All but the last prompt token are computed once; what continues a cached row computes no more."""
    engine = TorchEngine(make_tiny_model(), NO_EOS)
    siblings = run_all(engine, [request(PROMPT, 6, seed=i) for i in range(8)])
    assert engine.num_prefilled == len(PROMPT) - 1
    assert engine.num_decoded == 8 * 6
    prefixes = [np.concatenate([PROMPT, r.token_ids]) for r in siblings]
    run_all(engine, [request(p, 6, seed=100 * i + j) for i, p in enumerate(prefixes) for j in range(3)])
    assert engine.num_prefilled == len(PROMPT) - 1
    assert engine.num_decoded == 8 * 6 + 24 * 6
    # A fallback is cut inside what was computed, so it computes nothing either.
    run_all(engine, [request(prefixes[3][:-2], 6, seed=7), request(PROMPT[:3], 6, seed=8)])
    assert engine.num_prefilled == len(PROMPT) - 1


def test_prompts_with_a_common_beginning_share_it() -> None:
    """Of 3 prompts with 30 tokens in common those are computed once, within a submission and after it."""
    common = np.random.default_rng(1).integers(3, 16, size=30)
    prompts = [np.concatenate([common, [3 + i] * 4, [9]]) for i in range(3)]
    engine = TorchEngine(make_tiny_model(), NO_EOS)
    run_all(engine, [request(p, 2) for p in prompts])
    assert engine.num_prefilled == 30 + 3 * 4
    run_all(engine, [request([*common, 11, 12, 13], 2)])
    assert engine.num_prefilled == 30 + 3 * 4 + 2


def test_what_was_forgotten_is_computed_again() -> None:
    """With memory for a few sequences nothing stays known for long, and the tokens are the same."""
    rng = np.random.default_rng(2)
    prompts = [rng.integers(3, 16, size=12) for _ in range(6)]
    engines = [
        TorchEngine(make_tiny_model(), NO_EOS, max_batch, max_tokens=n) for max_batch, n in ((4, 64), (64, None))
    ]
    segments: list[list[list[int]]] = []
    for engine in engines:
        prefixes, grown = prompts, []
        for level in range(3):
            requests = [replace(request(p, 4, seed=10 * level + i), group=i) for i, p in enumerate(prefixes)]
            results = run_all(engine, requests)
            prefixes = [np.concatenate([p, r.token_ids]) for p, r in zip(prefixes, results, strict=True)]
            grown += tokens_of(results)
        segments.append(grown)
    assert segments[0] == segments[1]
    assert engines[1].num_prefilled == 6 * 11
    assert engines[0].num_prefilled > 6 * 11 + 2 * 6 * 4
    assert engines[0].peak_tokens <= 64 < engines[1].peak_tokens


def test_requests_that_lose_their_room_go_on_later() -> None:
    """Eight requests fit when they enter and not when they have grown: the youngest wait and go on where they were."""
    requests = [request([3 + i], 40, seed=i) for i in range(8)]
    roomy, tight = (TorchEngine(make_tiny_model(), NO_EOS, max_tokens=n) for n in (None, 128))
    wanted, results = run_all(roomy, requests), run_all(tight, requests)
    assert tokens_of(results) == tokens_of(wanted)
    for result, other in zip(results, wanted, strict=True):
        np.testing.assert_allclose(result.logprobs, other.logprobs, rtol=0, atol=1e-5)
    assert tight.peak_tokens <= 128
    assert tight.num_prefilled > roomy.num_prefilled == 0
    assert tight.num_decoded == roomy.num_decoded, "no token is drawn twice"


def test_a_request_that_can_never_fit_is_refused() -> None:
    """Waiting would not help it."""
    engine = TorchEngine(make_tiny_model(), NO_EOS, max_tokens=64)
    with pytest.raises(ValueError, match="max_tokens must hold a sequence of 107 tokens, got 64"):
        engine.submit(request(PROMPT, 100))


@pytest.mark.parametrize(("budget", "largest"), [(1, 8), (15, 8), (16, 16), (40, 40), (1000, 48)])
def test_a_forward_computes_no_more_prompt_tokens_than_allowed(budget: int, largest: int) -> None:
    """Six prompts with 8 tokens to compute before the last: as many together as fit the budget, though always one."""
    engine = TorchEngine(make_tiny_model(), NO_EOS, max_batch=6, max_prefill_tokens=budget)
    for i in range(6):
        engine.submit(request([3 + i] * 9, 30, name=i))
    totals = [0]
    while totals[-1] < 48:
        engine.step()
        totals.append(engine.num_prefilled)
    assert max(np.diff(totals)) == largest
    assert len(totals) - 1 == -(-48 // largest)


def test_what_was_used_least_recently_is_forgotten_first() -> None:
    """Of three prompts of two blocks, of which four blocks hold two, the one whose last use is longest ago goes."""
    one, two, three = ([3 + i] * 9 for i in range(3))
    engine = TorchEngine(make_tiny_model(), NO_EOS, max_batch=1, max_tokens=32)

    def computes(prompt: list[int]) -> int:
        before = engine.num_prefilled
        run_all(engine, [request(prompt, 1)])
        return engine.num_prefilled - before

    assert [computes(p) for p in (one, two, three)] == [8, 8, 8]
    assert computes(two) == 0
    assert computes(one) == 8


def test_groups_are_forgotten_when_they_are_released() -> None:
    """Nothing is left of a group, and nothing of another one is touched; groups do not share."""
    engine = TorchEngine(make_tiny_model(), NO_EOS)
    for group in (1, 2):
        run_all(engine, [replace(request(PROMPT, 5, seed=i), group=group) for i in range(3)])
    assert engine.num_prefilled == 2 * (len(PROMPT) - 1)
    engine.release(1)
    run_all(engine, [replace(request(PROMPT, 5), group=2)])
    assert engine.num_prefilled == 2 * (len(PROMPT) - 1)
    engine.release(2)
    engine.release(3)
    assert engine.blocks.num_used == 0
    run_all(engine, [replace(request(PROMPT, 5), group=1)])
    assert engine.num_prefilled == 3 * (len(PROMPT) - 1)


def test_releasing_a_group_ends_its_requests() -> None:
    """Running or waiting, they end without a result; those of other groups go on as if they had never been."""
    engine = TorchEngine(make_tiny_model(), NO_EOS, max_batch=4)
    requests = [replace(request(PROMPT, 9, seed=i), group=i % 2, request_id=i) for i in range(10)]
    for r in requests:
        engine.submit(r)
    for _ in range(3):
        engine.step()
    engine.release(1)
    results = {r.request_id: r for _ in range(40) for r in engine.step()}
    assert sorted(results) == [0, 2, 4, 6, 8]
    alone = run_all(TorchEngine(make_tiny_model(), NO_EOS), requests[::2])
    assert tokens_of([results[i] for i in sorted(results)]) == tokens_of(alone)
    engine.release(0)
    assert engine.blocks.num_used == 0


def test_siblings_draw_their_first_token_from_one_row_of_logits() -> None:
    """The last token of a common prefix is computed once for all that enter together, and stored once."""
    model, sizes = make_tiny_model("gemma"), list[int]()
    model.register_forward_pre_hook(lambda *a: sizes.append(a[2]["input_ids"].shape[1]), with_kwargs=True)
    engine = TorchEngine(model, NO_EOS)
    run_all(engine, [request(np.tile(PROMPT, 4), 2, seed=i) for i in range(40)])
    assert sizes == [28, 40]
    assert engine.peak_tokens <= 32 + 40 * 8


@pytest.mark.parametrize("max_batch", [1, 3, 64])
def test_a_rows_bits_do_not_depend_on_the_batch(max_batch: int) -> None:
    """In float32 on the CPU log-probabilities are equal bit by bit, alone and among others."""
    requests = [replace(r, group=i) for i, r in enumerate(mixed_requests())]
    wanted = run_all(TorchEngine(make_tiny_model(), [EOS]), requests)
    for result, other in zip(run_all(TorchEngine(make_tiny_model(), [EOS], max_batch), requests), wanted, strict=True):
        np.testing.assert_array_equal(result.logprobs, other.logprobs)


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_compiler_torch_does_the_same(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where kernel.c cannot be built the keys are gathered; tokens, ends and scores agree, windows and all."""
    requests = [request(np.tile(PROMPT, 1 + i % 3), 12, seed=i) for i in range(12)]
    wanted = run_all(TorchEngine(make_tiny_model(kind), [EOS]), requests)
    monkeypatch.setattr("treepo.engine.torch.engine.load_kernel", lambda: None)
    monkeypatch.setattr("treepo.engine.torch.attention.MAX_GATHERED", 50)
    engine = TorchEngine(make_tiny_model(kind), [EOS])
    assert isinstance(engine.kernel, GatherKernel)
    results = run_all(engine, requests)
    assert tokens_of(results) == tokens_of(wanted)
    for result, other in zip(results, wanted, strict=True):
        np.testing.assert_allclose(result.logprobs, other.logprobs, rtol=0, atol=1e-5)


def test_bfloat16_is_served() -> None:
    """Scores are those of one forward within what rounding to 8 bits explains."""
    plain = make_tiny_model(attention="sdpa", dtype=torch.bfloat16)
    engine = TorchEngine(make_tiny_model(dtype=torch.bfloat16), NO_EOS)
    for seed, result in enumerate(run_all(engine, [request(PROMPT, 10, seed=i) for i in range(4)])):
        ids = np.concatenate([PROMPT, result.token_ids])
        with torch.no_grad():
            every = all_logprobs(plain, ids.tolist(), 1.0).numpy()
        expected = every[np.arange(len(PROMPT) - 1, len(ids) - 1), result.token_ids]
        np.testing.assert_allclose(result.logprobs, expected, rtol=0, atol=0.15, err_msg=str(seed))


def greedy_tokens(prompt: np.ndarray, length: int) -> list[int]:
    """What the tiny model decodes greedily."""
    return tokens_of(run_all(TorchEngine(make_tiny_model(), NO_EOS), [request(prompt, length, temperature=0.0)]))[0]


def test_eos_ends_a_segment_and_is_part_of_it() -> None:
    """Any of several end-of-sequence tokens ends it; without one it runs to its length."""
    free = run_all(TorchEngine(make_tiny_model(), NO_EOS), [request(PROMPT, 30, seed=3)])[0]
    tokens = free.token_ids.tolist()
    assert not free.ended and len(tokens) == 30
    for eos_ids in ([tokens[9]], [tokens[9], tokens[14]], [tokens[14], 99_999, tokens[9]]):
        end = min(i for i, token in enumerate(tokens) if token in eos_ids)
        result = run_all(TorchEngine(make_tiny_model(), eos_ids), [request(PROMPT, 30, seed=3)])[0]
        assert result.token_ids.tolist() == tokens[: end + 1]
        assert result.ended
        np.testing.assert_allclose(result.logprobs, free.logprobs[: end + 1], rtol=0, atol=1e-6)


def test_eos_may_be_the_very_first_token() -> None:
    """A segment of end-of-sequence alone ends there, also below a cached prefix, and beside segments that go on."""
    first = greedy_tokens(PROMPT, 1)[0]
    engine = TorchEngine(make_tiny_model(), [first])
    cut = run_all(engine, [request(PROMPT, 5, temperature=0.0), request(PROMPT[:3], 1, temperature=0.0)])
    assert (cut[0].token_ids.tolist(), cut[0].ended) == ([first], True)
    tokens = tokens_of(run_all(TorchEngine(make_tiny_model(), NO_EOS), [request(PROMPT, 12, seed=1)]))[0]
    new = next(i for i in range(2, 12) if tokens[i] not in tokens[:i])
    engine = TorchEngine(make_tiny_model(), [tokens[new]])
    upper = run_all(engine, [request(PROMPT, new, seed=1)])[0]
    assert not upper.ended
    lower = run_all(engine, [request([*PROMPT, *upper.token_ids], 8, seed=1)])[0]
    assert (lower.token_ids.tolist(), lower.ended) == ([tokens[new]], True)


def test_eos_as_the_last_allowed_token_counts_as_ended() -> None:
    """Length and end-of-sequence at once is an end."""
    first = greedy_tokens(PROMPT, 1)[0]
    result = run_all(TorchEngine(make_tiny_model(), [first]), [request(PROMPT, 1, temperature=0.0)])[0]
    assert result.ended


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_match_the_softmax(temperature: float) -> None:
    """Over 4000 seeds the first tokens follow softmax(logits / temperature): a chi-square test."""
    num_samples = 4000
    plain = make_tiny_model(attention="sdpa")
    with torch.no_grad():
        logits = plain(input_ids=torch.from_numpy(PROMPT).long()[None]).logits[0, -1].double()
    expected = num_samples * torch.softmax(logits / temperature, -1).numpy()
    engine = TorchEngine(make_tiny_model(), NO_EOS, max_batch=1000)
    results = run_all(engine, [request(PROMPT, 1, seed, temperature) for seed in range(num_samples)])
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


def test_distinct_seeds_give_distinct_samples_and_equal_seeds_equal_ones() -> None:
    """Twenty tokens at temperature 1 differ between any two of 50 seeds and agree for the same one."""
    seeds = [*range(40), *(2**63 - 1 - i for i in range(10))]
    engine = TorchEngine(make_tiny_model(), NO_EOS)
    results = tokens_of(run_all(engine, [request(PROMPT, 20, seed) for seed in seeds]))
    assert len({tuple(tokens) for tokens in results}) == len(seeds)
    assert tokens_of(run_all(engine, [request(PROMPT, 20, seed) for seed in seeds])) == results


def test_new_weights_are_followed_exactly() -> None:
    """After an update nothing of the old weights is left: results equal those of an engine made with the new ones."""
    model = make_tiny_model()
    engine = TorchEngine(model, NO_EOS)
    requests = [request(PROMPT, 20, seed) for seed in range(4)]
    old = run_all(engine, requests)
    model.load_state_dict(make_tiny_model(seed=1).state_dict())
    assert engine.peak_tokens > 0
    engine.update_weights(model)
    assert engine.peak_tokens == engine.blocks.num_used == 0
    new, fresh = run_all(engine, requests), run_all(TorchEngine(make_tiny_model(seed=1), NO_EOS), requests)
    assert tokens_of(new) == tokens_of(fresh) != tokens_of(old)
    for one, other in zip(new, fresh, strict=True):
        np.testing.assert_array_equal(one.logprobs, other.logprobs)
    # The prompt was computed again.
    assert engine.num_prefilled == 2 * (len(PROMPT) - 1)


def test_weights_change_only_between_requests() -> None:
    """With a request waiting or running, or for a model that is not the engine's, the change is refused."""
    model = make_tiny_model()
    engine = TorchEngine(model, NO_EOS)
    engine.submit(request(PROMPT, 3))
    with pytest.raises(AssertionError, match="between requests"):
        engine.update_weights(model)
    engine.step()
    with pytest.raises(AssertionError, match="between requests"):
        engine.update_weights(model)
    engine.step()
    assert len(engine.step()) == 1
    engine.update_weights(model)
    with pytest.raises(AssertionError, match="made with"):
        engine.update_weights(make_tiny_model())


def test_long_sequences_after_short_ones() -> None:
    """Rows grow in length while others run, and what was computed is kept."""
    plain, engine = make_tiny_model(attention="sdpa"), TorchEngine(make_tiny_model(), NO_EOS)
    short = run_all(engine, [request(PROMPT, 4, seed=1)])[0]
    prefix = np.concatenate([PROMPT, short.token_ids])
    results = run_all(engine, [request(prefix, 150, seed=2), *(request(prefix, 3, seed) for seed in range(9))])
    assert engine.num_prefilled == len(PROMPT) - 1
    for result in results:
        assert_scored(plain, prefix, result)
    running = np.concatenate([prefix, results[0].token_ids])
    assert_scored(plain, running, run_all(engine, [request(running, 100, seed=4)])[0])
    assert engine.num_prefilled == len(PROMPT) - 1


def test_a_long_request_that_joins_leaves_the_running_ones_alone() -> None:
    """Rows that decode survive their enlargement."""
    plain, engine = make_tiny_model(attention="sdpa"), TorchEngine(make_tiny_model(), NO_EOS)
    engine.submit(request(PROMPT, 20, seed=1, name=0))
    for _ in range(5):
        assert engine.step() == []
    engine.submit(request(np.tile(PROMPT, 20), 10, seed=2, name=1))
    results = {r.request_id: r for _ in range(20) for r in engine.step()}
    assert_scored(plain, PROMPT, results[0])
    assert_scored(plain, np.tile(PROMPT, 20), results[1])


def test_logits_that_are_not_finite_are_an_error() -> None:
    """A broken model does not hand out tokens."""
    model = make_tiny_model()
    with torch.no_grad():
        next(model.parameters())[5, 0] = float("nan")
    engine = TorchEngine(model, NO_EOS)
    engine.submit(request(PROMPT, 3))
    with pytest.raises(FloatingPointError, match="not finite"):
        engine.step()


def test_an_empty_engine_has_nothing_to_say() -> None:
    """Stepping without requests returns nothing and computes nothing."""
    engine = TorchEngine(make_tiny_model(), NO_EOS)
    assert engine.step() == []
    assert (engine.num_prefilled, engine.num_decoded) == (0, 0)


@pytest.mark.parametrize(("prefix", "length"), [([], 3), ([3], 0)])
def test_impossible_requests_are_refused(prefix: list[int], length: int) -> None:
    """A request has at least one token before it and one to decode."""
    with pytest.raises(AssertionError):
        TorchEngine(make_tiny_model(), NO_EOS).submit(request(prefix, length))


def check_blocks(engine: TorchEngine) -> None:
    """Without running requests, a block is held once by each run of tokens that lies in it; all others are free."""
    held = Counter[int]()
    for root in engine.prefixes.groups.values():
        for run in below(root):
            assert run.num_users == 0
            assert len(run.slots) == len(run.token_ids) > 0
            held.update(blocks_of(run.slots).tolist())
    slots = np.concatenate([run.slots for root in engine.prefixes.groups.values() for run in below(root)] or [[]])
    assert len(set(slots.tolist())) == len(slots), "two tokens in one slot"
    made = range(engine.blocks.num_made)
    assert [int(engine.blocks.holders[b]) for b in made] == [held[b] for b in made]
    assert sorted(engine.blocks.free) == [b for b in made if not held[b]]


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_random_request_trees_equal_the_naive_engine(data: st.DataObject) -> None:
    """Whatever continues whatever, in any batch: the same tokens, scores and ends as computing all from scratch."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1), label="seed"))
    max_batch = data.draw(st.sampled_from([1, 2, 3, 5, 16]), label="max_batch")
    kind = data.draw(st.sampled_from(["qwen2", "mistral", "gemma3"]), label="kind")
    eos_ids = data.draw(st.sampled_from([(), (EOS,), (EOS, 7)]), label="eos_ids")
    num_requests = data.draw(st.integers(1, 14), label="num_requests")
    plain = make_tiny_model(kind, attention="sdpa")
    max_prefill, max_tokens = int(rng.integers(1, 40)), data.draw(st.sampled_from([None, 144, 400]), label="max_tokens")
    engine = TorchEngine(make_tiny_model(kind), eos_ids, max_batch, max_prefill, max_tokens)
    known: list[np.ndarray] = [rng.integers(3, 16, size=rng.integers(1, 12)) for _ in range(2)]
    requests: dict[int, SampleRequest] = {}
    results: dict[int, SampleResult] = {}
    while len(results) < num_requests:
        for _ in range(int(rng.integers(4))):
            if len(requests) < num_requests:
                base = known[int(rng.integers(len(known)))]
                prefix = base[: int(rng.integers(1, len(base) + 1))]
                if rng.random() < 0.2:
                    prefix = np.append(prefix, rng.integers(3, 16))
                name = len(requests)
                requests[name] = request(
                    prefix if rng.random() < 0.6 else base,
                    int(rng.integers(1, 9)),
                    seed=int(rng.integers(2**63)),
                    temperature=float(rng.choice([0.0, 0.7, 1.0])),
                    name=name,
                )
                engine.submit(requests[name])
        for result in engine.step():
            results[result.request_id] = result
            known.append(np.concatenate([requests[result.request_id].prefix_ids, result.token_ids]))
    assert engine.peak_tokens <= engine.capacity
    check_blocks(engine)
    engine.release(0)
    assert engine.blocks.num_used == 0
    for name, result in results.items():
        tokens, logprobs, ended = naive(plain, requests[name], eos_ids)
        assert result.token_ids.tolist() == tokens
        assert result.ended == ended
        np.testing.assert_allclose(result.logprobs, logprobs, rtol=0, atol=1e-5)
