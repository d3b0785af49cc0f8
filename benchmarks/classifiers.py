"""Classifiers trained by the steps on data made by others, with every figure that docs/classifiers.md prints.

    python -m benchmarks.classifiers ../shared/data

Toxicity: 24,783 labelled messages (Davidson et al. 2017), as shipped by default; then again with each fifth held out in turn, because one
fifth names few groups often enough; then with other sizes. Quality: 999 instruction answers against the beginnings of 300 web pages, and
what that classifier says of texts from elsewhere. It costs about two minutes; nothing is kept.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from infra.dataset import ShardSet
from tasks.quality import QualityConfig, quality
from tasks.text.accuracy import class_figures, flag_figures, group_figures
from tasks.text.classifier import FLAG_AT, MODEL, SCORES, Classifier, TrainingConfig, fit, load, members_of
from tasks.text.classifier_card import figures_table, groups_table, told
from tasks.toxicity import ToxicityConfig, toxicity
from tasks.web import main_text
from tasks.web.demo import build_site
from tasks.web.main_text import Extracted

CLASSES, TOXIC = ("hate", "offensive", "neither"), ("hate", "offensive")
FOLDS = 5
VARIANTS: tuple[dict[str, Any], ...] = (
    {},
    {"dimensions": 100, "buckets": 2_000_000, "min_count": 1},
    {"dimensions": 100},
    {"dimensions": 16},
    {"word_ngrams": 1},
    {"lower_case": False},
    {"learning_rate": 0.1},
    {"epochs": 25},
)
PAGE_CHARS = 1_500


def main() -> None:
    """Train, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with toxicity/, tuning/, extraction/ and text/")
    data = parser.parse_args().data
    with tempfile.TemporaryDirectory(prefix="gristmill-bench-") as folder:
        of_toxicity(data, Path(folder))
        of_quality(data, Path(folder))


def of_toxicity(data: Path, folder: Path) -> None:
    """The labelled messages: the step as it is, all fifths in turn, and other sizes."""
    with (data / "toxicity" / "davidson_labeled.csv").open(encoding="utf-8", newline="") as file:
        rows = [{"text": row["tweet"], "label": row["class"]} for row in csv.DictReader(file)]
    names = {str(number): name for number, name in enumerate(CLASSES)}
    source = {"kind": "folder", "name": "davidson", "path": str(_jsonl(folder / "messages.jsonl", rows)), "names": names}
    config = ToxicityConfig.model_validate({"sources": [source], "classes": CLASSES, "toxic": TOXIC})
    started = time.perf_counter()
    made = toxicity.run([], config, str(folder / "toxicity")).shards
    print(f"## Toxicity, the step as shipped ({time.perf_counter() - started:.1f} s)\n\n{_told(made)}\n")
    used = _used(made)
    _print_speed(load(made.folder), used["text"])
    _cross_fitted(used, config.training, folder)
    print("| changed | average precision | hate: precision, recall | offensive | neither | MB | seconds |")
    print("| --- | ---: | --- | --- | --- | ---: | ---: |")
    for changes in VARIANTS:
        other = config.model_copy(update={"training": config.training.model_copy(update=changes)})
        started = time.perf_counter()
        version = toxicity.run([], other, str(folder / f"variant-{'-'.join(changes) or 'none'}-{len(str(changes))}")).shards
        took = time.perf_counter() - started
        facts = version.manifest().facts
        each = " | ".join(f"{facts[f'precision.{one}']:.3f}, {facts[f'recall.{one}']:.3f}" for one in CLASSES)
        words = ", ".join(f"{key} {value}" for key, value in changes.items()) or "nothing"
        print(f"| {words} | {facts['average_precision']:.4f} | {each} | {facts['model_bytes'] / 1e6:.1f} | {took:.1f} |")


def _cross_fitted(used: pa.Table, training: TrainingConfig, folder: Path) -> None:
    """Every text scored by a classifier that has not seen it: each fifth is the test part once."""
    fold = (used["key"].to_numpy() % FOLDS).astype(np.int64)
    actual = pa.compute.index_in(used["label"].combine_chunks(), pa.array(CLASSES)).to_numpy().astype(np.int64)
    score, predicted, probabilities = np.zeros(len(used)), np.zeros(len(used), np.int64), np.zeros((len(used), len(CLASSES)))
    for held_out in range(FOLDS):
        part = np.where(fold == held_out, "test", np.where(fold == (held_out + 1) % FOLDS, "calibrate", "train"))
        rows = used.drop_columns("part").append_column("part", pa.array(part))
        fitted = fit(rows, CLASSES, TOXIC, training, "toxicity")
        where = folder / f"fold{held_out}"
        where.mkdir()
        for name, content in fitted.files.items():
            (where / name).write_bytes(content)
        classifier, own = load(where), np.flatnonzero(fold == held_out)
        score[own] = classifier.score(used["text"].take(pa.array(own)))
        probabilities[own] = classifier.probabilities(used["text"].take(pa.array(own)).to_pylist())
        predicted[own] = probabilities[own].argmax(axis=1)
    is_toxic, flagged = np.isin(actual, [CLASSES.index(one) for one in TOXIC]), score >= FLAG_AT
    members = members_of(used["text"].to_pylist(), training.term_lists)
    groups = group_figures(is_toxic, flagged, members, training.min_group_texts)
    found = {"positive": TOXIC, "groups": groups, "min_group_texts": training.min_group_texts}
    print(f"\n## Toxicity, all {len(used):,} texts, each fifth held out in turn\n\n| class | texts | precision | recall |")
    print("| --- | ---: | --- | --- |")
    for row in class_figures(CLASSES, actual, predicted, probabilities):
        print(f"| {row['label']} | {row['texts']:,} | {told(row['precision'])} | {told(row['recall'])} |")
    flag = flag_figures(is_toxic, flagged)
    print(f"| hate or offensive | {flag['positives']:,} | {told(flag['precision'])} | {told(flag['recall'])} |")
    print(f"\n{groups_table(found)}\n")


