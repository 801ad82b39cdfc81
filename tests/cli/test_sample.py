"""`treepo sample` as a user types it."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.models import save_tiny_model
from tests.report.printed import read_printed
from treepo.cli.main import main
from treepo.data.prompts import PromptTemplate
from treepo.model.policy import load_policy
from treepo.report.trees import KeptTree, read_trees
from treepo.tasks.chain_sums import ChainSums
from treepo.tree import Tree

PROMPT = "71a-3b-3c-5d-6:"
SMALL = ["--tree.segment_len", "4", "--tree.depth", "4"]


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")


@pytest.fixture
def base_model(chain_model, monkeypatch) -> Path:
    """A base model of the built-in task that nobody has to wait for."""
    monkeypatch.setattr("treepo.run.model_path.find_base_model", lambda *_: str(chain_model))
    return chain_model


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "chat", chat=True)


def printed(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    assert main(["sample", *map(str, args)]) == 0
    return capsys.readouterr().out


def printed_tree(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[str, list[tuple[str, str]]]:
    """(prompt, leaves) between the line that names the model and the one that sums up."""
    tree = printed(capsys, *args).partition("trajectories:")[0].rpartition("\n")[0]
    return read_printed(tree.partition(" threads\n")[2])


def kept_tree(out: Path) -> Tree:
    (kept,) = read_trees(out)
    assert kept.rewards is kept.advantages is None
    return kept.tree


def one_line_error(capsys: pytest.CaptureFixture[str]) -> str:
    error = capsys.readouterr().err
    assert error.startswith("treepo: ")
    assert error.count("\n") == 1
    return error


def test_the_printed_tree_is_the_kept_one(chain_model, tmp_path, capsys):
    out = tmp_path / "new" / "tree.parquet"
    prompt, leaves = printed_tree(capsys, chain_model, "--prompt", PROMPT, *SMALL, "--out", out)
    decode, tree = load_policy(str(chain_model)).decode, kept_tree(out)
    in_order = [tree.trajectory(i) for i in tree.top_down() if tree.nodes[i].stop is not None]
    assert prompt == tree.problem_id == decode(tree.prompt_ids.tolist()) == PROMPT
    assert [text for text, _ in leaves] == [decode(t.token_ids.tolist()) for t in in_order]
    assert [said for _, said in leaves] == [f"{t.stop}, {len(t.token_ids)} tokens" for t in in_order]
    assert len(leaves) == 8


def test_the_kept_tree_is_the_grown_one(chain_model, tmp_path, monkeypatch):
    written: list[KeptTree] = []
    monkeypatch.setattr("treepo.report.trees.KeptTree", lambda *parts: written.append(KeptTree(*parts)) or written[-1])
    assert main(["sample", str(chain_model), "--prompt", PROMPT, *SMALL, "--out", str(tmp_path / "t")]) == 0
    before, after = written[0].tree, kept_tree(tmp_path / "t")
    assert (before.problem_id, before.num_dropped) == (after.problem_id, after.num_dropped)
    for x, y in zip(before.nodes, after.nodes, strict=True):
        assert (x.parent, x.seed, x.stop, x.token_ids.tobytes()) == (y.parent, y.seed, y.stop, y.token_ids.tobytes())
        assert (x.sampled_logprobs is None) == (y.sampled_logprobs is None)
        assert x.sampled_logprobs is None or x.sampled_logprobs.tobytes() == y.sampled_logprobs.tobytes()


def test_the_same_seed_prints_the_same_tree(chain_model, capsys):
    args = [chain_model, "--prompt", PROMPT, *SMALL, "--train.seed"]
    first = printed(capsys, *args, 1)
    assert printed(capsys, *args, 1) == first
    assert printed(capsys, *args, 2) != first


def test_without_a_prompt_it_is_the_first_problem_of_the_built_in_task(base_model, tmp_path, capsys):
    out = tmp_path / "tree.parquet"
    prompt, leaves = printed_tree(capsys, "--train.seed", 5, "--out", out)
    problem = ChainSums(load_policy(str(base_model)).tokenizer, seed=5).training_problems(0, 32)[0]
    assert prompt == problem.prompt
    assert tuple(kept_tree(out).prompt_ids) == problem.prompt_ids
    assert len(leaves) == 8


def test_a_model_of_the_built_in_task_is_asked_as_in_training(base_model, tmp_path):
    """Whether it is the base model or one that was trained: the instruction would be gibberish to it."""
    task = ChainSums(load_policy(str(base_model)).tokenizer, seed=0)
    problem = task.training_problems(3, 1)[0]
    for i, model in enumerate([[], [str(base_model)]]):
        args = ["--prompt", problem.prompt, *SMALL, "--out", str(tmp_path / str(i))]
        assert main(["sample", *model, *args]) == 0
        assert tuple(kept_tree(tmp_path / str(i)).prompt_ids) == problem.prompt_ids


def test_another_model_is_asked_like_the_questions_of_a_file(chat_model, tmp_path, capsys):
    out = tmp_path / "tree.parquet"
    args = ["--prompt", "1+1?", "--prompt.question", "{question} Go.", "--out", out]
    prompt, leaves = printed_tree(capsys, chat_model, *args, "--tree.width", 2, *SMALL)
    assert kept_tree(out).prompt_ids.tolist() == PromptTemplate(question="{question} Go.").encode(
        load_policy(str(chat_model)).tokenizer, "1+1?"
    )
    assert prompt == "1+1? Go."
    assert len(leaves) == 2


def test_settings_come_from_a_recipe_the_model_and_the_command_line(chain_model, tmp_path, capsys):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('[model]\npath = "nowhere"\n[tree]\nwidth = 3\ndepth = 2\nsegment_len = 5\n[optim]\nlr = 1.0\n')
    args = [chain_model, "--recipe", recipe, "--prompt", PROMPT]
    assert len(printed_tree(capsys, *args)[1]) == 3
    _, leaves = printed_tree(capsys, *args, "--tree.width", "4", "--stopping.answer", "never")
    assert len(leaves) == 4
    assert {said for _, said in leaves} <= {"depth, 10 tokens", *(f"eos, {n} tokens" for n in range(11))}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--prompt", "héllo"], "prompt: 'héllo' has characters that the built-in task has no tokens for"),
        (["--prompt", "<eos>"], "prompt: '<eos>' has characters"),
        (["--prompt", "\x1b[2J"], r"prompt: '\x1b[2J' has characters"),
        (["--prompt", ""], "prompt: no value given"),
        (["--prompt", " "], "prompt: empty"),
        (["--prompt", "\udcff"], "prompt: '\\udcff' is no text"),
        (["--prompt", "1+2" * 100], "prompt: its 301 tokens and responses of 128"),
        (["--tree.depth", "40"], "tokens and responses of 640"),
        (["--prompt"], "expected one argument"),
        (["--out", ""], "out: no value given"),
        (["--out", "x" * 5000], "out: cannot use"),
        (["--recipe", "no.toml"], "recipe: cannot read 'no.toml'"),
        (["--recipe", ""], "recipe: no value given"),
        (["--tree.widht", "4"], "tree.widht: unknown setting"),
        (["--data.train", "x.jsonl"], "model.path: the problems of 'x.jsonl' need a model"),
        ([""], "model: no value given"),
        (["no/such/model", "--prompt", "1+1"], "MODEL: no folder 'no/such/model'"),
        (["one", "two"], "unrecognized arguments: two"),
        (["--model.path", "one"], "prompt: none given for model 'one'"),
        (["one"], "prompt: none given for model 'one'"),
        (["one", "--model.path", "two", "--prompt", "1"], "MODEL: given twice, 'one' and 'two'"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(args, message, base_model, capsys):
    assert main(["sample", *args]) == 2
    assert message in one_line_error(capsys)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("args", [["train", "--prompt", "x"], ["train", "--recipe", "x"], ["--prompt", "x", "sample"]])
def test_each_command_has_its_own_options(args, capsys):
    assert main(args) == 2
    one_line_error(capsys)


def test_a_file_is_never_overwritten(base_model, tmp_path, capsys):
    out = tmp_path / "tree.parquet"
    out.write_text("mine")
    assert main(["sample", "--out", str(out)]) == 2
    assert one_line_error(capsys) == f"treepo: out: '{out}' is already there; give a new file\n"
    assert out.read_text() == "mine"


def test_a_file_that_cannot_be_written_does_not_take_the_tree_along(base_model, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["sample", "--out", str(tmp_path / "file" / "tree.parquet")]) == 2
    shown, error = capsys.readouterr()
    assert shown.count("tokens]") == 8
    assert error.startswith("treepo: out: cannot write to")
    assert error.count("\n") == 1


def test_what_a_model_writes_is_inert(base_model, monkeypatch, capsys):
    monkeypatch.setattr("treepo.model.policy.Policy.decode", lambda self, ids: "\x1b[2J[bold]x[/bold]")
    text = printed(capsys, *SMALL)
    assert "\x1b" not in text
    assert text.count(r"\x1b[2J[bold]x[/bold]") > 8


def test_logits_that_are_not_finite_stop_it(chain_model, monkeypatch, capsys):
    def broken(*args, **kwargs):
        policy = load_policy(*args, **kwargs)
        next(policy.model.parameters()).data.fill_(float("nan"))
        return policy

    monkeypatch.setattr("treepo.run.parts.load_policy", broken)
    assert main(["sample", str(chain_model), "--prompt", PROMPT, *SMALL]) == 1
    assert "logits are not finite" in one_line_error(capsys)


@dataclass(frozen=True)
class Barren:
    """Forks nowhere, and lets paths die."""

    def __call__(self, level, rng):
        return []


def test_a_strategy_that_returns_something_impossible_is_named(base_model, capsys):
    assert main(["sample", *SMALL, "--branching.use", "tests.cli.test_sample:Barren"]) == 2
    assert "branching: Barren returned [] children" in one_line_error(capsys)
