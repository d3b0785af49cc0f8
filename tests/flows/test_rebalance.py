"""A rebalanced corpus has the weights it was asked for, is the same for any shards and order, and says what went."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from flows.config import RunConfig
from flows.prepare import prepare
from flows.publish import publish
from infra import dataset, ledger, storage
from infra.cluster import DaskConfig, pool
from infra.dataset import ShardSet
from infra.errors import InputError
from tasks.ingest import ingest
from tasks.rebalance import RebalanceConfig, files_read, rebalance
from tasks.report import render_run
from tasks.text.readers import IngestConfig
from tasks.text.terms import lists_path

from . import english
from .driver import commands

NUM_ROWS = 1200


def rows() -> list[dict[str, str]]:
    """Two thirds from the web, a third from books, whose texts are three times as long; a fifth of all mention Islam."""
    draw = random.Random(11)
    made = []
    for n in range(NUM_ROWS):
        book = draw.random() < 1 / 3
        said = "Islamic art was there. " if draw.random() < 0.2 else ""
        text = said + english.text(n, 6 if book else 2)
        made.append({"text": text, "url": f"http://h{n % 9}.example/{n}", "source": "books" if book else "web"})
    return made


def documents(home: Path, *, backwards: bool = False, shard_bytes: int = 400_000) -> ShardSet:
    folder = home / f"rows-{backwards}"
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row) for row in rows()]
    (folder / "rows.jsonl").write_text("\n".join(reversed(lines) if backwards else lines))
    config = {"sources": [{"kind": "folder", "path": str(folder)}], "shard_bytes": shard_bytes}
    return ingest(config=IngestConfig.model_validate(config))


def kept(version: ShardSet) -> set[str]:
    return {one for shard in version.shards() for one in shard.read(["doc_id"])["doc_id"].to_pylist()}


def parts(version: ShardSet) -> dict[tuple[str, str], dict[str, Any]]:
    return {(one["kind"], one["name"]): one for one in version.manifest().facts["parts"]}


def within(found: float, n: float, rate: float) -> bool:
    """Within four standard deviations of a binomial count."""
    return abs(found - n * rate) < 4 * (n * rate * (1 - rate)) ** 0.5 + 1


def test_keep_rates_of_sources_and_groups_are_multiplied_and_every_drop_has_its_reason(home: Path) -> None:
    given = documents(home)
    config = RebalanceConfig(source={"web": 0.5}, group={"en/religion_muslim": 0.4})
    made = rebalance(given, config=config)
    found = parts(made)
    texts = {row["url"]: row for row in rows()}
    groups: dict[tuple[str, bool], list[int]] = {}
    stays = kept(made)
    for shard in given.shards():
        for row in shard.read(["doc_id", "url", "text"]).to_pylist():
            key = (texts[row["url"]]["source"], "Islamic" in row["text"])
            counts = groups.setdefault(key, [0, 0])
            counts[0] += 1
            counts[1] += row["doc_id"] in stays
    for (source, mentions), (all_of_them, left) in groups.items():
        rate = (0.5 if source == "web" else 1) * (0.4 if mentions else 1)
        assert within(left, all_of_them, rate), (source, mentions, all_of_them, left)
    assert groups["books", False][0] == groups["books", False][1]
    assert found["source", "web"]["documents_before"] == groups["web", True][0] + groups["web", False][0]
    assert found["source", "web"]["documents_after"] == groups["web", True][1] + groups["web", False][1]
    assert found["group", "en/religion_muslim"]["documents_after"] == groups["web", True][1] + groups["books", True][1]
    assert found["source", "books"]["characters_share_after"] > found["source", "books"]["characters_share_before"]
    facts = made.manifest().facts
    assert facts["share_after.source.web"] == found["source", "web"]["documents_after"] / len(stays)
    rejects = dataset.dataset(made.folder, rejects=True)
    assert rejects is not None
    gone = rejects.to_table().to_pylist()
    assert made.counts.dropped == {"rebalanced": len(gone)} and made.counts.total == NUM_ROWS == len(gone) + len(stays)
    assert all(row["value"] >= row["threshold"] for row in gone)
    assert {round(row["threshold"], 9) for row in gone} == {0.5, 0.4, 0.2}


@pytest.mark.parametrize("unit", ["documents", "characters"])
def test_shares_are_reached_by_the_largest_sample(home: Path, unit: str) -> None:
    given = documents(home)
    config = RebalanceConfig.model_validate({"weights": f"{unit[:-1]}_shares", "source": {"web": 0.25, "books": 0.75}})
    made = rebalance(given, config=config)
    found, facts = parts(made), made.manifest().facts
    assert facts["shares_of"] == unit and facts["share_after.source.web"] == found["source", "web"][f"{unit}_share_after"]
    assert f"drawn without replacement, told in {unit}" in render_run("", [made])
    assert found["source", "web"][f"{unit}_share_after"] == pytest.approx(0.25, abs=0.04)
    assert found["source", "books"]["keep_rate"] == 1 and found["source", "books"]["documents_after"] > 300
    group = RebalanceConfig.model_validate({"weights": f"{unit[:-1]}_shares", "group": {"en/religion_muslim": 0.5}})
    found = parts(rebalance(given, config=group))
    assert found["group", "en/religion_muslim"][f"{unit}_share_after"] == pytest.approx(0.5, abs=0.05)
    assert found["group", "en/religion_muslim"]["keep_rate"] == 1 and found["group", "others"]["keep_rate"] < 0.4


def test_any_shards_order_and_workers_give_the_same_sample_and_another_seed_another(home: Path, two_workers: DaskConfig) -> None:
    config = RebalanceConfig(source={"web": 0.5}, weights="keep_rates")
    few, many = documents(home), documents(home, backwards=True, shard_bytes=150_000)
    assert len(few.shards()) != len(many.shards())
    one, other = rebalance(few, config=config), rebalance(many, config=config)
    assert kept(one) == kept(other)
    assert one.manifest().facts == other.manifest().facts
    with pool(two_workers):
        both = rebalance.run((few,), config, str(home / "elsewhere"))
    assert not both.loaded and both.shards.digest == one.digest
    assert kept(rebalance(few, config=config.model_copy(update={"seed": 1}))) != kept(one)
    lower = rebalance(few, config=RebalanceConfig(source={"web": 0.3}))
    assert kept(lower) < kept(one)


def test_weights_that_cannot_be_are_refused_with_what_to_do(home: Path) -> None:
    home.mkdir(parents=True)
    english = home / "mine.yaml"
    english.write_bytes(lists_path("en").read_bytes())
    for raw, said in (
        ({}, "there is no weight: give some of `source`, `language` or `group`, or leave `rebalance` out"),
        ({"source": {"web": 0}}, "web: a weight is above 0 and at most 1 .got 0.; to be rid of a source"),
        ({"language": {"de": 2}}, "de: a weight is above 0 and at most 1"),
        ({"group": {"en/religion_muslims": 0.5}}, "group: no group 'en/religion_muslims'; these are: "),
        (
            {"weights": "document_shares", "source": {"a": 0.7, "b": 0.4}},
            "source: the shares add up to 1.1; at most 1 is possible",
        ),
        ({"source": {"a": 1}, "term_lists": ["en", str(english)]}, "more than one list of en"),
        ({"weights": "document_shares", "source": {"a": 0.5}, "group": {"en/religion_muslim": 0.5}}, "give keep_rates instead"),
    ):
        with pytest.raises(ValidationError, match=said):
            RebalanceConfig.model_validate(raw)
    given = documents(home)
    for raw, said in (
        ({"source": {"forum": 0.5}}, r"rebalance.source.forum: no document is of this source \(there are: books, web\)"),
        ({"language": {"de": 0.5}}, r"rebalance.language.de: no document is of this language \(there are: none\)"),
        ({"group": {"en/religion_muslim": 0.5, "en/religion_hindu": 0.5}}, "rebalance.group.en/religion_hindu: no document"),
        (
            {"weights": "document_shares", "source": {"web": 1}},
            "rebalance.source: the shares add up to 1, so nothing would be left of",
        ),
    ):
        with pytest.raises(InputError, match=said):
            rebalance(given, config=RebalanceConfig.model_validate(raw))


def test_lists_of_one_name_in_two_folders_are_two_files_of_the_recipe(home: Path) -> None:
    names = []
    for language in ("en", "de"):
        path = home / language / "mine.yaml"
        path.parent.mkdir(parents=True)
        path.write_bytes(lists_path(language).read_bytes())
        names.append(str(path))
    config = RebalanceConfig(group={"en/religion_muslim": 0.5}, term_lists=tuple(names))
    before = files_read(config)
    assert before.keys() == {"terms de", "terms en"}
    with (home / "en" / "mine.yaml").open("a") as file:
        file.write("# changed\n")
    assert {name for name, digest in files_read(config).items() if digest != before[name]} == {"terms en"}


def test_in_a_run_the_gate_judges_the_sample_and_no_budget_speaks_of_it(home: Path) -> None:
    folder = home / "rows"
    folder.mkdir(parents=True)
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows()[:500]))
    raw = {
        "dask": {"kind": "none"},
        "ingest": {"sources": [{"kind": "folder", "path": str(folder)}]},
        "rebalance": {"source": {"web": 0.02}},
        "budget": {"max_removed": 0.5, "max_removed_by_rule": 0.5},
    }
    with ledger.run("thin"):
        config = RunConfig.model_validate(raw)
        prepared = prepare.fn(config)
        published = publish.fn(prepared, config)
    made = {entry.step: entry.shards() for entry in ledger.entries("thin")}
    assert prepared.documents == made["rebalance"] and made["rebalance"].counts.total == made["redact"].counts.kept
    assert made["rebalance"].counts.kept < 0.6 * made["redact"].counts.kept
    found = storage.read_json(made["validate"].file("validation.json"))
    assert found["facts"]["dataset"] == "rebalance" and found["facts"]["num_rows"] == made["rebalance"].counts.kept
    assert found["facts"]["removal_rate"] == pytest.approx(1 - made["redact"].counts.kept / 500)
    sampled = made["rebalance"].counts
    assert found["facts"]["removal_rate_rebalance"] == pytest.approx(1 - sampled.kept / sampled.total)
    assert [one.step for one in prepared.history][-2:] == ["redact", "rebalance"]
    with storage.open_read(published.file("README.md")) as handle:
        card = handle.read().decode()
    assert f"{made['rebalance'].counts.kept:,} of {made['redact'].counts.kept:,} documents drawn without replacement" in card
    assert "Shares of documents: source web from " in card and "Bias audit (version" in card
    page = render_run("thin", list(made.values()))
    assert 'id="sampling"' in page and 'id="bias"' in page


def test_the_command_rebalances_plain_files_and_says_what_became_of_the_shares(home: Path) -> None:
    folder = home / "rows"
    folder.mkdir(parents=True)
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows()))
    words = ["step", "rebalance", "--input", str(folder), "--output", str(home / "out"), "--set", "source={web: 0.5}"]
    [made] = commands(home, [*words, "--workers", "1"])
    assert made.code == 0, made.output
    said = {line.split()[0]: line.split()[-1] for line in made.output.splitlines() if line.split()}
    web = sum(row["source"] == "web" for row in rows())
    assert (
        float(said["share_before.source.web"]) == round(web / NUM_ROWS, 3) and 0.4 < float(said["share_after.source.web"]) < 0.56
    )
    assert said["weights"] == "keep_rates" and said["rebalanced"].endswith("%")
