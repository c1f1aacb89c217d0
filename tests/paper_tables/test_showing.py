"""How a table looks, what goes into it from runs, and what is refused in its file."""

import csv
import io
import json
import re

import pytest

from harness.errors import ConfigError
from paper_tables import results
from paper_tables.filled import fill
from paper_tables.show import as_csv, render
from paper_tables.table_files import read_table, table_names
from paper_tables.training import choose_rows, runs_of
from sweeps.runs import write_manifest

OWN = """
title = "Own"
source = "a test"
expect = "0.3 points"
certainty = "read"
reference = "one"
notes = ["A note."]

[columns.parameters]
title = "parameters"
unit = "M"
computed = "parameters"

[columns.top1]
title = "top-1"
unit = "%"
metric = "top1_accuracy"

[[rows]]
name = "one"
config = "configs/digits_nest.py:debug"
paper = { parameters = { value = 0.4, why = "the paper's is larger" }, top1 = 81.50 }
digits = {}

[[rows]]
name = "two, without"
config = "configs/digits_nest.py:debug"
overrides = { "model.drop_path_rate" = 0.0 }
paper = { top1 = [{ value = 80.0, certainty = "unverified", from = "memory" }, 79.9] }
digits = { overrides = { "model.drop_path_rate" = 0.0 }, needs = { init_from = "one" } }

[[rows]]
name = "Swin"
paper = { parameters = 29, top1 = 81.3 }

[digits]
config = "configs/digits_nest.py:debug"
overrides = { "loop.num_epochs" = 2.0 }
seeds = [0, 1, 2]
paper = "top1"
protocol = "Few images."
conclusion = "It holds."
"""


def finish(folder, run, **metrics):
    """Writes what a finished run leaves behind."""
    workdir = folder / run.name
    workdir.mkdir(parents=True)
    seed = int(run.overrides.get("seed", 42))
    record = {"config": {"seed": seed}, "git_commit": "abc", "num_examples": 10}
    (workdir / "config.json").write_text(json.dumps(record))
    (workdir / "DONE").write_text(json.dumps(metrics))


def lines_of(text):
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows]


def test_paper_edition_before_anybody_has_run_it(own_tables):
    text = render(fill(read_table(own_tables(OWN)), None), "markdown")
    header, _, one, two, swin = lines_of(text)
    assert header == [
        *("", "parameters, M", "ours", "difference", "top-1, %", "ours"),
        *("certainty", "how to run"),
    ]
    assert one[1:6] == ["0.4", "0.26", "−0.14", "81.50", "not run yet"]
    assert two[1:6] == ["–", "0.26", "–", "80.0?; 79.9", "not run yet"]
    assert two[6:] == [
        "unverified; top-1: read",
        "`configs/digits_nest.py:debug` `model.drop_path_rate=0.0`",
    ]
    assert swin[1:] == ["29", "–", "–", "81.3", "–", "read", "–"]
    for part in ("To expect: 0.3 points.", "A note.", "the paper's is larger", "memory: top-1"):
        assert part in text
    assert "`python tools/tables.py run own`" in text


