"""Measures everything on one GPU in one call, the most important first.

    python benchmarks/measure_gpu.py --output=gpu.jsonl --minutes=30
    python benchmarks/measure_gpu.py --output=gpu.jsonl --only=nest_tiny,digits

Needs jax with CUDA, flax, optax and scikit-learn, and for the comparison torch and timm; no data,
and none of what training needs besides. Each measurement is a process of its own, whose results are
appended to --output at once: a run that is stopped has lost none, and the same line again resumes
with what is missing. In this order:

    checks       the fast forms of attention against the plain one, and two models whole
    train        images/s of NesT-T, TNT-S, DeiT-S, NesT-B, TNT-B in bfloat16, with and without fast
                 forms, against timm eager and compiled, in turns
    forward      likewise, in evaluation
    digits       a small NesT learns digits with and without the fast forms

tools/benchmark.py makes one of these measurements with more choice.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

import process.first  # noqa: F401

# isort: split

import json
import subprocess
import tempfile
import time
from importlib.util import find_spec

from absl import flags

from harness import commandline
from harness.arguments import problem
from harness.errors import ConfigError, input_errors
from harness.files import check_writable, local_path

# Model -> images in a batch.
MODELS = {
    "nest_tiny_s196_224": 256,
    "tnt_s_patch16_224": 256,
    "deit_s_patch16_224": 256,
    "nest_base_s196_224": 128,
    "tnt_b_patch16_224": 128,
}
LONGEST = 600  # seconds of one measurement: PyTorch compiles for minutes


def measurements(args: flags.FlagValues) -> dict[str, list[str]]:
    """Returns name -> command, the most important first."""
    here = [sys.executable, str(Path(__file__).resolve())]
    benchmark = [sys.executable, str(Path(__file__).resolve().parents[1] / "tools/benchmark.py")]
    speed = [f"--seconds={args.seconds}", f"--rounds={args.rounds}", f"--dtype={args.dtype}"]
    if args.image_size:
        speed.append(f"--image_size={args.image_size}")
    commands = {"checks": [*here, "--run=checks", f"--dtype={args.dtype}"]}
    for kind in ("train", "forward"):
        for model, batch_size in MODELS.items():
            batch = f"--batch_size={args.batch_size or batch_size}"
            others = [name for name in args.against if name != "timm" or find_spec("timm")]
            against = f"--against={','.join(others)}"
            commands[f"{kind} {model}"] = [
                *(*benchmark, kind, f"--model={model}", batch, against, *speed)
            ]
    commands["digits"] = [*here, "--run=digits", f"--steps={args.steps}"]
    return commands


def run_here(args: flags.FlagValues) -> list[dict]:
    """Runs the checks or the training in this process."""
    if args.run == "digits":
        from benchmarks.device_checks import train_digits

        return [train_digits(args.steps, {}), train_digits(args.steps, {"kernels": "plain"})]
    from benchmarks.device_checks import check_attention, check_model
    from benchmarks.jax_steps import Work

    results = [*check_attention("float32"), *check_attention(args.dtype)]
    for model in ("nest_tiny_s196_224", "tnt_s_patch16_224"):
        work = Work("train", model, 2, (224, 224, 3), 1000, args.dtype)
        results.append(check_model(work, {}))
    return results


def define_flags() -> None:
    """Defines the flags of this script."""
    flags.DEFINE_string("output", None, "File of the results, JSON lines; appended to.")
    flags.DEFINE_float("minutes", 30.0, "No measurement starts after this.", lower_bound=0.1)
    flags.DEFINE_list("only", [], "Only measurements whose name contains one of these.")
    flags.DEFINE_list("against", ["plain", "timm"], "See tools/benchmark.py.")
    flags.DEFINE_integer("batch_size", None, "In place of each model's own.", lower_bound=1)
    flags.DEFINE_integer("image_size", None, "In place of 224.", lower_bound=1)
    flags.DEFINE_enum("dtype", "bfloat16", ["bfloat16", "float32"], "Type to compute in.")
    flags.DEFINE_float("seconds", 2.0, "Length of one measurement.", lower_bound=0.01)
    flags.DEFINE_integer("rounds", 5, "Measurements of each; the median counts.", lower_bound=1)
    flags.DEFINE_integer("steps", 600, "Of the training on digits.", lower_bound=1)
    flags.DEFINE_enum("run", None, ["checks", "digits"], "Of this tool itself: one part.")


def main(args: flags.FlagValues) -> None:
    """Measures what is missing, or with --run a part of it."""
    if args.output is None:
        raise ConfigError("--output=FILE is needed; see --help")
    output = local_path("--output", args.output)
    check_writable("--output", output)
    if unknown := [name for name in args.against if name not in ("plain", "timm")]:
        raise ConfigError(problem("--against", unknown[0], "unknown", "plain, timm"))
    if "timm" in args.against and not find_spec("timm"):
        print("timm is not installed: nothing is compared with it; pip install torch timm")
    if args.run:
        with input_errors():
            output.write_text("".join(json.dumps(r) + "\n" for r in run_here(args)))
        return
    started, commands = time.monotonic(), measurements(args)
    if args.only:
        commands = {n: c for n, c in commands.items() if any(part in n for part in args.only)}
        if not commands:
            names = ", ".join(measurements(args))
            raise ConfigError(problem("--only", ",".join(args.only), "matches nothing", names))
    lines = output.read_text().splitlines() if output.exists() else []
    done = {json.loads(line)["measurement"] for line in lines}
    failed = []
    for name, command in commands.items():
        left = 60 * args.minutes - (time.monotonic() - started)
        if name in done or left <= 0:
            print(f"-- {name}: {'is there already' if name in done else 'no time left'}")
            continue
        print(f"-- {name}", flush=True)
        if not measure(name, command, output, min(left + 60, LONGEST)):
            failed.append(name)
    print(f"results are in {output}" + (f"; failed: {', '.join(failed)}" if failed else ""))
    sys.exit(1 if failed else 0)


def measure(name: str, command: list[str], output: Path, seconds: float) -> bool:
    """Runs a command and appends its results; returns whether it gave any."""
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder) / "part.jsonl"
        try:
            ended = subprocess.run([*command, f"--output={part}"], timeout=seconds)
            code = ended.returncode
        except subprocess.TimeoutExpired:
            code = f"stopped after {seconds:.0f} s"
        records = part.read_text().splitlines() if part.exists() else []
    with output.open("a") as file:
        for record in records:
            line = json.dumps({"measurement": name} | json.loads(record))
            file.write(line + "\n")
            if "check" in line:
                print(line)
    if not records:
        print(f"-- {name} failed: {code}")
    return bool(records)


if __name__ == "__main__":
    commandline.run(define_flags, main)
