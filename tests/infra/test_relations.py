"""DuckDB over files and tables: what it reads, and that little memory changes nothing."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest

from infra.dataset import part_paths
from infra.relations import Files, connected


def test_files_of_a_folder_are_read_whatever_it_is_called(tmp_path: Path) -> None:
    folder = tmp_path / "number=3" / "its 'name'"  # and not as Hive would read it
    folder.mkdir(parents=True)
    for part in range(2):
        pq.write_table(pa.table({"number": [part, part + 10]}), folder / f"part-{part}.parquet")
    paths = part_paths(str(folder))
    later = pads.dataset(paths).filter(pc.field("number") > 1)
    with connected(rows=Files(paths), later=later, more=pa.table({"number": [11, 99]})) as sql:
        assert sql.sql("SELECT number FROM rows ORDER BY number").fetchall() == [(0,), (1,), (10,), (11,)]
        assert sql.sql("SELECT number FROM later ORDER BY number").fetchall() == [(10,), (11,)]
        assert sql.sql("SELECT number FROM rows SEMI JOIN more USING (number)").fetchall() == [(11,)]


def test_what_does_not_fit_in_memory_is_spilled_and_sorted_all_the_same(tmp_path: Path) -> None:
    number = np.random.default_rng(0).permutation(4_000_000)  # 64 MB with its texts
    pq.write_table(pa.table({"number": number}), tmp_path / "part-0.parquet")
    with connected(40_000_000, rows=Files(part_paths(str(tmp_path)))) as sql:
        ranked = sql.sql("SELECT number FROM (SELECT DISTINCT number, number::VARCHAR AS name FROM rows) ORDER BY number")
        assert (ranked.to_arrow_table()["number"].to_numpy() == np.arange(4_000_000)).all()


def test_little_memory_has_few_threads_on_however_large_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    threads = []
    for memory_bytes in (41_000_000, 257_000_000, 1_001_000_000):  # of which no other test has a database
        with connected(memory_bytes) as sql:
            threads += sql.sql("SELECT current_setting('threads')").fetchall()
    assert threads == [(1,), (2,), (7,)]


def test_connections_of_a_process_share_a_database_and_see_nothing_of_each_other(tmp_path: Path) -> None:
    with connected(rows=pa.table({"number": [1]})) as one, connected(rows=pa.table({"number": [2]})) as other:
        one.execute("CREATE TEMP TABLE kept AS SELECT * FROM rows")
        other.execute("CREATE TEMP TABLE kept AS SELECT * FROM rows")
        assert (one.sql("FROM kept").fetchall(), other.sql("FROM kept").fetchall()) == ([(1,)], [(2,)])
    with connected() as later:
        assert later.sql("SELECT table_name FROM duckdb_tables()").fetchall() == []
        assert later.sql("SELECT sum(memory_usage_bytes) FROM duckdb_memory()").fetchall() == [(0,)]
