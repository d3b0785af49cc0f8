"""index, forget and dedup on real files against the slow reference: any corpus, order, split, crawl after crawl, and after forgetting."""

from __future__ import annotations

import json
import random
import unicodedata
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from expectations.schemas import REWRITTEN
from infra import dataset
from infra.cluster import DaskConfig, pool
from infra.dataset import ShardSet
from infra.errors import InputError
from infra.steps import Output
from tasks.dedup import DedupConfig, dedup, documents_of
from tasks.forget import ForgetConfig, forget, taken_down
from tasks.index import index
from tasks.text.generations import EDGES, Chain
from tasks.text.minhash import SketchConfig
from tasks.text.sketches import IndexConfig
from tests.text import edits
from tests.text.reference_dedup import Edge, Record, measured, numbered

from .deduplicating import Crawls, Told, chained, documents, rows_of, version
from .processes import finished_parts, kill_when, receipts, start

CAREFUL = IndexConfig()
# one word a shingle, one hash a band, full from three documents on: large mixed buckets of which most pairs are held back
CROWDED = IndexConfig(shingle_length=1, num_bands=4, rows_per_band=1, bucket_cap=3, bucket_heads=2)
# the same, worked on in small parts
SMALL_PARTS = CROWDED.model_copy(update={"max_bucket_entries": 40, "max_unit_shingles": 8})
CHOICES = [
    DedupConfig(),
    DedupConfig(min_similarity=0.5),
    DedupConfig(measure="containment", min_similarity=0.9),
    DedupConfig(near=False),
    DedupConfig(min_similarity=1),
]
HALF = DedupConfig(min_similarity=0.5)


def agree(crawls: Crawls, *choices: DedupConfig) -> None:
    """The steps and the reference say the same of every row."""
    for config in choices or (HALF,):
        told, expected = crawls.told(config), crawls.expected(config)
        assert told - expected == expected - told == Counter(), config


@pytest.mark.parametrize("seed", range(2))
def test_one_crawl_is_decided_as_the_reference_decides_it(home: Path, seed: int) -> None:
    agree(Crawls.of(CAREFUL, edits.mixed(seed)), *CHOICES)


@pytest.mark.parametrize("config", [CROWDED, SMALL_PARTS], ids=["crowded", "small parts"])
def test_full_buckets_are_decided_by_the_rule_of_the_reference(home: Path, config: IndexConfig) -> None:
    for seed in range(2 if config is CROWDED else 1):
        agree(Crawls.of(config, edits.crowded(seed, 60)), HALF, DedupConfig(measure="containment"))


def test_crawl_after_crawl_is_decided_as_all_of_them_at_once(home: Path) -> None:
    for seed, config, corpus in ((0, CAREFUL, edits.mixed(0, 6)), (1, CROWDED, edits.crowded(1))):
        crawls = Crawls(config)
        for crawl in edits.crawls(corpus, 3, seed):
            crawls.add(crawl)
            agree(crawls)
        assert any(told.rule == "seen_before" for told in crawls.told(HALF))


def test_crawls_of_falling_quality_are_decided_as_one_index_of_all_decides_them(home: Path) -> None:
    dealt = [
        [replace(one, quality=(one.quality or 0) / 2 - place) for one in crawl]
        for place, crawl in enumerate(edits.crawls(edits.crowded(5, 80), 3, 5))
    ]
    first = {one.doc_id: one for crawl in reversed(dealt) for one in crawl}  # of a document seen again, the best
    dealt = [[one for one in crawl if first[one.doc_id] is one] for crawl in dealt]
    assert min(map(len, dealt)) > 10
    apart, together = Crawls.of(CROWDED, *dealt), Crawls.of(CROWDED, [one for crawl in dealt for one in crawl])
    for config in CHOICES[1:3]:
        assert apart.told(config) == together.told(config)


