"""An environment whose state lies outside Python: a database that the model changes with SQL, forked by snapshots."""

import sqlite3
import sys
import tempfile
from pathlib import Path

import treepo
from treepo.envs import SnapshotFork

ALLOWED = {
    *(sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE),
    *(sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_TRANSACTION),
}
MAX_OPERATIONS = 100_000


class Copy:
    """A copy of a database file. A provider of containers or virtual machines would keep an image instead."""

    def __init__(self, source):
        self.folder = tempfile.TemporaryDirectory(prefix="snapshot-")
        with sqlite3.connect(Path(self.folder.name) / "shop.db") as target:
            source.backup(target)
        target.close()

    def restore(self):
        shop = Shop()
        with sqlite3.connect(Path(self.folder.name) / "shop.db") as source:
            source.backup(shop.database)
        source.close()
        return shop

    def delete(self):
        self.folder.cleanup()


class Shop:
    """The model is to raise all prices to a multiple of ten, and sees what its statements return."""

    def __init__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="shop-")
        # Threads take turns with an environment.
        self.database = sqlite3.connect(Path(self.folder.name) / "shop.db", check_same_thread=False)

    def reset(self, problem):
        self.database.execute("CREATE TABLE items (name TEXT, price INTEGER)")
        rows = [(name, (7 * len(problem.id) + 13 * i) % 90 + 1) for i, name in enumerate(("apple", "pear", "plum"))]
        self.database.executemany("INSERT INTO items VALUES (?, ?)", rows)
        self.database.commit()
        return "The table items has the columns name and price. Raise each price to a multiple of 10. Write SQL only."

    def step(self, assistant_text):
        answer = self.execute(assistant_text)
        is_done = not self.database.execute("SELECT 1 FROM items WHERE price % 10").fetchall()
        return treepo.Turn(answer, reward=float(is_done), done=is_done)

    def execute(self, sql):
        """What a statement of the model returns. It can attach no other file and runs for a limited time."""
        left = iter(range(MAX_OPERATIONS // 1000))
        self.database.set_authorizer(lambda action, *_: sqlite3.SQLITE_OK if action in ALLOWED else sqlite3.SQLITE_DENY)
        self.database.set_progress_handler(lambda: next(left, None) is None, 1000)
        try:
            with self.database:
                return str(self.database.execute(sql).fetchmany(20))
        except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
            return f"error: {error}"
        finally:
            self.database.set_authorizer(None)
            self.database.set_progress_handler(None, 0)

    def snapshot(self):
        return Copy(self.database)

    def close(self):
        self.database.close()
        self.folder.cleanup()


def make_shop():
    """A shop that forks."""
    return SnapshotFork(Shop)


if __name__ == "__main__":
    config = treepo.TreePOConfig(
        tree={"width": 8, "depth": 6, "segment_len": 32},
        environment={"max_turns": 4, "max_observed_tokens": 512},
        max_steps=2,
    )
    shops = [{"question": f"shop {number}"} for number in range(100)]
    trainer = treepo.TreePOTrainer(*sys.argv[1:], config=config, train_dataset=shops, environment=make_shop)
    trainer.train()
