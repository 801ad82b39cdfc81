"""The plain transformers loop samples what the model says."""

import numpy as np
import torch

from tests.models import make_tiny_model
from treepo.bench.rollout_variants import sample_plain

PROMPTS = [[3, 4, 5, 6, 7], [8], [3, 9, 3]]
NEARLY_GREEDY = 1e-6


def test_padding_changes_nothing():
    """Nearly greedy answers to prompts of unequal length equal those of plain forwards without a cache or padding."""
    model = make_tiny_model(attention="sdpa")
    answers = sample_plain(model, PROMPTS, 6, NEARLY_GREEDY, ())
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        ids = list(prompt)
        for _ in range(6):
            with torch.no_grad():
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        assert answer.tolist() == ids[len(prompt) :]


def test_tokens_are_drawn_with_the_models_probabilities():
    model = make_tiny_model(attention="sdpa")
    with torch.no_grad():
        wanted = torch.softmax(model(torch.tensor([PROMPTS[0]])).logits[0, -1], -1).numpy()
    torch.manual_seed(0)
    drawn = np.concatenate(sample_plain(model, [PROMPTS[0]] * 4000, 1, 1.0, ()))
    assert np.abs(np.bincount(drawn, minlength=len(wanted)) / 4000 - wanted).max() < 0.04


def test_answers_end_with_the_first_end_token():
    model = make_tiny_model(attention="sdpa")
    whole = sample_plain(model, PROMPTS, 12, NEARLY_GREEDY, ())
    eos = int(whole[0][2])
    for before, after in zip(whole, sample_plain(model, PROMPTS, 12, NEARLY_GREEDY, (eos,)), strict=True):
        ends = np.flatnonzero(before == eos)
        assert after.tolist() == (before[: ends[0] + 1] if len(ends) else before).tolist()
