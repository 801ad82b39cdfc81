"""The environments of one tree: one at the beginning of each turn, stepped where a turn ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from treepo.envs.base import Calls, Environment, EnvironmentFactory, Message, Turn, as_messages, as_turn, run_calls
from treepo.envs.pool import CallResult
from treepo.envs.transcript import roles_of
from treepo.errors import EnvironmentDivergedError, SettingError, StrategyError
from treepo.tree import ROOT, StopReason, Tree

if TYPE_CHECKING:
    from treepo.data.problem import Decode
    from treepo.grow.stopping import PathEnd

Call = Callable[[], Any]


class Chat(Protocol):
    """Messages as token ids; see `envs.chat.ChatTurns`."""

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]: ...

    def reply_ids(self, history: Sequence[Message], messages: Sequence[Message], last_id: int) -> list[int]: ...

    def history_warning(self, messages: Sequence[Message]) -> str: ...


@dataclass(frozen=True, eq=False)
class TurnRules:
    """How paths go on after the model ended a turn.

    factory: makes environments; those without `fork` are forked by replay. chat: writes messages as token ids. decode:
    turns to the text that environments get; that of all rules if None.
    max_turns: most turns of a trajectory. max_observed_tokens: most tokens that a trajectory observes; a reply with
    which it would observe more ends it. max_prompt_len: most tokens of a prompt, if that is limited. num_workers: calls
    into environments at a time; timeout_s: most seconds of each.
    """

    factory: EnvironmentFactory
    chat: Chat
    decode: Decode | None = None
    max_turns: int = 8
    max_observed_tokens: int = 1024
    max_prompt_len: int | None = None
    num_workers: int = 32
    timeout_s: float = 60.0

    def __post_init__(self) -> None:
        if self.max_turns < 1:
            raise SettingError("max_turns", "must be at least 1", self.max_turns)


@dataclass(eq=False)
class TurnStart:
    """Where a turn begins. environment: one that waits for the turn; None once it was used up by the only path that
    could ever end it. history: the messages so far. number: of the turn, from 1."""

    environment: Any
    history: tuple[Message, ...]
    number: int


@dataclass(eq=False)
class TurnEnd:
    """A path that ended its turn.

    node: the last node of the turn. start: the node after which it began. stop: the limit that the path has reached, if
    any. environment: its own, once forked. turn, failure: what came of the step.
    """

    node: int
    start: int
    text: str
    end: PathEnd
    stop: StopReason | None
    environment: Any = None
    turn: Turn | None = None
    failure: StopReason | None = None


@dataclass(eq=False)
class TreeTurns:
    """Forks and steps the environments of one tree.

    It makes no calls itself: `take_calls` returns those to be made, and `receive` is given what came of them. The first
    path that ends a turn gets the environment that waited there; the others get forks of it, and one more fork stays
    for paths that may come back.
    """

    rules: TurnRules
    starts: dict[int, TurnStart]
    ends: list[TurnEnd] = field(default_factory=list)
    calls: list[tuple[Any, Call]] = field(default_factory=list)
    num_waiting: int = 0
    num_steps: int = 0
    errors: list[BaseException] = field(default_factory=list)

    @classmethod
    def begun(cls, rules: TurnRules, environment: Environment, messages: Sequence[Message]) -> TreeTurns:
        """The turns of a tree whose prompt are these messages."""
        return cls(rules, {ROOT: TurnStart(environment, tuple(messages), 1)})

    def start_of(self, tree: Tree, node: int) -> int:
        """The node after which the turn begins that `node` is in."""
        return next(i for i in reversed(tree.path(node)) if i == ROOT or tree.nodes[i].observed)

    def step(self, ends: Sequence[TurnEnd], may_come_back: bool) -> None:
        """Step an environment for each path. may_come_back: whether more paths may ever end the same turns."""
        self.ends = list(ends)
        by_start: dict[int, list[TurnEnd]] = {}
        for end in ends:
            by_start.setdefault(end.start, []).append(end)
        for start, group in by_start.items():
            environment, count = self.starts[start].environment, len(group) - 1 + may_come_back
            self._call(("fork", start), lambda e=environment, n=count: run_calls(_forks(e, n)))

    def take_calls(self) -> list[tuple[Any, Call]]:
        """The calls that are to be made now: (key, call)."""
        calls, self.calls = self.calls, []
        return calls

    def receive(self, result: CallResult) -> bool:
        """Take what came of a call; whether all steps are done. Raises StrategyError for what no environment may do."""
        if isinstance(result.error, StrategyError | KeyboardInterrupt | SystemExit):
            raise result.error
        assert isinstance(result.key, tuple)
        kind, index = result.key
        self.num_waiting -= 1
        if kind == "step":
            self._stepped(self.ends[index], result)
        else:
            self._forked(index, result)
        return not self.num_waiting

    def reply_ids(self, end: TurnEnd, last_id: int) -> list[int]:
        """Token ids of what the environment answered to a turn."""
        assert end.turn is not None, "a turn that failed has no reply"
        return self.rules.chat.reply_ids(self.starts[end.start].history, as_messages(end.turn.messages), last_id)

    def role_of(self, end: TurnEnd) -> str | None:
        """Who wrote what the environment answered to a turn."""
        assert end.turn is not None, "a turn that failed has no reply"
        return roles_of(as_messages(end.turn.messages)) or None

    def is_last(self, end: TurnEnd) -> bool:
        """Whether a path has had all its turns."""
        return self.starts[end.start].number >= self.rules.max_turns

    def go_on(self, end: TurnEnd, node: int) -> None:
        """Begin the next turn of a path after `node`, the reply."""
        start = self.starts[end.start]
        assert end.turn is not None, "a turn that failed is the last"
        history = (*start.history, {"role": "assistant", "content": end.text}, *as_messages(end.turn.messages))
        self.starts[node] = TurnStart(end.environment, history, start.number + 1)
        end.environment = None

    def keep(self, tree: Tree, leaf: int) -> None:
        """Keep the environment of a path that has ended for reward functions, if it is one that they may see.

        Of a path that ended within a turn it is in the state in which the turn began.
        """
        ended = next((end for end in self.ends if end.node == leaf), None)
        environment = self.starts[self.start_of(tree, leaf)].environment if ended is None else ended.environment
        if hasattr(environment, "kept"):
            tree.environments[leaf] = (environment.fork() if ended is None else environment).kept()

    def close(self, ends: Sequence[TurnEnd]) -> None:
        """Close the environments of paths that have ended."""
        for end in ends:
            if end.environment is not None:
                self.calls.append((("close", end.node), end.environment.close))
                end.environment = None

    def close_all(self) -> None:
        """Close the environments that still wait somewhere, or are stepped for a tree that is given up."""
        self.close(self.ends)
        for node, start in self.starts.items():
            if start.environment is not None:
                self.calls.append((("close", node), start.environment.close))
        self.starts = {}

    def _call(self, key: Any, call: Call) -> None:
        self.num_waiting += 1
        self.calls.append((key, call))

    def _forked(self, start: int, result: CallResult) -> None:
        group = [(i, end) for i, end in enumerate(self.ends) if end.start == start]
        if result.error is not None:
            for _, end in group:
                self._fail(end, result.error)
            return
        environments = [self.starts[start].environment, *result.value]
        self.starts[start].environment = environments.pop() if len(environments) > len(group) else None
        for (i, end), environment in zip(group, environments, strict=True):
            end.environment = environment
            self._call(("step", i), lambda e=environment, text=end.text: e.step(text))

    def _stepped(self, end: TurnEnd, result: CallResult) -> None:
        if result.error is None:
            end.turn = as_turn(result.value)
            self.num_steps += 1
        else:
            self._fail(end, result.error)

    def _fail(self, end: TurnEnd, error: BaseException) -> None:
        self.num_steps += 1
        self.errors.append(error)
        if isinstance(error, EnvironmentDivergedError):
            end.failure = StopReason.ENV_DIVERGED
        else:
            end.failure = StopReason.ENV_TIMEOUT if isinstance(error, TimeoutError) else StopReason.ENV_ERROR


def _forks(environment: Any, count: int) -> Calls:
    forks: list[Any] = []
    while len(forks) < count:
        fork = yield environment.fork()
        forks.append(fork)
    return forks
