"""tools/tables.py from its command line: lists, runs in stages, measures, refuses."""

import json

import pytest

from tests.paper_tables.test_showing import OWN

TOOL = "tools/tables.py"


def test_list_counts_runs(own_tables, run_script, tmp_path):
    own_tables(OWN)
    code, out, _ = run_script(TOOL, "list", f"--workdir={tmp_path}")
    assert code == 0 and out.splitlines()[1].split() == ["own", "0/2", "0/6", "Own"]


def test_show_writes_a_file(own_tables, run_script, tmp_path):
    own_tables(OWN)
    output = tmp_path / "own.md"
    code, out, _ = run_script(TOOL, "show", "all", f"--output={output}", f"--workdir={tmp_path}")
    assert code == 0 and out == f"wrote {output}\n"
    assert output.read_text().startswith("## Own\n")
    code, out, _ = run_script(TOOL, "show", "own", "--format=terminal", f"--workdir={tmp_path}")
    assert code == 0 and out.startswith("Own\n") and "|" not in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show"], "TABLE is missing"),
        (["show", "owm"], "TABLE='owm': unknown; did you mean 'own'? allowed: all, own"),
        (["shw", "own"], "unknown command 'shw'"),
        (["run", "own", "--only=on"], "--only='on': unknown; did you mean 'one'?"),
        (["run", "own", "--only=Swin"], "--only='Swin': unknown"),
        (["run", "own", "--seeds=a"], "--seeds='a': wrong; allowed: numbers, as 0,1,2"),
        (["run", "own", "--config.loop.num_epochs=1"], "--config.loop.num_epochs: a row is what"),
        (["run", "own", "--speed"], "own has no speed to measure"),
        (["run", "own", "--launch=lokal"], "--launch=lokal: unknown; did you mean 'local'"),
        (["record", "own"], "nothing of own is done"),
    ],
)
def test_what_is_refused(own_tables, run_script, tmp_path, arguments, message):
    own_tables(OWN)
    code, _, err = run_script(TOOL, *arguments, f"--workdir={tmp_path / 'runs'}")
    assert code == 2 and message in err and err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_a_row_that_cannot_be_built_starts_nothing(own_tables, run_script, tmp_path):
    own_tables(OWN.replace('"model.drop_path_rate" = 0.0', '"model.drop_path_rate" = 2.0'))
    code, _, err = run_script(TOOL, "run", "own", f"--workdir={tmp_path / 'runs'}")
    assert code == 2 and "nothing is started: two_without: " in err and "drop_path_rate" in err


def test_commands_are_printed(own_tables, run_script, tmp_path):
    own_tables(OWN)
    flags = (f"--workdir={tmp_path / 'runs'}", "--launch=print", "--seeds=3")
    code, out, _ = run_script(TOOL, "run", "own", "--only=two_without", *flags)
    (command,) = (line for line in out.splitlines() if line.startswith("python train.py"))
    assert code == 0 and command.endswith("--config.model.drop_path_rate=0.0 --config.seed=3")


def test_rows_that_start_from_others_run_after_them(own_tables, run_script, tmp_path):
    """Whole runs: the second stage has the weights of the first; nothing is trained twice."""
    own_tables(OWN)
    workdir = tmp_path / "runs"
    flags = ("--edition=digits", f"--workdir={workdir}", "--seeds=5", "--launch.parallel=1")
    code, out, err = run_script(TOOL, "run", "own", *flags)
    assert code == 0, err
    assert "(n=1)" in out
    log = (workdir / "own-digits" / "two_without,seed=5.log").read_text()
    assert "one,seed=5" in log  # where its weights are from
    code, out, _ = run_script(TOOL, "run", "own", *flags)
    assert code == 0 and "2 done" in out
    code, out, _ = run_script(TOOL, "record", "own", "--edition=digits", f"--workdir={workdir}")
    assert code == 0 and out == "wrote results/own-digits.jsonl\n"
    lines = (tmp_path / "results" / "own-digits.jsonl").read_text().splitlines()
    assert [json.loads(line)["seed"] for line in lines] == [5, 5]
    assert all(json.loads(line)["seconds"] > 0 for line in lines)


def test_throughput_is_measured_on_the_device_at_hand(own_tables, run_script, tmp_path):
    measured = OWN.replace('metric = "top1_accuracy"', 'measured = "images_per_second"').replace(
        'unit = "%"', 'unit = "images/s"'
    )
    own_tables(measured.split("[digits]")[0].replace("digits = {", "# digits = {"))
    flags = ("--batch_size=4", "--seconds=0.01", "--rounds=1", f"--workdir={tmp_path / 'runs'}")
    code, out, err = run_script(TOOL, "run", "own", "--only=one", *flags)
    assert code == 0, err
    (line,) = (tmp_path / "runs" / "own" / "speed.jsonl").read_text().splitlines()
    record = json.loads(line)
    assert (record["row"], record["batch_size"], record["dtype"]) == ("one", 4, "bfloat16")
    code, out, _ = run_script(TOOL, "show", "own", "--format=csv", f"--workdir={tmp_path / 'runs'}")
    (shown,) = (line for line in out.splitlines() if ",one,top-1," in line)
    assert f",{record['images_per_second']},,0,{record['device']}," in shown


def test_generators_are_measured_with_their_counterpart(own_tables, run_script, tmp_path):
    config = 'config = "configs/digits_nest_gan.py:debug"'
    text = OWN.split("[columns.top1]")[0] + '[columns.speed]\ntitle = "speed"\n'
    text += 'measured = "samples_per_second"\n'
    text += f'[[rows]]\nname = "nest"\n{config}\n'
    text += f'[[rows]]\nname = "full"\n{config}\nrecord = "full attention"\n'
    own_tables(text)
    flags = ("--batch_size=2", "--seconds=0.01", "--rounds=1", f"--workdir={tmp_path / 'runs'}")
    code, _, err = run_script(TOOL, "run", "own", *flags)
    assert code == 0, err
    lines = (tmp_path / "runs" / "own" / "speed.jsonl").read_text().splitlines()
    assert [json.loads(line)["generator"][:22] for line in lines] == [
        "attention inside block",
        "attention over the ima",
    ]
    assert json.loads(lines[0])["parameters"] == json.loads(lines[1])["parameters"]
    code, out, _ = run_script(TOOL, "show", "own", f"--workdir={tmp_path / 'runs'}")
    assert code == 0 and "not run yet" not in out
