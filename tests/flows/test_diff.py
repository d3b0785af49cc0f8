"""`diff` tells which documents two versions do not share, and the rule, step or crawl that made the difference."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from random import Random

import pyarrow as pa
import pytest
from rich.console import Console

from flows.diff import COPY, LOST, NEVER_SEEN, SAME_TEXT, SAME_URL, Difference, compare, find, show
from infra import ledger, lineage
from infra.dataset import ShardSet
from infra.errors import InputError

from .driver import commands
from .made_store import corpus, make

SHORT, LONG, LONGER = "http://a.example/short", "http://a.example/long", "http://a.example/longer"
PAGES = {SHORT: "one two", LONG: "one two three", LONGER: "one two three four"}


def between(older: ShardSet, newer: ShardSet) -> Difference:
    records = [lineage.record(one.path) for one in (older, newer)]
    assert records[0] and records[1]
    return compare(records[0], records[1])


def told(difference: Difference) -> dict[tuple[str, str], tuple[int, list[str]]]:
    return {(one.what, one.why): (one.count, list(one.samples)) for one in difference.reasons}


def test_a_version_beside_itself_has_no_difference(home: Path) -> None:
    made = corpus(PAGES)["publish"]
    found = between(made, made)
    assert (found.unchanged, found.reasons, found.recipes) == (3, [], {})


def test_a_raised_threshold_removes_and_a_lowered_one_adds_by_the_same_rule(home: Path) -> None:
    loose, strict = corpus(PAGES, min_words=2)["publish"], corpus(PAGES, min_words=3)["publish"]
    raised, lowered = between(loose, strict), between(strict, loose)
    assert told(raised) == {("removed", "dropped by filter min_words"): (1, [SHORT])}
    assert told(lowered) == {("added", "was dropped by filter min_words"): (1, [SHORT])}
    assert raised.recipes == {"filter": ["min_words: 2 → 3"]}
    assert raised.unchanged == lowered.unchanged == 2


def test_a_page_that_was_not_crawled_before_or_is_not_any_more(home: Path) -> None:
    before, after = (
        corpus({SHORT: PAGES[SHORT], LONG: PAGES[LONG]})["publish"],
        corpus({LONG: PAGES[LONG], LONGER: PAGES[LONGER]})["publish"],
    )
    found = told(between(before, after))
    assert found == {
        ("removed", NEVER_SEEN.format("newer")): (1, [SHORT]),
        ("added", NEVER_SEEN.format("older")): (1, [LONGER]),
    }


def test_a_page_fetched_again_is_changed_and_not_removed_and_added(home: Path) -> None:
    before, after = corpus(PAGES)["publish"], corpus(PAGES, payload="later")["publish"]
    found = between(before, after)
    assert told(found) == {("changed", SAME_URL): (3, [LONG, LONGER, SHORT])}
    assert found.unchanged == 0 and found.recipes["crawl"] == ["snapshot: first → later"]


def test_a_step_that_writes_other_texts_changes_every_document(home: Path) -> None:
    found = between(corpus(PAGES)["publish"], corpus(PAGES, upper=True)["publish"])
    assert told(found) == {("changed", SAME_TEXT): (3, [LONG, LONGER, SHORT])}


def test_a_page_fetched_again_and_then_dropped_says_both(home: Path) -> None:
    before, after = corpus(PAGES)["publish"], corpus(PAGES, payload="later", min_words=3)["publish"]
    assert told(between(before, after))[("removed", "dropped by filter min_words, with another payload")] == (1, [SHORT])


def test_the_step_that_dropped_it_is_named_between_steps_of_one_run_too(home: Path) -> None:
    made = corpus(PAGES, min_words=3)
    assert told(between(made["crawl"], made["filter"])) == {("removed", "dropped by filter min_words"): (1, [SHORT])}


def test_what_no_step_dropped_and_yet_is_gone_is_said_to_be_not_handed_on(home: Path) -> None:
    made = corpus(PAGES)
    fewer = make("publish", made["filter"].shards()[0].read().slice(0, 2), inputs={"documents": made["filter"]})
    [(what, why)] = told(between(made["publish"], fewer))
    assert (what, why) == ("removed", LOST)


def test_code_and_libraries_that_changed_are_told_though_no_document_did(home: Path) -> None:
    found = between(corpus(PAGES)["publish"], corpus(PAGES, code="bbbb")["publish"])
    assert found.reasons == [] and found.recipes == {"filter": ["code: filter-aaaa → filter-bbbb"]}


def test_copies_by_augmentation_are_told_as_such_and_never_as_pages_that_came_or_went(home: Path) -> None:
    made = corpus(PAGES)
    rows = made["publish"].shards()[0].read()
    marked = rows.append_column("augmented", pa.nulls(rows.num_rows, pa.string()))
    copies = (
        rows.slice(0, 2)
        .set_column(0, "doc_id", pa.array(["0" * 32, "1" * 32]))
        .append_column("augmented", pa.array(["swap", "noise"]))
    )
    more = make("publish", pa.concat_tables([marked, copies]), inputs={"documents": made["filter"]})
    found = between(made["publish"], more)
    assert {key: count for key, (count, _) in told(found).items()} == {
        ("copies added", COPY.format("noise")): 1,
        ("copies added", COPY.format("swap")): 1,
    }
    said = StringIO()
    show(found, Console(width=200, file=said))
    assert "0 added, 0 removed, 0 changed, 2 copies added, 3 unchanged" in said.getvalue()
    assert found.unchanged == 3 and between(more, more).unchanged == 5
    assert {what for what, _ in told(between(more, made["publish"]))} == {"copies removed"}


@pytest.mark.parametrize("seed", range(6))
def test_every_document_of_both_sides_is_told_once_however_many_share_a_place(home: Path, seed: int) -> None:
    random = Random(seed)
    sides = []
    for _ in range(2):
        urls = random.choices("abc", k=random.randint(1, 8))
        rows = {(url, word) for url in urls for word in random.choices("xyz", k=2)}
        ordered = sorted(rows)
        table = {"doc_id": [f"{url}{word}" for url, word in ordered], "url": [url for url, _ in ordered]}
        table |= {"source": ["s"] * len(ordered), "text_digest": [random.choice("12") for _ in ordered]}
        sides.append((make("publish", pa.table(table), config={"seed": random.random()}), len(ordered)))
    (older, num_older), (newer, num_newer) = sides
    found = between(older, newer)
    assert found.unchanged + found.count("changed") + found.count("removed") == num_older
    assert found.unchanged + found.count("changed") + found.count("added") == num_newer


def test_an_address_with_brackets_is_shown_as_it_is(home: Path) -> None:
    url = "http://a.example/?filter[name]=x&close=[/b]"
    found = between(corpus({**PAGES, url: "one two"}, min_words=2)["publish"], corpus(PAGES)["publish"])
    told = StringIO()
    show(found, Console(width=200, file=told))
    assert url in told.getvalue()


def test_versions_without_documents_are_refused(home: Path) -> None:
    made = corpus(PAGES, model="mine:1")
    with pytest.raises(InputError, match=r"pretrain/.*: holds no documents"):
        between(made["publish"], made["pretrain"])


def test_latest_and_previous_are_those_of_the_corpus_that_published_last(home: Path) -> None:
    versions = []
    for number, name in enumerate(("mine", "mine", "other")):
        with ledger.run(f"run-{number}"):
            ledger.begin(f"run-{number}", "curate", name, {})
            versions.append(corpus(PAGES, min_words=number)["publish"])
    assert find("latest").id == f"publish/{versions[2].version}"  # from the ledger of runs alone
    assert find("previous", "mine").id == f"publish/{versions[0].version}"
    with pytest.raises(InputError, match="previous: corpus other has published one version so far"):
        find("previous", "other")
    for version in reversed(versions):
        ledger.announce("mine", version)
    assert find("latest", "mine").id == f"publish/{versions[0].version}"  # as the corpus lists them
    assert find("run-1").id == f"publish/{versions[1].version}"


def test_the_command_tells_it_as_a_table_and_as_json(home: Path) -> None:
    loose, strict = corpus(PAGES)["publish"], corpus(PAGES, min_words=3)["publish"]
    table, data, wrong = commands(
        home,
        ["diff", loose.version, strict.version],
        ["diff", loose.version, strict.version, "--format", "json"],
        ["diff", loose.version, "nothing"],
    )
    assert (table.code, data.code, wrong.code) == (0, 0, 2)
    assert "0 added, 1 removed, 0 changed, 2 unchanged" in table.output and "min_words: 2 → 3" in table.output
    assert json.loads(data.output)["reasons"][0]["why"] == "dropped by filter min_words"
    assert wrong.output.startswith("nothing: no version or run of that name")
