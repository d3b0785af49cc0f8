"""score: what trained classifiers say of every document, as columns beside its signals; no document is dropped.

`quality_score` and `toxicity_score` are calibrated probabilities. `quality_percentile` is the share of the corpus with a lower score, exact
up to STEPS_PER_UNIT: log-odds are counted on a fixed grid over all shards, in 0.5 MB, so it is the same for any shards and workers. The
same model gives the same score to the same text, whatever the corpus; the percentile is the corpus' own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, field_validator

from infra import scratch, storage
from infra.dataset import Outcome, ShardRef, ShardSet
from infra.errors import InputError
from infra.steps import Output, step
from tasks.text.classifier import FLAG_AT, NEEDED, Classifier, load, sigmoid
from tasks.text.measured import pairs, texts_of
from tasks.text.rules import MEASURED, FilterConfig, decide
from tasks.text.signals import QUALITY_PERCENTILE, QUALITY_SCORE, SCORE_NAMES, TOXICITY_SCORE

STEPS_PER_UNIT, REACH = 1024, 32
"""The grid: cells per unit of calibrated log-odds, from -REACH to REACH. Scores in one cell differ by less than 0.00025."""
NUM_CELLS = 2 * REACH * STEPS_PER_UNIT
TOP_SHARE = 0.1  # DCLM keeps the top 10 %


class ScoreConfig(BaseModel):
    """Against which documents a score is ranked."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    among: FilterConfig | None = None
    """Rank among the documents that this filter keeps, as `{profile: refinedweb}`: DCLM's top 10 % are of what its heuristics leave. Null:
    among all. Documents that it drops get the percentile that they would have."""

    @field_validator("among")
    @classmethod
    def _asks_for_no_score(cls, among: FilterConfig | None) -> FilterConfig | None:
        for rule in among.rules() if among else ():
            if rule.signal in SCORE_NAMES:
                raise ValueError(
                    f"rule {rule.name!r} asks for {rule.signal}, which is what is computed here: take a profile without it, or set "
                    f"among.disabled to [{rule.name}]"
                )
        return among


def files_of_filter(config: ScoreConfig) -> Mapping[str, str]:
    """The profile's own file is part of the recipe."""
    return config.among.files() if config.among else {}


@step(schema="signals", fingerprint=files_of_filter)
def score(
    signals: ShardSet,
    documents: list[ShardSet],
    quality: list[ShardSet],
    toxicity: list[ShardSet],
    config: ScoreConfig,
    out: Output,
) -> None:
    """Add the scores of the trained classifiers to the signals; of each kind there is one classifier or none.

    Raises:
        InputError: no classifier is given, or documents and signals are not of one corpus.
    """
    if not quality and not toxicity:
        raise InputError("score: needs a trained classifier: an --input that `gristmill step quality` or `toxicity` wrote")
    trained = {
        name: (one.folder, one.digest)
        for name, given in ((QUALITY_SCORE, quality), (TOXICITY_SCORE, toxicity))
        for one in given[:1]
    }
    both = pairs(signals, documents)
    scored = out.map_aside("scores", partial(score_shard, trained=trained, config=config), both)
    below = percentiles(scored) if quality else None
    out.map(partial(join_shard, below=below), [(rows, scores) for (_, rows), scores in zip(both, scored, strict=True)])
    if below is not None:
        out.facts["quality_score_of_top_10_percent"] = _score_at(below, 1 - TOP_SHARE)
    if toxicity:
        flagged = sum(int(np.sum(one.read([TOXICITY_SCORE])[TOXICITY_SCORE].to_numpy() >= FLAG_AT)) for one in scored)
        out.facts["toxic_share"] = flagged / max(signals.counts.kept, 1)


def score_shard(pair: tuple[ShardRef, ShardRef], trained: Mapping[str, tuple[str, str]], config: ScoreConfig) -> Outcome:
    """The scores of one shard, row by row with its signals; `pair` is the documents and their signals."""
    documents, signals = pair
    measured = signals.read(without=config.among.unasked() if config.among else MEASURED)
    text = texts_of(measured, signals, documents)
    odds = {name: _classifier(*where).log_odds(text) for name, where in trained.items()}
    columns: dict[str, Any] = {name: sigmoid(one).astype(np.float32) for name, one in odds.items()}
    if QUALITY_SCORE in odds:
        columns["cell"] = _cells(odds[QUALITY_SCORE])
        columns["counts"] = decide(measured, config.among).keep if config.among else np.ones(measured.num_rows, bool)
    return Outcome(pa.table(columns))


def percentiles(scored: Sequence[ShardRef]) -> npt.NDArray[np.float32]:
    """Of every cell of the grid: the share of the documents that count which are in a lower one."""
    counts = np.zeros(NUM_CELLS, np.int64)
    for shard in scored:
        table = shard.read(["cell", "counts"])
        counts += np.bincount(table["cell"].to_numpy()[table["counts"].to_numpy()], minlength=NUM_CELLS)
    below = np.cumsum(counts) - counts
    return (below / max(int(counts.sum()), 1)).astype(np.float32)


def join_shard(pair: tuple[ShardRef, ShardRef], below: npt.NDArray[np.float32] | None) -> Outcome:
    """Signals with the columns of their scores; of scores that were there before, the new ones stay."""
    signals, scores = pair[0].read(), pair[1].read()
    columns = {name: scores[name] for name in SCORE_NAMES if name in scores.column_names}
    if below is not None:
        columns[QUALITY_PERCENTILE] = pa.chunked_array([pa.array(below[scores["cell"].to_numpy()])])
    signals = signals.drop_columns([name for name in columns if name in signals.column_names])
    for name in SCORE_NAMES:
        if name in columns:
            signals = signals.append_column(name, columns[name])
    return Outcome(signals)


@lru_cache(maxsize=2)
def _classifier(folder: str, digest: str) -> Classifier:
    """Loaded once per process and version, from local copies of its files: fastText opens nothing else."""
    with scratch.folder("classifier") as local:
        for name in NEEDED:
            Path(local, name).write_bytes(storage.read_bytes(storage.join(folder, name)))
        return load(local)


def _cells(odds: npt.NDArray[np.float64]) -> npt.NDArray[np.int32]:
    return np.clip(np.floor((odds + REACH) * STEPS_PER_UNIT), 0, NUM_CELLS - 1).astype(np.int32)


def _score_at(below: npt.NDArray[np.float32], share: float) -> float:
    """The lowest score whose percentile is at least `share`; 1 where none is."""
    cells = np.flatnonzero(below >= np.float32(share))
    return float(sigmoid(np.array([cells[0] / STEPS_PER_UNIT - REACH]))[0]) if len(cells) else 1.0