def test_shards_and_their_order_decide_nothing(home: Path) -> None:
    dealt = edits.crawls(edits.mixed(3, 6), 2, 3)
    first, other = Crawls.of(CAREFUL, *dealt), Crawls.of(CAREFUL, *dealt, seed=11, num_shards=5)
    assert first.index is not None and other.index is not None and other.index.version != first.index.version
    assert other.told(HALF) == first.told(HALF)
    assert other.index.manifest().facts == first.index.manifest().facts


@pytest.mark.soak
def test_workers_change_no_byte_of_what_this_process_makes(home: Path) -> None:
    crawls = Crawls.of(SMALL_PARTS, *edits.crawls(edits.crowded(3, 60), 2, 3))
    assert crawls.index is not None
    gone = ForgetConfig(doc_ids=tuple(one.doc_id for one in crawls.living[0][::3]))
    left = forget(crawls.index, config=gone)
    with pool(DaskConfig(workers=2)):
        base: list[ShardSet] = []
        for place, given in enumerate(crawls.versions):
            base = [index.run(([given], base), SMALL_PARTS, str(home / f"index-{place}")).shards]
        forgotten = forget.run((base[0],), gone, str(home / "forget")).shards
        decided = dedup.run((crawls.versions, forgotten), HALF, str(home / "dedup"))
    assert not decided.loaded and (base[0].digest, forgotten.digest) == (crawls.index.digest, left.digest)
    assert decided.shards.digest == dedup(documents_of(left, HALF), left, config=HALF).digest


def test_every_removal_names_a_document_that_stays_with_their_exact_similarity(home: Path) -> None:
    dealt = edits.crawls(edits.mixed(4), 3, 4)
    texts = {one.doc_id: one.text for one in numbered(dealt)}
    crawls = Crawls.of(CAREFUL, *dealt)
    for config in CHOICES:
        told = crawls.told(config)
        stays = {one.doc_id for one in told if one.rule is None}
        for gone in (one for one in told if one.rule is not None):
            assert gone.keeper in stays
            if gone.rule == "seen_before":
                continue
            one, other = (measured(texts[name], SketchConfig()) for name in (gone.doc_id, gone.keeper))
            edge = Edge(len(one.shingles & other.shingles), len(one.shingles), len(other.shingles))
            alike = edge.similarity(config.measure) if one.content != other.content else 1.0
            assert gone.similarity == alike >= config.min_similarity


def test_deciding_again_reads_the_index_and_leaves_it_as_it_is(home: Path) -> None:
    crawls = Crawls.of(CAREFUL, *edits.crawls(edits.mixed(5, 6), 2, 5))
    assert crawls.index is not None
    folder = Path(crawls.index.folder)
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}
    agree(crawls, *CHOICES)
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()} == before
    assert dataset.damaged(str(folder), crawls.index.manifest()) == []


def test_a_chain_of_similar_documents_loses_every_second_one(home: Path) -> None:
    texts = edits.chain(1, 5, 80, 8)  # neighbours 72/88 = 0.818, one further 64/96
    config = IndexConfig(num_bands=60, rows_per_band=2)  # such as finds every pair of these
    chain = [Record(f"{place:032x}", text, quality=1 - place / 10) for place, text in enumerate(texts)]
    told = Crawls.of(config, chain).told(DedupConfig())
    assert {int(one.doc_id, 16): one.keeper and int(one.keeper, 16) for one in told} == {0: None, 1: 0, 2: None, 3: 2, 4: None}
    assert {one.similarity for one in told} == {None, 72 / 88}
    assert {one.cluster for one in told if one.rule is None} == {chain[0].doc_id}


# --- forgetting -------------------------------------------------------------------------------------------------------


ROOMY = IndexConfig(shingle_length=1, num_bands=4, rows_per_band=1)


