"""Documents that end their worker: found, named, and left out only when asked."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from infra import cluster, dataset, poison
from infra.cluster import DaskConfig, ShardKilledWorkers, map_shards, pool
from infra.dataset import Outcome, ShardRef, rejects_table, write_table

SCHEMA = pa.schema([("doc_id", pa.string()), ("url", pa.string()), ("source", pa.string()), ("text", pa.string())])


def shard(folder: Path, index: int, texts: list[str]) -> ShardRef:
    rows = [
        {"doc_id": f"{index}-{at:03d}", "url": f"http://host/{index}/{at}", "source": "web", "text": text}
        for at, text in enumerate(texts)
    ]
    path = str(folder / f"part-{index:05d}.parquet")
    digest, _ = write_table(path, pa.Table.from_pylist(rows, schema=SCHEMA))
    return ShardRef(path, digest, index, len(texts))


def crash(pair: tuple[ShardRef, str]) -> Outcome:
    """Work that a document ends: by a signal, by its exit, by all memory; `odd` is an ordinary reject and `error` an ordinary error."""
    documents, suffix = pair
    table = documents.read()
    texts = table["text"].to_pylist()
    if "segfault" in texts or {"half", "other half"} <= set(texts):
        os.kill(os.getpid(), signal.SIGSEGV)
    if "exit" in texts:
        os._exit(3)
    if "memory" in texts:
        hoard = [bytearray(50_000_000) for _ in range(200)]
        assert hoard
    odd = pc.equal(table["text"], "odd")
    rejects = rejects_table({**row, "rule": "odd"} for row in table.filter(odd).select(["doc_id", "url", "source"]).to_pylist())
    kept = table.filter(pc.invert(odd))
    return Outcome(kept.set_column(3, "text", pc.binary_join_element_wise(kept["text"], suffix, "")), rejects)


GOOD = [f"text {number}" for number in range(8)]


def spiked(**bad: int) -> list[str]:
    """Good texts with bad ones at their places."""
    texts = list(GOOD)
    for text, at in bad.items():
        texts[at] = text
    return texts


@pytest.mark.soak
def test_the_documents_that_end_their_process_are_found_with_how(tmp_path: Path) -> None:
    ref = shard(tmp_path, 0, spiked(segfault=1, exit=4, memory=7))
    found = poison.find(crash, (ref, "!"), max_bytes=1_500_000_000)
    assert {one.doc_id: one.how for one in found} == {
        "0-001": "ends it with SIGSEGV",
        "0-004": "ends it with exit code 3",
        "0-007": "takes more than 1.5 GB of memory",
    }
    assert found[0].url.startswith("http://host/0/") and found[0].source == "web"


def test_a_shard_that_does_no_harm_has_none(tmp_path: Path) -> None:
    assert poison.find(crash, (shard(tmp_path, 0, GOOD), "!"), max_bytes=10**10) == []


def test_documents_that_do_harm_only_together_are_not_blamed_alone(tmp_path: Path) -> None:
    texts = list(GOOD)
    texts[2], texts[6] = "half", "other half"
    with pytest.raises(poison.Unfound, match="several together"):
        poison.find(crash, (shard(tmp_path, 0, texts), "!"), max_bytes=10**10)


def test_rows_beside_a_shard_lose_the_same_documents(tmp_path: Path) -> None:
    ref = poison.without((shard(tmp_path, 0, GOOD), "!"), ["0-001", "0-003"])[0]
    places = pa.table({"place": list(range(len(GOOD)))})
    assert ref.beside(places)["place"].to_pylist() == [0, 2, *range(4, 8)]
    assert ref.read(["text"])["text"].to_pylist() == [GOOD[0], GOOD[2], *GOOD[4:]]


@pytest.mark.soak
def test_a_poisoned_document_stops_the_run_by_name_after_the_other_shards_are_done(tmp_path: Path) -> None:
    items = [(shard(tmp_path, index, spiked(segfault=5) if index == 1 else GOOD), "!") for index in range(4)]
    folder = str(tmp_path / "out")
    with pool(DaskConfig(workers=2)):
        with pytest.raises(ShardKilledWorkers) as raised:
            map_shards(crash, items, folder, "shards", by_document=True)
        said = str(raised.value)
        assert f"shard {items[1][0].path}" in said and "document 1-005 (http://host/1/5) ends it with SIGSEGV" in said
        assert "--skip-poisoned" in said
        assert sorted(dataset.finished_shards(folder, 4)) == [0, 2, 3]


@pytest.mark.soak
def test_asked_to_a_run_goes_on_without_it_and_counts_it_as_a_reject(tmp_path: Path) -> None:
    texts = spiked(segfault=5)
    texts[3] = "odd"
    items = [(shard(tmp_path, index, texts if index == 1 else GOOD), "!") for index in range(3)]
    folder = str(tmp_path / "out")
    with pool(DaskConfig(workers=2, skip_poisoned=True)):
        receipts = map_shards(crash, items, folder, "shards", by_document=True)
    assert receipts[1].counts == dataset.Counts(total=8, kept=6, dropped={"odd": 1, "poisoned": 1})
    [_, row] = dataset.dataset(folder, rejects=True).to_table().to_pylist()  # type: ignore[union-attr]
    assert (row["doc_id"], row["rule"], row["url"]) == ("1-005", "poisoned", "http://host/1/5")
    assert row["detail"] == "ends it with SIGSEGV"
    kept = dataset.shard_refs(folder, receipts)[1].read()["text"].to_pylist()
    assert kept == [f"{text}!" for text in texts if text not in ("odd", "segfault")]


@pytest.mark.soak
def test_work_that_does_not_go_by_document_names_the_shard(tmp_path: Path) -> None:
    items = [(shard(tmp_path, 0, spiked(exit=5)), "!")]
    with (
        pool(DaskConfig(workers=1, skip_poisoned=True)),
        pytest.raises(ShardKilledWorkers, match=r"part-00000\.parquet ended every worker.*memory_limit"),
    ):
        map_shards(crash, items, str(tmp_path / "out"), "shards")


@pytest.mark.parametrize(("limit", "most"), [("2GiB", 0.95 * 2**31), ("auto", 0.95 * cluster.psutil.virtual_memory().total / 4)])
def test_the_memory_a_child_may_take_is_that_of_a_worker(limit: str, most: float) -> None:
    assert cluster.Pool(DaskConfig(workers=4, memory_limit=limit)).max_worker_bytes() == pytest.approx(most, rel=1e-6)
