"""What is shown and written of results."""

import io
import json
import math
from dataclasses import replace

from rich.console import Console

from treepo.evaluate.records import Cost
from treepo.evaluate.results import DatasetResult, Estimate, Result, relative_cost, to_json
from treepo.evaluate.table import MAJORITY, rich_table, text_tables

HALF = Estimate(0.5, 0.4, 0.625)


def part(dataset: str, num_answers: int = 160, **fields) -> DatasetResult:
    known = {"avg": HALF, "maj": HALF, "pass_at": {1: HALF, 16: HALF}, "outcomes": {"graded": 0.75, "crash": 0.25}}
    return DatasetResult(dataset, 10, num_answers, **(known | {"tokens_per_answer": 1234.5} | fields))


def result(setting: str, cost: Cost, model: str = "m", **fields) -> Result:
    return Result(model, setting, 16, (part("aime"), part("math")), part("overall", **fields), cost)


SEQUENTIAL = result("sequential", Cost(1_000_000, 2000, 100.0, 200.0))
TREE = result("b=2", Cost(600_000, 3000, 80.0, 160.0))


def shown(results) -> str:
    console = Console(file=io.StringIO(), width=300, force_terminal=False)
    for table in text_tables(results):
        console.print(rich_table(table))
    return console.file.getvalue()


def table_of(results, title):
    return next(t for t in text_tables(results) if t.title == title)


def headers(results, title):
    return table_of(results, title).header


def column(results, title, name):
    table = table_of(results, title)
    return [row[table.header.index(name)] for row in table.rows]


def test_accuracy_and_cost_stand_side_by_side():
    results = [SEQUENTIAL, TREE]
    assert column(results, "avg@k", "aime") == ["50.0 (40.0-62.5)"] * 2
    assert column(results, "Cost and accuracy", "avg@k") == ["50.0"] * 2
    assert column(results, "Cost and accuracy", "tokens decoded") == ["1,000,000 (1.00x)", "600,000 (0.60x)"]
    assert column(results, "Cost and accuracy", "wall s") == ["100.0 (1.00x)", "80.0 (0.80x)"]
    assert column(results, "Lengths and speed", "answers per s") == ["1.60", "2.00"]
    assert column(results, "Outcomes, percent of answers", "crash") == ["25.0"] * 2


def test_costs_are_compared_per_answer_and_within_a_model():
    """A setting with one answer per problem, greedy, is not 16 times cheaper for that."""
    greedy = result("greedy", Cost(62_500, 2000, 10.0, 20.0), num_answers=10)
    other = result("sequential", Cost(5, 5, 5.0, 5.0), model="n")
    assert relative_cost(greedy, SEQUENTIAL)["tokens_decoded"] == 1.0
    assert column([SEQUENTIAL, greedy, other], "Cost and accuracy", "tokens decoded")[2] == "5 (1.00x)"


def test_what_was_not_measured_has_no_figure():
    free = result("b=2", Cost(), outcomes={"graded": 1.0}, pass_at={1: HALF})
    one_set = replace(SEQUENTIAL, datasets=(part("aime"),))
    results = [free, one_set]
    assert column(results, "Cost and accuracy", "accelerator s") == ["0.0 (-)", "200.0 (-)"]
    assert column(results, "Lengths and speed", "answers per s") == ["-", "1.60"]
    assert column(results, "avg@k", "math") == ["50.0 (40.0-62.5)", "-"]
    assert column(results, "pass@k, all datasets", "pass@16") == ["-", "50.0 (40.0-62.5)"]
    assert column(results, "Outcomes, percent of answers", "crash") == ["0.0", "25.0"]


def test_the_majority_has_its_table_beside_the_votes_drawn_at_random():
    """Results of earlier versions have no majority."""
    whole = replace(SEQUENTIAL, datasets=(part("aime", majority=HALF),), overall=part("overall", majority=HALF))
    assert column([whole], MAJORITY, "aime") == ["50.0 (40.0-62.5)"]
    assert column([whole, SEQUENTIAL], MAJORITY, "aime") == ["50.0 (40.0-62.5)", "-"]
    titles = [table.title for table in text_tables([whole])]
    assert titles.index(MAJORITY) == titles.index("maj@k") + 1


