"""Where and how tensors are computed: resolves `auto` for device and precision, says why, and sets the threads."""

from __future__ import annotations

import logging
import os
import resource
import sys

import torch

from infra.errors import InputError
from tasks.learn.config import Device, Precision

logger = logging.getLogger(__name__)


class NoDevice(InputError):
    """The device that was asked for does not work here."""


def resolve(device: Device) -> tuple[str, str]:
    """The device to use, `cuda` or `cpu`, and the reason in words; the choice is logged.

    Raises:
        NoDevice: `cuda` was asked for and does not work here.
    """
    obstacle = _cuda_obstacle()
    if device == "cuda" and obstacle:
        raise NoDevice(f"device: cuda does not work here: {obstacle}; set device to auto or cpu, or run on a GPU worker")
    if device == "cpu":
        name, reason = "cpu", "asked for by the config"
    elif obstacle:
        name, reason = "cpu", obstacle
    else:
        name, reason = "cuda", torch.cuda.get_device_name()
    logger.info("device %s resolved to %s: %s", device, name, reason)
    return name, reason


def _cuda_obstacle() -> str | None:
    if torch.version.cuda is None and torch.version.hip is None:
        return f"this torch ({torch.__version__}) is built without CUDA"
    if not torch.cuda.is_available():
        return "torch finds no usable CUDA device or driver"
    return None


def use_threads(num_threads: int | None, ranks: int = 1) -> int:
    """Let torch compute on so many CPU threads in this process; None: on its part of the CPUs that it and the other `ranks` may use."""
    if num_threads is None:
        num_threads = max(1, usable_cpus() // ranks)
    torch.set_num_threads(num_threads)
    return num_threads


def usable_cpus() -> int:
    """CPUs that this process may use: containers and job schedulers narrow the affinity, which macOS does not have."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def resolve_precision(precision: Precision, device: str) -> tuple[str, str]:
    """The precision of matrix products on `device`, `bf16` or `fp32`, and the reason in words; the choice is logged."""
    native = torch.cuda.is_bf16_supported(including_emulation=False) if device == "cuda" else _cpu_has_bf16()
    if precision != "auto":
        name, reason = precision, "asked for by the config"
    elif native:
        name, reason = "bf16", f"this {device} computes in bfloat16"
    else:
        name, reason = "fp32", f"this {device} only emulates bfloat16"
    logger.info("precision %s resolved to %s: %s", precision, name, reason)
    if name == "bf16" and not native:
        # measured on an AVX-512 CPU without it: matrix products 4.8 times slower than float32
        logger.warning("precision bf16 is emulated on this %s: expect training several times slower than with fp32", device)
    return name, reason


def _cpu_has_bf16() -> bool:
    # without oneDNN torch has no fast bfloat16 product, whatever the processor offers
    features = torch.cpu.get_capabilities()
    has_onednn = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
    return has_onednn and any(features.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16"))


def autocast(device: str, precision: str) -> torch.autocast:
    """A context in which matrix products run in `precision` (resolved); it must be entered anew for each forward pass."""
    return torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bf16")


def peak_memory_bytes(device: str) -> int:
    """The most memory that this process held so far; on a GPU, what torch held there."""
    if device == "cuda":
        return int(torch.cuda.max_memory_allocated())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB
