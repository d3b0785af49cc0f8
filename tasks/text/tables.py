"""Open hash tables that compiled code looks keys up in; each kernel has its own few lines for that."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt


def _low_bits(key: int, bits: int) -> int:
    return key & ((1 << bits) - 1)


def open_table(
    entries: Mapping[int, int], first_slot: Callable[[int, int], int] = _low_bits, min_bits: int = 10
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int32]]:
    """(key per slot or 0, value per slot) of a table that is at most an eighth full, so that nearly every look is the last.

    A key, of 64 bits and never 0, stands in the slot first_slot(key, bits) of 1 << bits, or in the next free one; the low bits of keys
    that are hashes will do.
    """
    bits = min_bits
    while (1 << bits) < 8 * len(entries):
        bits += 1
    keys, values = np.zeros(1 << bits, np.uint64), np.zeros(1 << bits, np.int32)
    for key, value in entries.items():
        slot = first_slot(key, bits)
        while keys[slot]:
            slot = (slot + 1) & ((1 << bits) - 1)
        keys[slot], values[slot] = key, value
    return keys, values
