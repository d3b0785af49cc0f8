"""evaluate: score a model on the documents of the test split, beside baselines it must beat, and let it write.

Held-out scores by source and language, calibration, robustness to small faults, and the scores of documents that the training split has
parts of beside those that it has not. Each figure has its number of documents and its interval; `items.parquet` has what each document
gave, so that two models can be compared document by document (step `compare`). The documents' texts and languages are those of the
version that the tokens were made from. What the figures must be like is said by the suite `scores`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from expectations.cards import certificate_files
from expectations.figures import judged, suite_file
from expectations.schemas import CERTIFICATE
from infra import dataset, storage, tracking
from infra.dataset import Counts, Outcome, ShardRef, ShardSet, bytes_digest, name_of, write_table
from infra.errors import InputError
from infra.steps import Output, step
from tasks.learn.config import MODEL, TOKENISER, EvaluateConfig

TOKENISER_FILE = f"{TOKENISER}/tokenizer.json"


def files_read(config: EvaluateConfig) -> dict[str, str]:
    """The suite is part of the recipe."""
    return suite_file(config.suite)


def overlap_shard(shard: ShardRef, texts: str, digest: str, num_words: int) -> Outcome:
    """In how many documents of a training shard each run of words of the held-out texts stands: rows (run, documents)."""
    from tasks.text.overlap import documents_with, runs_of

    data = storage.read_bytes(texts)
    assert bytes_digest(data) == digest, f"{texts} has changed while it was in use"
    runs = runs_of(pq.read_table(pa.BufferReader(data))["text"].combine_chunks(), num_words)
    counts = documents_with(shard.read(["text"])["text"].combine_chunks(), runs)
    found = np.flatnonzero(counts)
    return Outcome(pa.table({"run": found, "documents": counts[found]}))


@step(schema="scores", fingerprint=files_read)
def evaluate(model: ShardSet, tokens: ShardSet, config: EvaluateConfig, out: Output) -> None:
    """Figures of held-out documents with their items, baselines and sample texts.

    Raises:
        InputError: the documents that the tokens were made from are not there, or the tokens are of another tokeniser than the model's.
        GateFailed: the figures are not what the suite asks for.
    """
    from tasks.learn import calibration, figures, heldout, metrics, robustness
    from tasks.learn.device import peak_memory_bytes
    from tasks.learn.scorer import Scorer
    from tasks.learn.tokens import check_tokeniser, open_shards, token_counts

    check_tokeniser("evaluate", model, tokens)
    facts, documents = tokens.manifest().facts, _documents(tokens)
    splits = documents.manifest().facts["splits"]
    shards = {name: open_shards(tokens, indices) for name, indices in facts["splits"].items()}
    counts = token_counts(shards["train"], facts["vocab_size"])
    with storage.local_folder(model.file(MODEL)) as folder:
        scorer = Scorer(folder, config)
        result = metrics.evaluate(scorer, shards["test"], config, train_counts=counts)
        table = _texts(documents, splits["test"], result.documents.doc_id.tolist())
        dirty, halves = _halves(documents, splits["train"], table, config, out)
        report = heldout.held_out(result, masked=scorer.masked, languages=_languages(table), dirty=dirty)
        some = table.take(pc.sort_indices(table["doc_id"])[: config.robustness.max_documents])
        plain = robustness.Plain(result.documents, result.told)
        with storage.local_folder(tokens.file(TOKENISER)) as words:
            changed = robustness.measure(scorer, plain, some, str(words), config, report)
        texts = metrics.sample_texts(scorer, config.samples)
    told = {
        "kind": "masked" if scorer.masked else "causal",
        "model": dataclasses.asdict(result.model),
        "baselines": [dataclasses.asdict(one) for one in result.baselines],
        "sources": [dataclasses.asdict(one) for one in result.sources],
        "samples": texts,
        "tokeniser": next(one.digest for one in tokens.manifest().files if one.name == TOKENISER_FILE),
        "reliability": calibration.reliability(result.told.bins),
        "contamination": {"certificate": _certified(documents), **halves},
        "faults": changed,
    }
    for name in figures.write(out.folder, report.figures, report.items, told):
        out.keep_file(name)
    rows = figures.table(report.figures)
    out.receipts = [dataset.write_shard(out.folder, 0, Outcome(rows))]
    out.counts = Counts(total=result.model.num_documents, kept=result.model.num_documents)
    uniform = next(one for one in result.baselines if one.name == "uniform")
    out.facts = {
        "perplexity": result.model.perplexity,
        "bits_per_byte": result.model.bits_per_byte,
        "accuracy": result.model.accuracy,
        **{f"perplexity.{one.name}": one.perplexity for one in result.baselines},
        "perplexity_of_uniform": result.model.perplexity / uniform.perplexity,
        "num_tokens": result.model.num_tokens,
        **{one.name: one.value for one in figures.headline(report.figures) if one.value is not None},
        "efficiency.parameters": scorer.num_parameters,
    }
    out.volatile = {
        "device": scorer.device,
        "device_reason": scorer.device_reason,
        "efficiency": {"tokens_per_s": round(result.tokens_per_s, 1), "peak_memory_bytes": peak_memory_bytes(scorer.device)},
    }
    out.facts |= judged("evaluate", rows, out.facts, config.suite)
    if (track := tracking.current()) is not None:
        track.dataset(tokens, "evaluation")


def _documents(tokens: ShardSet) -> ShardSet:
    """The documents that the tokens were made from."""
    wanted = tokens.manifest().recipe["inputs"]["dataset"]
    found = next((one for one in dataset.inputs_there(tokens) if name_of(one) == wanted), None)
    if found is None:
        raise InputError(
            f"evaluate: {wanted}, whose documents the tokens {tokens.step}/{tokens.version} are, is not there; their texts and languages "
            "are asked for: bring it back, or run `tokenise` again"
        )
    return found


def _texts(documents: ShardSet, indices: Sequence[int], doc_ids: Sequence[str]) -> pa.Table:
    """doc_id, source, text and, where there is one, language of these documents, in their order."""
    rows = dataset.dataset(documents.folder)
    language = ["language"] if rows is not None and "language" in rows.schema.names else []
    wanted, shards = pa.array(doc_ids, pa.string()), documents.shards()
    parts = (shards[index].read(["doc_id", "source", "text", *language]) for index in indices)
    table = pa.concat_tables([one.filter(pc.is_in(one["doc_id"], wanted)) for one in parts])
    return table.take(pc.index_in(wanted, table["doc_id"].combine_chunks()))


def _languages(table: pa.Table) -> dict[str, str]:
    """doc_id → language, empty where nobody measured it."""
    if "language" not in table.column_names:
        return {}
    return {name: said for name, said in zip(table["doc_id"].to_pylist(), table["language"].to_pylist(), strict=True) if said}


def _halves(
    documents: ShardSet, train: Sequence[int], table: pa.Table, config: EvaluateConfig, out: Output
) -> tuple[Any, dict[str, Any]]:
    """(which held-out documents have a run of words with the training split, what was looked for and found); None where nobody looked."""
    if config.overlap_words is None:
        return None, {"overlap": "not looked for"}
    from tasks.text.overlap import overlapping, runs_of

    path = out.aside("held_out.parquet")
    digest, _ = write_table(path, table.select(["text"]))
    runs = runs_of(table["text"].combine_chunks(), config.overlap_words)
    counts = np.zeros(runs.size, np.int64)
    shards = documents.shards()
    work = partial(overlap_shard, texts=path, digest=digest, num_words=config.overlap_words)
    for part in out.map_aside("overlap", work, [shards[index] for index in train]):
        one = part.read()
        counts[one["run"].to_numpy()] += one["documents"].to_numpy()
    dirty, long = overlapping(runs, counts)
    told = {
        "words": config.overlap_words,
        "dirty": int(dirty.sum()),
        "clean": int((~dirty).sum()),
        "too_short": int((~long).sum()),
    }
    return dirty, {"overlap": told}


def _certified(documents: ShardSet) -> str:
    """What the certificate of the dataset says of evaluation sets."""
    names = certificate_files(documents.manifest())
    if CERTIFICATE not in names:
        return "not tested"
    return str(storage.read_json(documents.file(CERTIFICATE))["statement"])
