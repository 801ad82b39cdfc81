"""Random streams and drawing from them."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from treepo.engine.base import SamplingParams
from treepo.engine.sampling import CHUNK, BatchSamplingParams, sample_tokens, uniforms

JUST_UNDER_ONE = 1 - 2.0**-53


def draw_one(logits: list[float], number: float, temperature: float = 1.0) -> tuple[int, float]:
    """Token and log-probability of one row."""
    tokens, logprobs = draw_all(torch.tensor([logits]), np.array([temperature]), np.array([number]))
    return int(tokens[0]), float(logprobs[0])


def draw_all(
    logits: torch.Tensor,
    temperatures: np.ndarray,
    numbers: np.ndarray,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """One sample per row of logits, all truncated alike."""
    n = len(logits)
    params = BatchSamplingParams(temperatures, *(np.full(n, x) for x in (top_k, top_p, min_p, 1.0)))
    return sample_tokens(logits, np.arange(n), params, numbers)


def test_the_stream_is_splitmix64() -> None:
    """The generator's published first outputs for seed 1234567, their upper 53 bits as fractions."""
    published = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    numbers = uniforms(np.full(5, 1234567, np.uint64), np.arange(5))
    assert numbers.tolist() == [(output >> 11) / 2**53 for output in published]


@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 10**6)), min_size=1, max_size=8))
@settings(deadline=None)
def test_a_number_depends_on_its_seed_and_position_alone(rows: list[tuple[int, int]]) -> None:
    """Each row of a batch equals the row on its own, in python's own integers, and lies in [0, 1)."""
    mask = 2**64 - 1

    def splitmix(seed: int, position: int) -> float:
        z = (seed + (position + 1) * 0x9E3779B97F4A7C15) & mask
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return ((z ^ (z >> 31)) >> 11) / 2**53

    seeds = np.array([seed for seed, _ in rows], np.uint64)
    numbers = uniforms(seeds, np.array([position for _, position in rows]))
    assert numbers.tolist() == [splitmix(*row) for row in rows]
    assert ((numbers >= 0) & (numbers < 1)).all()


def test_numbers_are_uniform() -> None:
    """Over 200 000 numbers of many streams each of 100 equal bins is filled alike, and neighbours do not correlate."""
    numbers = uniforms(np.repeat(np.arange(2000, dtype=np.uint64), 100), np.tile(np.arange(100), 2000))
    counts = np.bincount((numbers * 100).astype(int), minlength=100)
    statistic = float(((counts - 2000) ** 2 / 2000).sum())
    assert statistic < 99 + 4 * math.sqrt(2 * 99)
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.01


@pytest.mark.parametrize(
    ("number", "token"),
    [(0.0, 0), (0.2499, 0), (0.2501, 1), (0.7499, 1), (0.7501, 2), (JUST_UNDER_ONE, 2)],
)
def test_the_distribution_function_is_inverted(number: float, token: int) -> None:
    """Probabilities 1/4, 1/2, 1/4: the number's place among their sums is the token."""
    logits = [math.log(p) for p in (0.25, 0.5, 0.25)]
    drawn, logprob = draw_one(logits, number)
    assert drawn == token
    assert logprob == pytest.approx(logits[token], abs=1e-6)


@pytest.mark.parametrize("number", [0.0, 5e-324, 0.5, JUST_UNDER_ONE])
@pytest.mark.parametrize("possible", [0, 1, 2, 3])
def test_a_token_of_probability_zero_is_never_drawn(number: float, possible: int) -> None:
    """First, last or between: with a single possible token every number gives it, with log-probability 0."""
    logits = [-math.inf] * 4
    logits[possible] = 3.0
    assert draw_one(logits, number) == (possible, 0.0)


@given(
    logits=st.lists(st.one_of(st.just(-math.inf), st.floats(-8, 8, width=32)), min_size=1, max_size=40),
    number=st.one_of(st.sampled_from([0.0, JUST_UNDER_ONE]), st.floats(0, JUST_UNDER_ONE)),
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.0]),
)
@settings(deadline=None)
def test_drawn_tokens_are_possible_and_in_their_interval(
    logits: list[float], number: float, temperature: float
) -> None:
    """Whatever the distribution, the number lies between the sums before and after the drawn token."""
    logits = [*logits, 0.0]
    token, logprob = draw_one(logits, number, temperature)
    assert logits[token] > -math.inf
    scaled = np.array(logits) / (temperature or 1.0)
    probabilities = np.exp(scaled - scaled.max())
    probabilities /= probabilities.sum()
    assert logprob == pytest.approx(math.log(probabilities[token]), abs=1e-5)
    if temperature == 0:
        assert token == int(np.argmax(logits))
    else:
        sums = np.concatenate([[0], np.cumsum(probabilities)])
        assert sums[token] - 1e-5 <= number <= sums[token + 1] + 1e-5


