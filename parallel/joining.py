"""How the processes of a run find each other: --distributed, or --coordinator and two numbers."""

import atexit
import contextlib
import os
import warnings
from collections.abc import Iterator

import jax
from absl import flags

from harness.arguments import problem
from harness.errors import ConfigError, RunError, one_line
from parallel import connections
from parallel.endings import describe, end_now
from parallel.peers import Peers, set_current
from parallel.watchdog import HUNG_SECONDS, Watchdog

# JAX's own heartbeat would end processes with a stack trace; Peers notices what it would.
NO_HEARTBEAT = 1_000_000
KNOWN = "TPU pods, Slurm, Open MPI and Kubernetes"


def define_flags() -> None:
    """Defines the flags that say which of several processes this is."""
    flags.DEFINE_bool("distributed", False, f"This is one of several processes; {KNOWN} say which.")
    flags.DEFINE_string("coordinator", None, "Elsewhere: host:port of process 0.")
    flags.DEFINE_integer("num_processes", None, "Elsewhere: how many there are.")
    flags.DEFINE_integer("process_id", None, "Elsewhere: which one this is, from 0.")
    flags.DEFINE_float(
        "join_seconds", 300.0, "The most that processes wait for each other at first."
    )
    flags.DEFINE_float(
        "heartbeat_seconds",
        60.0,
        "After which a machine that does not answer counts as dead; a process that dies is noticed "
        "at once.",
    )


def _given(args: flags.FlagValues) -> tuple[str, int, int] | None:
    """Returns coordinator, number of processes and process_id as the flags have them."""
    given = (args.coordinator, args.num_processes, args.process_id)
    if given == (None, None, None):
        return None
    if None in given:
        raise ConfigError("--coordinator, --num_processes and --process_id belong together")
    if args.distributed:
        raise ConfigError("--distributed finds out what --coordinator says: give one of them")
    address, count, index = given
    try:
        connections.parse_address(address)
    except ValueError:
        raise ConfigError(problem("--coordinator", address, "wrong", "HOST:PORT")) from None
    if count < 1:
        raise ConfigError(problem("--num_processes", count, "out of range", "whole numbers from 1"))
    if not 0 <= index < count:
        raise ConfigError(problem("--process_id", index, "out of range", f"0 to {count - 1}"))
    return given


def _detected(seconds: float) -> tuple:
    """Returns the same as the cluster has it, and the devices that this process may use."""
    from jax._src.clusters import ClusterEnv

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            found = ClusterEnv.auto_detect_unset_distributed_params(
                os.environ.get("JAX_COORDINATOR_ADDRESS"), None, None, None, None, round(seconds)
            )
        except Exception as error:  # all that the cluster's client raises
            raise ConfigError(f"--distributed: {one_line(error)}") from error
    if None in found[:3]:
        why = "".join(f" ({one_line(warning.message)})" for warning in caught)
        raise ConfigError(
            f"--distributed: this is none of {KNOWN}{why}; elsewhere give --coordinator, "
            "--num_processes and --process_id"
        )
    return found


def _where(args: flags.FlagValues) -> tuple | None:
    """Returns coordinator, number of processes, process_id and devices; None for one process."""
    for name in ("join_seconds", "heartbeat_seconds"):
        if not 1 <= (value := getattr(args, name)) <= 86_400:
            raise ConfigError(problem(f"--{name}", value, "out of range", "1 to 86400"))
    given = _given(args)
    if given is None:
        if not args.distributed:
            return None
        return _detected(args.join_seconds)
    return *given, None


def _tell_jax(peers: Peers, devices: list[int] | None, service: int, seconds: float) -> None:
    """Starts JAX's coordination service in process 0, and its client in all."""
    address = f"127.0.0.1:{service}"
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        address,
        peers.count,
        peers.index,
        local_device_ids=devices,
        coordinator_bind_address=address,
        initialization_timeout=round(seconds),
        heartbeat_timeout_seconds=NO_HEARTBEAT,
    )


@contextlib.contextmanager
def joined(args: flags.FlagValues) -> Iterator[None]:
    """Makes this one of several processes for the block, if the flags say so.

    An error in one of them ends all, with its exit code; one that dies ends the others with 75.

    Raises:
        ConfigError: the flags are wrong, or name processes that do not fit together.
        Interrupted: the others have not come in time.
    """
    where = _where(args)
    if where is None or where[1] == 1:
        yield
        return
    coordinator, count, index, devices = where
    address, service = connections.parse_address(coordinator), connections.free_port()
    peers = Peers(
        address,
        index,
        count,
        join_seconds=args.join_seconds,
        heartbeat_seconds=args.heartbeat_seconds,
        service_port=service,
    )
    set_current(peers)
    seconds = getattr(args, "watchdog_seconds", HUNG_SECONDS)
    last_wait = contextlib.ExitStack()
    try:
        service = connections.shielded(*address) if index else service
        _tell_jax(peers, devices, service, args.join_seconds)
        yield
        last_wait.enter_context(Watchdog(seconds, lambda _: None))  # for others that hang now
        peers.gather("the end", None)
    except BaseException as error:
        code, why = describe(error)
        if not isinstance(error, RunError | SystemExit | KeyboardInterrupt):
            # A collective or a barrier that failed because of another process that did. It may
            # take a while until a machine counts as dead; other errors are our own.
            is_collective = isinstance(error, jax.errors.JaxRuntimeError)
            peers.end_if_another_has(args.heartbeat_seconds if is_collective else 2.0)
        peers.leave(code, why)
        if code:
            # JAX would wait for the others to end in good order.
            atexit.register(end_now, code)
            raise
    else:
        peers.leave(0)
    with last_wait:
        jax.distributed.shutdown()
    set_current(None)
