"""Global batches of an endless or finite list of records, read ahead, on the device, resumable."""

import contextlib
import math
import signal
import sys
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import grain
import jax
import numpy as np
from absl import flags
from jax.sharding import NamedSharding, PartitionSpec

from data import loading
from harness.arguments import check_range, problem
from process.shared_memory import check_room, end_with_parent, worker_errors
from process.signals import STOPPING

# Of images that one task of a thread or worker makes: 27 of 224 x 224 pixels, all of CIFAR's.
PART_BYTES = 2**22

ReportBad = Callable[[list[tuple[int, str, str]]], None]  # of (index, name, reason)
# mask float32 [b] and what the records' loading.Form gives: of classification image, uint8
# [b, h, w, c], and label, int32 [b]; with several labels an image [b, num_classes] of 0 and 1.
Batch = dict[str, Any]


class Layout:
    """Which rows of a global batch this process loads, and how they get onto its devices."""

    def __init__(
        self, sharding: NamedSharding | None, process_index: int = 0, process_count: int = 1
    ):
        """Takes the layout of the batch axis.

        Args:
            sharding: its first entry says how the batch axis lies over a mesh; None leaves the rows
                as numpy arrays.
            process_index: without sharding, which part of the rows to load.
            process_count: without sharding, number of equal parts.
        """
        check_range("process_index", process_index, 0, process_count - 1)
        self._process_index = process_index
        self._process_count = process_count
        self._sharding = None
        self._num_parts = process_count
        if sharding is not None:
            # Only the batch axis: one sharding serves images, labels and mask.
            spec = PartitionSpec(*sharding.spec[:1])
            self._sharding = NamedSharding(sharding.mesh, spec)
            # The entry is None, one mesh axis or a tuple of them.
            self._num_parts = math.prod(
                sharding.mesh.shape[a] for a in jax.tree.leaves(tuple(spec))
            )

    def check(self, key: str, batch_size: int) -> None:
        """Raises ValueError for a batch size that cannot be cut evenly."""
        if batch_size % self._num_parts:
            owners = "processes" if self._sharding is None else "devices of the batch axis"
            allowed = f"multiples of {self._num_parts}, the number of {owners}"
            raise ValueError(problem(key, batch_size, "cannot be cut evenly", allowed))

    def round_up(self, batch_size: int) -> int:
        """Returns the next batch size that can be cut evenly."""
        return math.ceil(batch_size / self._num_parts) * self._num_parts

    def local_rows(self, batch_size: int) -> list[int]:
        """Returns the rows of the global batch, ascending, that this process has to load."""
        rows = np.arange(batch_size)
        if self._sharding is None:
            return np.split(rows, self._process_count)[self._process_index].tolist()
        # Not necessarily one run of rows: a mesh may interleave the devices of two processes, and
        # replicas hold the same rows.
        held = self._sharding.addressable_devices_indices_map((batch_size,)).values()
        return np.unique(np.concatenate([rows[index] for index in held])).tolist()

    def place(self, batch: Batch, batch_size: int) -> Batch:
        """Makes global arrays of this process's rows."""
        if self._sharding is None:
            return batch
        return {
            key: jax.make_array_from_process_local_data(
                self._sharding, array, (batch_size, *array.shape[1:])
            )
            for key, array in batch.items()
        }


