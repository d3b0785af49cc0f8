"""The bytes of Arrow's strings as kernels read them. No kernel is here, so that importing it compiles none."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]


def string_buffers(array: pa.Array) -> tuple[Bytes, Ints]:
    """Views `data` (uint8) and `offsets` (int64, len(array) + 1) of a string or large_string array; a null reads as empty.

    `data` is never copied unless there are nulls. Raises ValueError for another type.
    """
    if not (pa.types.is_string(array.type) or pa.types.is_large_string(array.type)):
        raise ValueError(f"text must be a string or large_string array (got {array.type})")
    if array.null_count:
        array = pc.fill_null(array, "")
    width = np.dtype(np.int32 if pa.types.is_string(array.type) else np.int64)
    _, raw_offsets, raw_data = array.buffers()
    data = np.frombuffer(raw_data, np.uint8) if raw_data is not None else np.empty(0, np.uint8)
    if not len(array):
        return data, np.zeros(1, np.int64)
    offsets = np.frombuffer(raw_offsets, width, count=len(array) + 1, offset=array.offset * width.itemsize)
    return data, offsets.astype(np.int64)
