"""TRL's own trainer over trees: its rewards, losses, logs and checkpoints, and completions that share their beginnings.

python examples/trl_trainer.py [MODEL]      # pip install 'treepo[trl]'; its own model unless another is named
"""

import random
import re
import sys
from pathlib import Path

from datasets import Dataset  # pyright: ignore[reportMissingImports]

from treepo.integrations.trl import TreeGRPOConfig, TreeGRPOTrainer
from treepo.tasks.base_model import find_or_make_base_model
from treepo.tasks.chain_sums import draw_chain

chains = [draw_chain(random.Random(seed)) for seed in range(64)]
rows = [{"prompt": f"<bos>{chain.prompt}", "answer": chain.value} for chain in chains]


def is_right(completions, answer, **columns):
    boxes = [re.findall(r"boxed\{(\d+)\}", text)[-1:] for text in completions]
    return [float(box == [str(known)]) for box, known in zip(boxes, answer, strict=True)]


config = TreeGRPOConfig(
    output_dir="runs/trl",
    num_generations=8,  # leaves of a tree
    max_completion_length=128,
    tree_depth=8,  # segments of 16 tokens
    estimator="TreePO",
    per_device_train_batch_size=32,
    max_steps=4,
    logging_steps=1,
    bf16=False,
    report_to=[],
)
model = sys.argv[1] if len(sys.argv) > 1 else str(find_or_make_base_model(Path("runs/models"), seed=0))
trainer = TreeGRPOTrainer(model, is_right, config, train_dataset=Dataset.from_list(rows))
trainer.train()
