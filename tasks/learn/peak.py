"""The highest speed of matrix products on this device, measured once in under a second and kept.

It is what a training's use of the machine is told against: MFU = flops_per_token x tokens per second / peak of all ranks together, which on
GPUs is that of one times their number, and on a CPU that of one product on the threads of all. Published peaks are no measure for a CPU,
whose speed depends on threads, precision and library. The best of several products counts, so that a busy machine
errs little; the figure is kept by device, precision, threads and version of torch.
"""

from __future__ import annotations

import json
import logging
import platform
import tempfile
import time
from collections.abc import Iterator
from functools import cache as once
from pathlib import Path

import torch

logger = logging.getLogger(__name__)

FILE = "matmul-peak.json"
SIZES = (512, 1024, 2048, 4096, 8192)
"""Rows of the square matrices: a CPU is fastest at 1024 to 4096, a large GPU at 8192."""
MAX_SECONDS = 0.8
NUM_PRODUCTS = 4
"""Of each size, behind one that sets up the library."""
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def matmul_peak(device: str, precision: str, num_threads: int, cache: Path | None) -> float:
    """Floating-point operations per second of the fastest square matrix product.

    Args:
        device: `cuda` or `cpu`, as `device.resolve` gives it.
        precision: `bf16` or `fp32`, as `device.resolve_precision` gives it.
        num_threads: CPU threads that a product may use; on a GPU they do not matter.
        cache: folder of the file in which measurements of this machine are kept; None: this process alone keeps it.
    """
    key = " · ".join((_name(device), precision, *([f"{num_threads} threads"] if device == "cpu" else []), torch.__version__))
    known = _read(cache)
    if key not in known:
        known[key] = _measured_once(device, precision, num_threads)
        logger.info("matmul peak of %s: %.3g FLOP/s", key, known[key])
        if cache is not None:
            _write(cache, key, known[key])
    return known[key]


def measured(device: str, precision: str, num_threads: int) -> float:
    """The same, measured now."""
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        began, best = time.perf_counter(), 0.0
        for size in SIZES:
            seconds = _products(device, precision, size)
            next(seconds)
            fastest = min(next(seconds) for _ in range(NUM_PRODUCTS))
            best = max(best, 2 * size**3 / fastest)
            # the next size has eight times as much to do
            if time.perf_counter() - began + 8 * (NUM_PRODUCTS + 1) * fastest > MAX_SECONDS:
                break
        return best
    finally:
        torch.set_num_threads(before)


_measured_once = once(measured)


def _products(device: str, precision: str, size: int) -> Iterator[float]:
    """Seconds of one product after the other; the global random state is kept."""
    made = torch.Generator(device).manual_seed(1)
    # zeros would be faster: some processors draw less power for them, and so clock higher
    left, right = (torch.randn(size, size, generator=made, device=device).to(DTYPES[precision]) for _ in range(2))
    out = torch.empty_like(left)
    while True:
        began = time.perf_counter()
        torch.mm(left, right, out=out)
        if device == "cuda":
            torch.cuda.synchronize()
        yield time.perf_counter() - began


def _name(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    told = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in told if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def _read(cache: Path | None) -> dict[str, float]:
    if cache is None or not (cache / FILE).exists():
        return {}
    try:
        return {str(key): float(value) for key, value in json.loads((cache / FILE).read_text("utf-8")).items()}
    except (ValueError, AttributeError):  # cut off or written by hand: measured again
        return {}


def _write(cache: Path, key: str, peak: float) -> None:
    """Add one figure; of two processes that add at the same time one may win, and the other measures again."""
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=cache, delete=False, encoding="utf-8") as file:
        json.dump({**_read(cache), key: peak}, file, indent=1, sort_keys=True)
    Path(file.name).replace(cache / FILE)
