"""Tokens decoded and forwarded by trees over turns, against independent episodes of as many turns.

    OMP_NUM_THREADS=1 python benchmarks/turns.py            # results/turns.json; a minute on one core

No model: a script samples turns of at least 8 tokens that then end with probability 1/16, 23 on average, and an
environment answers each with 64. Every trajectory has all its turns. Counted per problem of `--width` trajectories:

- decoded: tokens sampled;
- prefill: tokens that the engine is given and that it does not have yet: each distinct one of the tree once;
- prefill without a cache: the whole prefix of each request, as where a turn is asked for with its history anew;
- update: tokens that an update forwards, each distinct one once, and steps of environments.

episodes: `width` paths that part at the prompt. even: the default branching, which forks from the first segment on
until it has its width, and goes back where paths end before. backtracking: one path, and then the others from where
random turns of it begin (`fallback.cut = "turn"`). Both with `fallback.order = "all"`.
"""

import argparse
import json
import platform
import sys
from pathlib import Path
from time import process_time
from typing import Any, ClassVar

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.grow.scripts import EOS, NotedEngine, problems, text_of
from tests.grow.test_turns import GLUE, Letters
from treepo.envs.base import CopyFork, Turn
from treepo.grow.branching import EvenBranching, InitialFork
from treepo.grow.builder import GrowthRules
from treepo.grow.fallback import Backtrack
from treepo.grow.sampler import TreeSampler
from treepo.grow.shape import TreeShape
from treepo.grow.stopping import StopRules
from treepo.grow.turns import TurnRules
from treepo.learn.packing import pack
from treepo.verify import FinalAnswer

NUM_TURNS = (2, 4, 8, 16)
PROMPT_LEN, REPLY_LEN, MIN_TURN_LEN = 128, 64, 8
TREES = ("even", "backtracking")
COUNTS = ("decoded", "prefill", "prefill without a cache", "update", "environment steps")


class Counting(CopyFork):
    """Answers with 64 tokens, one of which the chat writes, and counts its steps."""

    steps: ClassVar[list[int]] = []

    def reset(self, problem: Any) -> str:
        return "ab" * (PROMPT_LEN // 2)

    def step(self, assistant_text: str) -> Turn:
        self.steps.append(1)
        return Turn("a" * (REPLY_LEN - 1))


def script(ids: np.ndarray, seed: int) -> tuple[int, float]:
    """A letter, or after some of them the end of a turn."""
    begins = np.flatnonzero(ids == GLUE)
    sampled = len(ids) - (begins[-1] + REPLY_LEN if len(begins) else PROMPT_LEN)
    ends = sampled >= MIN_TURN_LEN and seed % 16 == 0
    return (EOS[0] if ends else seed % 4), -1.0


def measured(name: str, num_turns: int, width: int, num_problems: int) -> dict[str, float]:
    """Mean counts per problem."""
    shape = TreeShape(width=width, depth=num_turns * 8, segment_len=32, num_children=1 if name == "backtracking" else 2)
    first = {"episodes": width, "even": 2, "backtracking": 1}[name]
    rules = GrowthRules(
        shape=shape,
        initial_fork=InitialFork(first, first),
        branching=EvenBranching(),
        fallback=Backtrack(order="all", cut="turn" if name == "backtracking" else "boundary"),
        stopping=StopRules("never", "never"),
        decode=text_of,
        answers=FinalAnswer(),
        turns=TurnRules(
            factory=Counting,
            chat=Letters(),
            max_turns=num_turns,
            max_observed_tokens=REPLY_LEN * num_turns,
            num_workers=1,
        ),
    )
    Counting.steps.clear()
    engine, counts = NotedEngine(script), dict.fromkeys(COUNTS, 0)
    for _, tree in TreeSampler(engine, rules).grow(problems(num_problems), seed=1):
        assert len(tree.leaves()) == width, "a path ended before its last turn"
        assert all(len(tree.turn_starts(leaf)) == num_turns for leaf in tree.leaves())
        counts["decoded"] += tree.num_decoded()
        counts["prefill"] += sum(len(n.token_ids) for i, n in enumerate(tree.nodes) if n.observed or not i)
        counts["update"] += pack(tree, np.zeros(width)).num_tokens
    counts["prefill without a cache"] = sum(len(request.prefix_ids) for request in engine.requests)
    counts["environment steps"] = len(Counting.steps)
    return {key: count / num_problems for key, count in counts.items()}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: counts of episodes, and what trees have of them."""
    lines = []
    for row in rows:
        episodes = row["episodes"]
        cells = [" / ".join(f"{episodes[key]:.0f}" for key in COUNTS)]
        cells += [" / ".join(f"{row[name][key] / episodes[key]:.2f}" for key in COUNTS) for name in TREES]
        lines.append(f"| {row['turns']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(width: int, num_problems: int, out: Path) -> None:
    """Count, write the figures and print the table."""
    start, rows = process_time(), []
    for num_turns in NUM_TURNS:
        names = ("episodes", *TREES)
        rows.append({"turns": num_turns} | {name: measured(name, num_turns, width, num_problems) for name in names})
        print(table(rows[-1:]), flush=True)
    about = {
        "command": f"OMP_NUM_THREADS=1 python benchmarks/turns.py --width {width} --problems {num_problems}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "seconds of one core": round(process_time() - start, 1),
    }
    out.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--problems", type=int, default=16)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "turns.json")
    given = parser.parse_args()
    main(given.width, given.problems, given.out)
