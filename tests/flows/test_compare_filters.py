"""Two filters over the same documents: whose verdict changes, by which rule, with samples to read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flows.compare_filters import KEPT, compare, filter_of, signals_of
from flows.keys import ConfigError
from infra import ledger
from infra.dataset import ShardSet
from infra.errors import InputError
from tasks.filter import filter
from tasks.ingest import ingest
from tasks.signals import SignalsConfig, signals
from tasks.text.readers import IngestConfig

from . import english
from .driver import commands

NUM_LONG, NUM_SHORT = 12, 5


@pytest.fixture
def measured(home: Path) -> ShardSet:
    """Long documents of one source, and short ones of another, in shards of few."""
    folder = home / "rows"
    folder.mkdir(parents=True)
    long = [{"url": f"http://a.example/{n}", "text": english.text(n), "source": "long"} for n in range(NUM_LONG)]
    short = [{"url": f"http://b.example/{n}", "text": "the end of that " * (n + 3), "source": "short"} for n in range(NUM_SHORT)]
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in [*long, *short]))
    config = IngestConfig.model_validate({"sources": [{"kind": "folder", "path": str(folder)}], "shard_bytes": 4000})
    with ledger.run("first"):
        return signals([ingest(config=config)], config=SignalsConfig())


def test_every_document_is_counted_on_one_side_or_both_and_samples_can_be_read(measured: ShardSet) -> None:
    assert len(measured.shards()) > 1
    a, b = filter_of("gopher", ["languages=[]"]), filter_of("gopher", ["languages=[]", "overrides.gopher_min_words=10"])
    found = compare(measured, a, b, num_samples=2)
    assert (found.num_documents, found.kept_by_a) == (NUM_LONG + NUM_SHORT, filter(measured, config=a).counts.kept)
    assert found.kept_by_b == filter(measured, config=b).counts.kept
    [one] = [change for change in found.changes if change.a == "gopher_min_words"]
    assert (
        one.b != KEPT and one.count == NUM_SHORT and one.by_source == {"short": NUM_SHORT}
    )  # short and repetitive: another reason
    assert found.num_changed == 0
    assert [sample.doc_id for sample in one.samples] == sorted(sample.doc_id for sample in one.samples) and len(one.samples) == 2
    assert all(sample.text.startswith("the end of that") and sample.value and sample.threshold == 50 for sample in one.samples)


def test_a_filter_beside_itself_changes_nothing_and_the_one_turned_round_changes_as_much(measured: ShardSet) -> None:
    strict, loose = filter_of("gopher", ["languages=[]"]), filter_of("c4-code", ["languages=[]"])
    assert compare(measured, strict, strict).changes == []
    there, back = compare(measured, strict, loose), compare(measured, loose, strict)
    assert there.num_changed == back.num_changed == abs(there.kept_by_a - there.kept_by_b)
    assert {(one.a, one.b): one.count for one in there.changes} == {(one.b, one.a): one.count for one in back.changes}


def test_the_command_tells_it_of_a_run_as_a_table_and_as_json(measured: ShardSet, home: Path) -> None:
    folder = home / "part.yaml"
    folder.write_text("filter: {profile: gopher, languages: []}\n")
    table, told, wrong, none = commands(
        home,
        ["compare-filters", str(folder), "gopher", "--of", "first"],
        ["compare-filters", "gopher", "c4-code", "--of", measured.folder, "--format", "json", "--samples", "1"],
        ["compare-filters", "gofer", "gopher"],
        ["compare-filters", "gopher", "gopher", "--b", "profil=x", "--of", "first"],
    )
    assert table.code == 0, table.output
    assert f"{NUM_LONG + NUM_SHORT} documents of signals/{measured.version}" in table.output
    assert told.code == 0 and json.loads(told.output)["num_documents"] == NUM_LONG + NUM_SHORT
    assert wrong.code != 0 and "neither a profile (" in wrong.output and "Traceback" not in wrong.output
    assert none.code != 0 and "did you mean profile?" in none.output


def test_a_sample_has_value_and_threshold_of_one_filter(measured: ShardSet) -> None:
    """One drops by a language, which has no threshold, the other by a number of words, which has."""
    german, short = filter_of("gopher", ["languages=[de]"]), filter_of("gopher", ["languages=[]"])
    for a, b, of_a in ((german, short, True), (short, german, False)):
        [one] = [change for change in compare(measured, a, b).changes if {"language", "gopher_min_words"} == {change.a, change.b}]
        assert len(one.samples) == 3
        for sample in one.samples:
            assert sample.value is not None
            assert (sample.threshold is None and sample.value <= 1) if of_a else (sample.threshold == 50 and sample.value < 50)


def test_signals_that_a_filter_needs_and_nobody_measured_are_named_with_what_measures_them(measured: ShardSet) -> None:
    gopher = filter_of("gopher", [])
    with pytest.raises(InputError, match=r"datatrove_num_words.*; signals\.groups must name datatrove$"):
        compare(measured, gopher, filter_of("datatrove-0.10", []))
    with pytest.raises(
        InputError, match=r"lacks the columns: quality_percentile; `gristmill step score` adds quality_percentile"
    ):
        compare(measured, gopher, filter_of("dclm", []))


def test_what_rests_on_no_signals_is_refused(measured: ShardSet) -> None:
    ingested = measured.manifest().recipe["inputs"]["documents"][0].partition("@")[0]
    with pytest.raises(InputError, match="rests on no signals"):
        signals_of(ingested)
    with pytest.raises(ConfigError, match="neither a profile"):
        filter_of("nowhere.yaml", [])
