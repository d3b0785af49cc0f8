"""What an index needs is told from a sample: near the truth, exactly where the sample is the whole; a disk too small is refused."""

from __future__ import annotations

import json
import random
import shutil
from collections import namedtuple
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from flows.estimate import estimate
from infra import dataset, storage
from infra.cluster import DaskConfig, pool
from infra.dataset import ShardSet
from infra.errors import InputError
from infra.steps import Output
from tasks.index import NoRoom, index, require_room
from tasks.ingest import ingest
from tasks.text import likeness
from tasks.text.generations import Chain
from tasks.text.likeness import groups_behind
from tasks.text.need import memory_told, need_of
from tasks.text.readers import IngestConfig
from tasks.text.sketches import IndexConfig, sketched_columns

from . import english
from .driver import commands
from .test_duplicates_told import edited

CONFIG = IndexConfig()
FACTOR = 1.5
"""Pairs, bytes on disk: estimate and truth are within this factor of each other on a corpus of some thousand documents."""


def texts(num: int, seed: int) -> list[str]:
    """One base in four has a family of one to eight near duplicates; one in fifty copies."""
    draw, found = random.Random(seed), list[str]()
    while len(found) < num:
        base = english.text(1000 * seed + len(found), 2)
        chance = draw.random()
        family = draw.choice([1, 1, 2, 8]) if chance < 0.25 else 0
        copies = draw.choice([1, 12]) if chance > 0.98 else 0
        found += [base, *(edited(base, 100 * len(found) + n, draw.randint(1, 8)) for n in range(family)), *[base] * copies]
    draw.shuffle(found)
    return found[:num]


def ingested(home: Path, name: str, given: Sequence[str]) -> ShardSet:
    folder = home / name
    folder.mkdir(parents=True)
    rows = [json.dumps({"text": text, "url": f"http://h{n % 9}.example/{name}/{n}"}) for n, text in enumerate(given)]
    (folder / "rows.jsonl").write_text("\n".join(rows))
    source = {"kind": "folder", "path": str(folder)}
    return ingest(config=IngestConfig.model_validate({"sources": [source], "shard_bytes": 200_000}))


def test_the_estimate_is_near_the_truth(home: Path) -> None:
    documents = ingested(home, "many", texts(4000, 1))
    sample = likeness.drawn(documents.shards(), sketched_columns(CONFIG))
    assert 1800 < sample.rows.num_rows < 2200 and sample.num_documents == 4000
    need = need_of(sample, Chain(()), CONFIG, workers=1)
    out = Output(str(home / "index"), "unsealed")  # the step itself, so that what lies aside is still there
    index.function([documents], [], config=CONFIG, out=out)
    real = {
        "pairs": out.facts["candidate_pairs"],
        "aside": storage.used(out.aside())[0],
        "kept": sum(one.num_bytes for one in (*out.receipts, *out.files)),
    }
    edges = dataset.of_files(dataset.part_paths(storage.join(out.folder, "edges")))
    assert edges is not None
    real["edges"] = edges.count_rows()
    told = {"pairs": need.likeness.pairs, "edges": need.likeness.edges, "aside": need.aside_bytes, "kept": need.kept_bytes}
    for name, value in real.items():
        assert value / FACTOR < told[name] < value * FACTOR, (name, value, told[name])
    assert need.likeness.low <= real["pairs"] <= need.likeness.high
    assert need_of(sample, Chain(()), CONFIG, workers=2).likeness.pairs == need.likeness.pairs  # drawn by hash


def test_a_small_corpus_is_counted_exactly_also_beside_an_earlier_crawl(home: Path) -> None:
    every = texts(900, 2)
    first, second = ingested(home, "first", every[:500]), ingested(home, "second", every[450:])
    before = index([first], [], config=CONFIG)
    for documents, base in ((first, None), (second, before)):
        found = need_of(likeness.drawn(documents.shards(), sketched_columns(CONFIG)), Chain.of(base), CONFIG, 1).likeness
        made = index([documents], [base] if base else [], config=CONFIG).manifest().facts
        assert (found.low, found.pairs, found.high) == (made["candidate_pairs"],) * 3 and found.pairs > 50


