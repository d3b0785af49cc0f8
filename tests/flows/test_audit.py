"""The audit finds a planted bias and names it, leaves a fair filter alone, and counts exactly, for any shards."""

from __future__ import annotations

import json
import random
import re
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from infra import storage
from infra.cluster import DaskConfig, pool
from infra.dataset import ShardRef, ShardSet, write_table
from infra.errors import InputError
from tasks.audit import ANY, CELL, WORST_FIRST, AuditConfig, audit, count_shard, summed_counts
from tasks.ingest import ingest
from tasks.signals import SignalsConfig, signals
from tasks.text.disparity import DISPARITY
from tasks.text.readers import IngestConfig
from tasks.text.rules import FilterConfig, decide, rule_names

from . import english
from .driver import commands

NUM_DOCUMENTS = 800
FAIR = FilterConfig(profile="gopher", languages=("en",))
# any "#" drops a document, and so does any "...": the marks with which one community and one host write here
BIASED = FAIR.model_copy(update={"overrides": {"gopher_hash_per_word": 0.0, "gopher_ellipsis_per_word": 0.0}})


# never freed: Arrow's threads may give memory back to it when the test that counts is over
COUNTED = pa.proxy_memory_pool(pa.default_memory_pool())


def rows() -> list[dict[str, str]]:
    """English texts on four hosts; a fifth of them mention Muslims, as "#Muslim", and a fifth Christians, without a mark."""
    draw = random.Random(3)
    made = []
    for n in range(NUM_DOCUMENTS):
        text, host = english.text(n, draw.choice([2, 3, 4])), draw.choice(["a.example", "b.example", "c.example", "dots.example"])
        said = draw.choice(["#Muslim neighbours came.", "Christian neighbours came.", "", "", ""])
        mark = "#" if draw.random() < 0.1 and "#" not in said else ""
        dots = "And so on... to the end." if host == "dots.example" or draw.random() < 0.1 else ""
        made.append({"url": f"http://{host}/{n}", "text": f"{text}\n\n{said} {mark} {dots}".rstrip(), "source": "made"})
    return made


def corpus(home: Path, shard_bytes: int) -> tuple[ShardSet, ShardSet]:
    """(signals, documents) in shards of about so many bytes."""
    folder = home / "rows"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows()))
    config = IngestConfig.model_validate({"sources": [{"kind": "folder", "path": str(folder)}], "shard_bytes": shard_bytes})
    documents = ingest(config=config)
    return signals([documents], config=SignalsConfig()), documents


def table_of(version: ShardSet) -> pa.Table:
    [shard] = version.shards()
    return shard.read()


def flagged(version: ShardSet) -> set[tuple[str, str, str]]:
    return {(row["kind"], row["group"], row["rule"]) for row in table_of(version).to_pylist() if row["flagged"]}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[ShardSet, ShardSet]]:
    """(store, (signals, documents)) of the corpus."""
    root = tmp_path_factory.mktemp("audit")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRISTMILL_HOME", str(root))
        return root / "store", corpus(root, 200_000)


@pytest.fixture
def measured(home: Path, made: tuple[Path, tuple[ShardSet, ShardSet]]) -> tuple[ShardSet, ShardSet]:
    """(signals, documents) of the corpus, in a store of the test's own."""
    shutil.copytree(made[0], home / "store")
    return made[1]


def test_a_planted_bias_is_named_and_a_fair_filter_is_not_flagged(measured: tuple[ShardSet, ShardSet]) -> None:
    given, documents = measured
    fair, biased = (audit(given, [documents], config=AuditConfig(filter=one)) for one in (FAIR, BIASED))
    assert table_of(fair).schema == DISPARITY and flagged(fair) == set()
    planted = {("identity", "en/religion_muslim", "gopher_hash_per_word"), ("domain", "dots.example", "gopher_ellipsis_per_word")}
    assert planted <= flagged(biased)
    assert {one for one in flagged(biased) if one[2] != "any rule"} == planted
    facts = biased.manifest().facts
    assert (
        facts["num_flagged"] == len(flagged(biased)) and facts["num_flagged.identity"] >= 1 and facts["num_flagged.dialect"] == 0
    )
    assert facts["worst_ratio"] > 5
    assert facts["worst"].startswith(tuple(f"{rule} on {kind} {group}: " for kind, group, rule in planted))
    assert re.search(
        r"#?gopher_hash_per_word on identity en/religion_muslim: (\d+) of \1 documents dropped", facts["worst.identity"]
    )
    with storage.open_read(biased.file(WORST_FIRST)) as handle:
        ranked = pyarrow.csv.read_csv(handle)
    assert ranked.column_names == DISPARITY.names and ranked.num_rows == table_of(biased).num_rows
    assert ranked["flagged"].to_pylist() == sorted(ranked["flagged"].to_pylist(), reverse=True)
    assert fair.manifest().facts["worst_ratio"] < 1.25 and fair.manifest().facts["num_flagged"] == 0
    assert fair.counts.kept == fair.counts.total == NUM_DOCUMENTS
    assert audit(given, [documents], config=AuditConfig(filter=FAIR)) == fair  # loaded


