"""Order, resume, sharding over processes and devices, evaluation and shutdown of the pipeline."""

import itertools
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from data import datasets
from data.pipeline import Data
from data.sources import arrays

ROOT = Path(__file__).parents[2]
NUM_TRAIN, NUM_TEST = 45, 97  # the test split's size is prime
AFFINE = {"random_affine": {"max_shift_pixels": 2.0, "max_rotation_degrees": 20.0}}


@pytest.fixture
def counting(monkeypatch):
    """A data set whose labels number its records; returns a function that opens it."""

    def load(split, image_size):
        num_examples = {"train": NUM_TRAIN, "test": NUM_TEST}[split]
        noise = np.random.default_rng(0).integers(1, 256, (num_examples, *image_size, 1), np.uint8)
        return arrays.ArraySource(noise, range(num_examples))

    dataset = datasets.Dataset("counting", NUM_TEST, 1, load)
    monkeypatch.setitem(datasets.CLASSES.built_in, "counting", lambda **made: dataset)

    def create(**kwargs):
        defaults = {"name": "counting", "image_size": 6, "batch_size": 10, "eval_batch_size": 10}
        return Data(**{**defaults, **kwargs}).open()

    return create


def take(iterator, count):
    """The next `count` batches."""
    return list(itertools.islice(iterator, count))


def assert_same(left, right):
    """Two lists of batches are equal bit for bit."""
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert sorted(a) == sorted(b) == ["image", "label", "mask"]
        for key in a:
            assert a[key].dtype == b[key].dtype
            np.testing.assert_array_equal(np.asarray(a[key]), np.asarray(b[key]))


def differ(left, right, key="image"):
    """Whether two lists of batches differ in at least one entry of `key`."""
    return any(not np.array_equal(a[key], b[key]) for a, b in zip(left, right, strict=True))


# --- order ----------------------------------------------------------------------------------------


def test_what_a_batch_is(counting):
    data = counting(image_size=(6, 4))
    batch = next(data.train_batches())
    assert batch["image"].shape == (10, 6, 4, 1) and batch["image"].dtype == np.uint8
    assert batch["label"].shape == (10,) and batch["label"].dtype == np.int32
    np.testing.assert_array_equal(batch["mask"], np.ones(10, np.float32))
    assert data.image_shape == (6, 4, 1)
    assert (data.num_train_examples, data.num_classes) == (NUM_TRAIN, NUM_TEST)
    assert np.allclose(data.statistics, ((0.449,), (0.226,)))  # the mean of ImageNet's
    assert counting(mean=(0.1,), std=(0.2,)).statistics == ((0.1,), (0.2,))
    for image, label in zip(batch["image"], batch["label"], strict=True):
        np.testing.assert_array_equal(image, data.train_source[label]["image"])


def test_each_epoch_holds_each_example_once_in_another_order(counting):
    # 45 examples in batches of 10: epochs end inside batches.
    labels = np.concatenate([b["label"] for b in take(counting().train_batches(), 18)])
    epochs = labels.reshape(4, NUM_TRAIN)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(NUM_TRAIN), (4, 1)))
    orders = {tuple(epoch) for epoch in [*epochs, np.arange(NUM_TRAIN)]}
    assert len(orders) == 5


def test_same_seed_same_batches_other_seed_other_batches(counting):
    first, again, other = (
        take(counting(augment=AFFINE, seed=seed).train_batches(), 12) for seed in (3, 3, 4)
    )
    assert_same(first, again)
    assert differ(first, other) and differ(first, other, "label")
    # Nor is another seed the same stream an epoch later.
    streams = [np.concatenate([b["label"] for b in batches]) for batches in (first, other)]
    for shift in (NUM_TRAIN, 0):
        assert not np.array_equal(streams[0][shift : shift + 45], streams[1][:45])
        assert not np.array_equal(streams[1][shift : shift + 45], streams[0][:45])


def test_augmentation_depends_on_seed_epoch_and_index_alone(counting):
    ones = take(counting(augment=AFFINE, batch_size=1).train_batches(), 2 * NUM_TRAIN)
    tens = take(counting(augment=AFFINE, batch_size=10).train_batches(), 9)
    for key in ("image", "label"):
        np.testing.assert_array_equal(
            np.concatenate([b[key] for b in ones]), np.concatenate([b[key] for b in tens])
        )
    # One example looks different in each epoch, and two examples are not moved alike.
    by_label = [{int(b["label"][0]): b["image"] for b in epoch} for epoch in (ones[:45], ones[45:])]
    assert all(not np.array_equal(by_label[0][i], by_label[1][i]) for i in range(NUM_TRAIN))