@pytest.mark.parametrize("share", [0.5, 0.1])
@pytest.mark.parametrize("sizes", [{2: 3000}, {2: 3000, 9: 600}, {2: 2000, 100: 20}, {50: 200}], ids=str)
def test_groups_are_found_again_from_what_a_sample_sees_of_them(sizes: dict[int, int], share: float) -> None:
    draw = np.random.default_rng(7)
    seen = np.concatenate([draw.binomial(size, share, num) for size, num in sizes.items()])
    found = groups_behind(seen[seen >= 2], share)
    truth = sum(size * num for size, num in sizes.items())
    assert truth / 1.5 < found.members < truth * 1.5
    whole = groups_behind(np.array([2, 5]), 1.0)
    assert (whole.members, whole.groups) == (7, 2)


Disk = namedtuple("Disk", "total used free")


def test_a_disk_too_small_is_refused_before_anything_is_made(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = ingested(home, "some", texts(300, 3))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Disk(10**9, 10**9 - 1000, 1000))
    with pytest.raises(NoRoom) as refused:
        index([documents], [], config=CONFIG)
    told = str(refused.value)
    assert str(home) in told
    for words in (
        "needs about",
        "while it is made",
        "1 kB are free",
        "gristmill gc",
        "GRISTMILL_STORAGE",
        "index.check_room=false",
    ):
        assert words in told, told
    folders = list((home / "store" / "index").glob("*")) if (home / "store").exists() else []
    assert not [path for folder in folders for path in folder.rglob("*.parquet")]
    unchecked = index([documents], [], config=IndexConfig(check_room=False))
    monkeypatch.undo()
    monkeypatch.setenv("GRISTMILL_HOME", str(home))
    assert index([documents], [], config=CONFIG) == unchecked  # the same version: the check is no part of the recipe


def test_what_was_measured_stands_beside_the_version_and_not_in_it(home: Path) -> None:
    made = index([ingested(home, "some", texts(300, 4))], [], config=CONFIG)
    estimate_kept = storage.read_json(made.file(dataset.RUN))["estimate"]
    assert estimate_kept["disk_bytes"] > 0 and estimate_kept["likeness"]["pairs"] == made.manifest().facts["candidate_pairs"]
    assert "seconds" not in json.dumps(made.manifest().model_dump()) and "check_room" not in made.manifest().recipe["config"]


def test_memory_that_would_be_exceeded_is_told_with_what_to_do(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    documents = ingested(home, "some", texts(300, 5))
    need = need_of(likeness.drawn(documents.shards(), sketched_columns(CONFIG)), Chain(()), CONFIG, 1)
    assert memory_told(need, 1 << 50, 1 << 50) == []
    flow, worker = memory_told(need, 1000, 1000)
    assert "candidate pairs" in flow and "index.rows_per_band" in flow and "dask.memory_limit" in worker
    with pool(DaskConfig(kind="local", workers=1, memory_limit="1MB")) as opened, caplog.at_level("WARNING", logger="gristmill"):
        assert opened.max_worker_bytes() < need.worker_bytes
        out = Output(str(home / "none"), "unsealed")
        require_room(out, Chain(()), documents.shards(), CONFIG)
    assert "a worker needs some" in caplog.text


def test_the_command_takes_files_versions_and_configurations(home: Path, tmp_path: Path) -> None:
    documents = ingested(home, "some", texts(400, 6))
    file = home / "some" / "rows.jsonl"
    config = tmp_path / "mine.yaml"
    config.write_text(json.dumps({"ingest": {"sources": [{"kind": "folder", "path": str(file)}]}, "index": {"num_bands": 20}}))
    said = {
        name: estimate(given, "", overrides)
        for name, given, overrides in (
            ("files", str(file), []),
            ("version", documents.folder, []),
            ("set", documents.folder, ["index.num_bands=20"]),
            ("config", str(config), []),
        )
    }
    pairs = {name: one.need.likeness.pairs for name, one in said.items()}
    assert pairs["files"] == pairs["version"] <= pairs["set"] == pairs["config"]
    table, as_json, wrong, crawl = commands(
        home,
        ["estimate", documents.folder],
        ["estimate", str(file), "--format", "json"],
        ["estimate", str(file), "--set", "index.bands=3"],
        ["estimate", "latest", "--config", "no-such"],
    )
    assert table.code in (0, 3) and "candidate pairs" in table.output and "with" in table.output
    assert json.loads(as_json.output)["need"]["likeness"]["pairs"] == pairs["files"]
    assert wrong.code == 2 and "index.num_bands" in wrong.output and crawl.code == 2
    empty = tmp_path / "crawl.yaml"
    empty.write_text("name: x")
    with pytest.raises(InputError, match="come from a crawl"):
        estimate(str(empty), "", [])
