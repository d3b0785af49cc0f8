"""Parquet files of any maker, in parts of bounded size: what is judged where no dataset version stands behind the rows.

Row groups are read a hundred thousand rows at a time and only in the columns that are asked for, so memory follows neither the size of a
file nor that of its row groups.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from infra import storage
from infra.dataset import MANIFEST
from infra.errors import InputError

# a part is one worker's task: some seconds of work, and none waits long for the last one
PART_ROWS = 1 << 20
BATCH_ROWS = 1 << 17


@dataclass(frozen=True)
class Part:
    """Some row groups of one file."""

    path: str
    groups: tuple[int, ...]
    schema: pa.Schema
    """Of all files together."""

    def batches(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Its rows; a column that only other files have is null here.

        Raises:
            InputError: the file is damaged.
        """
        try:
            with storage.open_read(self.path) as handle:
                file = pq.ParquetFile(handle)
                names = [name for name in columns if name in file.schema_arrow.names]
                for batch in file.iter_batches(BATCH_ROWS, row_groups=list(self.groups), columns=names):
                    table = pa.Table.from_batches([batch])
                    for name in columns:
                        if name not in names and name in self.schema.names:
                            field = self.schema.field(name)
                            table = table.append_column(field, pa.nulls(len(table), field.type))
                    yield table
        except pa.ArrowException as error:
            raise InputError(f"{self.path}: {error}; is it damaged?") from error


@dataclass(frozen=True)
class Tables:
    """The files below one path, as one table."""

    rows: pads.Dataset
    parts: tuple[Part, ...]
    num_rows: int


def open_tables(path: str) -> Tables:
    """A Parquet file, or all of a folder; of a dataset version its shards alone, without rejects.

    Raises:
        InputError: nothing there, no Parquet, or files whose columns differ in type.
    """
    system, _ = storage.locate(path)
    schemas: list[pa.Schema] = []
    pieces: list[tuple[str, tuple[int, ...]]] = []
    num_rows = 0
    files = _files(path)
    for file in files:
        try:
            with storage.open_read(file) as handle:
                metadata = pq.read_metadata(handle)
            schemas.append(metadata.schema.to_arrow_schema())
            schema = pa.unify_schemas([schemas[0], schemas[-1]])
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise InputError(f"{file}: {str(error).rstrip('.')}; give Parquet files of one kind") from error
        schemas[0] = schema
        pieces += [(file, groups) for groups in _grouped(metadata)]
        num_rows += metadata.num_rows
    names = files if storage.is_local(path) else [storage.locate(file)[1] for file in files]
    rows = pads.dataset(names, schema=schemas[0], format="parquet", filesystem=None if storage.is_local(path) else system)
    return Tables(rows, tuple(Part(file, groups, schemas[0]) for file, groups in pieces), num_rows)


def _files(path: str) -> list[str]:
    system, name = storage.locate(path)
    if not system.exists(name):
        raise InputError(f"{path}: no such file or folder")
    if system.isfile(name):
        return [path]
    inside = [found[len(name) :].strip("/") for found in system.find(name)]
    if MANIFEST in inside:  # a version: the rest is its rejects, and what it was made by way of or keeps beside its shards
        inside = [one for one in inside if one.startswith("part-") and "/" not in one]
    kept = [one for one in inside if one.endswith(".parquet") and not any(part[0] in "._" for part in one.split("/"))]
    if not kept:
        raise InputError(f"{path}: no Parquet file in it (*.parquet)")
    return [posixpath.join(path, one) for one in sorted(kept)]


def _grouped(metadata: pq.FileMetaData) -> Iterator[tuple[int, ...]]:
    """The row groups of a file, cut where PART_ROWS are reached; a file without rows is one part without groups."""
    groups: list[int] = []
    rows = 0
    for number in range(metadata.num_row_groups):
        groups.append(number)
        rows += metadata.row_group(number).num_rows
        if rows >= PART_ROWS:
            yield tuple(groups)
            groups, rows = [], 0
    if groups or not metadata.num_row_groups:
        yield tuple(groups)
