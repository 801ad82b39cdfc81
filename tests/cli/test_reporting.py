"""`treepo report` as a user types it, and what a run leaves for it."""

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from tests.report.browser import browser, open_page
from tests.report.page.runs import some_trees, write_run
from tests.report.page.test_html import Page
from treepo.cli.main import main
from treepo.cli.report import find_estimator
from treepo.credit.group import DrGRPO
from treepo.credit.subgroup import TreePO
from treepo.report.page.payload import RunFolder
from treepo.report.page.report import find_decode, payload_of
from treepo.report.trees import read_trees, write_trees
from treepo.run import outputs

__all__ = ["browser"]

SMALL = ["--train.num_steps", "2", "--train.prompts_per_step", "4", "--eval.num_problems", "0"]


def train(model: Path, out: Path) -> int:
    return main(["train", "--model.path", str(model), "--out", str(out), *SMALL, "--train.save_trees_every", "1"])


@pytest.fixture(scope="module")
def trained(chain_model, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "first"
    assert train(chain_model, out) == 0
    return out


def read(path: Path) -> dict:
    return Page(path.read_text()).payload()


def test_a_run_leaves_a_report_that_tells_all_of_it(trained):
    """Each advantage is explained, each token has its text and entropy, and the environment is told without names."""
    (told,) = read(trained / "report.html")["runs"]
    assert told["steps"] == [0, 1, 2]
    assert told["settings"]["tree.width"] == 8
    assert {"python", "torch", "processor", "cores", "threads", "started", "command"} <= told["environment"].keys()
    assert str(Path.home()) not in told["environment"]["command"]
    assert told["note"] == ""
    pieces, steps = told["trees"]["pieces"], told["trees"]["steps"]
    assert [step["step"] for step in steps] == [1, 2]
    for step in steps:
        for kept, tree in zip(
            read_trees(trained / "trees" / f"step-{step['step']:06d}.parquet"), step["trees"], strict=True
        ):
            assert (tree["components"] is None) == (kept.advantages is None)
            assert tree["estimator"] == "TreePO"
            assert kept.entropies is not None and len(tree["entropies"]) == len(tree["ids"])
            np.testing.assert_allclose(tree["entropies"], np.concatenate(kept.entropies[1:]), atol=6e-4)
            assert "".join(pieces[i] for i in tree["ids"]).startswith("a")


def test_several_runs_are_in_one_page_under_names_of_their_own(trained, tmp_path, capsys):
    write_run(tmp_path / "other" / "first")
    out = tmp_path / "both.html"
    assert main(["report", str(trained), str(tmp_path / "other" / "first"), "--out", str(out)]) == 0
    assert [told["name"] for told in read(out)["runs"]] == ["first", "first (2)"]
    assert f"The report is {out} ({len(out.read_bytes()) / 1e6:.1f} MB)." in capsys.readouterr().out


def test_a_benchmark_is_shown_in_the_page_of_a_run(tmp_path):
    """Of one that `treepo bench update` measured; without a run the page has figures alone."""
    file = Path(__file__).parents[2] / "benchmarks" / "results" / "update-task.json"
    assert main(["report", str(file), "--out", str(tmp_path / "one.html")]) == 0
    write_run(tmp_path / "run")
    assert main(["report", str(tmp_path / "run"), str(file)]) == 0
    one, both = read(tmp_path / "one.html"), read(tmp_path / "run" / "report.html")
    assert one["runs"] == [] and one["charts"]
    assert len(both["runs"]) == 1 and both["charts"] == one["charts"]


def test_charts_of_folders_with_the_same_name_are_told_apart(tmp_path):
    """They had the same ids, so that all of them showed what the second folder holds; `a_b` and `a-b` give the same
    id without having the same name."""
    content = (Path(__file__).parents[2] / "experiments/results/sampling_methods.json").read_text()
    names = ("1/ev", "2/ev", "a_b", "a-b", "ev-2")
    for name in names:
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "results.json").write_text(content)
    charts = payload_of([tmp_path / name for name in names], datetime(2026, 1, 1, tzinfo=UTC), find_estimator)["charts"]
    assert len({chart["id"] for chart in charts}) == len(charts)
    sources = dict.fromkeys(chart["note"].split(";")[0] for chart in charts)
    assert list(sources) == ["ev", "ev (2)", "a_b", "a-b", "ev-2"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "report: no folder given"),
        (["nowhere"], "report: no folder 'nowhere'"),
        (["empty"], "report: 'empty' holds no run, evaluation or benchmark"),
        (["run", "--out", ""], "out: no value given"),
        (["run", "--out", "no/where.html"], "out: cannot write to 'no/where.html': No such file or directory"),
        (["run", "--out", "empty"], "out: cannot write to 'empty': Is a directory"),
        (["run", "--tree.width", "3"], "tree: a report has no settings"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path, monkeypatch, capsys, args, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    write_run(tmp_path / "run")
    assert main(["report", *args]) == 2
    assert capsys.readouterr().err == f"treepo: {message}\n"


def test_a_path_that_cannot_be_read_is_told_in_one_line(capsys):
    """Whatever the system says but that there is nothing ended in a traceback: as of a folder without permission."""
    assert main(["report", "a" * 300]) == 2
    assert capsys.readouterr().err == f"treepo: report: '{'a' * 100}' cannot be read: File name too long\n"


def test_a_report_that_cannot_be_written_fails_no_run(chain_model, tmp_path, monkeypatch, capsys):
    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(outputs, "write_run_report", fail)
    assert train(chain_model, tmp_path / "run") == 0
    assert (tmp_path / "run" / "model").is_dir()
    assert "there is no report (OSError: disk full): treepo report" in capsys.readouterr().out


def test_texts_come_from_the_model_of_the_run_or_the_one_it_began_with(trained, chain_model, tmp_path):
    """Killed before its end, a run has no model of its own."""
    begun = tmp_path / "begun"
    shutil.copytree(trained, begun)
    shutil.rmtree(begun / "model")
    for folder in (trained, begun):
        decode = find_decode(RunFolder(folder))
        assert decode is not None and decode([3, 4, 5]) == "012"
    (begun / "config.toml").write_text('[model]\npath = "no/such/model"\n')
    assert find_decode(RunFolder(begun)) is None
    assert main(["report", str(begun)]) == 0
    (told,) = read(begun / "report.html")["runs"]
    assert told["note"] == "no tokenizer: the text of a segment is not divided into tokens"


def test_the_estimator_of_a_run_is_the_one_of_its_settings():
    assert find_estimator({"use": "DrGRPO", "leaves": "unbiased"}) == (DrGRPO(leaves="unbiased"), "")
    assert find_estimator({"weight": "size"}) == (TreePO(weight="size"), "")
    assert find_estimator({}) == (None, "")


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        ("RuntimeError('no')", "RuntimeError: no"),
        ("SystemExit(0)", "SystemExit: 0"),
        ("ImportError('no')", "SettingError: "),
    ],
)
def test_code_of_ones_own_is_imported_when_asked_for_alone(tmp_path, monkeypatch, raised, told):
    """A report ran whatever module a folder's config.toml names, and ended by what that module raised."""
    monkeypatch.syspath_prepend(tmp_path)
    module = f"own_{raised[:7].lower()}"
    (tmp_path / f"{module}.py").write_text(
        f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\nraise {raised}"
    )
    folder = write_run(tmp_path / "run", tree_steps=[1], num_trees=1).path
    (folder / "config.toml").write_text(f'[model]\npath = "no/such/model"\n[credit]\nuse = "{module}:Own"\n')
    assert main(["report", str(folder)]) == 0
    assert f"`treepo report --trust-run-code` imports {module}:Own" in read(folder / "report.html")["runs"][0]["note"]
    assert not (tmp_path / "ran").exists()
    assert main(["report", str(folder), "--trust-run-code"]) == 0
    note = read(folder / "report.html")["runs"][0]["note"]
    assert f"no components of advantages: {told}" in note
    assert (tmp_path / "ran").exists()


