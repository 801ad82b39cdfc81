"""Replies scored by the tasks of verifiers themselves."""

import asyncio
import importlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from treepo.data.problem import Outcome, Verdict, bounded
from treepo.data.tasksets import PREFIX, import_verifiers, open_taskset
from treepo.errors import RecordError, SettingError
from treepo.verify.base import FinalAnswer, Place, Verifier

THINK_END = "</think>"


@dataclass(frozen=True)
class TasksetVerifier(FinalAnswer):
    """The reward that the task of verifiers gives to the reply: the weighted sum of its rewards and judges.

    The task sees a finished conversation of one reply, without its reasoning, which is in `reasoning_content`.
    `extract_from` only says where an answer ends, and which one is counted in votes.
    """

    extract_from: tuple[Place, ...] = ("box", "tag")
    """As in other verifiers."""

    tasksets: tuple[str, ...] = ()
    """Tasksets, with their options, whose code may be run; those of the run's datasets are, too."""

    reward_range: tuple[float, float] = (0.0, 1.0)
    """The least and the greatest reward of a task, which become 0 and 1; those between them are scaled alike."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.reward_range) != 2 or not self.reward_range[0] < self.reward_range[1]:
            raise SettingError("reward_range", "must be two numbers, the least reward first", list(self.reward_range))

    def load(self) -> None:
        """Import the library and the tasksets; raises SettingError without them."""
        try:
            import_verifiers()
            for name in self.tasksets:
                open_taskset(name)
        except RecordError as error:
            raise SettingError("use", str(error)) from error

    def __call__(self, response: str, ground_truth: str, /, *, taskset: str, task: str) -> Verdict:
        """Return the reward. taskset: its name with its options. task: its data as JSON.

        Raises what the task raises, and ValueError for a reward outside of `reward_range`, or for a taskset that the
        settings do not name.
        """
        if taskset not in self.tasksets:
            raise ValueError(f"a record names the taskset {taskset!r:.100}, which verifier.tasksets does not")
        reasoning, content = self._divided(response)
        opened = open_taskset(taskset)
        reward = score(opened.library, opened.rebuilt(task), content, reasoning)
        low, high = self.reward_range
        if not low <= reward <= high:
            raise ValueError(f"the reward {reward:g} lies outside of verifier.reward_range, {low:g} to {high:g}")
        found = self.extract(response)
        return Verdict((reward - low) / (high - low), Outcome.GRADED, None if found is None else bounded(found))

    def _divided(self, response: str) -> tuple[str | None, str]:
        """The reasoning of a response, None without any, and the rest. Reasoning without an end is all there is."""
        head, sign, tail = response.rpartition(THINK_END)
        if sign:
            return head.strip().removeprefix("<think>").strip(), tail.strip()
        if self.think_prefilled or response.lstrip().startswith("<think>"):
            return response.strip().removeprefix("<think>").strip(), ""
        return None, response


def with_tasksets(verifier: Verifier, sources: Sequence[str]) -> Verifier:
    """The verifier, told which tasksets a run's datasets are; any other verifier as it is."""
    if not isinstance(verifier, TasksetVerifier):
        return verifier
    named = (source.removeprefix(PREFIX) for source in sources)
    return replace(verifier, tasksets=tuple(dict.fromkeys((*verifier.tasksets, *named))))


def score(library: Any, task: Any, content: str, reasoning: str | None = None) -> float:
    """The reward that a task gives to a reply. library: the module `verifiers.v1`."""
    data = task.data
    asked = data.prompt if isinstance(data.prompt, list) else [{"role": "user", "content": data.prompt}]
    system = [{"role": "system", "content": data.system_prompt}] if data.system_prompt else []
    reply = {"role": "assistant", "content": content, "reasoning_content": reasoning}
    messages = [*system, *asked, reply]
    nodes = [
        library.MessageNode(parent=i - 1 if i else None, message=message, sampled=message is reply)
        for i, message in enumerate(messages)
    ]
    state = importlib.import_module("verifiers.v1.state").state_cls(type(task))
    trace = library.Trace(
        task=library.TraceTask(type=type(task).__name__, data=data, key=task.key, hash=task.hash),
        agent=library.AgentInfo(config=library.AgentConfig()),
        state=state(),
        nodes=nodes,
        is_completed=True,
        ok=True,
        stop_condition="agent_completed",
    )
    asyncio.run(task.score(trace))
    return trace.reward
