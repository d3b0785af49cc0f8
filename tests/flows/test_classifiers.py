"""A run trains the classifiers that it is configured for, scores its documents, filters by the scores, and tells how good they are."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml

from expectations.croissant import sources_told
from flows.compare_filters import compare, signals_of
from flows.config import load, require_sources
from flows.keys import ConfigError
from flows.prepare import prepare
from flows.publish import publish
from infra import dataset, ledger, storage
from infra.cluster import DaskConfig, pool
from infra.dataset import ShardSet
from infra.errors import InputError
from tasks.enrol import EnrolConfig, enrol
from tasks.ingest import ingest
from tasks.quality import QualityConfig, quality
from tasks.report import render_run
from tasks.score import ScoreConfig, score
from tasks.signals import SignalsConfig, signals
from tasks.text.classifier import load as load_classifier
from tasks.text.classifier_card import summary
from tasks.text.readers import IngestConfig
from tasks.text.rules import FilterConfig
from tasks.text.signals import SCORE_NAMES
from tasks.toxicity import ToxicityConfig, toxicity
from tests.text.planted import prose, remark

from .driver import commands
from .processes import finished_parts, kill_when, receipts, start

NUM_DOCUMENTS = 120
TRAINING = {"buckets": 5000, "dimensions": 8, "epochs": 25, "learning_rate": 1.0, "min_group_texts": 20}


def jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join(json.dumps(row) for row in rows)
    if not path.exists() or path.read_text() != text:  # a file that was written again is another source
        path.write_text(text)
    return path


def references(folder: Path) -> dict[str, Any]:
    """Positive and negative texts, and labelled remarks, each in a file of their own; the parts of a configuration that name them."""
    good = jsonl(folder / "good.jsonl", ({"text": prose(seed)} for seed in range(10_000, 10_200)))
    bad = jsonl(folder / "bad.jsonl", ({"text": prose(seed, 0.7)} for seed in range(20_000, 20_200)))
    said = jsonl(folder / "said.jsonl", ({"text": remark(n, n % 3 == 0), "class": int(n % 3 == 0)} for n in range(600)))
    source = {"kind": "folder", "path": str(said), "fields": {"label": "class"}, "names": {"0": "other", "1": "toxic"}}
    return {
        "quality": {
            "positive": [{"kind": "folder", "name": "good", "path": str(good)}],
            "negative": [{"kind": "folder", "name": "bad", "path": str(bad)}],
            "training": TRAINING,
        },
        "toxicity": {"sources": [source], "training": TRAINING},
    }


def corpus_rows() -> list[dict[str, str]]:
    """Texts with ever more bait in them."""
    return [
        {"url": f"http://h{n % 5}.example/{n}", "text": prose(n, n / NUM_DOCUMENTS), "source": "made"}
        for n in range(NUM_DOCUMENTS)
    ]


def config_file(folder: Path, **changes: Any) -> str:
    rows = jsonl(folder / "rows" / "rows.jsonl", corpus_rows())
    raw = {
        "dask": {"kind": "none"},
        "ingest": {"sources": [{"kind": "folder", "path": str(rows)}], "shard_bytes": 60_000},
        **references(folder),
        "score": {"among": {"profile": "refinedweb"}},
        "filter": {"profile": "dclm"},
        "budget": {"rules": {"dclm_quality": 1}},
        "validate": {"suite": "documents"},
        **changes,
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in raw.items() if value is not None}))
    return str(path)


def entered(run: str) -> dict[str, ledger.Entry]:
    return {entry.step: entry for entry in ledger.entries(run)}


def rows_of(version: ShardSet) -> pa.Table:
    return pa.concat_tables(shard.read() for shard in version.shards())


def test_a_run_keeps_the_tenth_that_its_classifier_ranks_highest_and_tells_how_good_it_is(home: Path, tmp_path: Path) -> None:
    config = load(config_file(tmp_path))
    for run in ("first", "second"):
        with ledger.run(run):
            prepared = prepare.fn(config)
            published = publish.fn(prepared, config)
    first, second = entered("first"), entered("second")
    assert {step for step, entry in second.items() if not entry.loaded} == set()
    assert {"quality", "toxicity", "enrol", "score"} <= set(first) and not any(entry.loaded for entry in first.values())

    made = {step: entry.shards() for step, entry in first.items()}
    scores = rows_of(made["score"])
    assert scores.column_names[-3:] == list(SCORE_NAMES)
    verdicts = made["filter"]
    kept = rows_of(verdicts)
    numbers = {int(url.rpartition("/")[2]) for url in kept["url"].to_pylist()}
    assert set(kept.column_names).isdisjoint(SCORE_NAMES)
    heuristics = sum(count for rule, count in verdicts.counts.dropped.items() if rule != "dclm_quality")
    assert verdicts.counts.kept == pytest.approx((NUM_DOCUMENTS - heuristics) / 10, abs=1)
    assert max(numbers) < NUM_DOCUMENTS / 3
    rejects = dataset.dataset(verdicts.folder, rejects=True)
    assert rejects is not None
    by_score = rejects.to_table(filter=pa.compute.field("rule") == "dclm_quality")
    assert pa.compute.max(by_score["value"]).as_py() < 0.9 and set(by_score["threshold"].to_pylist()) == {0.9}

    found = storage.read_json(made["validate"].file("validation.json"))
    stages = {stage["dataset"]: {one["column"]: one for one in stage["checks"]} for stage in found["stages"]}
    for name in SCORE_NAMES:
        assert stages["score"][name]["applicable"] and stages["score"][name]["success"]
        assert not stages["signals"][name]["applicable"]
    assert stages["quality"]["average_precision"]["observed"] == made["quality"].manifest().facts["average_precision"]
    assert not stages["quality"]["num_rows"]["success"]  # a warning: so few references
    assert not [
        one for checks in stages.values() for one in checks.values() if one["severity"] == "critical" and not one["success"]
    ]

    assert signals_of("first") == made["score"]
    found_by = compare(made["score"], FilterConfig(profile="refinedweb"), FilterConfig(profile="dclm"))
    assert found_by.kept_by_b == verdicts.counts.kept < found_by.kept_by_a == NUM_DOCUMENTS - heuristics

    page = render_run("first", list(made.values()))
    for word in ("Classifiers", "gender_female", made["quality"].version, made["toxicity"].version, "What this does not show"):
        assert word in page
    assert prepared.documents.counts.kept == verdicts.counts.kept

    card = storage.read_bytes(published.file("README.md")).decode()
    preprocessing = storage.read_json(published.file("croissant.json"))["rai:dataPreprocessingProtocol"]
    for name in ("quality", "toxicity"):
        line = summary(name, made[name].version, made[name].manifest().facts)
        assert f"\n- {line}\n" in card and f"Documents were scored by {line}" in preprocessing
        assert f"| {name} |" not in card
    told = sources_told([one.model_dump() for one in config.ingest.sources])
    assert f"Sources: {'; '.join(told)}. Licence" in card  # and none of the references


def test_the_versions_of_another_run_can_be_used_again_and_are_told_of(home: Path, tmp_path: Path) -> None:
    with ledger.run("first"):
        prepare.fn(load(config_file(tmp_path)))
    first = {step: entry.shards() for step, entry in entered("first").items()}
    given = {name: {"trained": first[name].path} for name in ("quality", "toxicity")}
    with ledger.run("again"):
        prepare.fn(load(config_file(tmp_path, **given)))
    again = {step: entry.shards() for step, entry in entered("again").items()}
    assert "quality" not in again and "toxicity" not in again
    assert again["score"].digest == first["score"].digest and again["score"].version == first["score"].version
    assert first["toxicity"].version in render_run("again", list(again.values()))
    swapped = load(config_file(tmp_path, quality=given["toxicity"]))
    with pytest.raises(InputError, match=r"quality.trained: toxicity/\w+ was made by the step toxicity"):
        prepare.fn(swapped)


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[ShardSet], list[ShardSet]]:
    """A store with one quality and one toxicity classifier."""
    root = tmp_path_factory.mktemp("judged")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRISTMILL_HOME", str(root / "home"))
        parts = references(root)
        one = quality([], config=QualityConfig.model_validate(parts["quality"]))
        other = toxicity(config=ToxicityConfig.model_validate(parts["toxicity"]))
    return root, [one], [other]


def measured_corpus(root: Path, rows: list[dict[str, str]], shard_bytes: int, name: str) -> tuple[ShardSet, list[ShardSet]]:
    path = jsonl(root / name / "rows.jsonl", rows)
    raw = {"sources": [{"kind": "folder", "path": str(path)}], "shard_bytes": shard_bytes}
    documents = [ingest(config=IngestConfig.model_validate(raw))]
    return signals(documents, config=SignalsConfig()), documents


def by_text(version: ShardSet) -> dict[str, tuple[float, ...]]:
    table = rows_of(version)
    columns = [table[name].to_pylist() for name in SCORE_NAMES if name in table.column_names]
    return dict(zip(table["content_id"].to_pylist(), zip(*columns, strict=True), strict=True))


@pytest.mark.soak
def test_scores_and_percentiles_are_the_same_for_any_shards_order_and_workers(
    judged: tuple[Path, list[ShardSet], list[ShardSet]], monkeypatch: pytest.MonkeyPatch, two_workers: DaskConfig
) -> None:
    root, good, bad = judged
    monkeypatch.setenv("GRISTMILL_HOME", str(root / "home"))
    rows = corpus_rows()
    shuffled = random.Random(1).sample(rows, len(rows))
    found, num_shards = [], []
    for number, (some, size) in enumerate([(rows, 10_000_000), (rows, 40_000), (shuffled, 30_000)]):
        given, documents = measured_corpus(root, some, size, f"rows{number}")
        made = score(given, documents, good, bad, config=ScoreConfig())
        found.append(by_text(made))
        num_shards.append(made.num_shards)
    assert num_shards[0] == 1 and min(num_shards[1:]) >= 3
    assert found[0] == found[1] == found[2] and len(found[0]) == NUM_DOCUMENTS
    with pool(two_workers):
        both = score.run((given, documents, good, bad), ScoreConfig(), str(root / "elsewhere"))
    assert not both.loaded and both.shards.digest == made.digest

    quality_score, percentile, toxic = (np.array(column) for column in zip(*found[0].values(), strict=True))
    # a plain count, where two scores are further apart than a cell of the grid
    slow = np.array([np.mean(quality_score < one) for one in quality_score])
    apart = np.array([np.sum(np.abs(quality_score - one) < 3e-4) == 1 for one in quality_score])
    assert apart.sum() > NUM_DOCUMENTS / 3
    assert np.allclose(percentile[apart], slow[apart], atol=1e-6)
    assert np.all((toxic >= 0) & (toxic <= 1)) and percentile.min() == 0 and percentile.max() < 1


def test_ranks_are_among_the_documents_that_a_filter_keeps(
    judged: tuple[Path, list[ShardSet], list[ShardSet]], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, good, _ = judged
    monkeypatch.setenv("GRISTMILL_HOME", str(root / "home"))
    short = [{"url": f"http://s.example/{n}", "text": f"A harbour of letters {n}.", "source": "made"} for n in range(80)]
    given, documents = measured_corpus(root, [*corpus_rows(), *short], 60_000, "mixed")
    everyone = by_text(score(given, documents, good, [], config=ScoreConfig()))
    some = by_text(score(given, documents, good, [], config=ScoreConfig.model_validate({"among": {"profile": "gopher"}})))
    alone, of = measured_corpus(root, corpus_rows(), 60_000, "alone")
    want = by_text(score(alone, of, good, [], config=ScoreConfig()))
    assert {text: some[text][1] for text in want} == {text: values[1] for text, values in want.items()}
    assert {text: everyone[text][1] for text in want} != {text: values[1] for text, values in want.items()}


def test_the_score_of_a_text_is_that_of_the_loaded_classifier(
    judged: tuple[Path, list[ShardSet], list[ShardSet]], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, good, bad = judged
    monkeypatch.setenv("GRISTMILL_HOME", str(root / "home"))
    polite, rude = remark(90_000, False), remark(90_001, True)
    assert (
        load_classifier(bad[0].folder).score(pa.array([rude]))[0]
        > 0.7
        > 0.3
        > load_classifier(bad[0].folder).score(pa.array([polite]))[0]
    )
    assert (
        load_classifier(good[0].folder).score(pa.array([prose(1)]))[0]
        > load_classifier(good[0].folder).score(pa.array([prose(1, 0.7)]))[0]
    )


def test_negatives_can_be_drawn_from_the_corpus_itself_the_same_for_any_shards(home: Path, tmp_path: Path) -> None:
    good = jsonl(tmp_path / "good.jsonl", ({"text": prose(seed)} for seed in range(10_000, 10_150)))
    config = QualityConfig.model_validate(
        {"positive": [{"kind": "folder", "path": str(good)}], "corpus_negatives": 200, "training": TRAINING}
    )
    rows = [{"url": f"http://x.example/{n}", "text": prose(n, 0.6), "source": "made"} for n in range(300)]
    trained = [quality(measured_corpus(tmp_path, rows, size, f"c{size}")[1], config=config) for size in (10_000_000, 50_000)]
    for one in trained:
        used = rows_of(one)
        assert used.filter(pa.compute.equal(used["label"], "negative")).num_rows == 200
        assert set(used["source"].to_pylist()) == {"folder", "made"}
    models = [storage.read_bytes(one.file("model.bin")) for one in trained]
    assert models[0] == models[1]


def test_copies_in_the_corpus_take_no_place_among_the_negatives(home: Path, tmp_path: Path) -> None:
    good = jsonl(tmp_path / "good.jsonl", ({"text": prose(seed)} for seed in range(10_000, 10_150)))
    config = QualityConfig.model_validate(
        {"positive": [{"kind": "folder", "path": str(good)}], "corpus_negatives": 150, "training": TRAINING}
    )
    rows = [{"url": f"http://x.example/{n}", "text": prose(n // 3, 0.6), "source": "made"} for n in range(600)]
    used = rows_of(quality(measured_corpus(tmp_path, rows, 50_000, "copies")[1], config=config))
    assert used.filter(pa.compute.equal(used["label"], "negative")).num_rows == 150


@pytest.mark.soak
def test_a_killed_training_goes_on_where_it_stood_and_ends_with_the_same_digest(tmp_path: Path) -> None:
    for number in range(40):
        rows = ({"text": remark(n, n % 2 == 0), "label": ["rude", "kind"][n % 2]} for n in range(15 * number, 15 * number + 15))
        jsonl(tmp_path / "said" / f"{number:03d}.jsonl", rows)
    words = [
        "step",
        "toxicity",
        "-i",
        str(tmp_path / "said"),
        "--set",
        "classes=[rude, kind]",
        "--set",
        "toxic=[rude]",
        "-w",
        "2",
    ]
    words += [
        "--set",
        "shard_bytes=1500",
        *(word for key, value in TRAINING.items() for word in ("--set", f"training.{key}={value}")),
    ]
    killed, home = tmp_path / "killed", tmp_path / "home"
    process = start(home, "-m", "flows", *words, "-o", str(killed))
    kill_when(process, lambda: len(receipts(killed)) >= 10)
    before = finished_parts(killed)
    assert 10 <= len(before) < 40 and not (killed / "model.bin").exists()
    again, calm = commands(home, [*words, "-o", str(killed)], [*words, "-o", str(tmp_path / "calm")])
    assert again.code == calm.code == 0, again.output + calm.output
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert f"{len(before)} shards from an earlier start" in again.output
    whole = [dataset.read_manifest(str(folder)) for folder in (killed, tmp_path / "calm")]
    assert whole[0].digest == whole[1].digest and {"model.bin", "README.md"} <= {file.name for file in whole[0].files}


def test_what_a_step_cannot_use_is_told(home: Path, tmp_path: Path) -> None:
    _, documents = measured_corpus(tmp_path, corpus_rows(), 60_000, "rows")
    parts = references(tmp_path)
    with pytest.raises(InputError, match="documents and corpus_negatives go together"):
        quality(documents, config=QualityConfig.model_validate(parts["quality"]))
    with pytest.raises(InputError, match=r"enrol: takes what .* wrote \(got versions by ingest\)"):
        enrol(documents, config=EnrolConfig())
    with pytest.raises(InputError, match="score: needs a trained classifier"):
        score(documents[0], documents, [], [], config=ScoreConfig())
    with pytest.raises(InputError, match="toxicity: the references have no rows"):
        toxicity(config=ToxicityConfig())


def test_references_that_cannot_be_used_are_rejects_with_their_reason(home: Path, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"text": remark(n, n % 2 == 0), "label": "toxic" if n % 2 == 0 else "other"} for n in range(400)
    ]
    rows += [
        rows[0],
        {"text": rows[1]["text"].upper(), "label": "toxic"},
        {"text": "x y"},
        {"text": "z", "label": "rude"},
        {"label": "toxic"},
    ]
    path = jsonl(tmp_path / "said.jsonl", rows)
    made = toxicity(
        config=ToxicityConfig.model_validate({"sources": [{"kind": "folder", "path": str(path)}], "training": TRAINING})
    )
    assert made.counts.dropped == {
        "conflicting_label": 2,
        "duplicate_reference": 1,
        "no_label": 1,
        "no_text": 1,
        "unknown_label": 1,
    }
    assert made.counts.total == len(rows)


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([{"text": remark(n, True)} for n in range(50)], r"toxicity: none of 50 references can be used \(no_label 50\)"),
        (
            [{"text": remark(n, True), "label": "toxic"} for n in range(300)],
            "too few different texts: class 'other' has 0 in the part",
        ),
        (
            [{"text": remark(n, n % 2 == 0), "label": ["toxic", "other"][n % 2]} for n in range(30)],
            "every class needs 10 in every part. Give more",
        ),
        (
            [{"text": remark(n, False), "label": ["toxic", "other"][n % 2]} for n in range(2000)],
            "does not tell the classes apart",
        ),
    ],
)
def test_references_that_teach_nothing_are_told(home: Path, tmp_path: Path, rows: list[dict[str, Any]], told: str) -> None:
    path = jsonl(tmp_path / "said.jsonl", rows)
    config = ToxicityConfig.model_validate({"sources": [{"kind": "folder", "path": str(path)}], "training": TRAINING})
    with pytest.raises(InputError, match=told):
        toxicity(config=config)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"quality": None},
            "filter: rule 'dclm_quality' asks for quality_percentile, which no classifier gives: set quality.positive",
        ),
        ({"quality": {"positive": [{"kind": "folder", "path": "x"}]}}, "quality: needs both sides"),
        ({"quality": {"trained": "quality/1", "corpus_negatives": 3}}, "quality: trained: a trained version needs no references"),
        ({"toxicity": {"classes": ["a", "b"], "toxic": ["c"]}}, "toxicity: toxic: c: none of the classes a, b"),
        ({"toxicity": {"classes": ["a", "b"], "toxic": ["a", "b"]}}, "toxicity: toxic: one class at least must not be toxic"),
        ({"toxicity": {"classes": ["a b", "c"], "toxic": ["c"]}}, "toxicity.classes: a class is named by letters"),
        (
            {"enrol": {"quality": "one", "toxicity": "one"}},
            "two classifiers cannot be versions of one model (got 'one' for both)",
        ),
        ({"quality": {"training": {"test_share": 0.45, "calibration_share": 0.4}}}, "leave too little to train on"),
    ],
)
def test_a_configuration_that_cannot_work_is_told_when_it_is_loaded(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(config_file(tmp_path, **changes))
    assert told in str(error.value)


def test_a_trained_version_that_is_not_there_is_told_before_the_run(home: Path, tmp_path: Path) -> None:
    config = load(config_file(tmp_path, quality={"trained": "quality/0123456789abcdef"}))
    with pytest.raises(ConfigError, match=r"quality\.trained: no version quality/0123456789abcdef in the store"):
        require_sources(config)


@pytest.mark.soak
def test_the_documented_configuration_runs_as_it_stands(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = (Path(__file__).parents[2] / "docs" / "classifiers.md").read_text(encoding="utf-8")
    files = dict(re.findall(r"<!-- file: (\S+) -->\n```yaml\n(.*?)```", words, re.DOTALL))
    assert set(files) == {"ours.yaml", "classifiers.yaml"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    jsonl(tmp_path / "data" / "rows.jsonl", corpus_rows())
    jsonl(tmp_path / "good" / "rows.jsonl", ({"text": prose(seed)} for seed in range(10_000, 11_000)))
    jsonl(tmp_path / "bad" / "rows.jsonl", ({"text": prose(seed, 0.7)} for seed in range(20_000, 21_000)))
    said = ((remark(n, n % 3 < 2), str(n % 3)) for n in range(3000))
    jsonl(tmp_path / "labelled.jsonl", ({"tweet": text, "class": label} for text, label in said))
    monkeypatch.chdir(tmp_path)
    with ledger.run("documented"):
        prepare.fn(load("classifiers.yaml"))
    made = {step: entry.shards() for step, entry in entered("documented").items()}
    assert made["toxicity"].manifest().recipe["config"]["toxic"] == ["hate", "offensive"]
    assert 0 < made["filter"].counts.kept <= NUM_DOCUMENTS / 10 + 1
    assert made["filter"].counts.dropped["best_tenth"] > NUM_DOCUMENTS / 2


@pytest.mark.soak
def test_single_steps_train_and_score_plain_files(home: Path, tmp_path: Path) -> None:
    parts = references(tmp_path)
    rows = jsonl(tmp_path / "rows" / "rows.jsonl", corpus_rows())
    small = [word for key, value in TRAINING.items() for word in ("--set", f"training.{key}={value}")]
    label = ["--set", "classes=[rude, kind]", "--set", "toxic=[rude]"]
    said = jsonl(
        tmp_path / "labelled.jsonl", ({"text": remark(n, n % 2 == 0), "label": ["rude", "kind"][n % 2]} for n in range(400))
    )
    out = {name: str(tmp_path / "out" / name) for name in ("quality", "toxicity", "score", "again", "filter", "none")}
    sides = [word for side in ("positive", "negative") for word in ("--set", f"{side}={json.dumps(parts['quality'][side])}")]
    trained, labelled, scored, again, filtered, none, asked = commands(
        home,
        ["step", "quality", *sides, *small, "-w", "1", "--output", out["quality"]],
        ["step", "toxicity", "--input", str(said), *label, *small, "-w", "1", "--output", out["toxicity"]],
        ["step", "score", *("-i", str(rows), "-i", out["toxicity"], "-i", out["quality"]), "-w", "1", "--output", out["score"]],
        ["step", "score", *("-i", str(rows), "-i", out["quality"]), "-w", "1", "--output", out["again"]],
        ["step", "filter", "-i", out["score"], "--set", "profile=dclm", "-w", "1", "--output", out["filter"]],
        ["step", "score", "-i", str(rows), "-w", "1", "--output", out["none"]],
        ["validate", out["quality"], "--suite", "references", "--output", str(tmp_path / "said")],
    )
    for one in (trained, labelled, scored, again, filtered):
        assert one.code == 0 and "Traceback" not in one.output, one.output
    assert "average_precision" in trained.output and "recall.rude" in labelled.output
    assert "quality_score_of_top_10_percent" in scored.output and "toxic_share" in scored.output
    assert "toxic_share" not in again.output
    kept = dataset.dataset(out["filter"])
    assert kept is not None and 0 < kept.count_rows() <= NUM_DOCUMENTS / 10 + 1 and "text" in kept.schema.names
    assert (Path(out["toxicity"]) / "README.md").read_text().count("| rude |") >= 2
    assert none.code == 2 and "needs a trained classifier" in none.output
    assert asked.code in (0, 3), asked.output  # so few references are a warning
    said_of = {one["column"]: one for one in storage.read_json(str(tmp_path / "said" / "validation.json"))["checks"]}
    facts = dataset.read_manifest(out["quality"]).facts
    for name in ("average_precision", "roc_auc", "calibration_error"):
        assert said_of[name]["applicable"] and said_of[name]["observed"] == facts[name]
