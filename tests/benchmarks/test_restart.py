"""An interrupted run is soon at work again."""

import pytest

from benchmarks import restart

pytestmark = pytest.mark.slow


def test_a_restart_of_digits_takes_at_most_15_seconds():
    """Of the processor's time: how long that takes is up to what else the machine does."""
    lines = []
    (record,) = restart.run(["--config=configs/digits_nest.py"], rounds=2, say=lines.append)
    assert record["split"].keys() == restart.PHASES.keys()
    assert all(seconds > 0 for seconds in record["split"].values())
    assert len(record["rounds"]) == 2 and len(lines) == len(restart.PHASES) + 2
    assert 1 < record["processor"] < 15


def test_what_goes_wrong_is_said():
    with pytest.raises(restart.ConfigError, match="did you mean 'depths'"):
        restart.run(
            ["--config=configs/digits_nest.py", "--config.model.depth=1"], rounds=1, say=print
        )