def test_a_single_set_has_no_column_of_all():
    """It repeated the set's own figures, with slightly different intervals."""
    one = [replace(r, datasets=(part("aime"),)) for r in (SEQUENTIAL, TREE)]
    for title in ("avg@k", "maj@k"):
        assert headers(one, title) == ("model", "setting", "k", "aime")
        assert column(one, title, "aime") == ["50.0 (40.0-62.5)"] * 2
        assert headers([SEQUENTIAL], title)[3:] == ("aime", "math", "all datasets")
    different = [one[0], replace(TREE, datasets=(part("math"),))]
    assert headers(different, "avg@k")[3:] == ("aime", "math", "all datasets")


def test_a_set_that_is_called_overall_is_not_taken_for_all():
    """Two columns had the same name; in JSON figures by set are a list, and those of all stand apart."""
    quarter = Estimate(0.25, 0.2, 0.3)
    named = replace(SEQUENTIAL, datasets=(part("overall", avg=quarter), part("math")))
    assert headers([named], "avg@k")[3:] == ("overall", "math", "all datasets")
    assert column([named], "avg@k", "overall") == ["25.0 (20.0-30.0)"]
    assert column([named], "avg@k", "all datasets") == ["50.0 (40.0-62.5)"]
    (row,) = json.loads(to_json([named]))
    assert (row["datasets"][0]["avg"]["value"], row["overall"]["avg"]["value"]) == (0.25, 0.5)


def test_rows_of_other_problems_are_told_by_their_number():
    fewer = replace(TREE, overall=replace(TREE.overall, num_problems=7))
    assert column([SEQUENTIAL, fewer], "Cost and accuracy", "problems") == ["10", "7"]


def test_names_are_shown_as_they_are():
    """Rich reads [red] as markup and raises on [/x]; a terminal obeys an escape sequence."""
    names = ("[red]m[/red]", "[/x]", "a\x1b[2Jb\n\u202e")
    text = shown([result("[bold]s", Cost(), model=name) for name in names])
    assert "[red]m[/red]" in text and "[/x]" in text and "[bold]s" in text
    assert "a\\x1b[2Jb\\n\\u202e" in text and "\x1b" not in text and "\u202e" not in text


def test_neither_figures_nor_names_are_lost_on_a_narrow_terminal():
    """Rich broke numbers, cut off the last column or left no room for names where four sets did not fit."""
    sets = tuple(part(name) for name in ("gsm8k", "math500", "aime24", "amc23"))
    results = [
        replace(SEQUENTIAL, datasets=sets),
        replace(TREE, datasets=sets, model="organisation/" + "long-name-" * 9),
    ]
    for table in text_tables(results):
        console = Console(file=io.StringIO(), width=80)
        console.print(rich_table(table))
        lines = console.file.getvalue().splitlines()
        words = " ".join(cell for row in (table.header, *table.rows) for cell in row[2:]).split()
        assert set(words) <= {word for line in lines for word in line.split()}
        firsts = [line.split()[0] for line in lines if line.strip()]
        assert "sequential" in firsts and "b=2" in firsts
        assert "organisation/" + "long-name-" * 9 in "".join(firsts)


def test_tables_of_no_results_have_no_rows():
    assert [table.rows for table in text_tables([])] == [()] * 7
    assert to_json([]) == "[]\n"


def test_json_holds_every_figure_under_stable_names():
    first, second = json.loads(to_json([SEQUENTIAL, TREE]), parse_constant=lambda name: math.nan)
    assert list(first) == [
        *("model", "setting", "k", "datasets", "overall", "cost", "gain"),
        *("trajectories_per_s", "relative_cost"),
    ]
    assert list(first["overall"]) == list(DatasetResult.__dataclass_fields__)
    assert first["overall"]["pass_at"] == {"1": vars(HALF), "16": vars(HALF)}
    assert first["cost"] == vars(SEQUENTIAL.cost) and [s["dataset"] for s in first["datasets"]] == ["aime", "math"]
    assert second["relative_cost"] == {
        "tokens_decoded": 0.6,
        "tokens_prefilled": 1.5,
        "wall_s": 0.8,
        "accelerator_s": 0.8,
    }
    (free,) = json.loads(to_json([result("b=2", Cost())]))
    assert free["trajectories_per_s"] is None and set(free["relative_cost"].values()) == {None}
