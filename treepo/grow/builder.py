"""The construction of one tree: which segments to decode next, and how the decoded ones become nodes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto

import numpy as np

from treepo.data.problem import AnswerFormat, Decode
from treepo.engine.base import SampleResult
from treepo.envs.pool import CallResult
from treepo.errors import StrategyError
from treepo.grow.branching import Branching, EvenBranching, InitialFork, Level
from treepo.grow.fallback import FROM_PROMPT, Backtrack, BacktrackPoint, Fallback, FinishedPath
from treepo.grow.shape import TreeShape
from treepo.grow.stopping import PathEnd, Stopping, StopRules
from treepo.grow.turns import TreeTurns, TurnEnd, TurnRules
from treepo.tree import CUT_OFF, ROOT, Node, StopReason, Tree
from treepo.utils.numeric import derive_seed


@dataclass(frozen=True)
class GrowthRules:
    """The shape and the strategies by which trees grow.

    decode: the tokenizer's; None where no strategy reads text. answers: how final answers are written; None where no
    strategy looks for them. segment_full_trees: decode segment by segment even when finished and active paths together
    reach the width. Nothing forks then, so by default those paths are decoded to their ends in one request each and
    split into segments afterwards: the same trees in fewer requests. Tokens beyond the segment in which a path turns
    out to have ended are dropped. turns: how paths go on after EOS, which then ends a turn; None for a single turn.
    """

    shape: TreeShape
    initial_fork: InitialFork
    branching: Branching
    fallback: Fallback
    stopping: Stopping
    decode: Decode | None = None
    answers: AnswerFormat | None = None
    segment_full_trees: bool = False
    turns: TurnRules | None = None

    @property
    def max_tree_tokens(self) -> int:
        """Tokens below the prompt of the largest tree without fallback; each path may observe something else."""
        most_observed = self.shape.width * self.turns.max_observed_tokens if self.turns else 0
        return self.shape.max_tree_tokens + most_observed

    @classmethod
    def star(
        cls, width: int, max_response_tokens: int, decode: Decode, answers: AnswerFormat | None = None
    ) -> "GrowthRules":
        """Sequential sampling: `width` independent responses per problem."""
        return cls(
            shape=TreeShape(width, depth=1, segment_len=max_response_tokens, num_children=width),
            initial_fork=InitialFork(width, width),
            branching=EvenBranching(),
            fallback=Backtrack(),
            stopping=StopRules("answer_and_eos" if answers else "never", repetition="never"),
            decode=decode,
            answers=answers,
        )


class BuilderState(Enum):
    """What a TreeBuilder waits for. START -> DECODING_* [-> STEPPING] ... -> COMPLETE or EXHAUSTED.

    DECODING_TO_END: active and finished paths reach the width, and the active ones are decoded to their ends, or to the
    end of their turns. STEPPING: the environments of paths that ended a turn answer.
    EXHAUSTED: the tree gets no more trajectories, since the fallback gave it up or its token budget is spent.
    """

    START = auto()
    DECODING_SEGMENTS = auto()
    DECODING_TO_END = auto()
    STEPPING = auto()
    COMPLETE = auto()
    EXHAUSTED = auto()


@dataclass(frozen=True, eq=False)
class Segment:
    """Tokens to decode below `parent`: a segment, or all until the path ends (DECODING_TO_END)."""

    parent: int
    prefix_ids: np.ndarray
    max_new_tokens: int
    seed: int
    from_fallback: bool


class TreeBuilder:
    """Builds one tree; it advances when all segments of a level have been decoded."""

    def __init__(
        self,
        problem_id: str,
        prompt_ids: Sequence[int],
        seed: int,
        rules: GrowthRules,
        turns: TreeTurns | None = None,
    ) -> None:
        self.tree = Tree.from_prompt(problem_id, np.array(prompt_ids, np.int32), seed)
        self.rules = rules
        self.shape = rules.shape
        self.state = BuilderState.START
        self.rng = np.random.default_rng(derive_seed(seed, "choices"))
        self.segments: list[Segment] = []
        self.results: dict[int, SampleResult] = {}
        self.finished: list[FinishedPath] = []
        self.num_short = 0
        self.turns = turns
        self.turn_ends: list[TurnEnd] = []
        self.active: list[int] = []
        self.num_finished_before = 0
        self.num_children = [0]
        """Children of each node that were ever requested, those of dropped nodes too: their number seeds the next."""

    def start(self) -> list[Segment]:
        """The first level: the children of the prompt."""
        num_first = self.rules.initial_fork(self.shape, self.rng)
        self.shape = self.shape.for_prompt(len(self.tree.prompt_ids), num_first)
        return self._next_level([(ROOT, num_first)], from_fallback=False)

    def receive(self, index: int, result: SampleResult) -> list[Segment]:
        """Take the result of the level's segment `index`; return the next level once this one is complete.

        An empty list means that the level still waits for others, or that the tree is done.
        """
        assert index not in self.results, f"segment {index} was decoded twice"
        self.results[index] = result
        if len(self.results) < len(self.segments):
            return []
        return self._advance()

    @property
    def done(self) -> bool:
        """Whether the tree has all its trajectories, or all that it will have."""
        return self.state in {BuilderState.COMPLETE, BuilderState.EXHAUSTED}

    def _advance(self) -> list[Segment]:
        """Make nodes of what was decoded; then let environments answer where turns ended, or go on at once."""
        self.num_finished_before = len(self.finished)
        self.turn_ends = []
        decoded = [(segment, self.results[i]) for i, segment in enumerate(self.segments)]
        paths = [rest for path in decoded if (rest := self._grow_node(*path))]
        assert len(self.finished) + len(paths) + len(self.turn_ends) <= self.shape.width
        while paths and self.state is BuilderState.DECODING_TO_END:
            paths = [rest for path in paths if (rest := self._grow_node(*path))]
        self.active = [segment.parent for segment, _ in paths]
        if self.turn_ends:
            assert self.turns is not None, "turns end where there are environments"
            may_come_back = self.state is not BuilderState.DECODING_TO_END
            self.state = BuilderState.STEPPING
            self.turns.step(self.turn_ends, may_come_back)
            return []
        return self._go_on()

    def receive_call(self, result: CallResult) -> list[Segment]:
        """Take what came of a call into an environment; return the next level once all paths have been answered."""
        assert self.turns is not None and self.state is BuilderState.STEPPING, "no environment was asked"
        if not self.turns.receive(result):
            return []
        for turn_end in self.turn_ends:
            self._answer(turn_end)
        self.turns.close(self.turn_ends)
        # In the order of the paths, whether an environment ended them or something else.
        self.finished[self.num_finished_before :] = sorted(
            self.finished[self.num_finished_before :], key=lambda path: path.leaf
        )
        return self._go_on()

    def _go_on(self) -> list[Segment]:
        """Fork the active paths, fall back without any, or end the tree."""
        if nodes := self.active:
            counts = self._branch(nodes, len(self.finished) - self.num_finished_before)
            return self._next_level(list(zip(nodes, counts, strict=True)), from_fallback=False)
        if len(self.finished) < self.shape.width and (forks := self._fall_back()):
            return self._next_level(forks, from_fallback=True)
        is_complete = len(self.finished) == self.shape.width
        self.state = BuilderState.COMPLETE if is_complete else BuilderState.EXHAUSTED
        if self.num_short:
            self.tree.prune()
        if self.turns is not None:
            self.turns.close_all()
        return []

    def _branch(self, nodes: list[int], num_just_finished: int) -> list[int]:
        """The children of each active path; StrategyError if they are not what a branching must return."""
        num_finished = len(self.finished)
        lengths = [self.tree.response_len(node) for node in nodes]
        shape = self._affordable(float(np.mean(lengths)) + self.shape.segment_len)
        level = Level(shape, self.tree, nodes, num_finished, num_just_finished, shape.num_segments(lengths[0]))
        counts = self.rules.branching(level, self.rng)
        missing = max(shape.width - num_finished, len(nodes))
        numbers = np.asarray([] if counts is None else counts)
        is_whole = numbers.shape == (len(nodes),) and numbers.dtype.kind in "iuf" and (numbers % 1 == 0).all()
        if not is_whole or numbers.min() < 1 or numbers.sum() > missing:
            raise StrategyError(
                f"branching: {type(self.rules.branching).__name__} returned {counts} children for {len(nodes)} active "
                f"paths with {missing} trajectories missing"
            )
        return [int(number) for number in numbers]

    def _affordable(self, next_len: float) -> TreeShape:
        """The shape with the width that its token budget, if it has one, allows now."""
        return self.shape.within_budget([f.response_len for f in self.finished], next_len)

    def _grow_node(self, segment: Segment, result: SampleResult) -> tuple[Segment, SampleResult] | None:
        """Add one segment of a path to the tree; return the rest of the path if it stays active."""
        length = self.shape.segment_at(self.tree.response_len(segment.parent))
        token_ids, more_ids = result.token_ids[:length], result.token_ids[length:]
        logprobs, more_logprobs = result.logprobs[:length], result.logprobs[length:]
        ids = np.concatenate([segment.prefix_ids, token_ids])
        response = np.concatenate([self.tree.sampled_ids(segment.parent), token_ids])
        ended = result.ended and len(more_ids) == 0
        is_turn_end = ended and self.turns is not None
        end = PathEnd(
            response_ids=response.tolist(),
            segment_ids=token_ids.tolist(),
            # Where EOS ends a turn, the environment says whether the path ends.
            ended=ended and not is_turn_end,
            num_segments=self._num_segments(len(response), is_turn_end),
            shape=self.shape,
            decode=self.rules.decode,
            answers=self.rules.answers,
        )
        stop = self.rules.stopping(end)
        name = type(self.rules.stopping).__name__
        if stop is not None and not isinstance(stop, StopReason):
            raise StrategyError(f"stopping: {name} returned {stop!r:.50}, which is no StopReason and not None")
        if stop is None and (end.ended or len(response) >= self.shape.max_response_tokens):
            raise StrategyError(f"stopping: {name} let a path go on after EOS or beyond its longest length")
        if is_turn_end and stop in (None, *CUT_OFF):
            self._end_turn(segment, token_ids, logprobs, end, stop)
            return None
        if stop is not None:
            self.tree.num_dropped += len(more_ids)
            if self._is_too_short(len(response)):
                self.num_short += 1
                self.tree.num_dropped += len(token_ids)
                return None
        node = self.tree.add(Node(segment.parent, token_ids, logprobs, segment.seed, stop, segment.from_fallback))
        self.num_children.append(0)
        if stop is None:
            rest = replace(segment, parent=node, prefix_ids=ids, from_fallback=False)
            return rest, replace(result, token_ids=more_ids, logprobs=more_logprobs)
        self._finish(node, stop, end)
        return None

    def _num_segments(self, response_len: int, is_turn_end: bool) -> int:
        """Segments of a response; of one whose turn has ended those that are whole, since others follow."""
        return self.shape.num_segments(response_len + is_turn_end) - is_turn_end

    def _finish(self, leaf: int, stop: StopReason, end: PathEnd) -> None:
        """Count a leaf of the tree as a trajectory."""
        trajectory = self.tree.trajectory(leaf)
        logprobs, begins = trajectory.sampled_logprobs[~trajectory.observed], self.tree.turn_starts(leaf)
        self.finished.append(FinishedPath(leaf, stop, logprobs, end.has_open_answer(), begins))
        if self.turns is not None:
            self.turns.keep(self.tree, leaf)

    def _end_turn(
        self, segment: Segment, token_ids: np.ndarray, logprobs: np.ndarray, end: PathEnd, stop: StopReason | None
    ) -> None:
        """Add the last segment of a turn; what comes after it, the environment says."""
        assert self.turns is not None
        decode = self.turns.rules.decode or self.rules.decode
        assert decode is not None
        node = self.tree.add(Node(segment.parent, token_ids, logprobs, segment.seed, None, segment.from_fallback))
        # Its only child will be the reply.
        self.num_children.append(1)
        start = self.turns.start_of(self.tree, node)
        ids = self.tree.ids(node)[len(self.tree.ids(start)) :]
        self.turn_ends.append(TurnEnd(node, start, decode(ids.tolist()), end, stop))

    def _answer(self, turn_end: TurnEnd) -> None:
        """Go on with a path as its environment answered, or end it."""
        turns, node, turn = self.turns, self.tree.nodes[turn_end.node], turn_end.turn
        assert turns is not None
        stop, reply = turn_end.failure, np.zeros(0, np.int32)
        if turn is not None:
            stop = turn_end.stop or (StopReason.TURNS if turns.is_last(turn_end) else None)
            stop = StopReason.ENV_DONE if turn.done else stop
        if stop is None:
            reply = np.array(turns.reply_ids(turn_end, int(node.token_ids[-1])), np.int32)
            trajectory_len = len(self.tree.ids(turn_end.node)) - len(self.tree.prompt_ids)
            num_observed = trajectory_len - self.tree.response_len(turn_end.node) + len(reply)
            stop = StopReason.LENGTH if num_observed > turns.rules.max_observed_tokens else None
        reward = None if turn is None else turn.reward
        if stop is None:
            role = turns.role_of(turn_end)
            below = Node(turn_end.node, reply, None, node.seed, observed=True, reward=reward, role=role)
            self.active.append(self.tree.add(below))
            self.num_children.append(0)
            turns.go_on(turn_end, self.active[-1])
        elif self._is_too_short(self.tree.response_len(turn_end.node)):
            # A node without a leaf below it, which is dropped when the tree is done.
            self.num_short += 1
        else:
            self.tree.nodes[turn_end.node] = replace(node, stop=stop, reward=reward)
            self._finish(turn_end.node, stop, turn_end.end)

    def _is_too_short(self, response_len: int) -> bool:
        """Whether a trajectory of this length would not count."""
        return response_len < self.shape.min_response_len and self.num_short < self.shape.width

    def _fall_back(self) -> list[tuple[int, int]]:
        """The nodes from which to grow again, and how many children each gets; empty to give up.

        A tree is not given up before it has a trajectory: then it starts again from its prompt.
        """
        lengths = [f.response_len for f in self.finished]
        shape = self._affordable(float(np.mean(lengths)) if lengths else self.shape.segment_len)
        missing = shape.width - len(self.finished)
        forks = []
        while missing > 0:
            points = self.rules.fallback(self.finished, shape, self.rng)
            if points is None:
                if self.finished:
                    return []
                points = [FROM_PROMPT]
            if not points or not all(isinstance(point, BacktrackPoint) for point in points):
                name = type(self.rules.fallback).__name__
                raise StrategyError(f"fallback: {name} returned no point to backtrack to, got {points!r:.100}")
            for point in points:
                count = min(shape.num_children, missing)
                if count > 0:
                    forks.append((self._backtrack(point), count))
                    self.tree.num_fallbacks += 1
                missing -= count
        return forks

    def _backtrack(self, point: BacktrackPoint) -> int:
        """The node that ends at a point, or before it where no room would be left for another segment."""
        leaf, num_kept, shape = point.leaf, point.num_kept, self.shape
        if not 0 <= leaf < len(self.tree.nodes) or not 0 <= num_kept < max(self.tree.response_len(leaf), 1):
            raise StrategyError(
                f"fallback: {type(self.rules.fallback).__name__} returned a point after {num_kept} tokens of node "
                f"{leaf}, outside the trajectory"
            )
        if shape.num_segments(num_kept) >= shape.depth:
            num_kept = shape.boundary(shape.depth - 1)
        num_nodes = len(self.tree.nodes)
        node = self.tree.cut(leaf, num_kept)
        if len(self.tree.nodes) > num_nodes:
            self.num_children.append(1)
        return node

    def _next_level(self, forks: list[tuple[int, int]], from_fallback: bool) -> list[Segment]:
        """The segments to decode next: for each (node, count), `count` children of the node."""
        is_full = len(self.finished) + sum(count for _, count in forks) == self.shape.width
        # A path that may yet end too short to count would leave room for a fork.
        all_count = not any(self._is_too_short(self.tree.response_len(node) + 1) for node, _ in forks)
        to_end = is_full and all_count and not self.rules.segment_full_trees
        self.state = BuilderState.DECODING_TO_END if to_end else BuilderState.DECODING_SEGMENTS
        self.results = {}
        self.segments = [segment for node, count in forks for segment in self._fork(node, count, from_fallback)]
        return self.segments

    def _fork(self, node: int, count: int, from_fallback: bool) -> list[Segment]:
        """The segments below `node`. An only child stays on its parent's random stream; others get their own."""
        prefix = self.tree.ids(node)
        response_len = self.tree.response_len(node)
        length = self.shape.room(response_len)
        if self.state is BuilderState.DECODING_SEGMENTS:
            length = min(self.shape.segment_at(response_len), length)
        first = self.num_children[node]
        self.num_children[node] += count
        seed = self.tree.nodes[node].seed
        is_only = first == 0 and count == 1
        seeds = [seed] if is_only else [derive_seed(seed, response_len, first + i) for i in range(count)]
        return [Segment(node, prefix, length, s, from_fallback) for s in seeds]