def story(config: IndexConfig, seed: int, num_crawls: int) -> None:
    """Crawls are added and documents forgotten by turns; some of what was forgotten comes back with a later crawl."""
    draw = random.Random(f"story {seed}")
    crawls, lost = Crawls(config, seed), []
    for crawl in edits.crawls(edits.crowded(seed, 60), num_crawls, seed):
        crawls.add(crawl + draw.sample(lost, min(3, len(lost))))
        for _ in range(draw.randint(1, 2)):
            alive = sorted({one for living in crawls.living for one in living}, key=lambda one: one.doc_id)
            gone = draw.sample(alive, min(len(alive), draw.choice([1, 4, 12])))
            lost += gone
            crawls.forget(doc_ids=[one.doc_id for one in gone], urls=[one.url for one in alive[:1]])
            agree(crawls)


@pytest.mark.parametrize("config", [pytest.param(CROWDED, marks=pytest.mark.soak), SMALL_PARTS], ids=["crowded", "small parts"])
def test_forgetting_gives_what_the_crawls_without_those_documents_give(home: Path, config: IndexConfig) -> None:
    story(config, 1, 2)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(10, 40))
def test_many_stories_of_crawls_and_forgetting_are_told_as_the_reference_tells_them(home: Path, seed: int) -> None:
    story([CROWDED, SMALL_PARTS, ROOMY][seed % 3], seed, 4)


def test_after_a_keeper_is_forgotten_its_copies_in_later_crawls_live(home: Path) -> None:
    one, near = edits.pair(1, 90, 5, 3)
    first = [Record("1" * 32, one, "http://a.example/1"), Record("2" * 32, near, "http://b.example/1")]
    second = [Record("3" * 32, one.upper(), "http://c.example/1"), Record("4" * 32, one + "!", "http://c.example/2")]
    crawls = Crawls.of(CAREFUL, first, second)
    agree(crawls)
    assert sum(told.rule is None for told in crawls.told(HALF)) == 1
    crawls.forget(doc_ids=["1" * 32])
    agree(crawls)
    crawls.forget(doc_ids=["2" * 32])
    agree(crawls)
    assert {told.doc_id for told in crawls.told(HALF) if told.rule is None} == {"4" * 32}  # longer than 3 by a sign
    crawls.forget(doc_ids=["4" * 32])
    agree(crawls)
    assert {told.doc_id for told in crawls.told(HALF) if told.rule is None} == {"3" * 32}


def test_hosts_with_what_is_below_them_and_urls_are_forgotten_whole(home: Path) -> None:
    corpus = [
        replace(one, url=one.url.replace("h3.example", "www.h2.example").replace("h4.example", "h2.example.org"))
        for one in edits.mixed(6, 5)
    ]
    crawls = Crawls.of(CAREFUL, *edits.crawls(corpus, 3, 6))
    crawls.forget(hosts=["h2.example"])
    agree(crawls)
    hosts = {one.host for crawl in crawls.living for one in crawl}
    assert hosts == {"h0.example", "h1.example", "h2.example.org"}
    crawls.forget(urls=[crawl[0].url for crawl in crawls.living])
    agree(crawls)


