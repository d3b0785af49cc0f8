"""A planted bias warns or stops a run at its gate, which names rule and group; without it the same corpus passes."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from expectations.verdict import GateFailed
from flows.config import RunConfig, load
from flows.keys import ConfigError
from flows.prepare import prepare
from infra import ledger, storage

from . import english

NUM_DOCUMENTS = 800
HASHES = {"profile": "gopher", "overrides": {"gopher_hash_per_word": 0.0}, "languages": ["en"]}
"""The planted rule: any "#" drops a document."""


def corpus(folder: Path, marked: float) -> Path:
    """English texts; a fifth of them mention Muslims, as "#Muslim" with the chance `marked`, and of all others a tenth has a "#"."""
    draw = random.Random(5)
    lines = []
    for n in range(NUM_DOCUMENTS):
        mentions, luck = draw.random() < 0.2, draw.random()
        mark = "#" if luck < (marked if mentions else 0.1) else ""
        said = f"{mark}{'Muslim' if mentions else 'Other'} neighbours came."
        row = {"url": f"http://h{n % 7}.example/{n}", "text": f"{english.text(n, 3)}\n\n{said}", "source": "made"}
        lines.append(json.dumps(row))
    folder.mkdir(parents=True)
    (folder / "rows.jsonl").write_text("\n".join(lines))
    return folder


def config(folder: Path, **changes: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "dask": {"kind": "none"},
            "ingest": {"sources": [{"kind": "folder", "path": str(folder)}], "shard_bytes": 2_000_000},
            "filter": HASHES,
            **changes,
        }
    )


def failing(run: str) -> dict[str, str]:
    """What did not hold of the audit in a run that was validated: number to the words shown for it."""
    checks = next(entry.shards() for entry in ledger.entries(run) if entry.step == "validate")
    stages = storage.read_json(checks.file("validation.json"))["stages"]
    [audited] = [stage for stage in stages if stage["dataset"] == "audit"]
    assert len(audited["checks"]) >= 10
    return {
        one["column"]: f"{one['severity']}: {' '.join(sample['value'] for sample in one['samples'])}"
        for one in audited["checks"]
        if not one["success"]
    }


def test_a_rule_that_drops_a_group_ten_times_as_often_stops_the_run_and_is_named(home: Path) -> None:
    folder = corpus(home / "rows", marked=0.97)
    with ledger.run("planted"), pytest.raises(GateFailed) as stopped:
        prepare.fn(config(folder))
    told = str(stopped.value)
    assert "suite 'audit': 1 of 11 expectations stop audit" in told
    assert "'worst_ratio.identity'" in told and "gopher_hash_per_word on identity en/religion_muslim:" in told
    assert "documents dropped, of others" in told and "times as often" in told
    assert "Read what it drops" in told and "validate.stage_suites={audit: mine.json}" in told
    made = {entry.step: entry for entry in ledger.entries("planted")}
    assert "validate" not in made and made["audit"].shards().manifest().facts["num_flagged.identity"] >= 1
    # a user who means it says so in a suite of their own
    ours = home / "mine.json"
    suite = json.loads((Path(__file__).parents[2] / "expectations" / "audit.json").read_text())
    for one in suite["expectations"]:
        if one["kwargs"].get("column") == "worst_ratio.identity":
            one["kwargs"]["max_value"] = 1000
    ours.write_text(json.dumps({**suite, "name": "mine"}))
    with ledger.run("meant"):
        prepare.fn(config(folder, validate={"stage_suites": {"audit": str(ours)}}))
    assert failing("meant").keys() == {"num_flagged.identity"}
    entries = {entry.step: entry for entry in ledger.entries("meant")}
    assert {name for name, entry in entries.items() if not entry.loaded} == {"validate"}  # the audit is loaded as any step


def test_a_milder_one_warns_and_the_same_corpus_without_it_passes(home: Path) -> None:
    for marked, run in ((0.35, "mild"), (0.1, "fair")):
        with ledger.run(run):
            prepare.fn(config(corpus(home / run, marked)))
    warned = failing("mild")
    assert warned.keys() == {"num_flagged.identity"}
    assert warned["num_flagged.identity"].startswith("warning: gopher_hash_per_word on identity en/religion_muslim: ")
    assert failing("fair") == {}


def test_the_audit_can_be_switched_off_and_never_has_a_filter_beside_that_of_the_run(home: Path, tmp_path: Path) -> None:
    folder = corpus(home / "rows", marked=0.97)
    with ledger.run("unasked"):
        prepare.fn(config(folder, audit=None))
    assert "audit" not in {entry.step for entry in ledger.entries("unasked")}
    with ledger.run("hosts alone"):
        prepare.fn(config(folder, audit={"kinds": ["domain"]}))
    assert failing("hosts alone") == {}
    path = tmp_path / "run.yaml"
    path.write_text("audit:\n  filter: {profile: gopher}\n")
    with pytest.raises(ConfigError, match=r"audit: a run audits its own filter: take `audit.filter` out and set `filter`"):
        load(str(path))
    assert load("small", ["audit=null"]).audit is None
    changed = load("small", ["audit.kinds=[identity]", "audit.bounds.max_ratio=2"]).audit
    assert changed is not None and changed.kinds == ("identity",) and changed.of(RunConfig().filter).bounds.max_ratio == 2
    with pytest.raises(ConfigError, match=r"validate.stage_suites: no stage has a suite 'audits', did you mean 'audit'\?"):
        load("small", ["validate.stage_suites={audits: published}"])
    with pytest.raises(ConfigError, match="published is a suite of 'published' and not of 'audit'"):
        load("small", ["validate.stage_suites={audit: published}"])
