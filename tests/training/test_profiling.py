"""--profile_steps: a trace of the steps asked for, and of no others."""

import gzip
import json

import jax
import jax.numpy as jnp
import pytest

from harness.errors import ConfigError
from training.profiling import parse_steps, profiled


@jax.jit
def train_step(state, batch, key, hyperparameters):
    return state + batch, {"loss": state}


def run(folder, steps, *, first_step=0, total=8, stop_after=None):
    state = jnp.zeros(())
    with profiled(train_step, steps, first_step=first_step, folder=folder) as step:
        for _ in range(first_step + 1, (stop_after or total) + 1):
            state, _ = step(state, 1.0, None, ())
    return state, [
        event["args"]["step_num"]
        for path in folder.glob("plugins/profile/*/perfetto_trace.json.gz")
        for event in json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
        if event.get("name") == "train"
    ]


@pytest.mark.parametrize(
    ("text", "first_step", "stop_after", "recorded"),
    [
        ("3:5", 0, None, ["3", "4", "5"]),
        ("1:1", 0, None, ["1"]),
        ("7:8", 4, None, ["7", "8"]),
        ("3:6", 0, 4, ["3", "4"]),  # interrupted: what there is
        (None, 0, None, []),
    ],
)
def test_which_steps(tmp_path, text, first_step, stop_after, recorded):
    state, found = run(tmp_path, parse_steps(text, 8), first_step=first_step, stop_after=stop_after)
    assert sorted(found) == recorded
    assert state == (stop_after or 8) - first_step
    assert len(list(tmp_path.glob("plugins/profile/*/*.xplane.pb"))) == bool(recorded)


@pytest.mark.parametrize("text", ["3", "5:3", "0:2", "2:9", "a:b", "-1:2", "3:", ""])
def test_wrong_steps(text):
    with pytest.raises(ConfigError, match=f"--profile_steps={text}: must be FIRST:LAST.*<= 8"):
        parse_steps(text, 8)


@pytest.mark.parametrize(
    ("first_step", "recorded", "note"),
    [(3, ["4", "5"], "3 steps are made; 4:5 are recorded"), (5, [], "nothing is recorded")],
)
def test_the_same_command_resumes(tmp_path, capsys, first_step, recorded, note):
    assert sorted(run(tmp_path, range(3, 6), first_step=first_step)[1]) == recorded
    assert note in capsys.readouterr().err


def test_an_error_in_the_last_step_ends_the_trace(tmp_path):
    def failing(*_):
        raise ValueError

    with (
        pytest.raises(ValueError),
        profiled(failing, range(1, 2), first_step=0, folder=tmp_path) as f,
    ):
        f(None, None, None)
    assert run(tmp_path, range(1, 2))[1]  # another one can be recorded
