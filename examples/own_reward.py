"""Rewards of your own beside the task's own, as functions that TRL would call, too.

python examples/own_reward.py [MODEL]       # the built-in task, in seconds; its own model unless another is named
"""

import re
import sys

import treepo


def brevity(completion_ids, **columns):
    """Minus the share of 128 tokens that an answer takes."""
    return [-len(ids) / 128 for ids in completion_ids]


def near_miss(completions, ground_truth, log_metric, **columns):
    """How near the last number of an answer is to the right one; None, which abstains, where there is no number."""
    numbers = [re.findall(r"\d+", text)[-1:] for text in completions]
    log_metric("answers_without_number", numbers.count([]) / len(numbers))
    return [
        1 / (1 + abs(int(found[0][:9]) - int(known))) if found else None
        for found, known in zip(numbers, ground_truth, strict=True)
    ]


with treepo.TreePOTrainer(
    model=sys.argv[1] if len(sys.argv) > 1 else "",
    reward_funcs=[brevity, near_miss],
    reward_weights=[0.1, 0.5],
    config=treepo.TreePOConfig(max_steps=2, prompts_per_step=8, eval={"num_problems": 16}),
) as trainer:
    metrics = trainer.train()
    for part in ("correct", "brevity", "near_miss", "mean"):
        print(f"reward/{part}: {metrics[f'reward/{part}']:.3f}")