def test_runs_are_a_mean_with_its_spread_and_differ_from_the_reference(own_tables, tmp_path):
    table = read_table(own_tables(OWN), "digits")
    folder = tmp_path / "runs" / "own-digits"
    runs = runs_of(table, folder)
    assert [run.name for run in runs][:4] == [
        *("one,seed=0", "one,seed=1", "one,seed=2", "two_without,seed=0"),
    ]
    assert runs[3].overrides == {
        "loop.num_epochs": "2.0",
        "model.drop_path_rate": "0.0",
        "init_from": str(folder / "one,seed=0"),
        "seed": "0",
    }
    folder.mkdir(parents=True)
    write_manifest(folder, runs)
    for run, share in zip(runs[:4], (0.90, 0.92, 0.94, 0.9), strict=True):
        finish(folder, run, top1_accuracy=share)
    shown = fill(table, tmp_path / "runs")
    text = render(shown, "markdown")
    header, _, one, two = lines_of(text)
    assert header[1:5] == ["paper: top-1, %", "difference", "accuracy on digits, %", "difference"]
    assert one[1:5] == ["81.50", "±0.0", "92.00 ± 2.00 (n=3)", "±0.00"]
    assert two[1:5] == ["80.0?; 79.9", "−1.5", "90.00 (n=1)", "−2.00"]
    how = "`configs/digits_nest.py:debug` `model.drop_path_rate=0.0` `init_from of “one”`"
    assert two[6] == how
    assert "**Does the paper's ordering hold?** It holds." in text
    assert "Differences are from “one”." in text and "`loop.num_epochs=2.0`" in text

    (path,) = results.record(table, tmp_path / "runs")
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(r["row"], r["seed"]) for r in records] == [
        *(("one", 0), ("one", 1), ("one", 2), ("two, without", 0)),
    ]
    assert records[3]["command"] == (
        "python train.py --config=configs/digits_nest.py:debug "
        "--workdir=runs/tables/own-digits/two_without,seed=0 --config.loop.num_epochs=2.0 "
        "--config.model.drop_path_rate=0.0 "
        "--config.init_from=runs/tables/own-digits/one,seed=0 --config.seed=0"
    )
    assert str(tmp_path) not in path.read_text()
    assert render(fill(table, None), "markdown") == text  # from what is committed
    assert results.record(table, tmp_path / "runs") == [path]
    assert len(path.read_text().splitlines()) == 4


def test_runs_of_a_row_that_has_changed_do_not_count(own_tables, tmp_path):
    name = own_tables(OWN)
    folder = tmp_path / "runs" / "own"
    (run, _) = runs = runs_of(read_table(name), folder)
    folder.mkdir(parents=True)
    write_manifest(folder, runs)
    finish(folder, run, top1_accuracy=0.8)
    (_, _, one, *_) = lines_of(render(fill(read_table(name), tmp_path / "runs"), "markdown"))
    assert one[5:7] == ["80.00 (n=1)", "−1.50"]
    exact = 'overrides = { "model.gelu" = "exact" }'
    own_tables(change('name = "one"\n', f'name = "one"\n{exact}\n'))
    (_, _, one, *_) = lines_of(render(fill(read_table(name), tmp_path / "runs"), "markdown"))
    assert one[5] == "not run yet"


def test_csv_has_a_line_for_each_number_with_its_source(own_tables):
    text = as_csv([fill(read_table(own_tables(OWN)), None)])
    lines = list(csv.DictReader(io.StringIO(text)))
    assert len(lines) == 7
    first, *_ = lines
    assert first["paper"] == "0.4" and first["remark"] == "the paper's is larger"
    assert float(first["ours"]) == 0.255562
    assert float(first["difference"]) == pytest.approx(-0.144438)
    (recalled,) = (line for line in lines if line["source"] == "memory")
    assert (recalled["paper"], recalled["certainty"]) == ("80.0", "unverified")
    assert recalled["ours"] == "not run yet"


def test_an_argument_of_a_column_makes_runs_of_their_own(own_tables, tmp_path):
    text = OWN.split("[[rows]]")[0].replace(
        'metric = "top1_accuracy"', 'metric = "top1_accuracy"\nargument = "cifar10"'
    )
    text += '[columns.other]\ntitle = "100"\nmetric = "top1_accuracy"\nargument = "cifar100"\n'
    text += '[[rows]]\nname = "one"\nconfig = "configs/cifar_nest.py:tiny"\n'
    runs = runs_of(read_table(own_tables(text)), tmp_path)
    assert [(run.name, run.config.split("/")[-1]) for run in runs] == [
        ("one,top1", "cifar_nest.py:tiny,cifar10"),
        ("one,other", "cifar_nest.py:tiny,cifar100"),
    ]