def test_a_list_in_a_file_and_whole_sources_are_forgotten_as_names_in_the_configuration_are(home: Path, tmp_path: Path) -> None:
    corpus = [replace(one, source="theirs" if place % 7 == 0 else "ours") for place, one in enumerate(edits.mixed(6, 5))]
    crawls = Crawls.of(CAREFUL, corpus)
    assert crawls.index is not None
    lone, page = (
        next(one for one in corpus if one.source == "ours" and one.host == host) for host in ("h1.example", "h4.example")
    )
    listed = tmp_path / "takedowns.txt"
    listed.write_text(f"# asked for in November\n\n{lone.doc_id}\n{page.url}   # by mail\n  H2.Example # the whole of it\n")
    told = ForgetConfig(file=str(listed), sources=("theirs",), reason="list")
    named = ForgetConfig(doc_ids=(lone.doc_id,), urls=(page.url,), domains=("h2.example",), sources=("theirs",), reason="list")
    by_file, by_name = (forget(crawls.index, config=config) for config in (told, named))
    assert by_file.digest == by_name.digest and by_file.version != by_name.version
    gone = [
        one.doc_id
        for one in corpus
        if one in (lone, page) or one.url == page.url or one.source == "theirs" or one.host == "h2.example"
    ]
    assert 10 < len(gone) < len(corpus) == by_file.counts.total
    assert by_file.counts.dropped == {"forgotten": len(gone)} and by_file.counts.kept == len(corpus) - len(gone)
    fates = rows_of(dedup(documents_of(by_file, HALF), by_file, config=HALF))
    assert sorted(one.doc_id for one in fates.elements() if one.rule == "forgotten") == sorted(gone)
    listed.write_text(lone.doc_id)
    assert forget(crawls.index, config=told).version != by_file.version  # what the file says is part of the recipe


def test_the_heads_of_a_full_bucket_are_forgotten_and_the_next_take_their_place(home: Path) -> None:
    texts = edits.family(1, 100, [1] * 40)  # any two of them 100/102
    config = IndexConfig(bucket_cap=6, bucket_heads=2)
    crawl = [Record(f"{place:032x}", text, quality=1 - place / 100) for place, text in enumerate(texts)]
    crawls = Crawls.of(config, crawl[:25], crawl[25:])
    for gone in (range(0, 9), range(20, 30)):
        crawls.forget(doc_ids=[crawl[place].doc_id for place in gone])
        agree(crawls)
    told = crawls.told(HALF)
    assert [one.doc_id for one in told if one.rule is None] == [crawl[9].doc_id]


def test_forgetting_twice_or_what_is_not_there_changes_nothing(home: Path) -> None:
    crawls = Crawls.of(CROWDED, *edits.crawls(edits.crowded(7), 2, 7))
    gone = [one.doc_id for one in crawls.living[0][:5]]
    crawls.forget(doc_ids=gone)
    before = crawls.told(HALF)
    crawls.forget(doc_ids=[*gone, "f" * 32], hosts=["nowhere.example"], urls=["http://nowhere.example/"])
    assert crawls.told(HALF) == before
    agree(crawls)


def test_all_that_a_crawl_brought_can_be_forgotten(home: Path) -> None:
    first, second = edits.crawls(edits.crowded(8), 2, 8)
    crawls = Crawls.of(CROWDED, first)
    crawls.forget(doc_ids=[one.doc_id for one in first])
    assert {told.rule for told in crawls.told(HALF)} == {"forgotten"}
    crawls.add(second)
    agree(crawls)


# --- captures of one URL, rows that come again, crawls of nothing ---------------------------------------------------


@pytest.mark.parametrize(
    "config", [IndexConfig(preset="fineweb"), IndexConfig(preset="nemo", scheme="affine64")], ids=["words", "characters"]
)
def test_other_normal_forms_shingles_and_hashes_are_decided_alike(home: Path, config: IndexConfig) -> None:
    agree(Crawls.of(config, edits.mixed(14, 5)))


def test_one_text_in_two_unicode_forms_is_one_content_where_accents_do_not_count(home: Path) -> None:
    text = edits.passage(1, 0, 40).replace("q", "\u00e9")
    crawl = [Record("a" * 32, text, quality=1.0), Record("b" * 32, unicodedata.normalize("NFD", text))]
    for config, rule in ((CAREFUL, None), (IndexConfig(accents="strip"), "exact_duplicate")):
        crawls = Crawls.of(config, crawl)
        agree(crawls)
        assert {told.doc_id[0]: told.rule for told in crawls.told(HALF)} == {"a": None, "b": rule}