def test_the_counts_are_those_of_a_plain_count_document_by_document(measured: tuple[ShardSet, ShardSet]) -> None:
    given, documents = measured
    found = table_of(audit(given, [documents], config=AuditConfig(filter=BIASED))).to_pylist()
    by_key = {(row["kind"], row["group"], row["rule"]): row for row in found}
    texts: dict[str, str] = {}
    for shard in documents.shards():
        texts |= dict(zip(*(shard.read(["doc_id", "text"])[name].to_pylist() for name in ("doc_id", "text")), strict=True))
    want = {"hash": [0, 0, 0, 0], "any": [0, 0, 0, 0]}
    for shard in given.shards():
        table = shard.read()
        english_ones = [language in ("en", "unknown") for language in table["language"].to_pylist()]
        kept = decide(table, BIASED).keep.tolist()
        for doc_id, counts, keep, per_word in zip(
            table["doc_id"].to_pylist(), english_ones, kept, table["hash_per_word"].to_pylist(), strict=True
        ):
            side = 0 if re.search(r"\bmuslim\b", texts[doc_id], re.IGNORECASE) else 2
            for name, dropped in (("hash", per_word > 0), ("any", not keep)):
                want[name][side] += counts
                want[name][side + 1] += counts and dropped
    for name, rule in (("hash", "gopher_hash_per_word"), ("any", "any rule")):
        row = by_key["identity", "en/religion_muslim", rule]
        assert [row[one] for one in ("documents", "removed", "other_documents", "other_removed")] == want[name]
    assert sum(want["any"][::2]) > 0.95 * NUM_DOCUMENTS
    domains = {row["group"]: row for row in found if row["kind"] == "domain" and row["rule"] == "any rule"}
    assert len(domains) == 4 and len({row["documents"] + row["other_documents"] for row in domains.values()}) == 1
    assert ("language", "en", "language") not in by_key and ("language", "en", "any rule") in by_key


def test_two_workers_give_the_same_table(home: Path, measured: tuple[ShardSet, ShardSet], two_workers: DaskConfig) -> None:
    given, documents = measured
    config = AuditConfig(filter=BIASED)
    alone = audit(given, [documents], config=config)
    with pool(two_workers):
        both = audit.run((given, [documents]), config, str(home / "elsewhere"))
    assert not both.loaded and both.shards.digest == alone.digest and both.shards.manifest().facts == alone.manifest().facts


def test_any_shards_give_the_same_table(home: Path, measured: tuple[ShardSet, ShardSet]) -> None:
    few, many = measured, corpus(home, 40_000)
    assert len(many[0].shards()) > len(few[0].shards()) > 1
    for by_length in (True, False):
        config = AuditConfig(filter=BIASED, by_length=by_length)
        one, other = (audit(given, [documents], config=config) for given, documents in (few, many))
        assert one.version != other.version
        assert one.digest == other.digest and one.manifest().facts == other.manifest().facts


def test_kinds_domains_and_terms_are_as_configured(home: Path, measured: tuple[ShardSet, ShardSet]) -> None:
    given, documents = measured
    own = home / "own.yaml"
    group: dict[str, Any] = {"name": "towns", "sources": ["x"], "terms": ["town", "harbour"]}
    own.write_text(json.dumps({"language": "en", "sources": ["x: made up"], "groups": [group]}))
    config = AuditConfig(filter=FAIR, kinds=("domain", "identity"), max_domains=2, term_lists=(str(own),), by_length=False)
    table = table_of(audit(given, [documents], config=config)).to_pylist()
    assert {row["kind"] for row in table} == {"domain", "identity"}
    assert {row["group"] for row in table if row["kind"] == "identity"} == {"en/towns"}
    assert len({row["group"] for row in table if row["kind"] == "domain"}) == 2
    assert all(row["ratio"] == row["adjusted_ratio"] for row in table if row["ratio"] is not None)
    biased = (AuditConfig(filter=BIASED, kinds=("identity",), by_length=by_length) for by_length in (True, False))
    worst = [audit(given, [documents], config=one).manifest().facts["worst"] for one in biased]
    assert ["among documents of like length" in words for words in worst] == [True, False]
    own.write_text(own.read_text().replace("harbour", "village"))
    again = audit(given, [documents], config=config)
    assert {row["documents"] for row in table_of(again).to_pylist()} != {row["documents"] for row in table}