def of_quality(data: Path, folder: Path) -> None:
    """Instruction answers against web pages, and what the classifier says of others."""
    with (data / "tuning" / "alpaca_en_demo.json").open(encoding="utf-8") as file:
        answers = [row["output"] for row in json.load(file)]
    pages = [text[:PAGE_CHARS] for text in _pages(data / "extraction" / "pages")]
    sources = {
        side: [{"kind": "folder", "name": name, "path": str(_jsonl(folder / f"{name}.jsonl", [{"text": one} for one in texts]))}]
        for side, name, texts in (("positive", "answers", answers), ("negative", "pages", pages))
    }
    for changes in ({"learning_rate": 0.1}, {}):
        raw = {**sources, "training": {"max_chars": PAGE_CHARS, **changes}}
        config = QualityConfig.model_validate(raw)
        made = quality.run([[]], config, str(folder / f"quality{len(changes)}")).shards
        print(f"\n## Quality, {changes or 'as shipped'}\n\n{_told(made)}\n")
    classifier = load(made.folder)
    _print_speed(classifier, pa.chunked_array([pages]))
    print("\n| texts from elsewhere | texts | median score | share from 0.5 on |\n| --- | ---: | ---: | ---: |")
    for name, texts in _elsewhere(data / "text", folder).items():
        score = classifier.score(pa.array([text[:PAGE_CHARS] for text in texts]))
        print(f"| {name} | {len(texts):,} | {np.median(score):.3f} | {np.mean(score >= FLAG_AT):.1%} |")


def _elsewhere(data: Path, folder: Path) -> dict[str, list[str]]:
    wiki = "".join((data / f"wikitext2_{part}.txt").read_text(encoding="utf-8") for part in ("valid", "test"))
    articles = [one.strip() for one in re.split(r"\n = [^=\n]+ = \n", wiki) if len(one) > PAGE_CHARS]
    plays = (data / "tinyshakespeare.txt").read_text(encoding="utf-8")
    scenes = [plays[start : start + PAGE_CHARS] for start in range(0, len(plays), PAGE_CHARS)]
    build_site(folder / "site", services=20, num_hosts=1)
    manuals = [_text(path.read_bytes(), path.name) for path in sorted((folder / "site").rglob("*.html*"))]
    return {
        "Wikipedia articles (WikiText-2)": articles,
        "Shakespeare": scenes,
        "API manuals (botocore)": [text for text in manuals if len(text) > 200],
    }


def _pages(folder: Path) -> list[str]:
    texts = [_text(gzip.decompress(path.read_bytes()), path.name) for path in sorted(folder.glob("*.html.gz"))]
    return [text for text in texts if text]


def _text(page: bytes, name: str) -> str:
    raw = gzip.decompress(page) if page[:2] == b"\x1f\x8b" else page
    found = main_text.extract(raw, "text/html", f"http://pages.example/{name}")
    return found.text if isinstance(found, Extracted) else ""


def _told(made: ShardSet) -> str:
    figures: Mapping[str, Any] = json.loads(Path(made.folder, SCORES).read_text(encoding="utf-8"))
    counts = ", ".join(f"{rule} {count:,}" for rule, count in made.counts.dropped.items()) or "none"
    size = Path(made.folder, MODEL).stat().st_size / 1e6
    parts = "; ".join(f"{part} {sum(of.values()):,}" for part, of in figures["parts"].items())
    return (
        f"{made.counts.kept:,} texts ({parts}); dropped: {counts}. Model {size:.1f} MB.\n\n"
        f"{figures_table(figures)}\n\n{groups_table(figures)}"
    )


def _used(made: ShardSet) -> pa.Table:
    return pa.concat_tables([shard.read() for shard in made.shards()])


def _print_speed(classifier: Classifier, texts: pa.ChunkedArray) -> None:
    started = time.perf_counter()
    classifier.score(texts)
    took = time.perf_counter() - started
    num_bytes = sum(len(text.encode()) for text in texts.to_pylist())
    print(
        f"scored {len(texts):,} texts, {num_bytes / 1e6:.1f} MB, in {took:.2f} s: {num_bytes / 1e6 / took:.1f} MB/s on one core"
    )


def _jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


if __name__ == "__main__":
    main()