def test_crawls_that_were_compared_otherwise_are_not_joined(home: Path) -> None:
    crawls = Crawls.of(CAREFUL, edits.mixed(15, 2))
    assert crawls.index is not None
    for change in ({"bucket_cap": 9}, {"shingle_length": 4}, {"accents": "strip"}, {"seed": 2}):
        with pytest.raises(InputError, match=f"index.{next(iter(change))} "):
            index([documents(edits.mixed(16, 2))], [crawls.index], config=IndexConfig.model_validate(change))


def test_only_the_newest_crawl_is_told_apart_from_all_where_that_is_asked(home: Path) -> None:
    dealt = edits.crawls(edits.mixed(12, 6), 2, 12)
    crawls = Crawls.of(CAREFUL, *dealt)
    everything, newest = crawls.told(HALF), crawls.told(HALF.model_copy(update={"documents": "new"}))
    assert newest <= everything and newest.total() == len(dealt[1])
    kept_before = {told.doc_id for told in everything - newest if told.rule is None}
    assert any(told.keeper in kept_before for told in newest)


def test_a_damaged_file_of_the_index_is_made_again_before_anything_is_decided_by_it(home: Path) -> None:
    crawls = Crawls.of(CAREFUL, edits.mixed(13, 6))
    assert crawls.index is not None
    before = crawls.told(HALF)
    for place, name in enumerate(("edges", "bands", ".")):
        path = sorted((Path(crawls.index.folder) / name).glob("part-*.parquet"))[0]
        whole = path.read_bytes()
        path.write_bytes(whole[:-9] + bytes(9))
        config = DedupConfig(min_similarity=0.6 + place / 10)  # another decision each time, which has to be made
        assert crawls.told(config) == crawls.expected(config)
        assert path.read_bytes() == whole
    assert crawls.told(HALF) == before


def test_a_damaged_file_of_an_earlier_crawl_is_made_again_too(home: Path) -> None:
    crawls = Crawls.of(CAREFUL, *edits.crawls(edits.mixed(13, 6), 3, 1))
    assert crawls.index is not None
    oldest = Chain.of(crawls.index).segments[0].folder
    path = sorted(Path(oldest).glob("edges/part-*.parquet"))[0]
    whole = path.read_bytes()
    path.write_bytes(whole[:-9] + bytes(9))
    assert crawls.told(HALF) == crawls.expected(HALF)
    assert path.read_bytes() == whole


def test_shingle_sets_that_were_lost_or_cut_off_are_made_again(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Path] = []
    map_files = Output.map_files

    def after_a_loss(out: Output, phase: str, *given: Any) -> Any:
        sets = sorted(Path(out.aside("sets")).glob("*.arrow"))
        if phase == EDGES and not found:
            found.extend(sets)
            sets[0].unlink()
            sets[1].write_bytes(sets[1].read_bytes()[:-20])
        return map_files(out, phase, *given)

    monkeypatch.setattr(Output, "map_files", after_a_loss)
    crawls = Crawls.of(CAREFUL, edits.mixed(13, 6))
    assert len(found) > 2
    agree(crawls, HALF)


def test_a_takedown_that_a_later_run_does_not_name_is_found(home: Path) -> None:
    crawls = Crawls.of(CAREFUL, edits.mixed(13, 6))
    crawls.forget(doc_ids=["a" * 32], hosts=["h1.example"])
    assert taken_down().beyond(ForgetConfig()) == ["a" * 32, "h1.example"]
    assert taken_down().beyond(ForgetConfig(domains=("H1.example",))) == ["a" * 32]
    assert taken_down().beyond(ForgetConfig(doc_ids=("a" * 32,), domains=("h1.example",))) == []


