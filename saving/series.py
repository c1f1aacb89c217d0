"""The checkpoints of one kind, latest or best: written in the background, complete or not at all.

A save counts as done, and older checkpoints are deleted, only when all of these have happened:
Orbax has written the files into a temporary folder and given it its name; they and the names are
on the disk (fsync); the metadata has been read back and has the arrays that were saved; and the
checksums of all files are listed in the checkpoint.
"""

import contextlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from harness.errors import StorageError, Unavailable, one_line
from harness.leases import LostLock
from harness.trees import check_tree, flatten, shape_of
from saving.restoring import from_first
from workdirs import step_files
from workdirs.checksums import record_checksum
from workdirs.plain_path import plain_path
from workdirs.quiet_orbax import quiet_orbax


class Series:
    """Writes the checkpoints in one folder.

    Args:
        folder: "checkpoints/latest" or "checkpoints/best"; made if absent.
        keep: how many of the newest stay.
        on_saved: gets each step whose save is done, before older ones are deleted.

    Raises:
        ConfigError, StorageError: there can be no such folder, or none can be made now.
    """

    def __init__(self, folder: Path, keep: int, on_saved: Callable[[int], None]):
        self._folder, self._keep, self._on_saved = folder, keep, on_saved
        quiet_orbax()
        from_first(_make, folder)
        # The two kinds may be written at once: each has barriers of its own.
        options = ocp.options.MultiprocessingOptions(barrier_sync_key_prefix=folder.name)
        self._checkpointer = ocp.AsyncCheckpointer(
            ocp.CompositeCheckpointHandler(
                composite_options=ocp.CompositeOptions(multiprocessing_options=options),
                state=ocp.StandardCheckpointHandler(multiprocessing_options=options),
                loop=ocp.JsonCheckpointHandler(multiprocessing_options=options),
                checksums=ocp.JsonCheckpointHandler(multiprocessing_options=options),
            ),
            multiprocessing_options=options,
        )
        self._thread = ThreadPoolExecutor(1)
        self._saving: tuple[int, Future] | None = None

    def write(
        self,
        step: int,
        state: Any,
        loop: dict[str, Any],
        sums: dict[str, str],
        best: dict[str, Any] | None = None,
    ) -> None:
        """Begins to write a checkpoint, in place of one of that step and later ones.

        Args:
            step: number of updates made.
            state: pytree of arrays; returns once they are copied.
            loop: JSON record.
            sums: checksums of the arrays.
            best: JSON record of what makes it the best.

        Raises:
            StorageError: this or the save before cannot be written.
        """
        self.wait()
        checksums = {"step": step, "arrays": sums}
        checksums |= {"loop": record_checksum(loop), "best": best}
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            loop=ocp.args.JsonSave(loop),
            checksums=ocp.args.JsonSave(checksums),
        )
        shapes = {
            name: jax.ShapeDtypeStruct(shape_of(leaf), leaf.dtype)
            for name, leaf in flatten(state).items()
        }
        with _storage_errors(step):
            self._checkpointer.save(plain_path(self._folder / str(step)), args=args, force=True)
        self._saving = step, self._thread.submit(self._finish, step, shapes)

    def wait(self) -> None:
        """Returns when the last save is done.

        Raises:
            StorageError: it could not be written.
        """
        if self._saving is not None:
            (step, future), self._saving = self._saving, None
            with _storage_errors(step):
                future.result()

    def close(self) -> None:
        """Waits and ends the background threads."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()
            self._checkpointer.close()

    def _finish(self, step: int, shapes: dict[str, jax.ShapeDtypeStruct]) -> None:
        self._checkpointer.wait_until_finished()
        if jax.process_index() != 0:
            return
        folder = self._folder / str(step)
        step_files.seal(folder)
        with contextlib.closing(ocp.StandardCheckpointHandler()) as handler:
            found = handler.metadata(plain_path(folder / "state")).tree
        check_tree(shapes, flatten(found, is_leaf=_is_array), f"what was read back of {folder}")
        self._on_saved(step)
        steps = step_files.steps_in(self._folder)
        later = [other for other in steps if other > step]  # of a run that went further
        earlier = [other for other in steps if other <= step]
        for other in [*later, *earlier[: -self._keep]]:
            step_files.delete(self._folder / str(other))


def _make(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    step_files.clean(folder)


def _is_array(leaf: Any) -> bool:
    return hasattr(leaf, "shape")


@contextlib.contextmanager
def _storage_errors(step: int):
    """Turns what Orbax, TensorStore or the operating system raises into one line."""
    try:
        yield
    except (LostLock, Unavailable):
        raise
    except Exception as error:
        raise StorageError(
            f"the checkpoint of step {step} cannot be written: {one_line(error)}; those before "
            "it stay"
        ) from error
