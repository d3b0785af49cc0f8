"""Versions: exists means complete, shards are read only with their digest, and nothing mixes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra import dataset, storage
from infra.dataset import Counts, Outcome


def table_of(ids: list[str]) -> pa.Table:
    return pa.table({"doc_id": ids, "text": [f"text of {one}" for one in ids]})


def sealed(folder: Path, *tables: pa.Table) -> dataset.ShardSet:
    receipts = [dataset.write_shard(str(folder), index, Outcome(table)) for index, table in enumerate(tables)]
    manifest = dataset.seal(
        str(folder), step="made", schema_name="documents", recipe={"step": "made"}, receipts=receipts, files=[], facts={}
    )
    return dataset.shard_set(str(folder), manifest)


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    version = sealed(tmp_path, table_of(["a", "b"]), table_of(["c"]))
    assert [shard.read().to_pylist() for shard in version.shards()] == [
        table_of(["a", "b"]).to_pylist(),
        table_of(["c"]).to_pylist(),
    ]
    assert version.counts == Counts(total=3, kept=3)


def test_equal_tables_give_equal_digests_in_any_folder(tmp_path: Path) -> None:
    one, two = sealed(tmp_path / "one", table_of(["a"])), sealed(tmp_path / "two", table_of(["a"]))
    assert one.digest == two.digest
    assert one.digest != sealed(tmp_path / "three", table_of(["b"])).digest


def test_digests_are_blake3_and_older_versions_have_theirs_in_blake2b(tmp_path: Path) -> None:
    assert dataset.bytes_digest(b"") == "af1349b9f5f9a1a6a0404dea36dcc949"  # the first of BLAKE3's published test vectors
    path = tmp_path / "part-00000.parquet"
    new = dataset.write_shard(str(tmp_path), 0, Outcome(table_of(["a"])))
    older = new.model_copy(update={"digest": hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()})
    assert older.digest != new.digest
    for receipt in (older, new):
        manifest = dataset.seal(
            str(tmp_path), step="made", schema_name="documents", recipe={}, receipts=[receipt], files=[], facts={}
        )
        version = dataset.shard_set(str(tmp_path), manifest)
        assert version.shards()[0].read().to_pylist() == table_of(["a"]).to_pylist()
        assert dataset.damaged(str(tmp_path), manifest) == [] and dataset.is_whole(version, path.name)
    path.write_bytes(path.read_bytes() + b" ")
    assert dataset.damaged(str(tmp_path), manifest) == [path.name]


def test_a_flipped_byte_is_found_when_the_shard_is_read(tmp_path: Path) -> None:
    version = sealed(tmp_path, table_of(["a", "b"]))
    path = tmp_path / "part-00000.parquet"
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    with pytest.raises(dataset.ShardCorrupt, match=r"part-00000\.parquet: digest .* run again"):
        version.shards()[0].read()


def test_a_version_without_its_manifest_does_not_exist(tmp_path: Path) -> None:
    version = sealed(tmp_path, table_of(["a"]))
    assert dataset.find(str(tmp_path), version.version) is not None
    (tmp_path / "manifest.json").unlink()
    assert dataset.find(str(tmp_path), version.version) is None


def test_a_version_with_a_missing_or_cut_shard_is_not_complete(tmp_path: Path) -> None:
    version = sealed(tmp_path, table_of(["a"]), table_of(["b"]))
    path = tmp_path / "part-00001.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    assert dataset.find(str(tmp_path), version.version) is None
    assert list(dataset.finished_shards(str(tmp_path), 2)) == [0]


def test_another_recipe_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    sealed(tmp_path, table_of(["a"]))
    with pytest.raises(dataset.VersionConflict, match="another recipe"):
        dataset.find(str(tmp_path), "0123456789abcdef")


def test_an_unknown_manifest_format_is_refused(tmp_path: Path) -> None:
    sealed(tmp_path, table_of(["a"]))
    path = tmp_path / "manifest.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 9'))
    with pytest.raises(storage.StorageError, match="manifest format 9; this code reads 1"):
        dataset.read_manifest(str(tmp_path))


def test_drops_are_counted_by_their_rule(tmp_path: Path) -> None:
    rejects = dataset.rejects_table(
        [{"doc_id": "a", "rule": "short"}, {"doc_id": "b", "rule": "short"}, {"doc_id": "c", "rule": "long"}]
    )
    receipt = dataset.write_shard(str(tmp_path), 0, Outcome(table_of(["d"]), rejects))
    assert receipt.counts == Counts(total=4, kept=1, dropped={"long": 1, "short": 2})


def test_an_interrupted_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = str(tmp_path / "file")
    storage.write_bytes(path, b"old")
    with pytest.raises(KeyboardInterrupt), storage.open_write(path) as handle:
        handle.write(b"new, but not whole")
        raise KeyboardInterrupt
    assert storage.read_bytes(path) == b"old"
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_a_version_below_the_store_travels_by_its_relative_path(home: Path) -> None:
    version = sealed(home / "store" / "made" / "v1", table_of(["a"]))
    assert version.path == "made/v1"
    assert Path(version.folder) == home / "store" / "made" / "v1"


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.integers(0, 9)), max_size=5))
def test_counts_sum_the_same_in_any_order(drops: list[dict[str, int]]) -> None:
    many = [Counts(total=sum(one.values()) + 1, kept=1, dropped=one) for one in drops]
    forward = Counts.summed(many)
    assert forward == Counts.summed(reversed(many))
    assert forward.total == forward.kept + sum(forward.dropped.values())