@pytest.mark.parametrize("num_threads", [0, 1, 2, 16])
@pytest.mark.parametrize("prefetch", [0, 1, 5])
def test_threads_and_prefetch_change_nothing(counting, num_threads, prefetch):
    data = counting(augment=AFFINE, num_threads=num_threads, prefetch=prefetch)
    plain = counting(augment=AFFINE, num_threads=0, prefetch=0)
    assert_same(take(data.train_batches(), 12), take(plain.train_batches(), 12))
    assert_same(list(data.eval_batches()), list(plain.eval_batches()))


# --- resume ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [0, 1, 4, 5, 8, 9, 10, 13])  # 4.5 batches an epoch
def test_resume_goes_on_as_if_uninterrupted(counting, k):
    whole = take(counting(augment=AFFINE).train_batches(), 20)
    stopped = counting(augment=AFFINE).train_batches()
    take(stopped, k)
    state = json.loads(json.dumps(stopped.get_state()))
    assert state == {"batches": k}
    # In the same place of another run, with other threads; in the iterator itself; by `start`.
    resumed = counting(augment=AFFINE, num_threads=3, prefetch=4).train_batches()
    take(resumed, 2)
    resumed.set_state(state)
    assert_same(take(resumed, 20 - k), whole[k:])
    assert resumed.get_state() == {"batches": 20}
    assert_same(take(stopped, 20 - k), whole[k:])
    assert_same(take(counting(augment=AFFINE).train_batches(start=k), 20 - k), whole[k:])


def test_state_counts_what_was_taken_and_not_what_was_prefetched(counting):
    batches = counting(num_threads=2, prefetch=8).train_batches()
    take(batches, 3)
    time.sleep(0.3)
    assert batches.get_state() == {"batches": 3}
    batches.close()
    assert batches.get_state() == {"batches": 3}
    assert_same(take(batches, 3), take(counting().train_batches(start=3), 3))


def test_resume_far_ahead_takes_no_time(counting):
    began = time.monotonic()
    next(counting(augment=AFFINE).train_batches(start=10**9))
    assert time.monotonic() - began < 2.0


@pytest.mark.parametrize("batches", [-1, 1.5, None, True])
def test_bad_state(counting, batches):
    with pytest.raises(ValueError, match="state.batches"):
        counting().train_batches().set_state({"batches": batches})


