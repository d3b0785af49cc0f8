"""benchmark: ask a model questions: tasks of lm-eval, packs made of held-out documents, arithmetic, names and numbers of its documents."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from expectations.figures import judged, suite_file
from expectations.schemas import AUGMENTED
from infra import dataset as versions
from infra import scratch, storage, tracking
from infra.dataset import Counts, Outcome, ShardRef, ShardSet
from infra.errors import InputError
from infra.steps import Output, step
from tasks.learn.benchmark_config import BenchmarkConfig
from tasks.learn.config import MODEL
from tasks.learn.lm_rows import as_lines, files_read

if TYPE_CHECKING:
    from tasks.learn.figures import Measured
    from tasks.learn.scorer import Scorer
    from tasks.learn.task_packs import Document

PACKS = "packs"
"""Folder of the questions made of documents, a JSONL file for each kind."""
_COLUMNS = pa.schema([(name, pa.string()) for name in ("doc_id", "source", "title", "text")])
_MADE, *_ = AUGMENTED.names


def files_of(config: BenchmarkConfig) -> dict[str, str]:
    """The files that are asked from, and the suite, are part of the recipe."""
    return {**files_read(config), **suite_file(config.suite)}


@step(schema="scores", fingerprint=files_of)
def benchmark(model: ShardSet, dataset: ShardSet, config: BenchmarkConfig, out: Output) -> None:
    """Scores of a model on tasks of others, on questions made of its corpus, in reasoning, and how far it hallucinates.

    Raises:
        GateFailed: the figures are not what the suite asks for.
    """
    from tasks.learn.figures import Measured
    from tasks.learn.scorer import Scorer

    measured = Measured()
    with storage.local_folder(model.file(MODEL)) as folder:
        scorer = Scorer(folder, config)
        if config.packs is not None:
            measured.add(_packs(scorer, dataset, config, out))
        if scorer.masked:
            measured.settings["left_out"] = "hallucination, reasoning and tasks of lm-eval: a masked model does not write"
        else:
            measured.add(_asked_to_write(scorer, dataset, config))
    _keep(measured, config, out)
    out.volatile = {"device": scorer.device, "device_reason": scorer.device_reason}
    if (track := tracking.current()) is not None:
        track.dataset(dataset, "evaluation")


def _asked_to_write(scorer: Scorer, dataset: ShardSet, config: BenchmarkConfig) -> Measured:
    """What only a causal model can be asked."""
    from tasks.learn import hallucination, reasoning
    from tasks.learn.figures import Measured

    measured = Measured()
    if config.hallucination is not None:
        facts = hallucination.facts_of(_documents(dataset, "train", config.max_documents), config.hallucination)
        tables = (shard.read(["doc_id", "text"]) for shard in _shards(dataset, "train"))
        measured.add(hallucination.measure(scorer, facts, tables, config.hallucination))
    if config.reasoning is not None:
        measured.add(reasoning.measure(scorer, config.reasoning))
    if config.tasks:
        from tasks.learn import lm_tasks

        with scratch.folder("tasks") as work:
            measured.add(lm_tasks.run(scorer, config.tasks, Path(work)))
    return measured


def _packs(scorer: Scorer, dataset: ShardSet, config: BenchmarkConfig, out: Output) -> Measured:
    """Make the packs, write them beside the scores, ask them."""
    from tasks.learn import task_packs

    assert config.packs is not None
    packs = task_packs.make_packs(_documents(dataset, "test", config.max_documents), config.packs)
    for kind, questions in packs.items():
        name = f"{PACKS}/{kind}.jsonl"
        storage.write_bytes(storage.join(out.folder, name), as_lines([one.as_json() for one in questions]))
        out.keep_file(name)
    return task_packs.measure(scorer, packs)


def _keep(measured: Measured, config: BenchmarkConfig, out: Output) -> None:
    """Write figures and items, and hold them against the suite."""
    from tasks.learn import figures

    for name in figures.write(out.folder, measured.figures, measured.items, {"settings": measured.settings}):
        out.keep_file(name)
    rows = figures.table(measured.figures)
    out.receipts = [versions.write_shard(out.folder, 0, Outcome(rows))]
    num = sum(map(len, measured.items))
    out.counts = Counts(total=num, kept=num)
    out.facts = {one.name: one.value for one in figures.headline(measured.figures) if one.value is not None}
    out.facts |= judged("benchmark", rows, out.facts, config.suite)


def _shards(dataset: ShardSet, split: str) -> list[ShardRef]:
    """The shards of a split; documents that are not divided, as of a folder, stand for both."""
    shards = dataset.shards()
    splits = dataset.manifest().facts.get("splits")
    return shards if splits is None else [shards[index] for index in splits[split]]


def _documents(dataset: ShardSet, split: str, max_documents: int | None) -> list[Document]:
    """Documents of a split as they came, those with the smallest doc_id, in its order.

    Raises:
        InputError: what was given has no texts.
    """
    from tasks.learn.task_packs import Document

    chosen: pa.Table | None = None
    for table in _tables(dataset, split):
        both = table if chosen is None else pa.concat_tables([chosen, table])
        chosen = both.take(pc.sort_indices(both["doc_id"])).slice(0, max_documents)
    rows = [] if chosen is None else chosen.to_pylist()
    return [Document(row["doc_id"], row["source"] or "", row["title"] or "", row["text"] or "") for row in rows]


def _tables(dataset: ShardSet, split: str) -> Iterator[pa.Table]:
    """doc_id, source, title and text of a split's documents without those that are changed copies."""
    rows = versions.dataset(dataset.folder)
    there = [] if rows is None else rows.schema.names
    if missing := {"doc_id", "text"} - set(there):
        raise InputError(f"{dataset.folder}: has no column {', '.join(sorted(missing))}; give a dataset of documents")
    for shard in _shards(dataset, split):
        table = shard.read([name for name in (*_COLUMNS.names, _MADE) if name in there])
        if _MADE in there:
            table = table.filter(pc.is_null(table[_MADE]))
        for name in set(_COLUMNS.names) - set(there):
            table = table.append_column(name, pa.nulls(len(table), pa.string()))
        yield table.select(_COLUMNS.names).cast(_COLUMNS)
