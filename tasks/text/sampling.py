"""Sampling without replacement by a hash of (seed, purpose, doc_id): the same documents for any shards, order and workers.

A document is drawn when its number in [0, 1) is below its keep rate, so a lower rate keeps a subset of what a higher one keeps. How many
are drawn is binomial: of n documents at rate r within 2 standard deviations, 2 √(n r (1 - r)), of n r in 95 of 100 cases.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from numba import njit, types

from infra.ids import digest_of
from tasks.text.buffers import string_buffers

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float64]

_PRIME, _MIX = np.uint64(0x100000001B3), np.uint64(0xFF51AFD7ED558CCD)  # FNV-1a, 64 bits; MurmurHash3's finaliser
_MIX_2 = np.uint64(0xC4CEB9FE1A85EC53)


class ShareError(ValueError):
    """Shares that no sample can have."""


def draws(ids: pa.Array | pa.ChunkedArray, seed: int, purpose: str) -> Floats:
    """(D,) a number in [0, 1) for each id, even and independent of every other id, seed and purpose."""
    numbers: Floats = (hashes(ids, seed, purpose) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return numbers


def hashes(ids: pa.Array | pa.ChunkedArray, seed: int, purpose: str) -> Hashes:
    """(D,) 64 bits for each id, under a seed and for a purpose. Raises ValueError for an array that is not string or large_string."""
    start = np.uint64(int(digest_of("sample", purpose, str(seed))[:16], 16))
    data, offsets = string_buffers(ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids)
    found = np.empty(len(ids), np.uint64)
    hash_ids(data, offsets, start, found)
    return found


def rates_for_shares(sizes: Mapping[str, float], shares: Mapping[str, float]) -> dict[str, float]:
    """The keep rates under which a sample has these shares and is as large as it can be without replacement.

    Args:
        sizes: what there is of every part, in documents or characters.
        shares: wanted shares of parts (each above 0); what they leave goes to the parts not named, in proportion to their sizes.

    Raises:
        ShareError: a part that is not there, shares beyond 1, or a rest with nothing or nobody to have it.
    """
    for name in shares:
        if not sizes.get(name):
            there = ", ".join(sorted(other for other, size in sizes.items() if size)) or "none"
            raise ShareError(f"{name}: there is none (there are: {there})")
    rest, others = 1 - sum(shares.values()), sum(size for name, size in sizes.items() if name not in shares)
    if rest < -1e-9:
        raise ShareError(f"the shares add up to {1 - rest:.4g}; at most 1 is possible")
    if rest > 1e-9 and not others:
        raise ShareError(f"the shares add up to {1 - rest:.4g} and there is nothing beside them; let them add up to 1")
    if rest <= 1e-9 and others:
        left = ", ".join(sorted(name for name, size in sizes.items() if size and name not in shares))
        raise ShareError(f"the shares add up to 1, so nothing would be left of {left}; lower them, or give these a share too")
    wanted = {**shares, **{name: rest * size / others for name, size in sizes.items() if name not in shares and size}}
    whole = min(sizes[name] / share for name, share in wanted.items())
    return {name: min(1.0, share * whole / sizes[name]) for name, share in wanted.items()}


@njit(types.void(types.Array(types.uint8, 1, "C", readonly=True), types.int64[::1], types.uint64, types.uint64[::1]), cache=True)
def hash_ids(data: Bytes, offsets: Ints, start: np.uint64, found: Hashes) -> None:
    """Writes the hash of every string: FNV-1a from `start` on, then both multiplications of MurmurHash3's finaliser."""
    for d in range(offsets.size - 1):
        state = start
        for pos in range(offsets[d], offsets[d + 1]):
            state = (state ^ np.uint64(data[pos])) * _PRIME
        state = (state ^ (state >> np.uint64(33))) * _MIX
        state = (state ^ (state >> np.uint64(33))) * _MIX_2
        found[d] = state ^ (state >> np.uint64(33))


def compile_kernels() -> None:
    """Compiles the kernel into numba's cache beside this file (importing does most of it) and runs it once."""
    draws(pa.array(["a"]), 0, "nothing")