@dataclass(frozen=True)
class BatchReader:
    """All global batches of a list of records, with random access.

    Attributes:
        records: Grain's random-access list of loading.Sample, which may be practically endless.
        empty: name -> array of a row without a record, see loading.Form.
        batch_size: global.
        layout: which rows are loaded here, and where they go.
        num_threads: threads that make parts of batches, in each worker process if there are any; 0
            leaves it to the prefetch thread.
        num_workers: processes that make parts of batches; 0 makes them in this one.
        prefetch: batches kept ready on the device; 0 makes each when it is asked for.
        report_bad: gets the images that cannot be read, see data/bad_images.py.
    """

    records: grain.MapDataset
    empty: dict[str, np.ndarray]
    batch_size: int
    layout: Layout
    num_threads: int
    num_workers: int
    prefetch: int
    report_bad: ReportBad

    @property
    def num_examples(self) -> int:
        """Number of records."""
        return len(self.records)

    def __len__(self) -> int:
        # In whole numbers: an endless list is longer than floats count.
        return -(-len(self.records) // self.batch_size)

    def __iter__(self) -> "Batches":
        return Batches(self)

    def open_at(self, start: int) -> grain.DatasetIterator:
        """Starts reading at batch `start`, which takes as long as at batch 0."""
        rows = self.layout.local_rows(self.batch_size)
        # A task per small image would cost more than the image, and a thread that makes a whole
        # batch of large ones too much memory: 16 threads, each with several of 150 MB.
        row_bytes = sum(array.nbytes for array in self.empty.values())
        size = max(1, PART_BYTES // row_bytes)
        parts = [rows[i : i + size] for i in range(0, len(rows), size)]
        make = loading.MakePart(self.records, self.empty, self.batch_size, parts)
        stop = min(len(self) * len(parts), sys.maxsize)  # endless lists are as long as can be
        tasks = grain.MapDataset.range(start * len(parts), stop).map(make)
        ahead = 2 * self.num_threads
        loaded = tasks.to_iter_dataset(grain.ReadOptions(self.num_threads, ahead))
        if self.num_workers:
            # As they start in a process of their own, they import its main module: a script needs
            # `if __name__ == "__main__":`.
            if not flags.FLAGS.is_parsed():  # Grain's processes ask for flags, even in notebooks
                flags.FLAGS.mark_as_parsed()
            # Parts come back in order, whichever worker made them.
            per_worker = max(2, math.ceil(2 * len(parts) / self.num_workers))
            part_bytes = min(size, len(rows)) * row_bytes
            check_room(self.num_workers, self.num_workers * per_worker * part_bytes)
            loaded = loaded.mp_prefetch(
                grain.MultiprocessingOptions(
                    num_workers=self.num_workers, per_worker_buffer_size=per_worker
                ),
                worker_init_fn=end_with_parent,
            )
        batches = loaded.batch(len(parts), batch_fn=loading.join_parts).map(self._place)
        return iter(
            grain.experimental.ThreadPrefetchIterDataset(
                batches, prefetch_buffer_size=self.prefetch
            )
        )

    def _place(self, batch: dict[str, Any]) -> Batch:
        if bad := batch.pop("bad"):
            self.report_bad(bad)
        return self.layout.place(batch, self.batch_size)


class Batches(Iterator[Batch]):
    """Iterator over a reader's batches; its state is the number of batches the caller has taken.

    Batches that are loaded ahead do not count. Background threads start with the first batch and
    end with `close`, at the end of the data, on an error, and before the interpreter ends.

    Attributes:
        seconds_waited: total time that the caller has waited for batches.
    """

    def __init__(self, reader: BatchReader, start: int = 0):
        self.seconds_waited = 0.0
        self._reader = reader
        self._open: list[grain.DatasetIterator] = []  # the iterator in use, if any
        # A finalizer also runs at interpreter exit, before JAX goes away under the threads.
        weakref.finalize(self, _close_all, self._open)
        self.set_state({"batches": start})

    def __next__(self) -> Batch:
        asked = time.perf_counter()
        starting = not self._open
        try:
            workers = self._reader.num_workers
            with _signals_held_back(starting and workers > 0), worker_errors(workers):
                if starting:
                    self._open.append(self._reader.open_at(self._batches))
                batch = next(self._open[0])
        except BaseException:
            self.close()
            raise
        self._batches += 1
        self.seconds_waited += time.perf_counter() - asked
        return batch

    def get_state(self) -> dict[str, int]:
        """Returns the position, ready for JSON."""
        return {"batches": self._batches}

    def set_state(self, state: Mapping[str, int]) -> None:
        """Goes to the position that `get_state` gave in this or another run of the same recipe."""
        batches = state["batches"]
        if type(batches) is not int or batches < 0:
            what = "not a number of batches"
            raise ValueError(problem("state.batches", batches, what, "whole numbers from 0"))
        self.close()
        self._batches = batches

    def close(self) -> None:
        """Ends the background threads; a later `next` goes on where the caller was."""
        _close_all(self._open)


@contextlib.contextmanager
def _signals_held_back(active: bool) -> Iterator[None]:
    """Blocks what asks runs to stop in this thread and in all that it starts meanwhile.

    Terminals and schedulers send it to a whole group of processes. The run stops in good order when
    it gets them; worker processes must go on until the run ends them. Threads and processes inherit
    the blocked signals.
    """
    if not active:
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _close_all(iterators: list[grain.DatasetIterator]) -> None:
    # Grain's iterators complain if they outlive its modules.
    while iterators:
        iterators.pop().close()