def test_each_process_of_a_run_is_told(trained, tmp_path):
    resumed = tmp_path / "run"
    shutil.copytree(trained, resumed)
    assert main(["train", "--resume", str(resumed), "--train.num_steps", "2"]) == 0
    lines = [json.loads(line) for line in (resumed / "environment.jsonl").read_text().splitlines()]
    assert len(lines) == 2
    assert "--resume" in lines[1]["command"]
    assert "resumed" in read(resumed / "report.html")["runs"][0]["environment"]


def test_hostile_answers_are_text_in_a_browser(browser, tmp_path):
    """From the files of a run to its page under its own policy: what a model wrote runs nothing and fetches nothing."""
    hostile = "</script><script>window.pwned=1</script><img src=x onerror='window.pwned=1'>&lt;\u202e"
    folder = tmp_path / "<b>run"
    write_run(folder)
    # Without a tokenizer that is known texts are those of the files.
    (folder / "config.toml").write_text('[model]\npath = "no/such/model"\n')
    trees = some_trees(0, 2)
    write_trees(folder / "trees" / "step-000001.parquet", trees, lambda ids: hostile)
    assert main(["report", str(folder)]) == 0
    errors: list[str] = []
    page = open_page(browser, folder / "report.html", errors)
    page.click("#tab-trees")
    page.locator("#trees").get_by_text("window.pwned=1").first.wait_for()
    assert page.evaluate("window.pwned") is None
    assert page.locator("img").count() == 0
    assert page.title() == "<b>run"
    assert errors == []
    page.close()
