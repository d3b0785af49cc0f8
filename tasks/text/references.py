"""References: texts with a label that a classifier learns from, read from the same kinds of sources as `ingest`.

Every row becomes one of CANDIDATES, a usable text as the one line that the classifier reads, another one with the rule that it breaks; so
nothing is lost without a reason. Rows keep the order of their source.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field

from expectations.schemas import REFERENCES
from infra.dataset import EXCERPT_CHARS, REJECTS_SCHEMA, Outcome, ShardRef
from tasks.text.classifier import PARTS, WHY_NOT, TrainingConfig, as_lines, keys_of, parts_of
from tasks.text.readers import DatasetSource, Fields, FolderSource, IngestConfig, Piece, read_rows

CANDIDATES = pa.schema([*REFERENCES, ("rule", pa.string()), ("detail", pa.string())])
"""References before it is decided which are used; `rule` and `detail` of those that cannot be."""
KEYS = ("doc_id", "content_id", "source", "url")
_MIX, _GOLDEN = np.uint64(0xFF51AFD7ED558CCD), 0x9E3779B97F4A7C15


class LabelledFields(Fields):
    """Names of the fields of a labelled row."""

    label: str = "label"
    """Field with the class of the text."""


class LabelledFolder(FolderSource):
    """A folder source whose texts have labels."""

    fields: LabelledFields = LabelledFields()
    """Which fields of a row are used."""
    label: str | None = None
    """The class of all its texts; null where every row says its own."""
    names: dict[str, str] = Field(default_factory=dict)
    """Labels as the rows write them → classes; a label that is not among them is a class's own name."""


class LabelledDataset(DatasetSource):
    """A dataset source whose texts have labels."""

    fields: LabelledFields = LabelledFields()
    """Which fields of a row are used."""
    label: str | None = None
    """The class of all its texts; null where every row says its own."""
    names: dict[str, str] = Field(default_factory=dict)
    """Labels as the rows write them → classes; a label that is not among them is a class's own name."""


LabelledSource = Annotated[LabelledFolder | LabelledDataset, Field(discriminator="kind")]


class ClassifierConfig(BaseModel):
    """What every trained classifier is told."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    trained: str = ""
    """An already trained version, by its path below the storage root (`quality/0123456789abcdef`), to be used instead of training one: the
    next crawl is scored by the model of the last."""
    training: TrainingConfig = TrainingConfig()
    """How it is trained, calibrated and measured."""
    licence: str = "unknown"
    """Licence of the model on its card; that of its references may bind it."""
    notice: str = ""
    """What a reader of the card must know of the references."""
    shard_bytes: int = Field(64_000_000, ge=1)
    """Bytes of references per shard, as in `ingest`."""


def read_references(
    job: tuple[Literal["positive", "negative", "labelled"], list[Piece]],
    sources: dict[str, IngestConfig],
    label_of: dict[str, str],
    classes: Collection[str],
    training: TrainingConfig,
) -> Outcome:
    """The candidates of some pieces.

    Args:
        job: which of `sources` the pieces are of, and the pieces.
        label_of: the class of all texts of a list of sources; of one that is not in it, the sources or their rows say it.
        classes: the labels that count.
    """
    side, pieces = job
    rows = []
    for piece in pieces:
        source: Any = sources[side].sources[piece.source]
        for row, made in read_rows(piece, sources[side]):
            label = label_of.get(side) or _label(row, source)
            rows.append(made if "rule" in made else {**made, "label": label, **_unlabelled(label, classes)})
    raw = pa.Table.from_pylist(rows, schema=pa.schema([("text", pa.string()), *_without_text(CANDIDATES)]))
    return Outcome(_candidates(raw, training))


def sample_documents(shard: ShardRef, label: str, highest: int, training: TrainingConfig) -> Outcome:
    """The candidates among the corpus' own documents: those whose `places_of` is at most `highest`."""
    table = shard.read([*KEYS, "text"])
    table = table.filter(pa.array(places_of(table["content_id"], training.seed) <= np.uint64(highest)))
    return Outcome(_candidates(table.append_column("label", pa.repeat(label, table.num_rows)), training))


def highest_place(shards: Sequence[ShardRef], how_many: int, seed: int) -> int | None:
    """The place of the last of so many sampled documents, over all shards; None of none. Memory: 8 bytes per sampled document."""
    lowest = np.zeros(0, np.uint64)
    for shard in shards:
        places = places_of(shard.read(["content_id"])["content_id"], seed)
        lowest = np.unique(np.concatenate([lowest, places]))[:how_many]  # copies of a text are one
    return int(lowest[-1]) if len(lowest) else None


def places_of(content_id: pa.ChunkedArray, seed: int) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """A place in a seeded order for every content id (32 hex characters): equal texts have one place."""
    raw = bytes.fromhex("".join(content_id.to_pylist()))
    places = np.frombuffer(raw, ">u8")[::2].astype(np.uint64) ^ np.uint64((_GOLDEN * (seed + 1)) & 0xFFFFFFFFFFFFFFFF)
    places = (places ^ (places >> np.uint64(33))) * _MIX
    return places ^ (places >> np.uint64(33))


def keep_references(job: tuple[ShardRef, np.ndarray[Any, np.dtype[np.int8]]]) -> Outcome:
    """The references of one shard of candidates that `choose` takes, and the others as rejects; a verdict per candidate."""
    shard, verdicts = job
    table = shard.read()
    rule = pc.coalesce(table["rule"], pa.array([WHY_NOT[one] for one in verdicts.tolist()], pa.string()))
    dropped = pc.is_valid(rule)
    gone = table.filter(dropped)
    rejects = pa.table(
        {
            **{name: gone[name] for name in ("doc_id", "url", "source", "detail")},
            "rule": rule.filter(dropped),
            "value": pa.nulls(gone.num_rows, pa.float64()),
            "threshold": pa.nulls(gone.num_rows, pa.float64()),
            "excerpt": pc.utf8_slice_codeunits(gone["text"], 0, EXCERPT_CHARS),
        }
    ).select(REJECTS_SCHEMA.names)
    return Outcome(table.filter(pc.invert(dropped)).select(REFERENCES.names), rejects)


def _candidates(table: pa.Table, training: TrainingConfig) -> pa.Table:
    """Rows with their line, key and part in the columns of CANDIDATES; one without text keeps none."""
    lines = as_lines(table["text"], training.max_chars, training.lower_case)
    keys = keys_of(lines, training.seed)
    made = {
        "text": pa.array(lines, pa.string()),
        "key": pa.array(keys),
        "part": pa.array(PARTS).take(pa.array(parts_of(keys, training))),
    }
    columns = {
        field.name: made[field.name]
        if field.name in made
        else table[field.name]
        if field.name in table.column_names
        else pa.nulls(table.num_rows, field.type)
        for field in CANDIDATES
    }
    return pa.table(columns, schema=CANDIDATES)


def _label(row: dict[str, Any], source: LabelledFolder | LabelledDataset) -> str | None:
    if source.label is not None:
        return source.label
    given = row.get("label")
    return None if given is None else source.names.get(str(given), str(given))


def _unlabelled(label: str | None, classes: Collection[str]) -> dict[str, str]:
    """The rule that a row without a usable label breaks."""
    if label is None:
        return {"rule": "no_label", "detail": "the row has no label"}
    if label not in classes:
        return {"rule": "unknown_label", "detail": f"label {label!r} is none of {', '.join(classes)}"}
    return {}


def _without_text(schema: pa.Schema) -> list[pa.Field]:
    return [field for field in schema if field.name != "text"]