def test_of_one_url_the_best_stays_but_no_content_is_lost_for_it(home: Path) -> None:
    texts = [edits.passage(seed, 0, 40) for seed in range(3)]
    crawl = [
        Record("a" * 32, texts[0], "http://a.example/1", quality=0.9),
        Record("b" * 32, texts[1], "http://a.example/1", quality=0.8),
        Record("c" * 32, texts[1], "http://a.example/2", quality=0.7),
        Record("d" * 32, texts[1], "http://a.example/1", quality=0.6),
        Record("e" * 32, texts[2], "http://a.example/2", quality=0.5),
    ]
    agree(Crawls.of(CAREFUL, crawl), DedupConfig(same_url=True))


def test_captures_of_one_url_are_decided_as_the_reference_decides_them(home: Path) -> None:
    for seed in range(2):
        draw = random.Random(f"urls {seed}")
        corpus = [replace(one, url=f"http://a.example/{draw.randrange(12)}") for one in edits.crowded(seed, 50)]
        agree(Crawls.of(CROWDED, *edits.crawls(corpus, 2, seed)), HALF.model_copy(update={"same_url": True}))


def test_one_document_twice_in_a_crawl_stays_once(home: Path) -> None:
    crawl = edits.mixed(9, 5)
    crawls = Crawls.of(CAREFUL, crawl + crawl[::3])
    agree(crawls, HALF)


def test_one_version_is_not_added_twice(home: Path) -> None:
    crawls = Crawls.of(CAREFUL, edits.mixed(10, 4))
    assert crawls.index is not None
    with pytest.raises(InputError, match="its documents are in the index already"):
        index(crawls.versions, [crawls.index], config=CAREFUL)
    with pytest.raises(InputError, match=r"twice|already"):
        index(crawls.versions * 2, [], config=CAREFUL)


def test_a_crawl_without_documents_is_added_and_changes_nothing(home: Path) -> None:
    first, second = edits.crawls(edits.mixed(11, 4), 2, 11)
    agree(Crawls.of(CAREFUL, first, [], second))
    agree(Crawls.of(CAREFUL, [], first))


# --- size ------------------------------------------------------------------------------------------------------------


def pages(texts: list[str], first: int = 0) -> ShardSet:
    """A version of documents first, first + 1, … with these texts, each better than the next."""
    rows = [
        Record(f"{number:032x}", text, f"http://a.example/{number}", quality=-number) for number, text in enumerate(texts, first)
    ]
    return documents(rows, num_shards=2)


def kept_and_gone(index_version: ShardSet) -> tuple[set[str], dict[str, Told]]:
    """Ids of the documents that stay, and the others by theirs."""
    told = rows_of(dedup(documents_of(index_version, HALF), index_version, config=HALF))
    return {one.doc_id for one in told if one.rule is None}, {one.doc_id: one for one in told if one.rule is not None}


@pytest.mark.soak
def test_a_hundred_thousand_identical_pages_are_one_content_and_propose_no_pair(home: Path) -> None:
    num_pages = 100_000
    [page] = [row for shard in pages(["The mill turns."]).shards() for row in shard.read().to_pylist()]
    columns = {name: pa.repeat(pa.scalar(value, REWRITTEN.field(name).type), num_pages) for name, value in page.items()}
    ids = pa.array([f"{number:032x}" for number in range(num_pages)])
    given = version([pa.table({**columns, "doc_id": ids}, schema=REWRITTEN)])
    made = index([given], [], config=CAREFUL)
    assert made.counts.kept == num_pages
    assert made.manifest().facts["candidate_pairs"] == made.manifest().facts["skipped_pairs"] == 0
    decided = dedup([given], made, config=HALF)
    assert decided.counts.dropped == {"exact_duplicate": num_pages - 1}
    [kept] = decided.shards()[0].read().to_pylist()
    assert (kept["doc_id"], kept["num_copies"]) == (f"{0:032x}", num_pages)
    assert {(told.rule, told.keeper, told.similarity) for told in rows_of(decided) if told.rule} == {
        ("exact_duplicate", f"{0:032x}", 1.0)
    }


