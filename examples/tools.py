"""Tools: a model calls functions while it answers, and learns when that helps."""

import sys

import treepo


def price(item: str) -> float:
    """Look up what an item costs.

    Args:
        item: One of apple, pear, plum.
    """
    return {"apple": 1.25, "pear": 2.5, "plum": 0.75}[item]


if __name__ == "__main__":
    config = treepo.TreePOConfig(
        prompts_per_step=4,
        tree={"width": 4, "depth": 6, "segment_len": 32},
        environment={"max_turns": 4, "max_observed_tokens": 512},
        max_steps=2,
    )
    costs = {"apple": 125, "pear": 250, "plum": 75}
    rows = [
        {"question": f"What do {n} {item}s cost, in cents?", "answer": f"{n * cents}"}
        for item, cents in costs.items()
        for n in range(2, 40)
    ]
    interpreter = treepo.envs.PythonInterpreter()
    trainer = treepo.TreePOTrainer(*sys.argv[1:], config=config, train_dataset=rows, tools=[price, interpreter.python])
    trainer.train()
