"""An order that is computed and never stored: a keyed permutation of range(size), asked for place by place.

A small Feistel network over (seed, epoch, index). Any place can be asked for at any time, in no memory. Costs about 0.1 us a place.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit, types

Indices = npt.NDArray[np.int64]

# Four rounds make a Feistel network a pseudo-random permutation in both directions (Luby and Rackoff 1988)
NUM_ROUNDS = 4
_MASK_64 = (1 << 64) - 1
# splitmix64's step and finaliser (Steele, Lea, Flood 2014)
_GOLDEN, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def permuted(index: Indices, size: int, seed: int, epoch: int) -> Indices:
    """Where the seeded permutation of range(size) puts each of `index` (any shape); a bijection for every (seed, epoch).

    Args:
        seed: below 2**32; higher bits are not heard.
    """
    keys = np.array([mixed((seed << 32) ^ (epoch << 4) ^ number) for number in range(NUM_ROUNDS)], np.uint64)
    flat = np.ascontiguousarray(index, np.int64).ravel()
    return _permute(flat, size, max(1, ((size - 1).bit_length() + 1) // 2), keys).reshape(index.shape)


def shuffled(first: int, count: int, size: int, seed: int) -> Indices:
    """Items (count,) of range(size) at the places first, first + 1, … of an endless row of epochs, each in an order of its own."""
    place = np.arange(first, first + count, dtype=np.int64)
    return in_epochs(place, size, seed)


def in_epochs(place: Indices, size: int, seed: int) -> Indices:
    """The same for any places."""
    epochs = place // size
    item = np.empty(len(place), np.int64)
    for epoch in np.unique(epochs).tolist():
        chosen = epochs == epoch
        item[chosen] = permuted(place[chosen] - epoch * size, size, seed, epoch)
    return item


def mixed(value: int) -> int:
    """64 bits in which every bit of `value` is felt: splitmix64."""
    value = (value * _GOLDEN + _GOLDEN) & _MASK_64
    value = ((value ^ (value >> 30)) * _FIRST) & _MASK_64
    value = ((value ^ (value >> 27)) * _SECOND) & _MASK_64
    return value ^ (value >> 31)


@njit(types.int64[::1](types.int64[::1], types.int64, types.int64, types.uint64[::1]), cache=True, nogil=True)
def _permute(index: Indices, size: int, half_bits: int, keys: npt.NDArray[np.uint64]) -> Indices:
    """The network permutes a power of 4 of at most 4 * size: values outside walk on until they fall inside."""
    shift, end = np.uint64(half_bits), np.uint64(size)
    half = (np.uint64(1) << shift) - np.uint64(1)
    found = np.empty(index.size, np.int64)
    for place in range(index.size):
        value = np.uint64(index[place])
        while True:
            left, right = value >> shift, value & half
            for key in keys:
                spread = right ^ key
                spread = (spread ^ (spread >> np.uint64(30))) * np.uint64(_FIRST)
                spread = (spread ^ (spread >> np.uint64(27))) * np.uint64(_SECOND)
                left, right = right, left ^ ((spread ^ (spread >> np.uint64(31))) & half)
            value = (left << shift) | right
            if value < end:
                break
        found[place] = np.int64(value)
    return found


def compile_kernels() -> None:
    """Compiles the kernel into numba's cache beside this file (importing does most of it) and runs it once."""
    permuted(np.zeros(1, np.int64), 1, 0, 0)