def change(old, new):
    return OWN.replace(old, new, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (change("title = ", "titel = "), "titel: unknown; did you mean 'title'"),
        (change('"read"', '"red"'), "row 'one', parameters, certainty: unknown; did you mean"),
        (change("paper = {", "papper = {"), "row 'one': papper: unknown"),
        (change("{ parameters = {", "{ params = {"), "row 'one', paper: params: unknown"),
        (change('unit = "M"', 'unit = "m"'), "columns.parameters.unit: unknown"),
        (change('name = "two, without"', 'name = "one"'), "row 'one': is there twice"),
        (change('name = "Swin"', "name = 5"), "name: is no text"),
        (change('title = "top-1"', ""), "columns.top1: title is missing"),
        (change("seeds = [", "seed = ["), "digits: seed: unknown; did you mean 'seeds'"),
        (change('paper = "top1"', 'paper = "top"'), "digits.paper: unknown; did you mean 'top1'"),
        (change("title", "title ="), "own.toml: "),
    ],
)
def test_what_is_wrong_in_a_file_is_one_line(own_tables, text, message):
    name = own_tables(text)
    with pytest.raises(ConfigError, match=re.escape(message)) as error:
        read_table(name, "digits")
        read_table(name)
    assert "\n" not in str(error.value)


def test_needs_names_a_row(own_tables):
    name = own_tables(change('init_from = "one"', 'init_from = "on"'))
    with pytest.raises(ConfigError, match="needs: unknown; did you mean 'one'"):
        read_table(name, "digits")


def test_computed_names_something(own_tables):
    name = own_tables(change('computed = "parameters"', 'computed = "parametres"'))
    with pytest.raises(ConfigError, match="parametres.*did you mean 'parameters'"):
        fill(read_table(name), None)


def test_committed_results_are_of_the_rows_as_they_are():
    """Their commands are those that the tables have now."""
    for name in table_names():
        for edition in ("paper", "digits"):
            label = name if edition == "paper" else f"{name}-{edition}"
            path = results.RESULTS / f"{label}.jsonl"
            for line in path.read_text().splitlines() if path.exists() else ():
                record = json.loads(line)
                table = read_table(name, edition)
                seeds = [record["seed"]] if "--config.seed=" in record["command"] else None
                runs = runs_of(table, results.WORKDIR / label, seeds)
                nominal = results.WORKDIR / label
                commands = [results.command_of(table, nominal, run) for run in runs]
                assert record["command"] in commands, f"{label}: {record['row']}"


def test_runs_at_hand_join_committed_ones(own_tables, tmp_path):
    """One more seed, or one seed again, hides no other."""
    table = read_table(own_tables(OWN), "digits")
    first, again = tmp_path / "first", tmp_path / "again"
    for seed, run in enumerate(run for run in runs_of(table, first / table.label)[:3]):
        finish(first / table.label, run, top1_accuracy=0.90 + 0.01 * seed)
    write_manifest(first / table.label, runs_of(table, first / table.label))
    results.record(table, first)
    only = runs_of(table, again / table.label)[:1]
    finish(again / table.label, only[0], top1_accuracy=0.96)
    write_manifest(again / table.label, only)
    (row,) = [row for row in table.rows if row.name == "one"]
    (column,) = [column for column in table.columns if column.metric == "top1_accuracy"]
    ours = results.Results(table, again).of(row, column, 1.0)
    assert ours.count == 3 and ours.value == pytest.approx((0.96 + 0.91 + 0.92) / 3)


@pytest.mark.parametrize(
    "only",
    [["a, with a comma"], ["a_with_a_comma"], ["a_with_a_comma,b"], ["b", "a, with a comma"]],
)
def test_rows_are_chosen_as_they_are_shown(own_tables, only):
    name = own_tables(
        'title = "t"\nsource = "s"\n[[rows]]\nname = "a, with a comma"\nconfig = "configs/r.py"\n'
        '[[rows]]\nname = "b"\nconfig = "configs/r.py"\n[[rows]]\nname = "c"\n'
        'config = "configs/r.py"\n[columns.top1]\ntitle = "x"\nmetric = "top1_accuracy"\n'
    )
    chosen = {row.name for row in choose_rows(read_table(name), only).rows}
    assert "a, with a comma" in chosen and ("b" in chosen) == ("b" in ",".join(only).split(","))
