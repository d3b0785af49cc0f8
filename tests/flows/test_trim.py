"""Trimming takes out what plain Python over strings takes out, tells every piece, and is the same for any shards, workers and kills."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from expectations.cards import trim_told
from flows.config import RunConfig
from flows.passport import passport
from flows.prepare import prepare
from infra import dataset, ledger, storage
from infra.cluster import DaskConfig, pool
from infra.dataset import Counts, ShardSet, read_manifest
from infra.ids import text_digest
from infra.steps import STEPS
from tasks import trim as module
from tasks.ingest import ingest
from tasks.text.readers import IngestConfig
from tasks.trim import LEVELS, REPEATS, TrimConfig, trim
from tests.text import reference_repeats as plain
from tests.text.reference_repeats import Document, Repeat

from . import english
from .driver import commands
from .processes import kill_when, start

NUM_ROWS = 120
EVERYTHING = {
    "lines": {"min_chars": 20},
    "paragraphs": {"min_chars": 20, "max_copies": 2},
    "three_sentences": {},
    "spans": {"min_words": 20, "action": "mark"},
}
FOOTER = "All rights are reserved by the harbour council of the town.\nWrite to the council."


def rows() -> list[dict[str, str]]:
    """Texts with a common footer, a paragraph or a stretch out of another, another's whole text, or nothing new at all."""
    draw = random.Random(5)
    texts: list[str] = []
    for n in range(NUM_ROWS):
        text = english.text(n, 2)
        if n % 3 == 0:
            text += "\n\n" + FOOTER
        if n % 5 == 1:
            text += "\n\n" + draw.choice(texts).split("\n\n")[0].upper()
        if n % 7 == 2:
            words = draw.choice(texts).split()
            at = draw.randrange(len(words) // 2)
            text = "It says: " + " ".join(words[at : at + 30]) + " and no more. " + text
        if n % 20 == 19:
            text = texts[n - 4]
        texts.append(text)
    return [{"text": text, "url": f"http://h{n % 9}.example/{n}"} for n, text in enumerate(texts)]


def write(folder: Path, some: Sequence[dict[str, str]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, some)))
    return folder


def documents(folder: Path, some: Sequence[dict[str, str]], shard_bytes: int = 20_000) -> ShardSet:
    sources = [{"kind": "folder", "path": str(write(folder, some)), "name": "mine"}]
    return ingest(config=IngestConfig.model_validate({"sources": sources, "shard_bytes": shard_bytes}))


def texts(version: ShardSet) -> dict[str, str]:
    found = {}
    for shard in version.shards():
        for row in shard.read(["doc_id", "text", "text_digest"]).to_pylist():
            assert row["text_digest"] == text_digest(row["text"])
            found[row["doc_id"]] = row["text"]
    return found


def told(folder: str | Path) -> list[dict[str, Any]]:
    """Everything that `repeats/` tells, without the numbers of rows, which are those of a split."""
    found = dataset.dataset(storage.join(str(folder), REPEATS))
    assert found is not None
    made = found.to_table().drop(["row"]).to_pylist()
    return sorted(made, key=lambda row: (row["doc_id"], LEVELS.index(row["level"]), row["start"]))


def rejects(version: ShardSet) -> list[dict[str, Any]]:
    found = dataset.dataset(version.folder, rejects=True)
    return sorted(found.to_table().to_pylist(), key=lambda row: row["doc_id"]) if found is not None else []


def everything(version: ShardSet) -> tuple[Any, ...]:
    facts = version.manifest().facts
    return texts(version), told(version.folder), rejects(version), facts, version.counts


def reference(corpus: Sequence[Document], config: TrimConfig) -> tuple[dict[str, str], list[Repeat]]:
    """(trimmed texts, everything repeated) by plain Python."""
    found = {
        level: plain.repeated(corpus, level, given.model_dump(), config.fold_case) for level, given in config.levels().items()
    }
    gone: dict[str, list[tuple[int, int]]] = {}
    for level, given in config.levels().items():
        for one in found[level] if given.action == "remove" else ():
            gone.setdefault(one.doc_id, []).append((one.start, one.end))
    left = {one.doc_id: plain.without(one.text, gone.get(one.doc_id, [])) for one in corpus}
    return left, sorted(one for many in found.values() for one in many)


