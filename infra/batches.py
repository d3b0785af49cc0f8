"""Arrow batches in files, each of which is read alone: what one pass of a step leaves for the next, and too much to be packed for that.

Nothing is compressed, so a batch of a local file is not even copied: it is mapped, and lives as long as somebody looks at it.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from infra import storage

AHEAD_BYTES = 1 << 20
"""Read at a time from a store that is elsewhere, where one batch of many is asked for."""


def write_batches(path: str, schema: pa.Schema, batches: Sequence[pa.RecordBatch]) -> None:
    """Write batches to one file, atomically."""
    with storage.open_write(path) as handle, pa.ipc.new_file(handle, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)


def read_batch(path: str, place: int) -> pa.RecordBatch:
    """The batch at this place of a file, without the others.

    Raises:
        StorageError: no such file, or not one of batches, such as one that was cut off.
    """
    try:
        if storage.is_local(path) and storage.exists(path):
            return pa.ipc.open_file(pa.memory_map(storage.locate(path)[1])).get_batch(place)
        with storage.open_read(path, AHEAD_BYTES) as handle, storage.asking(path):
            return pa.ipc.open_file(handle).get_batch(place)
    except pa.ArrowInvalid as error:
        raise storage.StorageError(f"{path}: not a file of Arrow batches ({error})") from error
