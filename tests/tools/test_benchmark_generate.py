"""tools/benchmark.py generate: the speed of a NesT generator and of a full-attention one."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import generators
from harness.errors import ConfigError
from nest.gan.generator import NestGenerator
from tools import benchmark

ROOT = Path(__file__).parents[2]
TWO_LEVELS = NestGenerator(8, (16, 8), (1, 1), (2, 4), latent_dim=6)


def run(environment, *arguments, timeout=120):
    return subprocess.run(
        [sys.executable, "tools/benchmark.py", "generate", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def test_both_are_measured():
    lines = []
    results = generators.run(TWO_LEVELS, batch_size=2, seconds=0.01, rounds=3, say=lines.append)
    ours, theirs = results
    assert ours["parameters"] == theirs["parameters"]
    # Layers of widths 16 and 8 on 16 and 64 tokens, in blocks of 16: 12d^2 + 2nd a token.
    rest = 6 * 16 * 16 + 64 * 4 * 8 + 64 * 8 * 3
    first = 16 * (12 * 16**2 + 2 * 16 * 16)
    assert ours["multiply_adds"] == rest + first + 64 * (12 * 8**2 + 2 * 16 * 8)
    assert theirs["multiply_adds"] == rest + first + 64 * (12 * 8**2 + 2 * 64 * 8)
    for result in results:
        assert len(result["rounds"]) == 3 and min(result["rounds"]) > 0
        assert result["samples_per_second"] == sorted(result["rounds"])[1]
    assert "8 x 8 pixels, batches of 2, float32, cpu" in lines[0]
    assert lines[-1].endswith("times as many samples")


def test_as_a_person_calls_it(one_device, tmp_path):
    output = tmp_path / "speed.jsonl"
    arguments = ("--image_size=16", "--batch_size=1", "--seconds=0.01", "--rounds=1")
    generator = "--generator=nest_generator_tiny_s16_16"
    result = run(one_device, generator, *arguments, f"--output={output}")
    assert result.returncode == 0, result.stderr
    ours, theirs = (json.loads(line) for line in output.read_text().splitlines())
    assert ours["parameters"] == theirs["parameters"] and ours["generator"] in result.stdout


def test_unknown_generator():
    args = SimpleNamespace(
        generator="nest_generator_huge", image_size=64, dtype="float32", against=[]
    )
    with pytest.raises(ConfigError, match="name='nest_generator_huge': unknown"):
        benchmark.generate(args)


@pytest.mark.slow
def test_at_least_six_times_as_many_samples_at_64_pixels(tmp_path):
    output = tmp_path / "speed.jsonl"
    environment = {**os.environ, "XLA_FLAGS": ""}  # fully optimized
    result = run(environment, "--batch_size=2", f"--output={output}", timeout=600)
    assert result.returncode == 0, result.stderr
    ours, theirs = (json.loads(line) for line in output.read_text().splitlines())
    assert ours["samples_per_second"] >= 6 * theirs["samples_per_second"]
