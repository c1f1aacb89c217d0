"""timm's models in PyTorch as contenders: eager, and compiled by torch.compile."""

import contextlib
import os
import time
from collections.abc import Iterator
from typing import Any

import jax

from benchmarks.jax_steps import LEARNING_RATE, Work
from benchmarks.model_speed import Contender
from harness.errors import ConfigError, one_line

INSTALL = "pip install torch timm"
# Ours -> timm's with the same layers and widths.
NAMES = {
    **{f"nest_{size}_s196_224": f"nest_{size}" for size in ("tiny", "small", "base")},
    **{f"tnt_{size}_patch16_224": f"tnt_{size}_patch16_224" for size in ("s", "b")},
    "deit_ti_patch16_224": "deit_tiny_patch16_224",
    "deit_s_patch16_224": "deit_small_patch16_224",
    "deit_b_patch16_224": "deit_base_patch16_224",
    "resnet50": "resnet50",
}
MODES = {"eager": False, "compiled": True}


def num_threads() -> int:
    """Returns the threads that both sides compute with on a CPU: all cores of this process.

    JAX takes those by itself; PyTorch is told to.
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def contenders(work: Work) -> Iterator[Contender]:
    """Yields timm's model eager and compiled, on the kind of device that JAX uses.

    In bfloat16 it runs under autocast, its parameters in float32 like ours. AdamW is the fused one.

    Raises:
        ConfigError: timm has no such model, or is not installed, or its PyTorch has no such device.
    """
    if work.model not in NAMES:
        allowed = ", ".join(NAMES)
        raise ConfigError(f"--against=timm: it has no {work.model!r}; allowed: {allowed}")
    torch, timm = _import_timm()
    device = "cuda" if jax.default_backend() in ("gpu", "cuda") else jax.default_backend()
    if device not in ("cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
        raise ConfigError(f"--against=timm: this PyTorch does not run on {device!r}")
    torch.set_num_threads(num_threads())
    torch.set_float32_matmul_precision("high")  # as XLA's default on a GPU
    for mode in MODES:
        yield _contender(torch, timm, work, device, mode)


def _import_timm() -> tuple[Any, Any]:
    try:
        import torch

        register = torch.library.register_fake

        def without_torchvision(name, *args, **options):
            """Leaves out torchvision's C++ operators: its wheel may be for another PyTorch."""
            if isinstance(name, str) and name.startswith("torchvision::"):
                return lambda function: function
            return register(name, *args, **options)

        torch.library.register_fake = without_torchvision  # timm needs none of them
        try:
            import timm
        finally:
            torch.library.register_fake = register
    except (ImportError, RuntimeError, AttributeError) as error:
        raise ConfigError(f"--against=timm needs {INSTALL} ({one_line(error)})") from error
    return torch, timm


def _contender(torch: Any, timm: Any, work: Work, device: str, mode: str) -> Contender:
    torch.manual_seed(0)
    height, width, channels = work.image_shape
    options = {"in_chans": channels, "num_classes": work.num_classes}
    if (height, width) != (224, 224):
        options["img_size"] = (height, width)
    if work.kind == "train":
        options["drop_path_rate"] = 0.0
    model = timm.create_model(NAMES[work.model], **options).to(device)
    model.train(work.kind == "train")
    images = torch.randn(work.batch_size, channels, height, width, device=device)
    call = torch.compile(model) if MODES[mode] else model
    dtype = getattr(torch, work.dtype)

    def autocast():
        if dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(device, dtype)

    def wait():
        if device == "cuda":
            torch.cuda.synchronize()

    if work.kind == "forward":

        def run(steps: int) -> None:
            with torch.inference_mode(), autocast():
                for _ in range(steps):
                    call(images)
            wait()

    else:
        labels = torch.arange(work.batch_size, device=device) % work.num_classes
        optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, fused=True)

        def run(steps: int) -> None:
            for _ in range(steps):
                optimizer.zero_grad(set_to_none=True)
                with autocast():
                    logits = call(images)
                    loss = torch.nn.functional.cross_entropy(logits.float(), labels)
                loss.backward()
                optimizer.step()
            wait()

    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    run(1)
    memory = None
    if device == "cuda":
        peak = torch.cuda.max_memory_allocated()
        memory = {"bytes": peak, "source": "torch.cuda.max_memory_allocated"}
    return Contender(
        name=f"timm {mode}",
        run=run,
        compile_seconds=time.perf_counter() - started,
        parameters=sum(p.numel() for p in model.parameters()),
        memory=memory,
        facts={"timm": NAMES[work.model]},
    )
