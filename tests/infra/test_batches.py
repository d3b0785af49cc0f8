"""Arrow batches in files: each is read alone, from a disk or from a store that is elsewhere."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pyarrow as pa
import pytest

from infra.batches import read_batch, write_batches
from infra.storage import StorageError

SCHEMA = pa.schema([("node", pa.int64()), ("shingles", pa.large_list(pa.uint64()))])
WHOLE = pa.record_batch([[1, 2, 3, 4], [[5], [], [6, 2**64 - 1], [7]]], schema=SCHEMA)


@pytest.mark.parametrize("where", ["disk", "memory"])
def test_each_batch_is_read_as_it_was_written(where: str, tmp_path: Path) -> None:
    path = f"{tmp_path}/sets.arrow" if where == "disk" else f"memory://{tmp_path.name}/sets.arrow"
    write_batches(path, SCHEMA, [WHOLE.slice(0, 1), WHOLE.slice(1, 0), WHOLE.slice(1, 3)])
    assert [read_batch(path, place).to_pylist() for place in (2, 0, 1)] == [WHOLE.to_pylist()[1:], WHOLE.to_pylist()[:1], []]
    if where == "memory":
        fsspec.filesystem("memory").rm(f"/{tmp_path.name}", recursive=True)


def test_a_file_that_is_not_there_or_not_whole_is_named(tmp_path: Path) -> None:
    path = tmp_path / "sets.arrow"
    with pytest.raises(StorageError, match=r"sets\.arrow: no such file"):
        read_batch(str(path), 0)
    write_batches(str(path), SCHEMA, [WHOLE])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(StorageError, match=r"sets\.arrow: not a file of Arrow batches"):
        read_batch(str(path), 0)
