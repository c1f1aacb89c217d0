"""What the processes of a run agree on: when to stop, and that they compute the same."""

import json
from types import SimpleNamespace

import pytest

from data.bad_images import BadImages, TooManyBadImages
from harness.errors import ConfigError
from parallel import peers
from training import same_everywhere, stops
from training.stops import AGREE_EVERY, Stops, check_bad_images
from workdirs.results import BadImagesFile


class Together:
    """Stands for the peers of process 0 of two; the other one answers with what it is given."""

    index, count = 0, 2

    def __init__(self):
        self.others, self.asked = {}, []

    def gather(self, about, value):
        self.asked.append(about)
        other = self.others.get(about, type(value)())
        return [value, other(value) if callable(other) else other]


@pytest.fixture
def together(monkeypatch):
    fake = Together()
    monkeypatch.setattr(peers, "_current", fake)
    return fake


def bad_images(limit, policy="replace", deferred=True):
    bad = BadImages(policy, limit)
    bad.deferred = deferred
    return bad


def entries(*names):
    return [(0, name, "cut off") for name in names]


def test_alone_a_signal_counts_at_once():
    signals = []
    asked = Stops(lambda: bool(signals), bad_images(0, deferred=False)).requested
    assert not asked()
    signals.append(15)
    assert asked()


def test_the_other_process_is_asked_at_every_tenth_question(together):
    asked = Stops(lambda: False, bad_images(5)).requested
    assert [asked() for _ in range(AGREE_EVERY)] == [False] * AGREE_EVERY
    together.others["signals"] = True
    assert [asked() for _ in range(AGREE_EVERY)] == [True] * AGREE_EVERY
    assert together.asked.count("signals") == 2


def test_bad_images_of_both_count_each_once(together, tmp_path):
    bad = bad_images(3)
    bad.keep_in(BadImagesFile(tmp_path / "bad_images.jsonl"))
    asked = Stops(lambda: False, bad).requested
    assert not asked()
    bad.add("train", entries("a", "b"))
    together.others["bad images"] = [("train", "b", "cut off"), ("train", "c", "cut off")]
    assert not any(asked() for _ in range(AGREE_EVERY))  # three, and three are allowed
    assert len(bad) == 3
    together.others["bad images"] = [("train", "d", "no image")]
    assert [asked() for _ in range(AGREE_EVERY)][-1]
    with pytest.raises(TooManyBadImages, match="max_bad=3: 4 images .* d .train. .* no image"):
        bad.check()
    listed = [json.loads(line)["name"] for line in (tmp_path / "bad_images.jsonl").open()]
    assert listed == ["a", "b"]  # the other process lists its own


def test_an_image_is_told_once(together):
    bad = bad_images(9)
    bad.add("train", entries("a"))
    bad.add("train", entries("a", "b"))
    assert [name for _, name, _ in bad.take_new()] == ["a", "b"]
    bad.add("train", entries("b"))
    assert bad.take_new() == []


def test_one_of_several_goes_on_until_all_know(together):
    bad = bad_images(0, "raise")
    bad.add("train", entries("a"))  # raises nothing
    asked = Stops(lambda: False, bad).requested
    assert asked()
    with pytest.raises(TooManyBadImages, match="a .train. cannot be read"):
        bad.check()


def test_alone_it_stops_at_once():
    bad = bad_images(1, deferred=False)
    bad.add("train", entries("a"))
    with pytest.raises(TooManyBadImages):
        bad.add("train", entries("b"))


def test_what_any_process_has_listed_counts_after_a_resume(tmp_path):
    for index, names in ((0, "ab"), (1, "c")):
        bad = bad_images(9)
        name = f"bad_images{f'_{index}' if index else ''}.jsonl"
        bad.keep_in(BadImagesFile(tmp_path / name))
        bad.add("train", entries(*names))
    resumed = bad_images(9, deferred=False)
    resumed.keep_in(BadImagesFile(tmp_path / "bad_images.jsonl"))
    assert len(resumed) == 3


def test_evaluation_has_one_limit_too(together):
    bad = bad_images(1)
    bad.add("test", entries("a"))
    check_bad_images(bad)
    together.others["bad images"] = [("test", "b", "cut off")]
    with pytest.raises(TooManyBadImages, match="max_bad=1: 2 images"):
        check_bad_images(bad)


def test_what_differs_is_named(together):
    together.others["digest of facts"] = lambda digest: digest
    same_everywhere.compare("facts", {"jax": "0.10.2"})
    together.others["digest of facts"] = "another"
    together.others["facts"] = {"jax": "'0.10.1'", "more": "1"}
    message = "process 1 differs from process 0: jax is '0.10.1' there and '0.10.2' in 0; more is 1"
    with pytest.raises(ConfigError) as error:
        same_everywhere.compare("facts", {"jax": "0.10.2"})
    assert str(error.value).startswith(message)


def test_config_data_and_versions_are_compared(together, monkeypatch):
    compared = {}
    monkeypatch.setattr(same_everywhere, "compare", lambda about, facts: compared.update(facts))
    monkeypatch.setattr(same_everywhere, "data_digest", lambda data: "digest")
    dataset = SimpleNamespace(class_names=("cat", "dog"))
    data = SimpleNamespace(dataset=dataset, num_train_examples=5, eval_source=range(3))
    data.num_classes = 2
    config = {"seed": 1, "data": {"data_dir": "/a", "num_threads": 3, "batch_size": 8}}
    same_everywhere.check_same_everywhere(config, data, training=True)
    assert compared["config.seed"] == 1 and compared["config.data.batch_size"] == 8
    assert not {"config.data.data_dir", "config.data.num_threads"} & compared.keys()
    assert compared["number of training images"] == 5
    assert compared["digest of the training images"] == "digest"
    assert {"jax", "jaxlib", "flax", "git commit of this code", "jax_enable_x64"} <= compared.keys()
    before = compared["names of the classes"]
    dataset.class_names = ("dog", "cat")
    same_everywhere.check_same_everywhere(config, data, training=True)
    assert compared["names of the classes"] != before


def test_stops_are_rare():
    assert stops.AGREE_EVERY == 10  # docs/runs.md says so


def test_a_signal_does_not_hide_that_there_are_too_many_bad_images(together):
    """Else the one that knows ends with 2, and the other one with 75."""
    bad = bad_images(1)
    together.others = {"signals": True, "bad images": entries("a", "b")}
    assert Stops(lambda: False, bad).requested()
    assert bad.too_many()
