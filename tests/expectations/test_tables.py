from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from expectations import tables
from expectations.tables import open_tables
from infra.errors import InputError


def write(path: Path, **columns: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=3)


def test_every_row_is_read_once_in_parts_of_bounded_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "PART_ROWS", 6)
    monkeypatch.setattr(tables, "BATCH_ROWS", 2)
    write(tmp_path / "one.parquet", n=list(range(16)), text=["x"] * 16)
    write(tmp_path / "deeper" / "two.parquet", n=list(range(16, 20)), text=["x"] * 4)
    found = open_tables(str(tmp_path))
    assert found.num_rows == found.rows.count_rows() == 20
    batches = [batch for part in found.parts for batch in part.batches(["n", "nowhere"])]
    assert sorted(value for batch in batches for value in batch["n"].to_pylist()) == list(range(20))
    assert {batch.num_rows <= 2 for batch in batches} == {True} and {tuple(batch.column_names) for batch in batches} == {("n",)}
    assert len(found.parts) == 4


def test_of_a_version_the_shards_alone_and_of_a_folder_no_hidden_file(tmp_path: Path) -> None:
    for name in ("part-00000.parquet", "rejects/part-00000.parquet", ".tmp-1.parquet", "_old/part.parquet"):
        write(tmp_path / name, n=[1])
    assert open_tables(str(tmp_path)).num_rows == 2
    (tmp_path / "manifest.json").write_text("{}")
    assert open_tables(str(tmp_path)).num_rows == 1


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: no such file"):
        open_tables(str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="no Parquet file in it"):
        open_tables(str(tmp_path))
    write(tmp_path / "a.parquet", n=[1])
    write(tmp_path / "b.parquet", n=["one"])
    with pytest.raises(InputError, match=r"b\.parquet: .*give Parquet files of one kind"):
        open_tables(str(tmp_path))
    (tmp_path / "b.parquet").write_text("not Parquet")
    with pytest.raises(InputError, match=r"b\.parquet: .*give Parquet files of one kind"):
        open_tables(str(tmp_path))


def test_a_column_that_only_other_files_have_is_null_in_this_one(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"], "lang": ["en"]}), tmp_path / "0.parquet")
    pq.write_table(pa.table({"text": ["b"]}), tmp_path / "1.parquet")
    rows = [
        row for part in open_tables(str(tmp_path)).parts for table in part.batches(["text", "lang"]) for row in table.to_pylist()
    ]
    assert rows == [{"text": "a", "lang": "en"}, {"text": "b", "lang": None}]