def test_a_small_temperature_approaches_the_likeliest_token() -> None:
    """At a hundredth the likeliest token is all but certain, at a hundred the draw is all but uniform."""
    logits = [0.0, 1.0, 0.5]
    assert {draw_one(logits, n, 0.01)[0] for n in np.linspace(0.001, JUST_UNDER_ONE, 101)} == {1}
    assert draw_one(logits, 0.5, 100.0)[1] == pytest.approx(math.log(1 / 3), abs=0.01)


def test_rows_of_a_batch_have_their_own_temperature() -> None:
    """Greedy and sampled rows share a batch and get what they get alone."""
    logits = torch.tensor([[0.0, 2.0, 1.0]]).repeat(4, 1)
    temperatures, numbers = np.array([0.0, 1.0, 0.5, 1.0]), np.array([0.0, 0.0, 0.99, 0.99])
    tokens, logprobs = draw_all(logits, temperatures, numbers)
    alone = [draw_one([0.0, 2.0, 1.0], n, t) for n, t in zip(numbers, temperatures, strict=True)]
    assert tokens.tolist() == [token for token, _ in alone] == [1, 0, 2, 2]
    np.testing.assert_allclose(logprobs, [logprob for _, logprob in alone], rtol=1e-6)


def test_half_precision_logits_are_drawn_in_float32() -> None:
    """The reported log-probability is not rounded to the precision of the logits."""
    logits = torch.tensor([[0.1, 0.2, 0.3, 0.4]], dtype=torch.bfloat16)
    _, logprobs = draw_all(logits, np.array([1.0]), np.array([0.5]))
    assert logprobs.dtype == np.float32
    every = torch.log_softmax(logits.double(), -1)[0].numpy()
    assert np.abs(every - logprobs[0]).min() < 1e-6


def test_several_draws_from_one_row_of_logits() -> None:
    """Siblings draw from the same logits with numbers of their own."""
    logits = torch.tensor([[0.0, 0.0], [5.0, -50.0]])
    params = BatchSamplingParams.of([SamplingParams()] * 4)
    tokens, _ = sample_tokens(logits, np.array([0, 1, 0, 1]), params, np.array([0.1, 0.1, 0.9, 0.9]))
    assert tokens.tolist() == [0, 0, 1, 0]


TRUNCATIONS = [
    {"top_k": 1},
    {"top_k": 5},
    {"top_k": 50},
    {"top_p": 0.001},
    {"top_p": 0.6},
    {"top_p": 0.95},
    {"min_p": 0.05},
    {"min_p": 1.0},
    {"top_k": 8, "top_p": 0.7},
    {"top_k": 12, "top_p": 0.9, "min_p": 0.1},
]