@pytest.mark.soak
def test_twenty_thousand_similar_pages_propose_pairs_in_proportion_to_their_number(home: Path) -> None:
    num_pages, num_later = 20_000, 500
    texts = edits.family(2, 40, [1] * (num_pages + num_later))  # any two of them 40/42
    config = IndexConfig(num_bands=2, rows_per_band=1)

    def most(num_new: int) -> int:
        return config.num_bands * (64 * 63 // 2 + 8 * num_new)

    made = index([pages(texts[:num_pages])], [], config=config)
    facts = made.manifest().facts
    assert 8 * num_pages * 0.9 < facts["candidate_pairs"] <= most(num_pages)
    assert facts["skipped_pairs"] > num_pages**2 / 2 and facts["skipped_pair_share"] > 0.99
    later = index([pages(texts[num_pages:], num_pages)], [made], config=config)
    assert later.manifest().facts["candidate_pairs"] <= config.num_bands * 8 * num_later
    kept, gone = kept_and_gone(later)
    assert f"{0:032x}" in kept and len(kept) < 10
    assert {one.keeper for one in gone.values()} <= kept and {one.similarity for one in gone.values()} == {40 / 42}
    # the very best of them goes, and another takes its place, for which everything is proposed anew: linear again
    left = forget(later, config=ForgetConfig(doc_ids=(f"{0:032x}",)))
    assert left.manifest().facts["candidate_pairs"] <= most(num_pages + num_later)
    kept_now, gone_now = kept_and_gone(left)
    assert f"{1:032x}" in kept_now and len(kept_now) < 10
    assert {one.keeper for one in gone_now.values() if one.rule != "forgotten"} <= kept_now


# --- kills -----------------------------------------------------------------------------------------------------------

PHASES = [
    *(("index", phase) for phase in ("aside/sketches", "", "bands", "aside/candidates", "aside/shingles", "edges")),
    *(("forget", phase) for phase in ("aside/taken", "bands", "aside/candidates", "aside/shingles", "edges")),
    ("dedup", ""),
]


def half_done(store: Path, step: str, phase: str) -> list[Path]:
    """Folders of versions that are not complete, with some finished parts of a phase."""
    found = [folder for folder in (store / step).glob("*") if not (folder / "manifest.json").exists()]
    return [folder for folder in found if len(receipts(folder / phase)) >= 2]


@pytest.mark.soak
def test_killed_in_the_middle_of_its_phases_it_ends_with_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dealt = edits.crawls(edits.crowded(30, 60), 2, 30)
    job = {
        "index": SMALL_PARTS.model_dump(mode="json"),
        "forget": {"doc_ids": [one.doc_id for one in dealt[0][::4]], "domains": ["h1.example"]},
        "dedup": HALF.model_dump(mode="json"),
    }
    for name in ("calm", "killed"):
        monkeypatch.setenv("GRISTMILL_HOME", str(tmp_path / name))
        job["crawls"] = [documents(crawl, num_shards=8).path for crawl in dealt]
        if name == "calm":
            chained(job)
    store, script = tmp_path / "killed" / "store", Path(__file__).parent / "deduplicating.py"
    (tmp_path / "job.json").write_text(json.dumps(job))
    for at in PHASES:
        process = start(tmp_path / "killed", str(script), str(tmp_path / "job.json"))
        kill_when(process, partial(half_done, store, *at), timeout_s=120)
        [folder] = half_done(store, *at)
        before = finished_parts(folder / at[1])
    last = start(tmp_path / "killed", str(script), str(tmp_path / "job.json"))
    said = last.communicate(timeout=120)[0]
    assert last.returncode == 0, said
    assert {path: path.stat().st_mtime_ns for path in before} == before  # of the last kill: not made again
    killed, calm = (
        {path.parent.relative_to(root): json.loads(path.read_text())["digest"] for path in root.glob("*/*/manifest.json")}
        for root in (store, tmp_path / "calm" / "store")
    )
    assert len(calm) == 6 and killed == calm
