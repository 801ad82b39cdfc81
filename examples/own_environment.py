"""An environment of your own, a maze with hidden pits in which an early step decides, and training in it."""

import random
import sys

import treepo

STEPS = {"north": (0, -1), "south": (0, 1), "west": (-1, 0), "east": (1, 0)}


class Maze(treepo.CopyFork):
    """3 x 3 rooms, two of them pits; each problem is another maze."""

    def reset(self, problem):
        rooms = [(x, y) for x in range(3) for y in range(3) if 0 < x + y < 4]
        self.place, self.pits = (0, 0), random.Random(problem.id).sample(rooms, 2)
        return f"You are in a maze of 3 x 3 rooms and want to the south-east. Answer {', '.join(STEPS)}: one word."

    def step(self, assistant_text):
        step = next((STEPS[word] for word in assistant_text.lower().split() if word in STEPS), None)
        if step is None:
            return treepo.Turn(f"I know {', '.join(STEPS)} only.", reward=-0.1)
        x, y = self.place[0] + step[0], self.place[1] + step[1]
        if not (0 <= x < 3 and 0 <= y < 3):
            return treepo.Turn("There is a wall.", reward=-0.1)
        self.place = x, y
        if self.place in self.pits:
            return treepo.Turn("You fell into a pit.", done=True)
        return treepo.Turn(f"You are in room {x}, {y}.", reward=float(self.place == (2, 2)), done=self.place == (2, 2))


if __name__ == "__main__":
    config = treepo.TreePOConfig(
        tree={"width": 8, "depth": 6, "segment_len": 16},
        environment={"max_turns": 6, "max_observed_tokens": 256},
        max_steps=2,
    )
    mazes = [{"question": f"maze {number}"} for number in range(100)]
    trainer = treepo.TreePOTrainer(*sys.argv[1:], config=config, train_dataset=mazes, environment=Maze)
    trainer.train()
