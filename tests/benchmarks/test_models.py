"""tools/benchmark.py forward and train, and benchmarks/measure_gpu.py, with tiny models."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import compare_models, device_checks, model_speed
from benchmarks.jax_steps import Work
from benchmarks.model_speed import Contender

ROOT = Path(__file__).parents[2]
TINY = {"dims": (8,), "depths": (1,), "num_heads": (1,)}
FLAGS = [f"--fields={name}={value}" for name, value in TINY.items()]
# What a bare machine with a GPU lacks.
ABSENT = ("clu", "ml_collections", "grain", "tensorflow", "tensorflow_datasets", "typeguard")
ABSENT += ("tensorboardX", "array_record")


def work(kind, dtype="float32"):
    return Work(kind, "nest_tiny_s196_224", 2, (16, 16, 3), 10, dtype)


@pytest.mark.parametrize("kind", ["forward", "train"])
def test_ours_beside_the_plain_form(kind):
    lines = []
    ours, plain = compare_models.run(
        work(kind),
        TINY,
        against=["plain"],
        official=None,
        seconds=0.01,
        rounds=3,
        say=lines.append,
    )
    assert ours["code"] == "ours" and plain["code"] == "ours, plain"
    assert ours["parameters"] == plain["parameters"] and ours["multiply_adds"] > 0
    assert len(ours["rounds"]) == 3
    assert ours["images_per_second"] == sorted(ours["rounds"])[1]
    assert ours["memory"]["bytes"] > 0 and ours["input_wait"] is None
    assert lines[0].startswith(f"{kind} of nest_tiny_s196_224, 16 x 16 pixels, batches of 2")
    json.dumps([ours, plain])


def test_utilization_and_waiting(monkeypatch):
    """200 images in 2 steps of a second, of which a half waited."""
    clock = iter([0.0, 1.0, 10.0, 12.0])
    monkeypatch.setattr(model_speed.time, "perf_counter", lambda: next(clock))
    chip = model_speed.find_chip("NVIDIA H200")
    monkeypatch.setattr(model_speed, "find_chip", lambda kind: chip)
    waited = iter([0.0, 1.0])
    contender = Contender("ours", lambda n: None, 1.0, 5, waited=lambda: next(waited))
    options = {"batch_size": 100, "multiply_adds": 10**9, "seconds": 2.0, "rounds": 1}
    (record,) = model_speed.measure([contender], kind="train", facts={}, **options)
    assert record["images_per_second"] == 100 and record["input_wait"] == 0.5
    assert record["utilization"] == pytest.approx(100 * 6e9 / chip.peak)


def test_the_ratio_is_to_the_best_of_the_others():
    def record(code, speed):
        return {"code": code, "images_per_second": speed}

    records = [record("ours", 6.0), record("ours, plain", 9.0)]
    assert model_speed.ratio_text(records) is None
    records += [record("timm eager", 2.0), record("timm compiled", 4.0)]
    assert model_speed.ratio_text(records).startswith("1.50 times timm compiled")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "either --model=NAME or --config=FILE.py is needed"),
        (("--model=nest_tiny",), "name='nest_tiny': unknown; did you mean"),
        (("--model=resnet50", "--against=keras"), "--against='keras': unknown; allowed: plain"),
        (("--model=resnet50", "--against=official"), "needs --official=FOLDER"),
        (("--model=tnt_ti_patch16_224", "--against=timm"), "it has no 'tnt_ti_patch16_224'"),
        (("--config=configs/digits_nest_gan.py",), "has no config.model to measure"),
    ],
)
def test_wrong_calls(run_script, monkeypatch, arguments, message):
    if "timm" in str(arguments):
        monkeypatch.setattr("benchmarks.jax_steps.ours", lambda *_: None)
    code, _, err = run_script("tools/benchmark.py", "train", *arguments)
    assert code == 2 and message in err, err


def test_a_recipe_with_its_loader(run_script, tmp_path):
    output = tmp_path / "speed.jsonl"
    code, out, err = run_script(
        *("tools/benchmark.py", "train", "--config=configs/digits_nest.py:debug"),
        *("--config.model.dims=8", "--config.model.depths=1", "--config.model.num_heads=1"),
        *("--data=own", "--config.task.ema_decay=None"),
        *("--config.mesh.data=1", "--seconds=0.01", "--rounds=1", f"--output={output}"),
    )
    assert code == 0, err
    record = json.loads(output.read_text())
    assert 0 <= record["input_wait"] <= 1 and record["data"] == "digits"
    assert record["image_shape"] == [16, 16, 1]
    assert "waiting for input" in out


BLOCKED = """
import runpy, sys
sys.modules.update(dict.fromkeys({absent!r}))
sys.argv = {argv!r}
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def bare(one_device, *argv):
    """Runs a script where the packages of ABSENT cannot be imported."""
    code = BLOCKED.format(absent=ABSENT, argv=list(argv))
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, cwd=ROOT, env=one_device, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_a_bare_machine_measures(one_device, tmp_path):
    output = tmp_path / "speed.jsonl"
    small = ("--image_size=16", "--batch_size=2", "--seconds=0.01", "--rounds=1")
    model = "--model=nest_tiny_s196_224"
    bare(one_device, "tools/benchmark.py", "train", model, *FLAGS, *small, f"--output={output}")
    assert json.loads(output.read_text())["images_per_second"] > 0


def test_a_bare_machine_checks():
    """The parts of benchmarks/measure_gpu.py --run, smaller."""
    shapes = {"two blocks": (2, 9, 2, 8, 1)}
    for dtype in ("float32", "bfloat16"):
        (result,) = device_checks.check_attention(dtype, shapes)
        assert result["passes"], result
    result = device_checks.check_model(work("train"), TINY)
    assert result["passes"] and result["result_difference"] <= 1e-3
    assert device_checks.train_digits(4, TINY)["loss"] > 0


def test_half_an_hour_goes_on_where_it_stopped(run_script, tmp_path, monkeypatch):
    output = tmp_path / "gpu.jsonl"
    started = []

    def run(command, **options):
        started.append(command)
        record = json.dumps({"images_per_second": 1.0})
        path = next(a for a in command if a.startswith("--output=")).removeprefix("--output=")
        Path(path).write_text(record + "\n")
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    call = ("benchmarks/measure_gpu.py", f"--output={output}", "--only=nest_tiny,digits")
    assert run_script(*call)[0] == 0
    assert [command[2] for command in started] == ["train", "forward", "--run=digits"]
    names = [json.loads(line)["measurement"] for line in output.read_text().splitlines()]
    assert names == ["train nest_tiny_s196_224", "forward nest_tiny_s196_224", "digits"]
    assert run_script(*call)[0] == 0 and len(started) == 3  # all is there
    assert run_script(*call[:2], "--only=checks")[0] == 0 and len(started) == 4
    assert run_script(*call[:2], "--only=nothing")[0] == 2


@pytest.mark.torch
def test_timm_in_turns(torch, timm):
    from benchmarks import timm_models

    one = Work("train", "deit_ti_patch16_224", 1, (32, 32, 3), 10, "float32")
    eager = next(iter(timm_models.contenders(one)))
    eager.run(1)
    assert eager.name == "timm eager" and eager.parameters > 5_000_000