@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.8])
@pytest.mark.parametrize("truncation", TRUNCATIONS, ids=str)
def test_truncation_is_that_of_transformers(truncation: dict[str, float], temperature: float) -> None:
    """The tokens that can be drawn, and how often, are those that transformers' warpers leave, in its order."""
    logits = 2 * torch.randn(6, 40, generator=torch.Generator().manual_seed(0))
    warpers: list[Any] = [TemperatureLogitsWarper(temperature)] if temperature != 1 else []
    warpers += [TopKLogitsWarper(int(truncation["top_k"]))] if "top_k" in truncation else []
    warpers += [TopPLogitsWarper(truncation["top_p"])] if "top_p" in truncation else []
    warpers += [MinPLogitsWarper(truncation["min_p"])] if "min_p" in truncation else []
    expected = logits
    for warper in warpers:
        expected = warper(torch.zeros(6, 1, dtype=torch.long), expected)
    expected = expected.softmax(-1).numpy()
    numbers = (np.arange(4000) + 0.5) / 4000
    for row in range(6):
        tokens, logprobs = draw_all(logits[row].repeat(4000, 1), np.full(4000, temperature), numbers, **truncation)  # pyright: ignore[reportArgumentType]
        frequencies = np.bincount(tokens, minlength=40) / 4000
        np.testing.assert_allclose(frequencies, expected[row], atol=2 / 4000)
        whole = torch.log_softmax(logits[row] / temperature, -1).numpy()
        np.testing.assert_allclose(logprobs, whole[tokens], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_the_repetition_penalty_is_that_of_transformers(temperature: float) -> None:
    """Bit for bit, for samples of several penalties and lengths, with repeated tokens, that share their logits: what is
    drawn and its log-probability are those of the logits that transformers' processor returns."""
    rng = np.random.default_rng(0)
    logits = 3 * torch.randn(4, 50, generator=torch.Generator().manual_seed(0))
    logits_rows, penalties = np.repeat(np.arange(4), 6), np.tile([1.0, 1.3, 0.6, 2.0, 1.0, 50.0], 4)
    known = [rng.integers(0, 50, size=n).astype(np.int32) for n in rng.integers(1, 120, size=24)]
    params, numbers = [SamplingParams(temperature, repetition_penalty=p) for p in penalties], rng.random(24)
    before = logits.clone()
    found = sample_tokens(
        logits, logits_rows, BatchSamplingParams.of(params), numbers, known_ids=lambda sample: known[sample]
    )
    assert torch.equal(logits, before)
    processors: list[Any] = [RepetitionPenaltyLogitsProcessor(penalty) for penalty in penalties.tolist()]
    penalized = [
        processor(torch.from_numpy(ids)[None].long(), logits[row][None].clone())
        for processor, ids, row in zip(processors, known, logits_rows.tolist(), strict=True)
    ]
    expected = draw_all(torch.cat(penalized), np.full(24, temperature), numbers)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


def test_without_a_penalty_nobody_asks_for_the_tokens_so_far() -> None:
    """Of a batch only the penalized samples' tokens are collected, and their neighbours' results stay bit for bit."""
    logits, numbers = torch.randn(3, 40, generator=torch.Generator().manual_seed(0)), np.array([0.2, 0.5, 0.8])
    asked: list[int] = []

    def known_ids(sample: int) -> np.ndarray:
        asked.append(sample)
        return np.arange(40, dtype=np.int32)

    def draw(*penalties: float) -> list[tuple[int, float]]:
        params = BatchSamplingParams.of([SamplingParams(repetition_penalty=p) for p in penalties])
        tokens, logprobs = sample_tokens(logits, np.arange(3), params, numbers, known_ids=known_ids)
        return list(zip(tokens.tolist(), logprobs.tolist(), strict=True))

    free = draw(1.0, 1.0, 1.0)
    assert asked == []
    mixed = draw(1.0, 1.5, 1.0)
    assert asked == [1]
    assert (mixed[0], mixed[2]) == (free[0], free[2]) and mixed[1] != free[1]


def test_a_large_vocabulary_is_inverted_in_chunks() -> None:
    """The token is the one that one sum over the whole vocabulary gives, at the ends and across chunks."""
    size = 3 * CHUNK + 17
    logits = torch.randn(200, size, generator=torch.Generator().manual_seed(1)) * 3
    numbers = np.concatenate([[0.0, JUST_UNDER_ONE], (np.arange(198) + 0.5) / 198])
    tokens, _ = draw_all(logits, np.ones(200), numbers)
    sums = torch.log_softmax(logits, -1).exp().double().numpy().cumsum(-1)
    expected = [int(np.searchsorted(s, u * s[-1], "right")) for s, u in zip(sums, numbers, strict=True)]
    assert np.mean(tokens == expected) > 0.99, "sums in another order may round to a neighbour, rarely"
    between = [
        abs(sums[i][t] - u * sums[i][-1])
        for i, (t, u) in enumerate(zip(tokens, numbers, strict=True))
        if t != expected[i]
    ]
    assert all(gap < 1e-6 for gap in between)
    assert tokens.max() < size


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [CHUNK + 1, 2 * CHUNK, 5003])
def test_large_vocabularies_are_sampled_the_same_compiled(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, size: int
) -> None:
    """sampling.c and torch take the same tokens with the same log-probabilities, also greedily, at any temperature,
    with tokens that are ruled out, and with logits that several samples share."""
    generator = torch.Generator().manual_seed(size)
    logits = (4 * torch.randn(6, size, generator=generator)).to(dtype)
    logits[1, ::2] = -math.inf
    rows, numbers = np.array([0, 1, 1, 2, 3, 4, 5, 5]), np.random.default_rng(size).random(8)
    numbers[0], numbers[7] = 0.0, JUST_UNDER_ONE
    temperatures = np.array([1.0, 1.0, 0.0, 0.7, 1.5, 0.0, 1.0, 1.0])
    params = BatchSamplingParams(temperatures, *(np.full(8, x) for x in (0, 1.0, 0.0, 1.0)))
    tokens, logprobs = sample_tokens(logits, rows, params, numbers)
    monkeypatch.setattr("treepo.engine.sampling.load_kernels", lambda _: None)
    wanted, wanted_logprobs = sample_tokens(logits, rows, params, numbers)
    assert tokens.tolist() == wanted.tolist()
    np.testing.assert_allclose(logprobs, wanted_logprobs, atol=2e-5)


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_logits_that_are_not_finite_have_no_finite_log_probability(wrong: float) -> None:
    """Wherever they are in a row: the engine raises for them."""
    for place in (0, 17, CHUNK, CHUNK + 6):
        logits = torch.zeros(1, CHUNK + 7)
        logits[0, place] = wrong
        assert not np.isfinite(draw_all(logits, np.ones(1), np.array([0.5]))[1]).any()