# --- processes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("process_count", [1, 2, 4])
def test_processes_together_make_the_same_global_batches(counting, process_count):
    whole = take(counting(batch_size=12, augment=AFFINE).train_batches(), 9)
    parts = [
        take(
            counting(
                batch_size=12, augment=AFFINE, process_index=p, process_count=process_count
            ).train_batches(start=2),
            7,
        )
        for p in range(process_count)
    ]
    joined = [
        {key: np.concatenate([part[key] for part in step]) for key in step[0]}
        for step in zip(*parts, strict=True)
    ]
    assert_same(joined, whole[2:])
    assert all(len(part[0]["label"]) == 12 // process_count for part in parts)


@pytest.mark.parametrize("process_count", [1, 2, 3])
@pytest.mark.parametrize("batch_size", range(1, 18))
def test_evaluation_counts_each_example_once(counting, batch_size, process_count):
    lengths, labels = set(), []
    for p in range(process_count):
        data = counting(
            batch_size=6, eval_batch_size=batch_size, process_index=p, process_count=process_count
        )
        reader = data.eval_batches()
        assert reader.num_examples == NUM_TEST
        batches = list(reader)
        lengths |= {len(batches), len(reader)}
        for batch in batches:
            real = batch["mask"] == 1
            labels += batch["label"][real].tolist()
            assert not batch["mask"][~real].any() and not batch["image"][~real].any()
            for image, label in zip(batch["image"][real], batch["label"][real], strict=True):
                np.testing.assert_array_equal(image, data.eval_source[label]["image"])
    assert sorted(labels) == list(range(NUM_TEST))
    assert len(lengths) == 1  # no process waits for a batch that another does not have


def test_evaluation_repeats_and_takes_other_splits(counting):
    data = counting(augment=AFFINE, eval_split="test[:13]")
    reader = data.eval_batches()
    assert_same(list(reader), list(reader))
    assert sum(b["mask"].sum() for b in reader) == 13
    labels = [b["label"][b["mask"] == 1] for b in data.eval_batches("train[40:]")]
    np.testing.assert_array_equal(np.concatenate(labels), np.arange(40, 45))


def run_processes(program, num_processes, num_devices, *arguments, timeout=60):
    """Runs a program as several processes that find each other; returns the last line of each."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    join = f"""
import sys, jax
jax.distributed.initialize("localhost:{port}", {num_processes}, int(sys.argv[1]))
"""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={num_devices}",
    }
    running = [
        subprocess.Popen(
            [sys.executable, "-c", join + program, str(p), *arguments],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for p in range(num_processes)
    ]
    try:
        outputs = [process.communicate(timeout=timeout) for process in running]
    finally:
        for process in running:
            process.kill()
    for process, (_, errors) in zip(running, outputs, strict=True):
        assert process.returncode == 0, errors
    return [json.loads(out.splitlines()[-1]) for out, _ in outputs]


def test_two_real_processes_whose_devices_alternate_in_the_mesh():
    program = """
import json, numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from data.pipeline import Data
devices = np.array(sorted(jax.devices(), key=lambda d: (d.id % 2, d.process_index)))
mesh = Mesh(devices, ("data",), axis_types=(AxisType.Auto,))
sharding = NamedSharding(mesh, PartitionSpec("data"))
recipe = dict(name="digits", image_size=8, batch_size=12, eval_batch_size=10, num_threads=2,
              augment={"random_affine": {"max_shift_pixels": 1.0}})
data, whole = Data(**recipe, sharding=sharding).open(), Data(**recipe).open()
train, plain = data.train_batches(start=100), whole.train_batches(start=100)
seen = set()
for _ in range(5):
    batch, numpy_batch = next(train), next(plain)
    assert batch["image"].shape == (12, 8, 8, 1)
    for key, array in batch.items():
        for shard in array.addressable_shards:
            np.testing.assert_array_equal(shard.data, numpy_batch[key][shard.index])
            seen.add(shard.index[0].indices(12)[:2])
masks = [s.data for b in data.eval_batches() for s in b["mask"].addressable_shards]
count = int(sum(np.asarray(mask).sum() for mask in masks))
print(json.dumps([sorted(seen), len(data.eval_batches()), count]))
"""
    one, other = run_processes(program, 2, 2)
    assert one[0] == [[0, 3], [6, 9]] and other[0] == [[3, 6], [9, 12]]
    assert one[1] == other[1] == 30  # batches of 10 rounded up to 12
    assert one[2] + other[2] == 360


@pytest.mark.parametrize("num_hosts", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_hosts_with_several_devices_count_each_example_once(num_hosts, tmp_path):
    """A prime number of examples, batches of 1 to 17, real processes."""
    pixels, labels = np.zeros((NUM_TEST, 2, 2, 1), np.uint8), np.arange(NUM_TEST)
    np.savez(
        tmp_path / "prime.npz",
        **{f"{split}_images": pixels for split in ("train", "test")},
        **{f"{split}_labels": labels for split in ("train", "test")},
    )
    program = """
import json, numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from data.pipeline import Data
seen = []
for num_devices in range(1, 9):
    of_each = [jax.local_devices(p)[:num_devices] for p in range(jax.process_count())]
    mesh = Mesh(np.concatenate(of_each), ("data",), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    for size in range(1, 18):
        data = Data(name=f"npz:{sys.argv[2]}", image_size=2, batch_size=mesh.size,
                    eval_batch_size=size, num_threads=0, sharding=sharding).open()
        labels = []
        for batch in data.eval_batches():
            for label, mask in zip(*(batch[k].addressable_shards for k in ("label", "mask"))):
                labels += np.asarray(label.data)[np.asarray(mask.data) == 1].tolist()
        seen.append(labels)
print(json.dumps(seen))
"""
    outputs = run_processes(program, num_hosts, 8, str(tmp_path / "prime.npz"))
    assert len(outputs[0]) == 17 * 8
    for of_hosts in zip(*outputs, strict=True):
        assert sorted(itertools.chain(*of_hosts)) == list(range(NUM_TEST))
        assert all(of_hosts)  # each has a part


# --- devices --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((8, 1), PartitionSpec(("data", "fsdp"))),
        ((4, 2), PartitionSpec(("data", "fsdp"))),
        ((4, 2), PartitionSpec("data")),
        ((1, 8), PartitionSpec(("data", "fsdp"), None, None, None)),
        ((8, 1), PartitionSpec()),
    ],
)
def test_sharded_batches_hold_the_numpy_batches(counting, shape, spec):
    mesh = jax.make_mesh(shape, ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    recipe = {"batch_size": 16, "eval_batch_size": 24, "augment": AFFINE}
    data = counting(**recipe, sharding=NamedSharding(mesh, spec))
    batches = take(data.train_batches(), 6)
    assert_same(batches, take(counting(**recipe).train_batches(), 6))
    for batch in batches:
        for array in batch.values():
            assert isinstance(array, jax.Array) and len(array.sharding.device_set) == 8
            expected = NamedSharding(mesh, PartitionSpec(*spec[:1]))
            assert array.sharding.is_equivalent_to(expected, array.ndim)
    assert_same(list(data.eval_batches()), list(counting(**recipe).eval_batches()))


@pytest.mark.parametrize("num_devices", range(1, 9))
def test_sharded_evaluation_counts_each_example_once(counting, num_devices):
    mesh = jax.make_mesh(
        (num_devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:num_devices]
    )
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    for eval_batch_size in range(1, 18):
        data = counting(
            batch_size=num_devices, eval_batch_size=eval_batch_size, sharding=sharding, image_size=2
        )
        labels = [np.asarray(b["label"])[np.asarray(b["mask"]) == 1] for b in data.eval_batches()]
        np.testing.assert_array_equal(np.concatenate(labels), np.arange(NUM_TEST))


def test_batch_size_that_the_devices_or_processes_do_not_divide(counting):
    mesh = jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    both = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    with pytest.raises(ValueError, match="config.data.batch_size=12: .*multiples of 8, .* devices"):
        counting(batch_size=12, sharding=both)
    counting(batch_size=12, sharding=NamedSharding(mesh, PartitionSpec("data")))
    with pytest.raises(ValueError, match="data.batch_size=10: .*multiples of 4, .* processes"):
        counting(batch_size=10, process_index=0, process_count=4)
    with pytest.raises(ValueError, match="process_index=4"):
        counting(batch_size=8, process_index=4, process_count=4)


# --- errors and shutdown --------------------------------------------------------------------------


def grain_threads():
    """Background threads of the pipeline that are alive."""
    return [thread for thread in threading.enumerate() if "grain" in thread.name]


def wait_for_no_threads():
    """Gives pool threads a moment to notice that they are no longer wanted."""
    deadline = time.monotonic() + 5
    while grain_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not grain_threads()


def test_threads_end_with_close_with_the_data_and_with_the_iterator(counting):
    wait_for_no_threads()
    batches = counting(num_threads=3).train_batches()
    next(batches)
    assert grain_threads()
    batches.close()
    wait_for_no_threads()
    list(counting(num_threads=3).eval_batches())
    wait_for_no_threads()
    batches = counting(num_threads=3).train_batches()
    next(batches)
    del batches
    wait_for_no_threads()
    for _ in counting(num_threads=3).eval_batches():
        break
    wait_for_no_threads()


@pytest.mark.parametrize("num_threads", [0, 2])
def test_an_error_in_a_record_reaches_the_caller(counting, monkeypatch, num_threads):
    data = counting(num_threads=num_threads)

    def broken(self, index):
        raise KeyError(f"record {index} has no image")

    batches = data.train_batches()
    next(batches)
    monkeypatch.setattr(arrays.ArraySource, "__getitem__", broken)
    with pytest.raises(KeyError, match="has no image"):
        take(batches, 100)
    wait_for_no_threads()


@pytest.mark.parametrize("end", ["pass", "raise RuntimeError('deliberate')", "sys.exit(3)"])
def test_the_interpreter_ends_with_batches_under_way(end):
    program = f"""
import sys
import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from data.pipeline import Data
mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))
data = Data(name="synthetic", image_size=64, batch_size=64, eval_batch_size=64, num_threads=4,
            prefetch=3, sharding=NamedSharding(mesh, PartitionSpec("data"))).open()
train, test = data.train_batches(), iter(data.eval_batches())
next(train), next(test), next(train)
loaded = sorted(name.split(".")[0] for name in sys.modules)
print([name for name in ("tensorflow", "torch", "sklearn", "training", "nest") if name in loaded])
{end}
"""
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        timeout=30,
    )
    expected = {"pass": 0, "sys.exit(3)": 3}.get(end, 1)
    assert result.returncode == expected, result.stderr
    # Nothing heavy or above this layer came along.
    assert result.stdout.strip() == "[]"
    if expected == 1:
        assert result.stderr.strip().endswith("RuntimeError: deliberate")
    else:
        assert result.stderr.strip() == ""
