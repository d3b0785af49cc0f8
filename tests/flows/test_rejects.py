"""`gristmill rejects` over a real run and over a folder: counts by rule, drawn documents with their texts, and words for what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flows.rejects import drawn, versions_of
from infra import ledger
from infra.dataset import EXCERPT_CHARS, ShardSet
from infra.errors import InputError
from tasks.filter import filter, meanings
from tasks.ingest import ingest
from tasks.report import ReportConfig, render_run
from tasks.signals import SignalsConfig, signals
from tasks.text.readers import IngestConfig
from tasks.text.rules import FilterConfig

from . import english
from .driver import commands

NUM_SHORT, NUM_CURLY = 30, 2


@pytest.fixture
def run(home: Path) -> list[ShardSet]:
    """Many documents that are too short, two with a curly bracket, one in German, and some that stay, in several shards."""
    folder = home / "rows"
    folder.mkdir(parents=True)
    short = "Too short to be of use, number {} of them."
    rows = [{"url": f"http://s.example/{n}", "text": short.format(n), "source": "short"} for n in range(NUM_SHORT)]
    rows += [{"url": f"http://c.example/{n}", "text": english.text(n) + "\n{ code }", "source": "long"} for n in range(NUM_CURLY)]
    rows += [
        {"url": "http://d.example/", "text": "Die Mühle mahlt langsam, aber jedes Korn ist verbucht. " * 9, "source": "long"}
    ]
    rows += [{"url": f"http://k.example/{n}", "text": english.text(90 + n), "source": "long"} for n in range(4)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = IngestConfig.model_validate({"sources": [{"kind": "folder", "path": str(folder)}], "shard_bytes": 2000})
    with ledger.run("first"):
        documents = ingest(config=config)
        measured = signals([documents], config=SignalsConfig())
        return [documents, measured, filter(measured, config=FilterConfig(profile="c4-paper"))]


def test_every_rule_is_counted_and_read_with_its_words_value_threshold_and_text(run: list[ShardSet], home: Path) -> None:
    assert len(run[1].shards()) > 1
    table, told, one, folder, same, other = commands(
        home,
        ["rejects", "first", "--num", "2"],
        ["rejects", "latest", "--format", "json", "--num", "2"],
        ["rejects", run[2].version[:10], "--rule", "c4_curly_bracket", "--num", "9"],
        ["rejects", run[2].folder, "--source", "short", "--num", "1"],
        ["rejects", run[2].folder, "--source", "short", "--num", "1"],
        ["rejects", run[2].folder, "--source", "short", "--num", "1", "--seed", "7"],
    )
    assert {ended.code for ended in (table, told, one, folder)} == {0}, table.output + told.output + one.output + folder.output
    rules = {entry["rule"]: entry for entry in json.loads(told.output)}
    assert {name: (entry["count"], len(entry["samples"])) for name, entry in rules.items()} == {
        "c4_min_sentences": (NUM_SHORT, 2),
        "c4_curly_bracket": (NUM_CURLY, 2),
        "language": (1, 1),
    }
    short = rules["c4_min_sentences"]["samples"][0]
    assert short["text"].startswith("Too short to be of use") and (short["value"], short["threshold"]) == (1, 5)
    assert (
        '"fewer than 5 sentences"' in table.output and "c4_paper_num_sentences below 5 (sentences in those lines)" in table.output
    )
    assert "language, as fastText names it, none of en" in table.output and "(de)" in table.output and "Die Mühle" in table.output
    assert one.output.count("http://c.example/") == NUM_CURLY and "http://s.example/" not in one.output
    assert folder.output == same.output != other.output and "http://c.example/" not in folder.output


def test_the_report_shows_the_same_documents(run: list[ShardSet]) -> None:
    page = render_run("first", run, ReportConfig(samples_per_rule=4))
    for dropped in drawn([run[2]], "", "", 4, 0):
        assert meanings(run[2])[dropped.rule].split(" (")[0] in page
        for sample in dropped.samples:
            assert sample.url in page
    assert page.count("<blockquote>") == 4 + NUM_CURLY + 1


def test_what_is_not_there_is_told_with_what_is(run: list[ShardSet], home: Path) -> None:
    rule, step, none, nothing, large = commands(
        home,
        ["rejects", "first", "--rule", "c4_curly"],
        ["rejects", "first", "--step", "dedup"],
        ["rejects", "no-such-run"],
        ["rejects", "first", "--step", "signals"],
        ["rejects", "first", "--seed", "99999999999999999999"],
    )
    assert large.code == 2 and "--seed" in large.output and "Traceback" not in large.output
    assert rule.code != 0 and "there is c4_curly_bracket, c4_min_sentences, language" in " ".join(rule.output.split())
    assert step.code != 0 and "it has ingest, signals, filter" in " ".join(step.output.split())
    assert none.code != 0 and "no version or run of that name" in none.output and "Traceback" not in none.output
    assert nothing.code == 0 and "nothing was dropped" in nothing.output
    with pytest.raises(InputError, match="--source web: nothing was dropped of that source; there is long, short"):
        drawn(versions_of("first"), "", "web", 3, 0)


def test_a_document_dropped_for_a_bad_word_is_read_where_the_word_of_its_language_is(home: Path) -> None:
    folder = home / "rows"
    folder.mkdir(parents=True)
    german = "Die Mühle mahlt langsam, aber jedes Korn ist verbucht. "
    texts = {
        "http://a.example/": english.text(1) + " Nobody called it shit so far. " + english.text(2),
        "http://d.example/": german * 9 + "Die Tasche ist shit. " + german * 9 + "Das ist doch Scheiße. " + german * 9,
    }
    (folder / "rows.jsonl").write_text("\n".join(json.dumps({"url": url, "text": text}) for url, text in texts.items()))
    config = IngestConfig.model_validate({"sources": [{"kind": "folder", "path": str(folder)}]})
    asking = FilterConfig(profile="mc4", disabled=("mc4_long_lines",))
    made = filter(signals([ingest(config=config)], config=SignalsConfig()), config=asking)
    [dropped] = drawn([made], "", "", 3, 0)
    read = {sample.url: sample.text for sample in dropped.samples}
    assert dropped.rule == "mc4_bad_words" and {len(text) for text in read.values()} == {EXCERPT_CHARS + 1}
    assert "Nobody called it shit so far." in read["http://a.example/"]
    assert "Das ist doch Scheiße." in read["http://d.example/"] and "shit" not in read["http://d.example/"]


def test_words_of_a_profile_that_changed_since_are_left_out(run: list[ShardSet], home: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    rule = "{name: few_lines, signal: num_lines, drop: below, threshold: 2, note: lists are none}"
    own.write_text(f"description: ours\nsource: us\nrules:\n  - {rule}\n")
    made = filter(run[1], config=FilterConfig(profile=str(own), languages=()))
    assert meanings(made) == {"few_lines": "num_lines below 2 (lines that are not blank); lists are none"}
    own.write_text(own.read_text().replace("threshold: 2", "threshold: 3"))
    assert meanings(made) == {}
    own.unlink()
    assert meanings(made) == {} == meanings(run[1])