@pytest.mark.parametrize(
    "given",
    [{"lines": {"min_chars": 20}}, {"paragraphs": {}}, {"three_sentences": {}}, {"spans": {"min_words": 20}}, EVERYTHING],
    ids=lambda given: "+".join(given),
)
def test_what_goes_and_what_is_told_is_what_plain_python_says(
    home: Path, given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BUCKET_PIECES", 100)  # many buckets of these few pieces
    config = TrimConfig.model_validate(given)
    source = documents(home / "rows", rows())
    before = texts(source)
    left, repeated = reference([Document(0, one, text) for one, text in before.items()], config)
    made = trim([source], config=config)
    assert len(source.shards()) > 3
    assert texts(made) == {one: text for one, text in left.items() if text or not before[one]}
    assert sorted(Repeat(**{name: row[name] for name in Repeat._fields}) for row in told(made.folder)) == repeated
    emptied = {one for one, text in left.items() if not text}
    assert {row["doc_id"] for row in rejects(made)} == emptied
    assert made.counts.total == NUM_ROWS == made.counts.kept + made.counts.dropped.get("trimmed_empty", 0)
    facts = made.manifest().facts
    for level, one in config.levels().items():
        rows_of_level = [row for row in repeated if row.level == level]
        done = "removed" if one.action == "remove" else "marked"
        assert facts[f"units_{done}.{level}"] == len(rows_of_level) > 0
        assert facts[f"chars_{done}.{level}"] > 0
    went = sum(value for name, value in facts.items() if name.startswith("chars_removed."))
    assert facts["chars_given"] == sum(map(len, before.values())) == facts["chars_kept"] + facts["chars_rejected"] + went
    assert facts["chars_kept"] == sum(map(len, texts(made).values()))
    assert facts["documents_changed"] == sum(left[one] != before[one] for one in before)


def test_a_bucket_reads_its_own_rows_and_no_more_than_two_row_groups_of_each_file_beside_them(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROWS_PER_GROUP", 3)
    draw, folder, hashes = random.Random(1), str(home / "pieces"), list[int]()
    for number in range(6):
        high = sorted(
            draw.choice([0, 5, 1 << 62, (1 << 63) + draw.randrange(9), (1 << 64) - 1]) for _ in range(50 * (number != 2))
        )
        columns = {"row": pa.array(range(len(high)), pa.int32()), **{name: pa.array(high, pa.uint64()) for name in module.NAME}}
        dataset.write_shard(folder, number, module._in_groups(pa.table(columns), module.NAME))
        hashes += high
    files = dataset.dataset(folder)
    assert files is not None
    last = (1 << 64) - 1
    for first, behind in ((0, 0), (0, 4), (1, 5), (6, 7), (1 << 62, (1 << 63) + 3), (1 << 63, last), (last, last), (0, last)):
        found = module._bucket(folder, (first, behind), ["high", "row"])
        assert found["high"].to_pylist() == [one for one in hashes if first <= one <= behind]
        groups = [len(module._groups(one, "high", first, behind)) for one in files.get_fragments()]
        assert sum(groups) * 3 <= found.num_rows + 2 * 3 * len(groups)


@pytest.mark.soak
def test_any_split_into_shards_order_of_rows_and_number_of_workers_give_the_same(home: Path, two_workers: DaskConfig) -> None:
    config = TrimConfig.model_validate(EVERYTHING)
    one = trim([documents(home / "one", rows())], config=config)
    few = trim([documents(home / "two", random.Random(3).sample(rows(), NUM_ROWS), 200_000)], config=config)
    assert len(one.shards()) > len(few.shards())
    assert everything(one) == everything(few)
    again = STEPS["trim"].run([[documents(home / "one", rows())]], config, str(home / "again"))
    with pool(two_workers):
        parallel = STEPS["trim"].run([[documents(home / "one", rows())]], config, str(home / "parallel"))
    assert not again.loaded and not parallel.loaded
    assert again.shards.digest == parallel.shards.digest == one.digest


def test_a_later_crawl_changes_nothing_in_an_earlier_one_and_loses_what_that_has(home: Path) -> None:
    config = TrimConfig.model_validate({"paragraphs": {}, "spans": {"min_words": 20}})
    old, new = documents(home / "old", rows()[60:]), documents(home / "new", rows()[:60])
    alone, both = texts(trim([old], config=config)), trim([old, new], config=config)
    found = texts(both)
    assert {one: found.get(one) for one in texts(old)} == {one: alone.get(one) for one in texts(old)}
    corpus = [Document(k, one, text) for k, version in enumerate((old, new)) for one, text in texts(version).items()]
    left, _ = reference(corpus, config)
    assert found == {one: text for one, text in left.items() if text}
    assert {row["first_doc_id"] for row in told(both.folder) if row["doc_id"] in texts(new)} & texts(old).keys()


def test_a_document_of_which_too_little_is_left_is_a_reject_that_names_another(home: Path) -> None:
    made = trim([documents(home / "rows", rows())], config=TrimConfig.model_validate({"lines": {}, "min_chars": 300}))
    gone = rejects(made)
    before = texts(documents(home / "rows", rows()))
    assert {row["rule"] for row in gone} == {"trimmed_empty"} and made.counts.dropped == {"trimmed_empty": len(gone)}
    for row in gone:
        first = next(one for one in told(made.folder) if one["doc_id"] == row["doc_id"])
        assert row["detail"] == f"what it repeats begins in document {first['first_doc_id']}"
        assert row["threshold"] == 300 > row["value"] and row["excerpt"] == before[row["doc_id"]][:300]
    assert {row["value"] for row in gone} > {0.0}
    assert made.manifest().facts["chars_rejected"] == sum(row["value"] for row in gone)


def test_a_version_without_shards_makes_one_and_changes_nothing_beside_another(home: Path) -> None:
    folder = str(home / "nothing")
    dataset.seal(folder, step="dedup", schema_name="clustered_documents", recipe={}, receipts=[], files=[], facts={})
    nothing, config = dataset.open_version(folder), TrimConfig.model_validate(EVERYTHING)
    for made in (trim([nothing], config=config), trim([], config=config)):
        assert made.num_shards == 0 and made.counts == Counts() and made.manifest().facts == {}
        assert "there was none; 0 of 0 documents" in trim_told(made.manifest())
    some = documents(home / "rows", rows())
    assert everything(trim([nothing, some], config=config)) == everything(trim([some], config=config))


def test_a_short_document_that_repeats_nothing_stays_as_it_is(home: Path) -> None:
    made = trim(
        [documents(home / "rows", [{"text": "Short.", "url": "http://a.example/"}])],
        config=TrimConfig.model_validate({"lines": {}, "min_chars": 99}),
    )
    assert list(texts(made).values()) == ["Short."] and told(made.folder) == []


def test_a_null_text_stays_null_beside_texts_that_change(home: Path) -> None:
    found = ["Hello there, a long line.\nfoo", None, "Hello there, a long line.\nbar", None, ""]
    names = {name: [f"{name}{k}" for k in range(5)] for name in ("doc_id", "url", "source", "text_digest")}
    receipt = dataset.write_shard(str(home / "v"), 0, dataset.Outcome(pa.table({**names, "text": pa.array(found, pa.string())})))
    about = {"step": "dedup", "schema_name": "clustered_documents", "recipe": {}, "files": [], "facts": {}}
    dataset.seal(str(home / "v"), receipts=[receipt], **about)
    made = trim([dataset.open_version(str(home / "v"))], config=TrimConfig.model_validate(EVERYTHING))
    [shard] = made.shards()
    assert shard.read()["text"].to_pylist() == [found[0], None, "bar", None, ""]
    assert shard.read()["text_digest"].to_pylist() == [*names["text_digest"][:2], text_digest("bar"), *names["text_digest"][3:]]


def test_rows_of_one_id_are_told_apart_and_one_of_them_stays_whole(home: Path) -> None:
    twice = [{"text": english.text(1)}] * 2 + [{"text": english.text(2)}]
    source = documents(home / "rows", twice)
    assert len(texts(source)) == 2 and source.counts.kept == 3
    made = trim([source], config=TrimConfig.model_validate({"paragraphs": {}}))
    assert made.counts.kept == 2 and texts(made) == texts(source)


def test_marked_texts_are_the_bytes_that_came_and_places_are_those_of_python(home: Path) -> None:
    some = [
        {"text": f"{mark} Zażółć gęślą jaźń, a to jest wiersz.\r\n{n} inny", "url": f"http://a.example/{n}"}
        for n, mark in enumerate("äö€😀")
    ]
    source = documents(home / "rows", [*some, {**some[0], "url": "http://b.example/"}])
    made = trim([source], config=TrimConfig.model_validate({"spans": {"min_words": 7, "action": "mark"}}))
    before = texts(source)
    assert texts(made) == before and made.counts.kept == 5
    assert len(told(made.folder)) == 4
    for row in told(made.folder):
        here = before[row["doc_id"]][row["start"] : row["end"]]
        there = before[row["first_doc_id"]][row["first_start"] : row["first_end"]]
        assert here == there and "Zażółć gęślą jaźń, a to jest wiersz." in here
        assert row["first_doc_id"] == min(before)
    facts = made.manifest().facts
    assert facts["units_marked.spans"] == 4 and facts["chars_given"] == facts["chars_kept"]
    assert facts["chars_marked.spans"] == sum(row["end"] - row["start"] for row in told(made.folder))


def test_a_level_is_asked_for_and_settings_are_told_with_their_key() -> None:
    with pytest.raises(ValidationError, match="there is no level: give some of lines, paragraphs, three_sentences, spans"):
        TrimConfig()
    for wrong in (
        {"lines": {"min_chars": 0}},
        {"spans": {"min_words": 3}},
        {"lines": {"min_words": 9}},
        {"lines": {"max_copies": 0}},
    ):
        with pytest.raises(ValidationError, match=next(iter(wrong))):
            TrimConfig.model_validate(wrong)


PHASES = ["spans-anchors", "spans-repeated", "spans-pieces", "spans-later", f"../{REPEATS}", ".."]


@pytest.mark.soak
def test_a_single_step_killed_in_each_of_its_phases_ends_with_the_same_bytes(tmp_path: Path) -> None:
    source, home = write(tmp_path / "rows", rows()), tmp_path / "home"
    settings = ["--set", "spans.min_words=20", "--set", "lines.min_chars=20"]
    split = tmp_path / "split"
    words = ["step", "trim", "--input", str(split), *settings, "--output"]
    imported = ["step", "ingest", "--input", str(source), "--set", "shard_bytes=6000", "--output", str(split), "--workers", "1"]
    done, calm = commands(home, imported, [*words, str(tmp_path / "calm"), "--workers", "1"])
    assert done.code == 0 == calm.code, calm.output
    killed = tmp_path / "killed"
    for phase in PHASES:
        shards = (killed / "aside" / phase / "shards").resolve()
        process = start(home, "-m", "flows", *words, str(killed), "--workers", "1")
        kill_when(process, lambda shards=shards: shards.exists() and any(shards.glob("[0-9]*.json")))
        assert not (killed / "manifest.json").exists()
    (again,) = commands(home, [*words, str(killed), "--workers", "2"])
    assert again.code == 0, again.output
    one, other = read_manifest(str(tmp_path / "calm")), read_manifest(str(killed))
    assert one.digest == other.digest and one.facts == other.facts and one.counts == other.counts
    assert told(tmp_path / "calm") == told(killed)
    assert not (killed / "aside").exists()
    assert "units_removed.spans" in calm.output and "chars_removed.lines" in calm.output
    assert f"trim: {NUM_ROWS} in" in calm.output


def test_a_single_step_takes_plain_files(tmp_path: Path) -> None:
    source = write(tmp_path / "data", rows())
    (ended,) = commands(
        tmp_path / "home",
        [
            "step",
            "trim",
            "--input",
            str(source),
            "--output",
            str(tmp_path / "out"),
            "--set",
            "lines.min_chars=20",
            "--workers",
            "1",
        ],
    )
    assert ended.code == 0, ended.output
    assert "units_removed.lines" in ended.output
    kept = [row for path in (tmp_path / "out").glob("part-*.parquet") for row in pq.read_table(path).to_pylist()]
    assert sum(FOOTER.splitlines()[0] in row["text"] for row in kept) == 1
    assert sum(FOOTER.splitlines()[1] in row["text"] for row in kept) == 40  # 18 characters: too short for the level


def run(source: Path, name: str, **more: Any) -> tuple[list[str], dict[str, ShardSet]]:
    """(steps in order, version of each) of a run that trims paragraphs."""
    config = RunConfig.model_validate(
        {
            "dask": {"kind": "none"},
            "ingest": {"snapshot": name, "sources": [{"kind": "folder", "path": str(source)}]},
            "trim": {"paragraphs": {}},
            "filter": {"languages": ["en"]},
            **more,
        }
    )
    with ledger.run(name):
        prepared = prepare.fn(config)
        return [one.step for one in prepared.history], {entry.step: entry.shards() for entry in ledger.entries(name)}


def read(version: ShardSet) -> dict[str, dict[str, Any]]:
    return {row["doc_id"]: row for shard in version.shards() for row in shard.read().to_pylist()}


def test_a_run_trims_what_dedup_let_stay_and_the_passport_says_what_went(home: Path) -> None:
    steps, made = run(write(home / "rows", rows()), "trimmed")
    assert [one for one in steps if one in ("rewrite", "trim", "dedup", "redact")] == ["rewrite", "dedup", "trim", "redact"]
    assert made["rewrite"].counts.kept == made["dedup"].counts.total and made["dedup"].counts.kept == made["trim"].counts.total
    before, after = read(made["dedup"]), read(made["trim"])
    assert made["dedup"].counts.dropped["exact_duplicate"] and {row["num_copies"] for row in after.values()} == {1, 2}
    for doc, row in after.items():
        whole = before[doc] | {name: row[name] for name in ("text", "text_digest")}
        assert list(whole) == list(row) and whole == row  # cluster, num_copies and all others go on as they came
    row = next(row for row in told(made["trim"].folder) if row["doc_id"] in after)
    words = {version.step: said for version, said in passport(row["doc_id"], list(made.values()))}
    assert f"paragraphs removed in 1 places, the first as in document {row['first_doc_id']}" in words["trim"]
    stages = {stage["dataset"]: stage for stage in storage.read_json(made["validate"].file("validation.json"))["stages"]}
    assert "trim" in stages


def test_a_takedown_brings_back_the_whole_copy_and_the_piece_that_another_had_first(home: Path) -> None:
    shared = english.text(99, 1)
    some = [{"text": english.text(n, 3), "url": f"http://h{n}.example/"} for n in range(8)]
    some += [{"text": some[0]["text"], "url": "http://copy.example/"}]
    some += [{"text": f"{english.text(n, 3)}\n\n{shared}", "url": f"http://shares{n}.example/"} for n in (20, 21)]
    source = write(home / "rows", some)
    _, made = run(source, "all")
    everything_there = {row["url"]: row for row in read(made["trim"]).values()}
    [first] = [url for url, row in everything_there.items() if shared in row["text"]]
    [second] = {"http://shares20.example/", "http://shares21.example/"} - {first}
    [stays] = everything_there.keys() & {"http://h0.example/", "http://copy.example/"}
    [copy] = {"http://h0.example/", "http://copy.example/"} - {stays}
    assert everything_there[stays]["num_copies"] == 2 and second in everything_there
    gone = [url.removeprefix("http://").removesuffix("/") for url in (stays, first)]
    _, made = run(source, "fewer", forget={"domains": gone})
    left = {row["url"]: row for row in read(made["trim"]).values()}
    assert left.keys() == everything_there.keys() - {stays, first} | {copy}
    assert left[copy]["text"] == everything_there[stays]["text"] and left[copy]["num_copies"] == 1
    assert left[second]["text"].endswith(shared)


def test_pieces_of_all_crawls_are_met_and_the_least_id_keeps_them(home: Path) -> None:
    shared = english.text(99, 1)
    some = [{"text": f"{english.text(n, 3)}\n\n{shared}", "url": f"http://h{n}.example/"} for n in range(24)]
    _, old = run(write(home / "old", some[:12]), "old")
    _, new = run(write(home / "new", some[12:]), "new", index={"base": old["index"].path})
    before, after = read(new["dedup"]), read(new["trim"])
    assert before.keys() > read(old["dedup"]).keys() and len(before) == 24
    assert [doc for doc, row in after.items() if shared in row["text"]] == [min(before)]
    _, alone = run(write(home / "new", some[12:]), "alone", index={"base": old["index"].path}, dedup={"documents": "new"})
    assert [doc for doc, row in read(alone["trim"]).items() if shared in row["text"]] == [min(read(alone["dedup"]))]


def test_the_removal_rate_of_a_grown_corpus_counts_each_document_once(home: Path) -> None:
    some = [{"text": english.text(n, 3), "url": f"http://h{n}.example/"} for n in range(24)]
    _, old = run(write(home / "old", some[:12]), "old")
    _, new = run(
        write(home / "new", [*some[12:], some[0] | {"url": "http://copy.example/"}]), "new", index={"base": old["index"].path}
    )
    assert new["dedup"].counts.total == 25 and new["trim"].counts.kept == 24
    assert read_manifest(new["validate"].folder).facts["removal_rate"] == pytest.approx(1 / 25)
