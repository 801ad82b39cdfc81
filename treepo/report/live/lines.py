"""What a run that goes on says where the output is no terminal: a line per step."""

from collections.abc import Iterator

from treepo.printable import printable
from treepo.report.live.screen import figure_texts, head
from treepo.report.live.shown import CURVES, FIGURES
from treepo.report.live.state import RunState


def step_lines(state: RunState, num_known: int, num_told: int) -> Iterator[str]:
    """A line for each object of the log that is new, and one that the run is complete with it.

    num_known: objects at its beginning that were there before; num_told: objects that were told of, more than those if
    the run was resumed from an earlier step.
    """
    if num_known < num_told:
        went_back = int(state.log[num_known - 1]["step"]) if num_known else 0
        yield f"{printable(state.name)}  was resumed after step {went_back}"
    for metrics in state.log[num_known:]:
        one = RunState(state.name, state.num_steps, (metrics,))
        yield "  ".join([f"step {metrics['step']:.0f} of {state.num_steps}", *figure_texts(one, (*CURVES, *FIGURES))])
    if state.is_complete and num_known < len(state.log):
        yield head(state)
