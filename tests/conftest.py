"""Settings of the whole test run, and a run small enough to train in seconds."""

import contextlib
import dataclasses
import gc
import os
import platform
import runpy
import signal
import sys
from importlib.metadata import version
from pathlib import Path

# Before jax is imported anywhere, and for the processes that tests start.
# The CPU, as eight simulated devices.
os.environ["JAX_PLATFORMS"] = "cpu"
flags = [os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=8"]
if not os.environ.get("FULL_OPTIMIZATION"):
    # Optimizing code that runs for milliseconds would take most of the time. .ci/run repeats the
    # tests of exactness with what a real run has.
    flags.append("--xla_backend_optimization_level=0")
    if version("jaxlib").startswith("0.10."):  # later ones lack the flag
        flags.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join(flags)
# Compiled programs are shared by all tests, their processes, and the next run; the key has program,
# flags and version of jaxlib, but not what the processor can do.
ROOT = Path(__file__).parents[1]
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".jax_cache" / platform.node()))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

# Ctrl-C and SIGQUIT are ignored where a script starts this in the background, SIGHUP under nohup;
# then also in what tests start.
with contextlib.suppress(ValueError):  # not the main thread
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in ("HUP", "QUIT", "USR1", "USR2", "XCPU", "TERM"):
        number = getattr(signal, f"SIG{name}")
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)

import pytest
from absl import app
from absl.testing import flagsaver

from configs import digits_nest

# Traced programs are millions of objects, which Python would look through again and again.
gc.set_threshold(50_000, 20, 100)


def pytest_configure(config):
    if sys.platform != "linux":
        others = config.option.markexpr
        config.option.markexpr = f"({others}) and not linux" if others else "not linux"


@pytest.fixture(scope="session", autouse=True)
def no_curves():
    """Leaves curves.png out, which takes most of a second; runs by command line draw it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.reporting.draw_curves", lambda *_: None)
        yield


@pytest.fixture
def small_config():
    """A two-level NesT on 8x8 digits, 20 steps, with all that a state can hold switched on."""
    config = digits_nest.get_config()
    config.model.update(
        patch_size=1, dims=(16, 32), depths=(1, 1), num_heads=(2, 2), drop_path_rate=0.2
    )
    config.model.dropout_rate = 0.1
    config.data.update(image_size=8, batch_size=32, eval_batch_size=64, train_split="train[:160]")
    config.data.eval_split = "test[:101]"  # a prime number: the last batch is padded
    config.task.ema_decay = 0.9
    config.optimizer.update(base_lr=1e-2, warmup_epochs=1.0)
    config.mesh.data = 1
    config.loop.update(
        num_epochs=4.0, log_every_steps=3, evaluate_every_epochs=1.0, save_every_epochs=1.4
    )
    return config


@pytest.fixture
def run_script(monkeypatch, capsys):
    """Runs a script as its command line does, but in this process, which has imported everything.

    Each script has one test that starts a process of its own.
    """

    def run(script, *arguments):
        """Returns the exit code, stdout and stderr."""
        import process.first  # noqa: F401 - first in a script, it would take over this process

        app.define_help_flags()  # once for all: absl does not define them again
        capsys.readouterr()
        with monkeypatch.context() as patch, flagsaver.flagsaver():
            patch.chdir(ROOT)
            patch.setattr(sys, "argv", [script, *arguments])
            with pytest.raises(SystemExit) as end:
                runpy.run_path(script, run_name="__main__")
        return end.value.code or 0, *capsys.readouterr()

    return run


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """Lets go of compiled programs where they fill the memory: thousands of tests leave 6 GB."""
    yield
    pages = Path("/proc/self/statm")  # Linux
    if pages.exists():
        resident = int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        if resident > 2.5e9:
            import jax

            jax.clear_caches()


@pytest.fixture(scope="session")
def compiled_steps():
    return {}


@pytest.fixture
def compiled_once(monkeypatch, compiled_steps):
    """Lets runs of one config share compiled steps, for tests that train it again and again."""
    from training import experiment

    build = experiment.build

    def build_once(config, **options):
        run, key = build(config, **options), config.to_json(sort_keys=True)
        steps = {"train_step": run.train_step, "eval_step": run.eval_step}
        return dataclasses.replace(run, **compiled_steps.setdefault(key, steps))

    monkeypatch.setattr(experiment, "build", build_once)


@pytest.fixture(scope="session")
def one_device():
    """The environment of a process that sees one device."""
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
    return {**os.environ, "XLA_FLAGS": flags}


@pytest.fixture(scope="session")
def fixtures():
    """The folder of small weights and runs with known answers; its README says who made them."""
    return Path(__file__).parent / "fixtures"


@pytest.fixture(scope="session")
def torch():
    torch = pytest.importorskip("torch")
    torch.set_num_threads(2)
    register_fake = torch.library.register_fake

    def register(name, *args, **kwargs):
        """Leaves out torchvision's C++ operators, which its wheel for another torch lacks."""
        if isinstance(name, str) and name.startswith("torchvision::"):
            return lambda function: function
        return register_fake(name, *args, **kwargs)

    torch.library.register_fake = register
    yield torch
    torch.library.register_fake = register_fake


@pytest.fixture(scope="session")
def timm(torch):
    return pytest.importorskip("timm")
