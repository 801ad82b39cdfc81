"""The embedded engine's own: what it computes once, keeps, forgets and computes again."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.engines import assert_scored, naive, request, run_all, tokens_of
from tests.engine.test_engines import mixed_requests
from tests.models import KINDS, make_tiny_model
from treepo.engine.base import SampleRequest, SampleResult, SamplingParams
from treepo.engine.torch.attention import GatherKernel
from treepo.engine.torch.engine import TorchEngine
from treepo.engine.torch.kv_cache import BLOCK, blocks_of, bytes_per_token
from treepo.model.forward import FusedForward

EOS = 2
NO_EOS: tuple[int, ...] = ()
PROMPT = np.array([1, 5, 9, 4, 7, 3, 8], np.int32)


def test_tokens_do_not_depend_on_the_prefill_budget() -> None:
    """Prompts computed one at a time or many together give the same."""
    together = tokens_of(run_all(TorchEngine(make_tiny_model(), [EOS]), mixed_requests()))
    engine = TorchEngine(make_tiny_model(), [EOS], max_num_seqs=16, max_num_batched_tokens=1)
    assert tokens_of(run_all(engine, mixed_requests())) == together


def test_siblings_prefill_their_prompt_once_and_children_nothing() -> None:
    """All but the last prompt token are computed once; what continues a cached row computes no more."""
    engine = TorchEngine(make_tiny_model(), NO_EOS)
    siblings = run_all(engine, [request(PROMPT, 6, seed=i) for i in range(8)])
    assert engine.counters.num_prefilled == len(PROMPT) - 1
    assert engine.counters.num_decoded == 8 * 6
    prefixes = [np.concatenate([PROMPT, r.token_ids]) for r in siblings]
    run_all(engine, [request(p, 6, seed=100 * i + j) for i, p in enumerate(prefixes) for j in range(3)])
    assert engine.counters.num_prefilled == len(PROMPT) - 1
    assert engine.counters.num_decoded == 8 * 6 + 24 * 6
    # A fallback is cut inside what was computed, so it computes nothing either.
    run_all(engine, [request(prefixes[3][:-2], 6, seed=7), request(PROMPT[:3], 6, seed=8)])
    assert engine.counters.num_prefilled == len(PROMPT) - 1


def test_prompts_with_a_common_beginning_share_it() -> None:
    """Of 3 prompts with 30 tokens in common those are computed once, within a submission and after it."""
    common = np.random.default_rng(1).integers(3, 16, size=30)
    prompts = [np.concatenate([common, [3 + i] * 4, [9]]) for i in range(3)]
    engine = TorchEngine(make_tiny_model(), NO_EOS)
    run_all(engine, [request(p, 2) for p in prompts])
    assert engine.counters.num_prefilled == 30 + 3 * 4
    run_all(engine, [request([*common, 11, 12, 13], 2)])
    assert engine.counters.num_prefilled == 30 + 3 * 4 + 2


def test_what_was_forgotten_is_computed_again() -> None:
    """With memory for a few sequences nothing stays known for long, and the tokens are the same."""
    rng = np.random.default_rng(2)
    prompts = [rng.integers(3, 16, size=12) for _ in range(6)]
    engines = [
        TorchEngine(make_tiny_model(), NO_EOS, max_num_seqs, max_cache_tokens=n)
        for max_num_seqs, n in ((4, 64), (64, None))
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
    assert engines[1].counters.num_prefilled == num_distinct_before_last(prompts)
    assert engines[0].counters.num_prefilled > 6 * 11 + 2 * 6 * 4
    assert engines[0].peak_tokens <= 64 < engines[1].peak_tokens


def test_requests_that_lose_their_room_go_on_later() -> None:
    """Eight requests fit when they enter and not when they have grown: the youngest wait and go on where they were,
    those with a repetition penalty knowing what they had decoded."""
    params = [SamplingParams(repetition_penalty=penalty) for penalty in (1.0, 1.5)]
    requests = [replace(request([3 + i], 40, seed=i), sampling=params[i % 2]) for i in range(8)]
    roomy, tight = (TorchEngine(make_tiny_model(), NO_EOS, max_cache_tokens=n) for n in (None, 128))
    wanted, results = run_all(roomy, requests), run_all(tight, requests)
    assert tokens_of(results) == tokens_of(wanted)
    for result, other in zip(results, wanted, strict=True):
        np.testing.assert_allclose(result.logprobs, other.logprobs, rtol=0, atol=1e-5)
    assert tight.peak_tokens <= 128
    assert tight.counters.num_prefilled > roomy.counters.num_prefilled == 0
    assert tight.counters.num_decoded == roomy.counters.num_decoded, "no token is drawn twice"


def test_a_request_that_can_never_fit_is_refused() -> None:
    """Waiting would not help it."""
    engine = TorchEngine(make_tiny_model(), NO_EOS, max_cache_tokens=64)
    with pytest.raises(ValueError, match="^engine.max_cache_tokens: must hold a sequence of 107 tokens, got 64"):
        engine.submit(request(PROMPT, 100))


@pytest.mark.parametrize(("budget", "largest"), [(1, 8), (15, 8), (16, 16), (40, 40), (1000, 48)])
def test_a_forward_computes_no_more_prompt_tokens_than_allowed(budget: int, largest: int) -> None:
    """Six prompts with 8 tokens to compute before the last: as many together as fit the budget, though always one."""
    engine = TorchEngine(make_tiny_model(), NO_EOS, max_num_seqs=6, max_num_batched_tokens=budget)
    for i in range(6):
        engine.submit(request([3 + i] * 9, 30, name=i))
    totals = [0]
    while totals[-1] < 48:
        engine.step()
        totals.append(engine.counters.num_prefilled)
    assert max(np.diff(totals)) == largest
    assert len(totals) - 1 == -(-48 // largest)


def test_what_was_used_least_recently_is_forgotten_first() -> None:
    """Of three prompts of two blocks, of which four blocks hold two, the one whose last use is longest ago goes."""
    one, two, three = ([3 + i] * 9 for i in range(3))
    engine = TorchEngine(make_tiny_model(), NO_EOS, max_num_seqs=1, max_cache_tokens=32)

    def computes(prompt: list[int]) -> int:
        before = engine.counters.num_prefilled
        run_all(engine, [request(prompt, 1)])
        return engine.counters.num_prefilled - before

    assert [computes(p) for p in (one, two, three)] == [8, 8, 8]
    assert computes(two) == 0
    assert computes(one) == 8


def test_groups_are_forgotten_when_they_are_aborted() -> None:
    """What only an aborted group has used is free at once; what another group shares with it stays."""
    engine = TorchEngine(make_tiny_model(), NO_EOS)
    first = run_all(engine, [replace(request(PROMPT, 20, seed=i), group=1) for i in range(3)])
    used_by_first = engine.blocks.num_used
    run_all(engine, [replace(request(PROMPT, 1), group=2)])
    assert engine.counters.num_prefilled == len(PROMPT) - 1
    assert engine.blocks.num_used == used_by_first
    engine.abort_group(1)
    assert engine.blocks.num_used == 1
    run_all(engine, [replace(request(PROMPT, 1), group=2)])
    assert engine.counters.num_prefilled == len(PROMPT) - 1
    run_all(engine, [replace(request([*PROMPT, *first[0].token_ids[:-1]], 1), group=2)])
    assert engine.counters.num_prefilled == len(PROMPT) - 1 + 18, "what the first group decoded is gone"
    engine.abort_group(2)
    engine.abort_group(3)
    assert engine.blocks.num_used == 0
    run_all(engine, [replace(request(PROMPT, 5), group=1)])
    assert engine.counters.num_prefilled == 2 * (len(PROMPT) - 1) + 18


def num_distinct_before_last(prompts: Sequence[np.ndarray]) -> int:
    """Tokens of these prompts without their last ones, each common prefix counted once."""
    return len({tuple(ids[:n].tolist()) for ids in prompts for n in range(1, len(ids))})


@pytest.mark.parametrize("budget", [8192, 1])
def test_a_system_prompt_is_computed_once(budget: int) -> None:
    """Trees of different problems that are admitted in the same forward, or one after the other, share it; a problem
    that occurs twice is computed once."""
    rng = np.random.default_rng(3)
    system, problems = rng.integers(3, 16, size=30), [rng.integers(3, 16, size=9) for _ in range(5)]
    prompts = [np.concatenate([system, problem]) for problem in [*problems, problems[2]]]
    requests = [replace(request(p, 6, seed=10 * i + j), group=i) for i, p in enumerate(prompts) for j in range(2)]
    model = make_tiny_model()
    engine = TorchEngine(model, NO_EOS, max_num_batched_tokens=budget)
    results = run_all(engine, requests)
    assert engine.counters.num_prefilled == num_distinct_before_last(prompts)
    assert engine.counters.num_prefilled + engine.counters.num_cached == 12 * 38
    for r, result in zip(requests, results, strict=True):
        alone = run_all(TorchEngine(model, NO_EOS, max_num_seqs=1), [r])[0]
        np.testing.assert_array_equal(result.token_ids, alone.token_ids)
        np.testing.assert_array_equal(result.logprobs, alone.logprobs)


def test_siblings_draw_their_first_token_from_one_row_of_logits() -> None:
    """The last token of a common prefix is computed once for all that enter together, and stored once."""
    model, sizes = make_tiny_model("gemma"), list[int]()
    model.register_forward_pre_hook(lambda *a: sizes.append(a[2]["input_ids"].shape[1]), with_kwargs=True)
    engine = TorchEngine(model, NO_EOS)
    run_all(engine, [request(np.tile(PROMPT, 4), 2, seed=i) for i in range(40)])
    assert sizes == [28, 40]
    assert engine.peak_tokens <= 32 + 40 * 8


def test_the_cache_takes_the_bytes_that_it_says() -> None:
    """Keys and values of the blocks that are held; none before the first step and none after sleep."""
    model = make_tiny_model()
    engine = TorchEngine(model, NO_EOS)
    assert engine.cache_bytes == 0
    run_all(engine, [request(PROMPT, 4)])
    assert engine.cache_bytes == engine.kv_cache.num_blocks * BLOCK * bytes_per_token(model, engine.kv_cache.dtype) > 0
    engine.abort_group(0)
    engine.sleep()
    assert engine.cache_bytes == 0


@pytest.mark.parametrize("max_num_seqs", [1, 3, 64])
def test_a_rows_bits_do_not_depend_on_the_batch(max_num_seqs: int) -> None:
    """In float32 on the CPU log-probabilities are equal bit for bit, alone and among others."""
    requests = [replace(r, group=i) for i, r in enumerate(mixed_requests())]
    wanted = run_all(TorchEngine(make_tiny_model(), [EOS]), requests)
    for result, other in zip(
        run_all(TorchEngine(make_tiny_model(), [EOS], max_num_seqs), requests), wanted, strict=True
    ):
        np.testing.assert_array_equal(result.logprobs, other.logprobs)


@pytest.mark.parametrize("narrow", [False, True])
@given(data=st.data())
@settings(max_examples=12, deadline=None)
def test_bits_in_bfloat16_do_not_depend_on_the_batch(narrow: bool, data: st.DataObject) -> None:
    """Products in bfloat16, over copies of float32 weights and over weights in bfloat16: however many requests run at a
    time, and with a cache so small that some are computed again."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1), label="seed"))
    lengths = rng.integers(1, 30, size=data.draw(st.integers(1, 40), label="requests"))
    requests = [replace(request(rng.integers(3, 16, n), 12, seed=i), group=i % 5) for i, n in enumerate(lengths)]
    max_num_seqs = data.draw(st.sampled_from([1, 3, 17, 33]), label="max_num_seqs")
    model = make_tiny_model("llama", dtype=torch.bfloat16 if narrow else torch.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("treepo.model.linear_maps.bfloat16_instructions", lambda: "any")
        engines = [
            TorchEngine(model, [EOS], autocast=torch.bfloat16),
            TorchEngine(model, [EOS], max_num_seqs, max_cache_tokens=128, autocast=torch.bfloat16),
        ]
    wanted, results = (run_all(engine, requests) for engine in engines)
    assert isinstance(engines[1].forward, FusedForward)
    assert engines[1].forward.dtype == torch.bfloat16
    for result, other in zip(results, wanted, strict=True):
        np.testing.assert_array_equal(result.token_ids, other.token_ids)
        np.testing.assert_array_equal(result.logprobs, other.logprobs)


def test_sleep_and_updates_forget_copied_weights(caplog: pytest.LogCaptureFixture) -> None:
    """A type of its own needs copies: they go while the model is trained, and follow it afterwards. Where bfloat16 is
    asked for, it is said what runs."""
    model, newer = make_tiny_model("llama"), make_tiny_model("llama", seed=1)
    with pytest.MonkeyPatch.context() as patch, caplog.at_level("INFO"):
        patch.setattr("treepo.model.linear_maps.bfloat16_instructions", lambda: "any")
        engine, fresh = (TorchEngine(m, NO_EOS, autocast=torch.bfloat16) for m in (model, newer))
    assert caplog.messages[0].startswith("decoding computes matrix products in bfloat16")
    run_all(engine, [request(PROMPT, 4)])
    assert isinstance(engine.forward, FusedForward)
    assert engine.forward.layers
    engine.sleep()
    assert not engine.forward.layers
    run_all(engine, [request(PROMPT, 4)])
    model.load_state_dict(newer.state_dict())
    engine.abort_group(0)
    engine.update_weights(model)
    [result], [wanted] = (run_all(e, [request(PROMPT, 4)]) for e in (engine, fresh))
    np.testing.assert_array_equal(result.logprobs, wanted.logprobs)


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_compiler_torch_does_the_same(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where decode_attention.c cannot be built keys are gathered; tokens, ends and scores agree, windows and all."""
    requests = [request(np.tile(PROMPT, 1 + i % 3), 12, seed=i) for i in range(12)]
    wanted = run_all(TorchEngine(make_tiny_model(kind), [EOS]), requests)
    monkeypatch.setattr("treepo.engine.torch.backends.load_kernels", lambda name: None)
    monkeypatch.setattr("treepo.engine.torch.attention.MAX_GATHERED", 50)
    engine = TorchEngine(make_tiny_model(kind), [EOS])
    assert isinstance(engine.kernel, GatherKernel)
    results = run_all(engine, requests)
    assert tokens_of(results) == tokens_of(wanted)
    for result, other in zip(results, wanted, strict=True):
        np.testing.assert_allclose(result.logprobs, other.logprobs, rtol=0, atol=1e-5)


def test_long_sequences_after_short_ones() -> None:
    """Rows grow in length while others run, and what was computed is kept."""
    plain, engine = make_tiny_model(attention="sdpa"), TorchEngine(make_tiny_model(), NO_EOS)
    short = run_all(engine, [request(PROMPT, 4, seed=1)])[0]
    prefix = np.concatenate([PROMPT, short.token_ids])
    results = run_all(engine, [request(prefix, 150, seed=2), *(request(prefix, 3, seed) for seed in range(9))])
    assert engine.counters.num_prefilled == len(PROMPT) - 1
    for result in results:
        assert_scored(plain, prefix, result)
    running = np.concatenate([prefix, results[0].token_ids])
    assert_scored(plain, running, run_all(engine, [request(running, 100, seed=4)])[0])
    assert engine.counters.num_prefilled == len(PROMPT) - 1


def check_blocks(engine: TorchEngine) -> None:
    """Without running requests, a block is held once by each run of tokens that lies in it; all others are free."""
    held = Counter[int]()
    nodes = engine.prefix_cache.root.descendants()
    for node in nodes:
        assert node.ref_count == 0
        assert len(node.slots) == len(node.token_ids) > 0
        held.update(blocks_of(node.slots).tolist())
    slots = np.concatenate([node.slots for node in nodes] or [[]])
    assert len(set(slots.tolist())) == len(slots), "two tokens in one slot"
    made = range(engine.blocks.num_created)
    assert [int(engine.blocks.ref_counts[b]) for b in made] == [held[b] for b in made]
    assert sorted(engine.blocks.free_blocks) == [b for b in made if not held[b]]


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_random_request_trees_equal_the_naive_engine(data: st.DataObject) -> None:
    """Whatever continues whatever, in any batch: the same tokens, scores and ends as computing all from scratch."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1), label="seed"))
    max_num_seqs = data.draw(st.sampled_from([1, 2, 3, 5, 16]), label="max_num_seqs")
    kind = data.draw(st.sampled_from(["qwen2", "mistral", "gemma3"]), label="kind")
    eos_ids = data.draw(st.sampled_from([(), (EOS,), (EOS, 7)]), label="eos_ids")
    num_requests = data.draw(st.integers(1, 14), label="num_requests")
    plain = make_tiny_model(kind, attention="sdpa")
    max_prefill, max_cache_tokens = (
        int(rng.integers(1, 40)),
        data.draw(st.sampled_from([None, 144, 400]), label="max_cache_tokens"),
    )
    engine = TorchEngine(
        make_tiny_model(kind),
        eos_ids,
        max_num_seqs,
        max_num_batched_tokens=max_prefill,
        max_cache_tokens=max_cache_tokens,
    )
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
                penalty = float(rng.choice([1.0, 1.0, 0.8, 1.5]))
                sampling = replace(requests[name].sampling, repetition_penalty=penalty)
                requests[name] = replace(requests[name], sampling=sampling)
                engine.submit(requests[name])
        for result in engine.step():
            results[result.request_id] = result
            known.append(np.concatenate([requests[result.request_id].prefix_ids, result.token_ids]))
    assert engine.peak_tokens <= engine.kv_cache_tokens
    check_blocks(engine)
    engine.abort_group(0)
    assert engine.blocks.num_used == 0
    for name, result in results.items():
        tokens, logprobs, ended = naive(plain, requests[name], eos_ids)
        assert result.token_ids.tolist() == tokens
        assert result.ended == ended
        np.testing.assert_allclose(result.logprobs, logprobs, rtol=0, atol=1e-5)


@given(data=st.data())
@settings(max_examples=12, deadline=None)
def test_groups_that_share_get_what_each_gets_alone(data: st.DataObject) -> None:
    """Groups with common prefixes, in a cache of any size, some of them aborted: the tokens and log-probabilities of
    each request are those of an engine that has nothing else to do, bit for bit, and all blocks come back."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1), label="seed"))
    max_cache_tokens = data.draw(st.sampled_from([None, 64, 120]), label="max_cache_tokens")
    max_num_seqs = data.draw(st.sampled_from([1, 3, 16]), label="max_num_seqs")
    model = make_tiny_model()
    engine = TorchEngine(model, [EOS], max_num_seqs, max_cache_tokens=max_cache_tokens)
    system = rng.integers(3, 16, size=rng.integers(1, 20))
    known = {g: [np.append(system, rng.integers(3, 6, size=rng.integers(1, 4)))] for g in range(4)}
    requests: dict[int, SampleRequest] = {}
    results: dict[int, SampleResult] = {}
    for name in range(16):
        group = int(rng.choice(list(known)))
        prefix = known[group][int(rng.integers(len(known[group])))]
        submitted = request(prefix, int(rng.integers(1, 7)), seed=int(rng.integers(99)), name=name)
        requests[name] = replace(submitted, group=group)
        engine.submit(requests[name])
        for _ in range(int(rng.integers(4))):
            for result in engine.step():
                results[result.request_id] = result
                r = requests[result.request_id]
                known[r.group].append(np.concatenate([r.prefix_ids, result.token_ids]))
        if rng.random() < 0.1 and len(known) > 1:
            group = int(rng.choice(list(known)))
            del known[group]
            engine.abort_group(group)
            assert not any(group in node.groups for node in engine.prefix_cache.root.descendants())
    while engine.waiting or engine.rows.num_running:
        results |= {result.request_id: result for result in engine.step()}
    assert {name for name, r in requests.items() if r.group in known} <= results.keys()
    check_blocks(engine)
    for group in known:
        engine.abort_group(group)
    assert engine.blocks.num_used == 0
    for name, result in results.items():
        alone = run_all(TorchEngine(model, [EOS], max_num_seqs=1), [requests[name]])[0]
        np.testing.assert_array_equal(result.token_ids, alone.token_ids)
        np.testing.assert_array_equal(result.logprobs, alone.logprobs)
        assert result.ended == alone.ended
