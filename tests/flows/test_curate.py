"""Curation ends with the same bytes whatever happened on the way: kills, more workers, files in another order; it redoes what it must."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from expectations.counts import combine
from expectations.gate import load_suite, validate_shard
from expectations.schemas import OPTIONAL, SCHEMAS
from expectations.suites import suite_names
from flows.single import find_step
from infra import ledger, storage
from infra.dataset import ShardSet
from infra.ledger import Entry
from tasks.crawl import CrawlConfig
from tasks.text.readers import IngestConfig
from tasks.web.main_text import ExtractConfig

from . import archives, english
from .processes import finished_parts, kill_when, receipts, start
from .site import Site, served

pytestmark = pytest.mark.soak  # six processes, each of which first reads all that a flow needs

RUNNER = str(Path(__file__).with_name("curating.py"))
ORDER = [
    "crawl",
    "extract",
    "ingest",
    "signals",
    "filter",
    "audit",
    "rewrite",
    "index",
    "dedup",
    "redact",
    "validate",
    "split",
    "publish",
]
NUM_HOSTS, NUM_PAGES, NUM_CAPTURES, NUM_ROWS, SHARD_PAGES = 3, 10, 12, 15, 5


def _warc_file(path: Path, first: int, count: int) -> None:
    numbers = range(first, first + count)
    archives.write(
        path,
        (
            archives.page(
                f"http://archive{number % 3}.example/{number}",
                f"<html><body><main><p>{english.text(50_000 + number)}</p></main></body></html>".encode(),
            )
            for number in numbers
        ),
    )


def _sources(folder: Path, *, backwards: bool = False) -> Path:
    """A folder of WARC files and one of JSONL files, made in order of their names or the other way round."""
    (folder / "warc").mkdir(parents=True)
    (folder / "rows").mkdir()
    numbers = list(range(3))
    for number in reversed(numbers) if backwards else numbers:
        each = NUM_CAPTURES // 3
        _warc_file(folder / "warc" / f"{number}.warc.gz", each * number, each)
        rows = range(number * NUM_ROWS // 3, (number + 1) * NUM_ROWS // 3)
        texts = [english.text(90_000 + row if row % 5 else 50_000 + row // 5) for row in rows]  # every fifth is in the WARC too
        lines = [json.dumps({"text": text, "url": f"http://rows.example/{row}"}) for row, text in zip(rows, texts, strict=True)]
        (folder / "rows" / f"{number}.jsonl").write_text("\n".join(lines))
    return folder


def _config(path: Path, sources: Path, site: Site, workers: int, **changes: Any) -> str:
    raw = {
        "dask": {"kind": "none"} if workers == 1 else {"kind": "local", "workers": workers},
        "crawl": {
            "sources": [{"kind": "site", "urls": site.seeds}, {"kind": "warc", "path": str(sources / "warc")}],
            "shard_pages": SHARD_PAGES,
            "fetch": {"agent": "test/1 (+http://a.example/)", "delay_s": 0, "allowed_private_hosts": site.hosts},
        },
        "ingest": {"sources": [{"kind": "folder", "path": str(sources / "rows")}], "shard_bytes": 5000},
        "split": {"test_share": 0.2},
        **changes,
    }
    path.write_text(yaml.safe_dump(raw))
    return str(path)


def _entries(home: Path, run: str) -> dict[str, Entry]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRISTMILL_HOME", str(home))
        return {entry.step: entry for entry in ledger.entries(run)}


def _only(folder: Path) -> Path | None:
    """The one version of a step, once there is one."""
    found = list(folder.glob("*")) if folder.exists() else []
    return found[0] if found else None


def _done(process: subprocess.Popen[str]) -> None:
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 0, said


@dataclass
class Kill:
    """What was finished in a step at the moment of a kill."""

    parts: dict[Path, int]
    complete: bool


@dataclass
class Story:
    """One corpus curated twice: killed three times with one worker, and undisturbed with several; then with another threshold."""

    killed: Path
    calm: Path
    kills: dict[str, Kill]
    asked_by_killed: int


@pytest.fixture(scope="module", params=[2, 4], ids=["2 workers", "4 workers"])
def story(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    with served(NUM_HOSTS, NUM_PAGES) as site:
        yield _told(site, tmp_path_factory.mktemp("curate"), request.param)


def _told(site: Site, root: Path, num_workers: int) -> Story:
    killed, calm, sources = root / "killed", root / "calm", _sources(root / "sources")
    one, many = (_config(root / f"{workers}.yaml", sources, site, workers) for workers in (1, num_workers))
    other = _config(root / "other.yaml", sources, site, 1, filter={"min_language_score": 0.9})
    kills: dict[str, Kill] = {}

    def run_until_kill(step: str, reached: Any) -> None:
        kill_when(start(killed, RUNNER, "first", one), reached)
        folder = _only(killed / "store" / step)
        assert folder is not None
        kills[step] = Kill(finished_parts(folder), (folder / "manifest.json").exists())

    def some_shards(step: str) -> Any:
        return lambda: (folder := _only(killed / "store" / step)) is not None and len(receipts(folder)) >= 2

    site.hold_after = 16  # the seventeenth page is never answered: the kill falls into the middle of the crawl
    run_until_kill("crawl", lambda: site.num_asked > 16)
    site.release()
    run_until_kill("signals", some_shards("signals"))
    asked = site.num_asked
    undisturbed = start(calm, RUNNER, "first", many, "other", other)
    run_until_kill("publish", some_shards("publish"))
    _done(start(killed, RUNNER, "first", one))
    _done(undisturbed)
    return Story(killed, calm, kills, asked)


def test_kills_fell_into_the_middle_of_three_steps(story: Story) -> None:
    assert list(story.kills) == ["crawl", "signals", "publish"]
    assert not any(kill.complete for kill in story.kills.values())
    assert all(story.kills[step].parts for step in ("signals", "publish"))


def test_a_killed_crawl_asks_again_only_for_what_was_in_flight(story: Story) -> None:
    # 16 answered before the kill and one held back of each host
    assert NUM_HOSTS * NUM_PAGES <= story.asked_by_killed <= NUM_HOSTS * NUM_PAGES + NUM_HOSTS


@pytest.mark.parametrize("step", ["signals", "publish"])
def test_after_a_kill_only_missing_shards_are_made(story: Story, step: str) -> None:
    before = story.kills[step].parts
    assert {path: path.stat().st_mtime_ns for path in before} == before
    folder = next(iter(before)).parent
    assert json.loads((folder / "run.json").read_text())["resumed_shards"] == len(before)
    assert len(before) < len(json.loads((folder / "manifest.json").read_text())["shards"])


def test_three_kills_and_another_number_of_workers_change_no_digest_of_any_step(story: Story) -> None:
    killed, calm = _entries(story.killed, "first"), _entries(story.calm, "first")
    assert sorted(calm) == sorted(ORDER)
    compared = [name for name in ORDER if name != "validate"]  # its page names folders
    assert {name: killed[name].digest for name in compared} == {name: calm[name].digest for name in compared}
    assert {name: killed[name].version for name in ORDER} == {name: calm[name].version for name in ORDER}


def test_every_document_is_accounted_for_from_page_to_split(story: Story) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRISTMILL_HOME", str(story.calm))
        made: dict[str, ShardSet] = {entry.step: entry.shards() for entry in ledger.entries("first")}
    counts = {name: shards.counts for name, shards in made.items()}
    assert counts["crawl"].kept == NUM_HOSTS * NUM_PAGES + NUM_CAPTURES
    assert counts["extract"].total == counts["crawl"].kept
    assert counts["ingest"].total == NUM_ROWS
    assert counts["signals"].total == counts["extract"].kept + counts["ingest"].kept
    assert counts["rewrite"].total == counts["filter"].kept
    for before, after in (
        ("signals", "filter"),
        ("rewrite", "dedup"),
        ("dedup", "redact"),
        ("redact", "split"),
        ("split", "publish"),
    ):
        assert counts[after].total == counts[before].kept, after
    assert counts["dedup"].dropped == {"exact_duplicate": NUM_ROWS // 5}
    assert counts["publish"].kept > 40


def test_every_shard_has_the_columns_of_the_schema_that_its_manifest_names(story: Story) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRISTMILL_HOME", str(story.calm))
        made = {entry.step: entry.shards() for entry in ledger.entries("first")}
        for version in made.values():
            if version.schema_name in SCHEMAS:
                for shard in version.shards():
                    assert shard.read().schema == SCHEMAS[version.schema_name], version.step
    assert {version.schema_name for version in made.values()} >= SCHEMAS.keys() - {
        "rejects",
        "token_documents",
        "augmented_documents",
        "references",
        "forgotten",
        "scores",
        *("conversations", "preferences", "ratings", "problems", "aligned"),
    }


def test_every_version_of_the_run_holds_by_the_suite_of_its_stage(story: Story) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRISTMILL_HOME", str(story.calm))
        made = {entry.step: entry.shards() for entry in ledger.entries("first")}
        found = storage.read_json(made["validate"].file("validation.json"))
        stages = {stage["dataset"]: [one for one in stage["checks"] if not one["success"]] for stage in found["stages"]}
        assert list(stages) == ["crawl", "extract", "ingest", "signals", "filter", "audit", "rewrite", "index", "dedup"]
        assert {one["severity"] for missed in stages.values() for one in missed} <= {"warning"}
        for version in made.values():
            if version.schema_name in suite_names():
                suite = load_suite(version.schema_name)
                checks = combine([validate_shard(shard.read(), suite) for shard in version.shards()], suite)
                missed = [one for one in checks if not one.success and one.severity == "critical"]
                assert {one.column for one in missed} <= OPTIONAL.get(version.schema_name, {}).keys(), version.step
        rejects = [pq.read_table(path) for path in (story.calm / "store").glob("*/*/rejects/*.parquet")]
        checks = combine([validate_shard(table, load_suite("rejects")) for table in rejects], load_suite("rejects"))
        assert rejects and [one for one in checks if not one.success and one.severity == "critical"] == []


def test_a_changed_threshold_makes_only_the_filter_and_what_follows(story: Story) -> None:
    other = _entries(story.calm, "other")
    loaded = [name for name in ORDER if other[name].loaded]
    assert loaded == ["crawl", "extract", "ingest", "signals"]
    assert not any(entry.loaded for entry in _entries(story.calm, "first").values())
    assert other["filter"].version != _entries(story.calm, "first")["filter"].version


def test_the_order_in_which_source_files_were_made_changes_no_digest(home: Path, tmp_path: Path) -> None:
    digests = []
    for backwards in (False, True):
        folder = _sources(tmp_path / str(backwards), backwards=backwards)
        crawled = find_step("crawl")(
            config=CrawlConfig.model_validate({"sources": [{"kind": "warc", "path": str(folder / "warc")}], "shard_pages": 5})
        )
        extracted = find_step("extract")(crawled, config=ExtractConfig())
        ingested = find_step("ingest")(
            config=IngestConfig.model_validate(
                {"sources": [{"kind": "folder", "path": str(folder / "rows")}], "shard_bytes": 999}
            )
        )
        assert (crawled.counts.kept, extracted.counts.kept, ingested.counts.kept) == (NUM_CAPTURES, NUM_CAPTURES, NUM_ROWS)
        digests.append((crawled.digest, extracted.digest, ingested.digest))
    assert digests[0] == digests[1]
