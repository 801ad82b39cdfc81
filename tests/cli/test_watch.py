"""`treepo watch`, from the folder to the terminal."""

import io

import pytest
from rich.console import Console

from tests.report.live.runs import begin, cut, line, write
from treepo.cli.main import main
from treepo.cli.watch import watch
from treepo.report.live.server import PageServer, fingerprint


class Happening:
    """A clock whose every tick is the next thing that happens to the run."""

    def __init__(self, *events):
        self.events = list(events)

    def __call__(self, seconds):
        assert seconds > 0 and self.events, "it goes on though nothing happens any more"
        self.events.pop(0)()


def watched(folder, *events, terminal=False, width=200):
    file = io.StringIO()
    console = Console(
        file=file, width=width, height=40, force_terminal=terminal, color_system=None, legacy_windows=False
    )
    happening = Happening(*events)
    watch(folder, console, happening)
    assert not happening.events
    return file.getvalue()


def test_a_run_is_watched_from_before_its_folder_is_there_to_its_end(tmp_path):
    folder = tmp_path / "run"
    text = watched(
        folder,
        lambda: None,
        lambda: begin(folder, num_steps=3),
        lambda: write(folder, line(0)),
        lambda: write(folder, line(1), line(2)[:9]),
        lambda: write(folder, line(2)[9:]),
        lambda: write(folder, line(3)),
    )
    head, *lines = text.splitlines()
    assert head == f"{folder}  waiting for the run to begin"
    assert [told.split("  ")[0] for told in lines[:-1]] == [f"step {step} of 3" for step in range(4)]
    assert lines[0] == "step 0 of 3  held-out accuracy 25.0%"
    assert lines[1] == "step 1 of 3  reward 0.125  response length 50.0  entropy 0.100  sharing 3.00"
    assert lines[-1] == f"{folder}  step 3 of 3  complete"


def test_a_run_that_is_resumed_is_told_from_there(tmp_path):
    begin(tmp_path, num_steps=4)
    write(tmp_path, line(0), line(1), line(2))
    text = watched(
        tmp_path,
        lambda: cut(tmp_path, 2),
        lambda: write(tmp_path, line(2), line(3)),
        lambda: (cut(tmp_path, 3), write(tmp_path, line(3, **{"reward/mean": 0.9}), line(4))),
    )
    told = [part.split("  ")[1 if "was" in part or "complete" in part else 0] for part in text.splitlines()[1:]]
    assert told == [
        *("step 2 of 4", "was resumed after step 1", "step 2 of 4", "step 3 of 4"),
        *("was resumed after step 2", "step 3 of 4", "step 4 of 4", "step 4 of 4"),
    ]


def test_a_complete_run_is_shown_once(tmp_path):
    begin(tmp_path, num_steps=1)
    write(tmp_path, line(0), line(1))
    assert watched(tmp_path).splitlines()[-1].endswith("step 1 of 1  complete")
    text = watched(tmp_path, terminal=True, width=60)
    assert "step 1 of 1  complete" in text and "reward 0.125" in text


def test_the_terminal_follows_the_run_and_gets_its_cursor_back(tmp_path):
    text = watched(
        tmp_path,
        lambda: begin(tmp_path, num_steps=2),
        lambda: write(tmp_path, line(0), line(1)),
        lambda: cut(tmp_path, 1),
        lambda: write(tmp_path, line(1), line(2)),
        terminal=True,
    )
    assert text.index("waiting") < text.index("no step of 2") < text.index("step 1 of 2") < text.index("complete")
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")


def test_ctrl_c_gives_the_cursor_back(tmp_path):
    begin(tmp_path)
    file = io.StringIO()
    console = Console(file=file, width=60, height=20, force_terminal=True, legacy_windows=False)

    def interrupt(seconds):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        watch(tmp_path, console, interrupt)
    assert file.getvalue().rindex("\x1b[?25h") > file.getvalue().rindex("\x1b[?25l")


def test_the_command_ends_when_the_run_is_complete(tmp_path, capsys):
    begin(tmp_path, num_steps=1)
    write(tmp_path, line(0), line(1))
    assert main(["watch", str(tmp_path)]) == 0
    assert capsys.readouterr().out.endswith("step 1 of 1  complete\n")


def test_ctrl_c_ends_the_page_with_success(tmp_path, capsys, monkeypatch):
    begin(tmp_path)

    def interrupted(server):
        raise KeyboardInterrupt

    monkeypatch.setattr(PageServer, "serve_forever", interrupted)
    assert main(["watch", str(tmp_path), "--page"]) == 0
    assert capsys.readouterr().out.startswith("http://127.0.0.1:")


@pytest.mark.parametrize(
    "name", ["config.toml", "metrics.jsonl", "environment.jsonl", "samples.jsonl", "trees/step-000001.parquet", "model"]
)
def test_each_file_that_a_report_is_made_of_changes_its_fingerprint(tmp_path, name):
    """A page would not be told of what is missing here."""
    before = fingerprint(tmp_path)
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("")
    created = fingerprint(tmp_path)
    path.write_text("more")
    changed = fingerprint(tmp_path)
    assert len({before, created, changed}) == 3
    (tmp_path / "initial.json").write_text("")
    assert fingerprint(tmp_path) == changed, "of which it is not made"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "watch: no folder of a run given"),
        ([""], "run: no value given"),
        (["FOLDER"], "holds no run: there is no config.toml"),
        (["FOLDER", "--page"], "holds no run: there is no config.toml"),
        (["FOLDER/other.txt"], "other.txt' cannot be read: "),
        (["FOLDER/run", "--port", "80"], "port: it is that of a page"),
        (["FOLDER/run", "--page", "--port", "-1"], "port: -1 is not available"),
        (["FOLDER/run", "--page", "--port", "many"], "argument --port: invalid int value: 'many'"),
        (["FOLDER/run", "--tree.width", "8"], "watch: a run's settings are its own, got some of 'tree'"),
        (["FOLDER/run\x1b[2J"], "line 1: no metrics of a step"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path, capsys, args, message):
    (tmp_path / "other.txt").write_text("")
    begin(tmp_path / "run\x1b[2J")
    write(tmp_path / "run\x1b[2J", "no metrics\n")
    assert main(["watch", *(argument.replace("FOLDER", str(tmp_path)) for argument in args)]) == 2
    told = capsys.readouterr()
    assert told.err.startswith("treepo: ") and told.err.count("\n") == 1
    assert message in told.err and "\x1b" not in told.err + told.out
