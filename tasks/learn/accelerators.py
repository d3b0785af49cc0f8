"""What computes: published figures of common GPUs, and what was measured of this machine. Imports no torch before it measures."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple, cast

from tasks.learn.config import Device, Precision


class Accelerator(NamedTuple):
    """One device that trains."""

    name: str
    kind: Literal["cpu", "cuda"]
    precision: Literal["bf16", "fp32"]
    """Of matrix products."""
    peak_flops: float
    """Floating-point operations a second of dense matrix products in that precision."""
    memory_bytes: int
    watts: float | None
    """Power of the board alone, without the machine around it; None: not known."""
    mfu: float
    """Share of the peak that training reaches where nothing better is known (see docs/plan.md)."""
    source: str


GPU_MFU = 0.40
"""41 to 46 % for 1B to 7B on H100 (LLM Foundry), 33 to 39 % for 8B (torchtitan), 41 % for a small one (nanochat): docs/plan.md."""
CPU_MFU = {"bf16": 0.4, "fp32": 0.6}
"""Measured for 1M to 31M parameters without torch.compile on a processor with AVX-512: 41 to 60 % and 72 %; with AMX, whose peak is
higher, 20 %: docs/plan.md."""


def _gpu(name: str, peak_flops: float, memory_bytes: int, watts: float, source: str) -> Accelerator:
    return Accelerator(name, "cuda", "bf16", peak_flops, memory_bytes, watts, GPU_MFU, source)


# Tensor cores, bfloat16 with float32 sums, without sparsity, which doubles the figures of some data sheets; the maker's TDP
GPUS = {
    "a100": _gpu("A100 80 GB SXM", 312e12, 80 * 10**9, 400, "NVIDIA A100 data sheet"),
    "a100-40": _gpu("A100 40 GB SXM", 312e12, 40 * 10**9, 400, "NVIDIA A100 data sheet"),
    "h100": _gpu("H100 80 GB SXM", 989e12, 80 * 10**9, 700, "NVIDIA H100 data sheet, half of the sparse figure"),
    "h100-pcie": _gpu("H100 80 GB PCIe", 756e12, 80 * 10**9, 350, "NVIDIA H100 data sheet, half of the sparse figure"),
    "h200": _gpu("H200 141 GB SXM", 989e12, 141 * 10**9, 700, "NVIDIA H200 data sheet, half of the sparse figure"),
    "b200": _gpu("B200 180 GB", 2250e12, 180 * 10**9, 1000, "NVIDIA Blackwell data sheet, half of the sparse figure"),
    "l4": _gpu("L4 24 GB", 121e12, 24 * 10**9, 72, "NVIDIA L4 data sheet, half of the sparse figure"),
    "l40s": _gpu("L40S 48 GB", 362e12, 48 * 10**9, 350, "NVIDIA L40S data sheet"),
    "a10": _gpu("A10 24 GB", 125e12, 24 * 10**9, 150, "NVIDIA A10 data sheet"),
    "rtx3090": _gpu("RTX 3090 24 GB", 71e12, 24 * 10**9, 350, "NVIDIA Ampere GA102 whitepaper, appendix A"),
    "rtx4090": _gpu("RTX 4090 24 GB", 165.2e12, 24 * 10**9, 450, "NVIDIA Ada whitepaper, appendix A"),
    "mi300x": _gpu("MI300X 192 GB", 1307e12, 192 * 10**9, 750, "AMD Instinct MI300X data sheet"),
}


def here(device: Device, precision: Precision, num_threads: int | None, cache: Path) -> Accelerator:
    """This machine's device as training would resolve it, with its measured peak; takes some seconds, most of it the import of torch.

    Raises:
        NoDevice: CUDA was asked for and does not work.
    """
    import psutil
    import torch

    from tasks.learn import device as devices
    from tasks.learn.peak import matmul_peak

    kind = cast(Literal["cpu", "cuda"], devices.resolve(device)[0])
    narrow = cast(Literal["bf16", "fp32"], devices.resolve_precision(precision, kind)[0])
    threads = devices.use_threads(num_threads)
    peak = matmul_peak(kind, narrow, threads, cache)
    if kind == "cuda":
        gpu = torch.cuda.get_device_properties(0)
        return Accelerator(f"this {gpu.name}", kind, narrow, peak, int(gpu.total_memory), None, GPU_MFU, "measured here")
    memory = int(psutil.virtual_memory().total)
    return Accelerator(f"this CPU, {threads} threads", kind, narrow, peak, memory, None, CPU_MFU[narrow], "measured here")