def test_a_language_that_is_not_wanted_does_not_count(home: Path) -> None:
    folder = home / "rows"
    folder.mkdir(parents=True)
    german = [
        {"url": f"http://de.example/{n}", "text": f"Der Mann und die Frau gingen am Morgen {n} in die Stadt." * 5}
        for n in range(5)
    ]
    other = [{"url": f"http://en.example/{n}", "text": english.text(n)} for n in range(7)]
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in [*german, *other]))
    documents = ingest(config=IngestConfig.model_validate({"sources": [{"kind": "folder", "path": str(folder)}]}))
    given = signals([documents], config=SignalsConfig())
    only, both = (
        table_of(
            audit(given, [documents], config=AuditConfig(filter=FAIR.model_copy(update={"languages": languages})))
        ).to_pylist()
        for languages in (("en",), ("en", "de"))
    )
    assert {row["group"] for row in only if row["kind"] == "language"} == {"en"}
    assert {row["documents"] + row["other_documents"] for row in only if row["kind"] == "domain"} == {7}
    assert {row["documents"] for row in both if row["group"] == "de/gender_female"} == {5}
    assert {row["documents"] + row["other_documents"] for row in both if row["kind"] == "language"} == {12}
    assert not any(row["tested"] for row in both)  # too few


def other_documents(home: Path, count: int, shard_bytes: int) -> tuple[ShardSet, ShardSet]:
    """(signals, documents) of another corpus."""
    folder = home / f"other-{count}"
    folder.mkdir(parents=True)
    lines = [json.dumps({"url": f"http://other.example/{n}", "text": english.text(10_000 * count + n)}) for n in range(count)]
    (folder / "rows.jsonl").write_text("\n".join(lines))
    config = {"sources": [{"kind": "folder", "path": str(folder)}], "shard_bytes": shard_bytes}
    documents = ingest(config=IngestConfig.model_validate(config))
    return signals([documents], config=SignalsConfig()), documents


def test_signals_of_other_documents_are_refused_and_a_document_without_signals_is_not(home: Path) -> None:
    given, documents = other_documents(home, 30, 10_000_000)
    _, others = other_documents(home, 31, 10_000_000)
    _, many = other_documents(home, 32, 10_000)
    assert len(given.shards()) == len(others.shards()) == 1 < len(many.shards())
    config = AuditConfig(filter=FAIR)
    with pytest.raises(InputError, match=r"30 of 30 rows have no document in .*; give the documents that the signals were"):
        audit(given, [others], config=config)
    with pytest.raises(InputError, match=rf"1 shards of signals, and {len(many.shards())} of documents; give the documents"):
        audit(given, [many], config=config)
    [whole], [text] = given.shards(), documents.shards()
    path = str(home / "fewer.parquet")
    digest, _ = write_table(path, whole.read().slice(1))  # as where the first document ended its worker
    counted = count_shard((text, ShardRef(path, digest, 0, 29)), config).kept.to_pylist()
    assert [row["documents"] for row in counted if (row["kind"], row["group"]) == ("domain", "other.example")] == [29]


@pytest.mark.parametrize(
    ("profile", "told"),
    [
        ("datatrove-0.10", "signals.groups must name datatrove$"),
        ("dclm", "`gristmill step score` adds quality_percentile, with a classifier"),
    ],
)
def test_rules_on_what_was_not_measured_are_told_with_what_to_do(home: Path, profile: str, told: str) -> None:
    given, documents = other_documents(home, 3, 10_000_000)
    with pytest.raises(InputError, match=rf"the signals table lacks the columns: .*{told}"):
        audit(given, [documents], config=AuditConfig(filter=FilterConfig(profile=profile)))


