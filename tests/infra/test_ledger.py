from __future__ import annotations

from pathlib import Path

from infra import ledger
from infra.dataset import Counts, ShardSet


def version(name: str) -> ShardSet:
    counts = Counts(total=1, kept=1)
    return ShardSet(
        step="publish",
        version=name,
        path=f"publish/{name}",
        schema_name="published",
        digest=name * 2,
        counts=counts,
        num_shards=0,
    )


def test_a_run_says_what_it_is_and_what_it_is_is_no_step(home: Path) -> None:
    assert ledger.about("one") is None
    ledger.begin("one", "curate", "mine", {"name": "mine"})
    found = ledger.about("one")
    assert found is not None and (found.flow, found.corpus, found.config) == ("curate", "mine", {"name": "mine"})
    assert ledger.entries("one") == [] and ledger.runs() == ["one"]


def test_the_newest_run_is_the_one_heard_of_last_though_it_finished_no_step(home: Path) -> None:
    ledger.begin("first", "curate", "mine", {})
    ledger.begin("second", "curate", "mine", {})
    assert ledger.find_run("latest") == "second"
    ledger.begin("first", "curate", "mine", {})  # tried again
    assert ledger.find_run("latest") == "first"


def test_a_version_is_announced_once_and_a_corpus_lists_its_versions_in_order(home: Path) -> None:
    with ledger.run("one"):
        ledger.announce("mine", version("b"))
    ledger.announce("mine", version("a"))
    assert ledger.announced("mine", version("b")) and not ledger.announced("other", version("b"))
    ledger.announce("mine", version("b"))
    assert [(one.version, one.run) for one in ledger.published("mine")] == [("b", "one"), ("a", "")]
    assert ledger.published("nobody") == []
