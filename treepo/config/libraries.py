"""Libraries that make problems and judge answers to them, and what differs from the defaults for theirs."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from treepo.data.reasoning_gym import is_gym
from treepo.data.tasksets import is_taskset

REASONING_GYM: Mapping[str, Mapping[str, Any]] = {
    "verifier": {"use": "ReasoningGymVerifier"},
    "prompt": {
        "system": (
            "Given a problem, your task is to answer the question by thinking step-by-step in a clear and specific "
            "manner.\nOnce you have thought about the reasoning process, provide the answer in the following format:\n"
            "<answer>answer here</answer>\nDo not explain your reasoning inside the answer tags, provide only the "
            "final answer. When an example is provided, you should strictly follow the format of the output/answer in "
            "that example.\n"
        ),
        "question": "{question}",
    },
}
"""What differs from the defaults where all datasets are reasoning-gym's: its scorers, and its prompt, which is
SYSTEM_PROMPTS["default"] of reasoning_gym/utils.py."""

TASKSETS: Mapping[str, Mapping[str, Any]] = {
    "verifier": {"use": "TasksetVerifier"},
    "prompt": {"question": "{question}"},
}
"""What differs from the defaults where all datasets are tasksets of verifiers, whose prompts are whole."""


class Library(NamedTuple):
    """A library that makes problems and judges answers to them.

    makes: whether a source is one of its. problems: what they are called. defaults: what differs from the defaults
    where all datasets are its.
    """

    makes: Callable[[str], bool]
    problems: str
    defaults: Mapping[str, Mapping[str, Any]]


LIBRARIES = (
    Library(is_gym, "problems of reasoning_gym", REASONING_GYM),
    Library(is_taskset, "tasks of verifiers", TASKSETS),
)
