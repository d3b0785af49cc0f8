"""What people see of deduplication: the report, the card, trace and rejects of a corpus that grows and forgets; and its alarms."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from expectations.cards import duplicates_told
from expectations.verdict import read_sections
from flows.approval import describe
from flows.budget import BudgetConfig, BudgetExceeded, within_budget
from flows.compare_filters import compare
from flows.passport import passport
from flows.rejects import drawn
from infra import ledger, rejects
from infra.dataset import ShardSet
from tasks.dedup import DedupConfig, dedup, documents_of
from tasks.forget import ForgetConfig, forget
from tasks.index import index
from tasks.ingest import ingest
from tasks.publish import PublishConfig, data_card
from tasks.report import render_run
from tasks.signals import SignalsConfig, signals
from tasks.text.readers import IngestConfig
from tasks.text.rules import FilterConfig
from tasks.text.sketches import IndexConfig
from tasks.validate import ValidateConfig, validate

from . import english

NUM_TEXTS, NUM_NEAR, NUM_COPIES, NUM_AGAIN, NUM_NEW_NEAR = 40, 8, 5, 6, 4
SECRET = "The zanzibar heirloom was hidden below the ninth mill"
Row = dict[str, str]


def edited(text: str, seed: int, num_words: int = 2) -> str:
    """The text with some words changed."""
    draw = random.Random(f"edited {seed}")
    words = text.split(" ")
    for place in draw.sample(range(len(words)), num_words):
        words[place] = "other" + draw.choice(english.NOUNS)
    return " ".join(words)


def row(text: str, url: str, source: str = "web") -> Row:
    return {"text": text, "url": url, "source": source}


def first_crawl() -> list[Row]:
    """Texts, and of some a near duplicate or a copy elsewhere; one host is to be taken down."""
    rows = [row(english.text(n), f"http://a.example/{n}") for n in range(NUM_TEXTS)]
    rows += [row(edited(english.text(n), n), f"http://near.example/{n}") for n in range(NUM_NEAR)]
    rows += [row(english.text(20 + n), f"http://copy.example/{n}") for n in range(NUM_COPIES)]
    gone = [row(f"{SECRET}. {english.text(900)}", "http://www.gone.example/secret")]
    return [*rows, *gone, row(edited(gone[0]["text"], 1), "http://other.example/secret")]


def second_crawl() -> list[Row]:
    """Pages met again, near duplicates of the first crawl, and new texts."""
    again = [row(english.text(n), f"http://a.example/{n}") for n in range(10, 10 + NUM_AGAIN)]
    near = [row(edited(english.text(30 + n), 50 + n), f"http://new.example/{n}") for n in range(NUM_NEW_NEAR)]
    return [*again, *near, *(row(english.text(500 + n), f"http://new.example/fresh/{n}") for n in range(9))]


def ingested(home: Path, name: str, rows: Sequence[Row], shard_bytes: int = 20_000) -> ShardSet:
    folder = home / "rows" / name
    folder.mkdir(parents=True)
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = {"kind": "folder", "path": str(folder)}
    return ingest(config=IngestConfig.model_validate({"snapshot": name, "sources": [source], "shard_bytes": shard_bytes}))


def decided(found: ShardSet, config: DedupConfig | None = None) -> ShardSet:
    config = config or DedupConfig()
    return dedup(documents_of(found, config), found, config=config)


@dataclass
class Told:
    """Two crawls, and the second one again after a takedown: the versions of each run."""

    first: list[ShardSet]
    second: list[ShardSet]
    third: list[ShardSet]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    home = tmp_path_factory.mktemp("told")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRISTMILL_HOME", str(home))
        one, two = ingested(home, "first", first_crawl()), ingested(home, "second", second_crawl())
        before = index([one], [], config=IndexConfig())
        grown = index([two], [before], config=IndexConfig())
        taken = forget(grown, config=ForgetConfig(domains=("gone.example",), reason="asked by its owner"))
        with ledger.run("third"):
            for version in (two, grown, taken):
                ledger.enter(ledger.Entry.of(version, loaded=True, seconds=0))
            after = decided(taken)
        yield Told([one, before, decided(before)], [two, grown, decided(grown)], [two, grown, taken, after])


def test_the_report_has_levels_curve_similarities_buckets_and_pairs_to_judge(told: Told) -> None:
    page = render_run("", told.first)
    for words in (
        "Sets of 5 words in a row, 14 bands of 8 rows",
        f'copies: the same words as another document</th><td class="num">{NUM_COPIES}',
        f'near duplicates, verified</th><td class="num">{NUM_NEAR + 1}',
        "from the threshold 0.8 on it is a near duplicate",
        'aria-label="Chance that a pair is proposed, by its similarity"',
        'aria-label="Candidate pairs by similarity"',
        'aria-label="Buckets by number of documents"',
        "Biggest clusters",
    ):
        assert words in page, words
    assert page.count("removed · ") == page.count("stays · ") == 4
    assert "Stays in crawl" not in page  # one crawl crosses nothing
    assert ">index<" not in page.partition('id="duplicates"')[0]  # the funnel is of what drops documents


def test_the_texts_beside_each_other_begin_where_they_differ(told: Told) -> None:
    page = render_run("", told.first)
    passages = page.partition("Removed, beside what stayed")[2]
    assert passages.count(" other") >= 4  # each passage of one of the two shows the word that was changed first


def test_with_several_crawls_it_is_told_which_one_the_kept_documents_are_of(told: Told) -> None:
    page = render_run("", told.second)
    table = page.partition("by the crawl of the document that stayed")[2].partition("</table>")[0]
    numbers = [int(cell.partition("<")[0]) for cell in table.split('">')[1:] if cell[:1].isdigit()]
    ours = told.second[-1].counts.dropped
    assert sum(numbers) == sum(ours.values())
    assert numbers[0] == NUM_NEAR + 1 + NUM_COPIES and numbers[1] == 0  # the first crawl loses nothing to the second
    assert numbers[2] == NUM_AGAIN + NUM_NEW_NEAR and ours["seen_before"] == NUM_AGAIN


def test_the_text_of_what_was_taken_down_is_shown_nowhere(told: Told) -> None:
    secret, other = "zanzibar", "http://other.example/secret"
    in_the_index = [
        one for version in told.first[:1] for shard in version.shards() for one in shard.read(["text"])["text"].to_pylist()
    ]
    assert sum(secret in text for text in in_the_index) == 2
    # what resembled it stays now, by its own right, and its text is its own
    assert other in [url for shard in told.third[-1].shards() for url in shard.read(["url"])["url"].to_pylist()]
    page = render_run("third", told.third)
    assert secret not in page.partition("Removed, beside what stayed")[0] and "asked by its owner" in page
    assert 'taken down</th><td class="num">1' in page
    for version in (told.third[-1], told.first[-1]):  # also the rejects and pairs that were written before
        shown = {one.url: one for rule in drawn([version], "", "", 99, 0) for one in rule.samples}
        assert "gone.example" not in "".join(url for url, one in shown.items() if one.text)
    [gone] = [one for rule in drawn([told.third[-1]], "forgotten", "", 9, 0) for one in rule.samples]
    assert (gone.url, gone.text, gone.detail) == ("http://www.gone.example/secret", "", "asked by its owner")
    [unseen] = rejects.draw(told.third[-1], 9, rule="forgotten")[0].samples  # and not by the general way either
    assert unseen.text == ""
    assert secret not in render_run("", told.first)


def test_two_filters_are_compared_without_the_text_of_what_was_taken_down(told: Told) -> None:
    measured = signals([told.first[0]], config=SignalsConfig(groups=()))
    found = compare(measured, FilterConfig(languages=("en",)), FilterConfig(languages=("de",)), num_samples=999)
    texts = {one.url: one.text for change in found.changes for one in change.samples}
    assert texts.pop("http://www.gone.example/secret") == "" and len(texts) > NUM_TEXTS and all(texts.values())


def test_trace_names_the_kept_document_its_address_and_the_similarity(told: Told) -> None:
    def words(url: str) -> str:
        ids = {
            row["doc_id"]
            for shard in told.first[0].shards()
            for row in shard.read(["doc_id", "url"]).to_pylist()
            if row["url"] == url
        }
        return "\n".join(f"{version.step}: {said}" for doc in ids for version, said in passport(doc, told.first))

    near = words("http://near.example/3") + words("http://a.example/3")
    assert "dedup: dropped by near_duplicate (similarity 0." in near and ", threshold 0.8): kept instead is " in near
    assert "(http://a.example/3)" in near or "(http://near.example/3)" in near
    copies = words("http://copy.example/1") + words("http://a.example/21")
    assert "dropped by exact_duplicate" in copies and "a copy of number " in copies and "in the rank" in copies


def test_the_card_says_how_duplicates_were_found_and_shows_no_index_in_its_funnel(told: Told) -> None:
    history = [one.manifest() for one in told.third]
    card = data_card(PublishConfig(), {"train": [0]}, {"train": 1}, history)
    assert "| dedup |" in card and "| index |" not in card and "| forget |" not in card
    said = duplicates_told(history)
    assert said in card
    for words in (
        "with those of 1 earlier crawl too",
        "sets of 5 words in a row, MinHash of 14 bands × 8 rows; 4 candidate pairs, each verified by exact overlap",
        "1 documents were taken down",
        "near duplicates from Jaccard similarity 0.8 on",
    ):
        assert words in said, said
    assert duplicates_told([]) == ""
    alone = duplicates_told([one.manifest() for one in told.first])
    assert "compared among themselves" in alone and "taken down" not in alone


def test_rejects_of_dedup_find_the_texts_behind_it(told: Told) -> None:
    assert [one.step for one in rejects.texts_behind(told.second[-1])] == ["ingest", "ingest"]
    samples = [one for rule in drawn([told.second[-1]], "near_duplicate", "", 3, 0) for one in rule.samples]
    assert len(samples) == 3 and all(len(one.text) > 100 and one.detail for one in samples)


def test_a_template_that_fills_buckets_warns_at_the_gate_with_what_to_do(home: Path) -> None:
    frame = english.text(1, 12)
    pages = [row(f"{frame} {english.text(n, 1)[:60]}", f"http://t.example/{n}") for n in range(260)]
    documents = ingested(home, "template", pages, shard_bytes=10_000_000)
    found = index([documents], [], config=IndexConfig())
    facts = found.manifest().facts
    assert facts["buckets"]["64"] > 0 and facts["skipped_pair_share"] > 0.5
    checks = validate(decided(found, DedupConfig(near=False)), [found], [], config=ValidateConfig(suite="documents"))
    results = [one for _, some in read_sections(checks.file("validation.json")) for one in some]
    [warning] = [one for one in results if one.column == "skipped_pair_share"]
    assert (warning.success, warning.severity) == (False, "warning")
    assert warning.observed == pytest.approx(facts["skipped_pair_share"])
    asked = describe(checks)  # what whoever approves a run is told
    assert "index" in asked and "skipped_pair_share" in asked and "Raise index.bucket_cap" in asked


def test_a_source_that_near_duplicates_empty_stops_the_run_with_examples(home: Path) -> None:
    web = [row(english.text(n), f"http://web.example/{n}") for n in range(110)]
    feed = [row(edited(english.text(n), n)[:-20], f"http://feed.example/{n}", "feed") for n in range(110)]
    unique = decided(index([ingested(home, "fed", [*web, *feed])], [], config=IndexConfig()))
    lost = unique.counts.dropped["near_duplicate"]
    assert lost == 110
    with pytest.raises(
        BudgetExceeded, match=r"dedup: removed 1\d\d of 110 documents of source feed .* most by near_duplicate"
    ) as stopped:
        within_budget(unique, BudgetConfig())
    assert str(stopped.value).count("http://feed.example/") == 3 and "budget.steps.dedup" in str(stopped.value)


def test_with_documents_all_the_budget_counts_those_of_all_crawls(home: Path) -> None:
    rows = [row(english.text(n), f"http://web.example/{n}") for n in range(60)]
    before = index([ingested(home, "one", rows)], [], config=IndexConfig())
    grown = index([ingested(home, "two", rows)], [before], config=IndexConfig())
    budget = BudgetConfig(max_removed_by_rule=0.4)
    with pytest.raises(BudgetExceeded, match="rule seen_before removed 60 of 120 documents of source web"):
        within_budget(decided(grown), budget)
    new = decided(grown, DedupConfig(documents="new"))
    assert within_budget(new, budget) is new  # 60 documents say too little
