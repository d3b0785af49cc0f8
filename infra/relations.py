"""The door of DuckDB: SQL over Arrow datasets, with memory that is capped, spilling to a temporary folder. Nothing is fetched."""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.dataset as pads

from infra import scratch, storage
from infra.dataset import of_files

MEMORY_BYTES = 1_000_000_000
BYTES_PER_THREAD = 128_000_000
"""Each thread of DuckDB needs some memory of its own, spilled or not: with 64 of them 256 MB did not do for sorting 6 million rows."""
BATCH_ROWS = 100_000


class Files(NamedTuple):
    """Parquet files of one store with the same columns, one at least: as a relation all their rows. DuckDB reads local ones itself,
    which takes half the memory of Arrow's reader that reads ahead."""

    paths: Sequence[str]

    def dataset(self) -> pads.Dataset:
        """The same as Arrow has it."""
        found = of_files(self.paths)
        assert found is not None
        return found


SqlError = duckdb.Error
"""What reading or computing here raises."""


@contextmanager
def connected(memory_bytes: int = MEMORY_BYTES, **tables: pads.Dataset | pa.Table | Files) -> Iterator[Any]:
    """A DuckDB connection that knows these tables by name, fetches nothing, and beyond this memory spills to a temporary folder.

    The connections of a process that ask for the same memory share it; what one makes as TEMP is seen by no other.
    """
    with _database(memory_bytes, os.getpid()).cursor() as connection:
        for name, table in tables.items():
            if isinstance(table, Files) and all(storage.is_local(path) for path in table.paths):
                names = ", ".join("'" + storage.locate(path)[1].replace("'", "''") + "'" for path in table.paths)
                connection.execute(
                    f"CREATE TEMP VIEW {quoted(name)} AS SELECT * FROM read_parquet([{names}], hive_partitioning = false)"
                )
            else:
                connection.register(name, table.dataset() if isinstance(table, Files) else table)
        yield connection


@cache
def _database(memory_bytes: int, _process: int) -> duckdb.DuckDBPyConnection:
    """One for all connections of a process with this memory, for its making takes 20 ms; where it spills goes with the process."""
    until_the_end = ExitStack()
    atexit.register(until_the_end.close)
    config = {
        "memory_limit": f"{memory_bytes // 1_000_000}MB",
        "temp_directory": until_the_end.enter_context(scratch.folder("sql")),
        "preserve_insertion_order": False,
        "threads": max(1, min(os.cpu_count() or 1, memory_bytes // BYTES_PER_THREAD)),
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "enable_external_file_cache": False,  # else what was read stays in memory behind the last connection
    }
    return duckdb.connect(config=config)


def batches(connection: Any, query: str) -> Iterator[pa.Table]:
    """The rows of a query in its order, some at a time; first a table without rows, which tells the columns."""
    reader = connection.sql(query).to_arrow_reader(BATCH_ROWS)
    yield reader.schema.empty_table()
    for batch in reader:
        yield pa.table(batch)


def quoted(column: str) -> str:
    """A column's name as SQL takes it, whatever is in it."""
    return '"' + column.replace('"', '""') + '"'
