"""A task of your own: problems from a generator, and a reward that needs no verifier.

python examples/own_task.py [MODEL]         # in seconds; the built-in task's base model unless another is named
"""

import random
import re
import sys

import treepo
from treepo.tasks.base_model import find_or_make_base_model
from treepo.utils.io import default_cache_folder


def problems(seed):
    """Without an end; a run takes as many as it needs. Every column is given to the reward."""
    rng = random.Random(seed)
    while True:
        numbers = [rng.randint(20, 60), rng.randint(2, 9), rng.randint(2, 9)]
        yield {"prompt": "{}a+{}b+{}:".format(*numbers), "total": sum(numbers)}


def sound(completions, total, **columns):
    """The share of the equations in an answer that hold, and 1 more if the total stands in it."""
    found = [re.findall(r"(\d{1,9})([+-]\d{1,9})=(\d{1,9})", text) for text in completions]
    shares = [sum(int(a) + int(b) == int(c) for a, b, c in each) / max(len(each), 1) for each in found]
    return [share + (str(n) in text) for share, n, text in zip(shares, total, completions, strict=True)]


config = treepo.TreePOConfig(max_steps=2, prompts_per_step=8, learning_rate=2e-4, tree={"segment_len": 16})
with treepo.TreePOTrainer(
    model=sys.argv[1] if len(sys.argv) > 1 else find_or_make_base_model(default_cache_folder(), seed=0),
    reward_funcs=sound,
    train_dataset=problems(seed=1),
    eval_dataset=[row for _, row in zip(range(16), problems(seed=2), strict=False)],
    config=config,
) as trainer:
    print(f"reward of the last step: {trainer.train()['reward/mean']:.3f}, held out: {trainer.evaluate()}")
