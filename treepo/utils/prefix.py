"""Common beginnings of token sequences: what the engine's prefix cache and packing's trie are built on."""

import numpy as np


def common_prefix_len(one: np.ndarray, other: np.ndarray) -> int:
    """Return how many tokens two sequences have in common from their beginning."""
    length = min(len(one), len(other))
    differ = one[:length] != other[:length]
    first = int(differ.argmax()) if length else 0
    return first if length and differ[first] else length
