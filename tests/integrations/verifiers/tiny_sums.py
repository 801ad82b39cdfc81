"""A taskset of verifiers as people write them: sums, with two weighted rewards."""

import verifiers.v1 as vf
from pydantic import field_validator


class SumData(vf.TaskData):
    answer: int


class SumTask(vf.Task[SumData]):
    @vf.reward(weight=0.75)
    async def right(self, trace: vf.Trace) -> float:
        return float(trace.last_reply.split()[-1:] == [str(self.data.answer)])

    @vf.reward(weight=0.25)
    async def is_short(self, trace: vf.Trace) -> float:
        return float(len(trace.last_reply) < 20)

    @vf.metric
    async def num_words(self, trace: vf.Trace) -> float:
        return float(len(trace.last_reply.split()))


class SumConfig(vf.TasksetConfig):
    num_tasks: int = 20
    sign: str = "+"
    system: str = ""

    @field_validator("sign")
    @classmethod
    def is_short(cls, sign: str) -> str:
        if "++" in sign:
            raise ValueError("one sign,\n    or none")
        return sign


class SumTaskset(vf.Taskset[SumTask, SumConfig]):
    def load(self):
        for n in range(self.config.num_tasks):
            prompt = f"{n} {self.config.sign} 1 ="
            yield SumTask(SumData(prompt=prompt, system_prompt=self.config.system or None, answer=n + 1))


async def half(task: SumData, trace: vf.Trace) -> float:
    """A reward that can take the place of another."""
    return 0.5


__all__ = ["SumTaskset"]