def test_the_largest_hosts_are_groups_and_the_counts_of_no_others_are_held(tmp_path: Path) -> None:
    num_parts, num_hosts = 8, 10_000
    config = AuditConfig(filter=FAIR, kinds=("domain",), term_lists=(), max_domains=3)
    names = [ANY, *rule_names(FAIR)]
    schema = pa.schema([*CELL, ("documents", pa.int64()), *((f"dropped by {name}", pa.int64()) for name in names)])
    parts, num_bytes = [], 0
    for number in range(num_parts):
        # "b" is the largest in no part; "tie-…" are all of one size, of which the first by name is taken
        hosts = [*(f"{number}-{n:05d}.example" for n in range(num_hosts)), "b", f"tie-{number}", "*"]
        sizes = [1] * num_hosts + [30, 40]
        documents = [*sizes, sum(sizes)]
        columns = {"kind": ["domain"] * len(hosts), "population": ["*"] * len(hosts), "group": hosts, "length": [5] * len(hosts)}
        dropped = {f"dropped by {name}": documents for name in names}
        table = pa.table({**columns, "documents": documents, **dropped}, schema=schema)
        num_bytes += table.nbytes
        path = str(tmp_path / f"{number}.parquet")
        parts.append(ShardRef(path, write_table(path, table)[0], number, len(hosts)))
    whole = pa.default_memory_pool()
    try:
        pa.set_memory_pool(COUNTED)
        found = summed_counts(parts, config).to_pylist()
    finally:
        pa.set_memory_pool(whole)
    sizes_of = {row["group"]: row["documents"] for row in found}
    assert sizes_of == {"b": 240, "tie-0": 40, "tie-1": 40, "*": num_parts * (num_hosts + 70)}
    assert all(row[f"dropped by {name}"] == row["documents"] for row in found for name in names)
    assert 0 < COUNTED.max_memory() < num_bytes / 2


def test_no_documents_are_an_empty_table(home: Path) -> None:
    (home / "rows").mkdir(parents=True)
    (home / "rows" / "rows.jsonl").write_text("")
    documents = ingest(config=IngestConfig.model_validate({"sources": [{"kind": "folder", "path": str(home / "rows")}]}))
    made = audit(signals([documents], config=SignalsConfig()), [documents], config=AuditConfig())
    facts = made.manifest().facts
    assert table_of(made).num_rows == 0
    assert len(facts) == 15 and set(facts.values()) == {0, 1.0} and facts["worst_ratio.identity"] == 1.0


def test_lists_that_are_not_there_or_speak_of_one_language_twice_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="no term lists 'xx'"):
        AuditConfig(term_lists=("xx",))
    with pytest.raises(ValidationError, match="more than one list of en"):
        AuditConfig(term_lists=("en", "en"))


@pytest.mark.soak
def test_the_command_audits_plain_files_from_their_signals(home: Path) -> None:
    folder = home / "rows"
    folder.mkdir(parents=True)
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows()))
    measured, audited = home / "measured", home / "audited"
    one = ["--workers", "1"]
    biased = ["--set", "filter.profile=gopher", "--set", "filter.overrides={gopher_hash_per_word: 0.0}"]
    made, told, few, judged, other = commands(
        home,
        ["step", "signals", "--input", str(folder), "--output", str(measured), *one],
        ["step", "audit", "--input", str(measured / "input"), "--input", str(measured), "--output", str(audited), *biased, *one],
        ["step", "audit", "--input", str(measured), "--output", str(home / "few"), *one],
        ["validate", str(audited), "--suite", "audit", "--output", str(home / "said")],
        ["validate", str(measured / "input"), "--suite", "audit", "--output", str(home / "other")],
    )
    assert made.code == 0, made.output
    assert told.code == 0, told.output
    assert re.search(r"worst +(any rule|gopher_hash_per_word) on identity en/religion_muslim", told.output), told.output
    found = pq.read_table(audited / "part-00000.parquet").to_pylist()
    assert {row["group"] for row in found if row["flagged"] and row["rule"] == "gopher_hash_per_word"} == {"en/religion_muslim"}
    assert few.code != 0 and "takes 2 --input (signals, which `gristmill step signals` writes, documents" in few.output
    # what stops a run stops a shell: ten times as often is beyond the suite's bound
    assert judged.code == 1 and "worst_ratio.identity" in judged.output and "en/religion_muslim: " in judged.output, judged.output
    assert other.code == 1 and "not applicable" in other.output
