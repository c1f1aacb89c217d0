"""Process 0 answers for all, whatever it meets and however long its answer is."""

import json

import jax
import pytest

from harness.errors import ConfigError, RunError, StorageError, Unavailable
from parallel import peers
from saving.restoring import from_first
from workdirs.records import CannotRead


@pytest.fixture
def ask(monkeypatch):
    """Returns a function that asks in process 0, then in process 1, which gets what 0 sent."""
    sent = []

    def gather(about, value):
        """As two processes: JSON goes between them."""
        if jax.process_index() == 0:
            sent.append(json.dumps(value))
            return [value, {}]
        return [json.loads(sent.pop(0)), value]

    monkeypatch.setattr(peers, "gather", gather)

    def ask(question):
        found = []
        for index in range(2):
            monkeypatch.setattr(jax, "process_index", lambda index=index: index)
            try:
                found.append(from_first(question if index == 0 else None))
            except Exception as error:
                found.append(error)
        assert not sent
        return found

    return ask


@pytest.mark.parametrize(
    "answer", [None, [1, 2], "x", "\N{SNOWMAN}\udcff" * 3000, list(range(5000))]
)
def test_answers(ask, answer):
    assert ask(lambda: answer) == [answer, answer]


@pytest.mark.parametrize("text", ["no", "\N{SNOWMAN}\udcff\x1b" * 5000])
@pytest.mark.parametrize(
    ("kind", "others", "code"),
    [
        (ConfigError, ConfigError, 2),
        (CannotRead, StorageError, 74),
        (StorageError, StorageError, 74),
        (Unavailable, Unavailable, 75),
        (KeyError, RunError, 1),
    ],
)
def test_errors(ask, kind, others, code, text):
    def fail():
        raise kind(text)

    first, second = ask(fail)
    assert type(first) is kind and type(second) is others
    assert text in second.args[0] or kind is KeyError
    assert second.exit_code == code == getattr(first, "exit_code", 1)
