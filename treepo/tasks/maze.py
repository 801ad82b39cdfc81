"""A game with hidden state, in which an early move decides: a corridor with a map at one end and a gate at the other.

    4821:at3,gate8:    west3 -> at0,1b2d3a    east8 -> hall1    b -> hall2    d -> hall3    a

Behind the gate lie two to four halls with four doors each, one of which leads on; the map says which. The gate closes
behind the player, so who has not read the map first must guess. It is the active T-maze of Ni et al. 2023
(arXiv 2307.03864), where an oracle at the far end says how to turn, with several turns in place of one.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from treepo.data.problem import Outcome, Problem, Verdict, bounded
from treepo.envs.base import CopyFork, Turn
from treepo.tasks.base import BOS, EOS, PAD, BuiltInTask, is_eval_prompt
from treepo.tasks.settings import BaseModelSettings

if TYPE_CHECKING:
    from treepo.data.problem import AnswerFormat

DOORS = "abcd"
MIN_HALLS, MAX_HALLS = 2, 4
MAX_GATE = 9

MOVE = re.compile(rf"(west|east)(\d)|([{DOORS}])")

RIGHT_DOOR_SHARE = 0.85
"""Halls of the corpus in which a player who has read the map takes the door that it says."""
RIGHT_WALK_SHARE = 0.9
"""Walks of the corpus that end where they should; the others go one step too far or too short."""


@dataclass(frozen=True)
class Layout:
    """Where the player begins, where the gate is (the map is at 0), and the door that leads on in each hall."""

    start: int
    gate: int
    doors: str

    @classmethod
    def of(cls, prompt: str) -> Layout:
        """The maze of a prompt, as `draw_prompt` writes it; what the prompt does not say is drawn from it."""
        match = re.fullmatch(r"\d+:at(\d),gate(\d):", prompt)
        if match is None:
            raise ValueError(f"no prompt of a maze: {prompt[:40]!r}")
        rng = random.Random(f"maze {prompt}")
        doors = "".join(rng.choices(DOORS, k=rng.randint(MIN_HALLS, MAX_HALLS)))
        return cls(int(match[1]), int(match[2]), doors)


def draw_prompt(rng: random.Random) -> str:
    """Draw the number of a maze, and where the player begins in a corridor of which length."""
    gate = rng.randint(4, MAX_GATE)
    return f"{rng.randint(0, 9999):04}:at{rng.randint(1, gate - 1)},gate{gate}:"


class Maze(CopyFork):
    """One game. A turn is one move or several: west or east and a number of steps, or a door.

    What is seen at the end of a turn is answered. Who walks past an end of the corridor, takes a wrong door or makes a
    move that there is not has lost. The reward is 1 behind the last door. What a game comes to depends on its moves
    alone, not on how turns divide them.
    """

    layout: Layout
    place: int
    hall: int | None
    """Halls that lie behind the player; None in the corridor."""

    def reset(self, problem: Problem) -> None:
        self.layout = Layout.of(problem.prompt)
        self.place, self.hall = self.layout.start, None

    def step(self, assistant_text: str) -> Turn:
        text, end = assistant_text, 0
        while match := MOVE.match(text, end):
            end = match.end()
            if not self._move(match):
                return Turn(done=True)
            if self.hall == len(self.layout.doors):
                return Turn(reward=float(end == len(text)), done=True)
        if not text or end < len(text):
            return Turn(done=True)
        return Turn(self.seen())

    def _move(self, move: re.Match[str]) -> bool:
        """Make a move; whether the player is still in the game."""
        if self.hall is not None:
            is_right = move[3] == self.layout.doors[self.hall]
            self.hall += 1
            return is_right
        if move[3]:
            return False
        self.place += int(move[2]) * (1 if move[1] == "east" else -1)
        if self.place == self.layout.gate:
            self.hall = 0
        return 0 <= self.place <= self.layout.gate

    def seen(self) -> str:
        """What the player sees."""
        if self.hall is not None:
            return f"hall{self.hall + 1}"
        on_map = "".join(f"{hall}{door}" for hall, door in enumerate(self.layout.doors, start=1))
        return f"at{self.place}" + (f",{on_map}" if self.place == 0 else "")


def play_imperfectly(prompt: str, rng: random.Random, map_share: float) -> list[str]:
    """Play a maze and return what is written in turns, the player first.

    A player goes to the map first with probability `map_share`, walks wrongly now and then, takes doors at random
    without the map and sometimes with it.
    """
    game, texts = Maze(), []
    game.layout = layout = Layout.of(prompt)
    game.place, game.hall = layout.start, None
    wants_map, knows_map = rng.random() < map_share, False
    while True:
        if game.hall is None:
            knows_map |= game.place == 0
            steps = (0 if wants_map and not knows_map else layout.gate) - game.place
            length = abs(steps)
            if rng.random() > RIGHT_WALK_SHARE:
                length += 1 if length in {1, *range(10, 20)} else rng.choice((-1, 1))
            move = f"{'east' if steps > 0 else 'west'}{min(length, 9)}"
        else:
            right = layout.doors[game.hall]
            others = [door for door in DOORS if door != right]
            is_right = rng.random() < (RIGHT_DOOR_SHARE if knows_map else 1 / len(DOORS))
            move = right if is_right else rng.choice(others)
        turn = game.step(move)
        texts.append(move)
        if turn.done:
            return texts
        texts.append(game.seen())


class NoAnswer:
    """An AnswerFormat: what is played holds no answer, at which a path could end."""

    def answer_end(self, text: str, ended: bool) -> None:
        return None

    def has_open_answer(self, text: str) -> bool:
        return False


class MazeGames(BuiltInTask):
    """Mazes to play. Right is a game that is won, which its moves alone say; the ground truth are moves that win."""

    name = "maze"
    tokens = (PAD, BOS, EOS, *"0123456789", *DOORS, *":,", "west", "east", "at", "gate", "hall")
    max_prompt_tokens = 12
    example = "4821:at3,gate8:"
    pretraining = BaseModelSettings(hidden_size=64, ffn_size=192, num_layers=3, careful_share=0.5, num_steps=300)
    answer_format: ClassVar[AnswerFormat] = NoAnswer()

    @staticmethod
    def draw(rng: random.Random) -> tuple[str, str]:
        prompt = draw_prompt(rng)
        layout = Layout.of(prompt)
        return prompt, f"west{layout.start}east{layout.gate}{layout.doors}"

    @staticmethod
    def draw_corpus(seed: int, careful_share: float) -> Iterator[tuple[str, ...]]:
        """Yield endless games, none of an evaluation problem; the map is read first with probability
        `careful_share`."""
        rng = random.Random(f"maze corpus {seed}")
        while True:
            prompt = draw_prompt(rng)
            texts = play_imperfectly(prompt, rng, careful_share)
            if not is_eval_prompt(prompt):
                yield (prompt, *texts)

    def example_response(self, ground_truth: str) -> str:
        return ground_truth

    def verify(self, pairs: Sequence[tuple[Problem, str]]) -> list[Verdict]:
        """Return the verdicts: the reward of a game in which all was written in one turn."""
        verdicts = []
        for problem, response in pairs:
            game = Maze()
            game.reset(problem)
            verdicts.append(Verdict(game.step(response).reward, Outcome.GRADED, bounded(response)))
        return verdicts
