"""augment: changed copies of training documents beside them, with identity words swapped, letters mistyped or contractions written out.

Optional: it runs only where configured, after split and on documents of `train` alone, so nothing that is measured on is ever made or
changed; a copy whose text is that of a held-out document is left out. Which documents are copied follows from a hash of (seed, kind,
doc_id). A copy has a doc_id of its own, says in `augmented` how and in `augmented_from` of what it was made, and keeps source, cluster and
split; where nothing matches there is none. Copies are made after dedup, which would remove them again.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from expectations.schemas import AUGMENTED
from infra import dataset, storage
from infra.dataset import Outcome, ShardRef, ShardSet
from infra.errors import InputError
from infra.ids import content_id, digest_of, payload_digest, text_digest
from infra.steps import Output, step
from tasks.text.augmenting import Axis, add_noise, load_swaps, paraphrase, shipped_swaps, swap_words, swaps_path
from tasks.text.sampling import draws, hashes

KINDS = ("swap", "noise", "paraphrase")
HELD_OUT = "held_out.parquet"
Ints = npt.NDArray[np.int64]


class AugmentConfig(BaseModel):
    """How many copies of training documents are made, and how."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    swap: float = Field(0.0, ge=0, le=1)
    """Share of the training documents of which a copy with swapped identity words is tried."""
    noise: float = Field(0.0, ge=0, le=1)
    """Share of which a copy with mistyped words is."""
    paraphrase: float = Field(0.0, ge=0, le=1)
    """Share of which a copy is whose contractions are written out, or the other way round; English only."""
    axes: tuple[str, ...] = Field(("gender",), min_length=1)
    """What is swapped: axes of the swap lists. Words of several are swapped in one copy."""
    swap_lists: tuple[str, ...] = Field(("en",), min_length=1)
    """Words that are swapped: languages of which a list ships, or paths of own files of the same form (tasks/text/swaps_data)."""
    noise_rate: float = Field(0.03, gt=0, le=1)
    """Chance with which a word of four letters or more is mistyped in a noisy copy."""
    seed: int = 0
    """Decides which documents are copied, and where noise falls."""

    @field_validator("swap_lists")
    @classmethod
    def _absolute_if_a_file(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name if name in shipped_swaps() else str(swaps_path(name).absolute()) for name in names)

    @model_validator(mode="after")
    def _something_that_can_be(self) -> AugmentConfig:
        if not any(getattr(self, kind) for kind in KINDS):
            raise ValueError(
                f"there is nothing to make: give a share above 0 for one of {', '.join(KINDS)}, or leave `augment` out"
            )
        known = sorted({axis.name for name in self.swap_lists for axis in load_swaps(name).axes})
        if unknown := sorted(set(self.axes) - set(known)):
            raise ValueError(f"axes: no axis {unknown[0]!r} in the swap lists; these are: {', '.join(known)}")
        return self

    def axes_by_language(self) -> dict[str, list[Axis]]:
        """The axes that are swapped, by language."""
        lists = map(load_swaps, self.swap_lists)
        return {one.language: [axis for axis in one.axes if axis.name in self.axes] for one in lists}


def files_read(config: AugmentConfig) -> Mapping[str, str]:
    """The swap lists are part of the recipe."""
    names = config.swap_lists if config.swap else ()
    return {f"swaps {Path(name).name}": payload_digest(swaps_path(name).read_bytes()) for name in names}


class _Copies(NamedTuple):
    """Changed texts of some rows of a shard."""

    rows: Ints
    text: pa.Array
    changes: Ints
    """How many words of each were changed."""


def augment_shard(shard: ShardRef, config: AugmentConfig, held_out: str) -> Outcome:
    """One shard with its copies, in `doc_id` order; facts count what was tried, made and left out, by kind."""
    table = shard.read()
    for name in AUGMENTED.names:
        table = table.append_column(AUGMENTED.field(name), pa.nulls(table.num_rows, pa.string()))
    never = set(pq.read_table(pa.BufferReader(storage.read_bytes(held_out)))["text_digest"].to_pylist())
    train = pc.equal(table["split"], "train").to_numpy()
    tables: list[pa.Table] = [table]
    facts: dict[str, float] = {}
    for kind in KINDS:
        if not getattr(config, kind):
            continue
        chosen = np.flatnonzero(train & (draws(table["doc_id"], config.seed, f"augment {kind}") < getattr(config, kind)))
        made = _copies_of(table, kind, chosen, config)
        copies = _as_documents(table, kind, made)
        new = pc.invert(pc.is_in(copies["text_digest"], pa.array(sorted(never), pa.string())))
        tables.append(copies.filter(new))
        facts |= {
            f"num_tried.{kind}": float(len(chosen)),
            f"num_augmented.{kind}": float(tables[-1].num_rows),
            f"num_held_out_texts.{kind}": float(copies.num_rows - tables[-1].num_rows),
            f"num_changed_words.{kind}": float(made.changes[new.to_numpy()].sum()),
        }
    return Outcome(pa.concat_tables(tables).sort_by("doc_id").combine_chunks(), facts=facts)


@step(schema="augmented_documents", fingerprint=files_read)
def augment(documents: ShardSet, config: AugmentConfig, out: Output) -> None:
    """Add changed copies of training documents: swapped identity words, typing errors, contractions; held-out documents stay alone."""
    held_out = out.aside(HELD_OUT)
    dataset.write_table(held_out, _held_out(documents))
    out.sum_facts(out.map(partial(augment_shard, config=config, held_out=held_out), documents.shards(), by_document=True))
    out.facts["num_augmented"] = sum(out.facts.get(f"num_augmented.{kind}", 0) for kind in KINDS)
    out.facts["unit"] = documents.manifest().facts.get("unit", "none")  # how they were held out is still true


def _held_out(documents: ShardSet) -> pa.Table:
    """The digests of all texts that are measured on; no text is read.

    Raises:
        InputError: nobody has said which these are.
    """
    rows = dataset.dataset(documents.folder)
    if rows is None:
        return pa.table({"text_digest": pa.array([], pa.string())})
    if "split" not in rows.schema.names:
        raise InputError(
            "augment: these documents are not split, so nobody knows which are for measuring; run `gristmill step split` on them first"
        )
    return rows.to_table(["text_digest"], filter=pc.field("split") == "test")


def _copies_of(table: pa.Table, kind: str, rows: Ints, config: AugmentConfig) -> _Copies:
    """The texts of these rows as `kind` makes them, of those in which it changes something."""
    text = table["text"].combine_chunks()
    if kind == "noise":
        some = table["doc_id"].combine_chunks().take(pa.array(rows))
        return _changed(rows, *add_noise(text.take(pa.array(rows)), hashes(some, config.seed, "noise"), config.noise_rate))
    if kind == "paraphrase":
        rows = _of_language(table, rows, "en")
        some = table["doc_id"].combine_chunks().take(pa.array(rows))
        return _changed(rows, *paraphrase(text.take(pa.array(rows)), draws(some, config.seed, "contract") < 0.5))
    parts = []
    for language, axes in config.axes_by_language().items():
        own = _of_language(table, rows, language)
        parts.append(_changed(own, *swap_words(text.take(pa.array(own)), axes)))
    return _Copies(
        np.concatenate([part.rows for part in parts]),
        pa.concat_arrays([part.text for part in parts]),
        np.concatenate([part.changes for part in parts]),
    )


def _of_language(table: pa.Table, rows: Ints, language: str) -> Ints:
    """Those of the rows that are in this language; all of them where nobody has looked."""
    if "language" not in table.column_names:
        return rows
    return rows[pc.fill_null(pc.equal(table["language"], language), False).to_numpy()[rows]]


def _changed(rows: Ints, text: pa.Array, changes: Ints) -> _Copies:
    there = np.flatnonzero(changes)
    return _Copies(rows[there], text.take(pa.array(there)), changes[there])


def _as_documents(table: pa.Table, kind: str, made: _Copies) -> pa.Table:
    """Rows like those that the copies were made of, under ids of their own."""
    copies = table.take(pa.array(made.rows))
    before, texts = copies["doc_id"], made.text.to_pylist()
    new = {
        "doc_id": [digest_of("augmented", kind, one) for one in before.to_pylist()],
        "content_id": [content_id(one) for one in texts],
        "text": made.text,
        "text_digest": [text_digest(one) for one in texts],
        "augmented": pa.repeat(kind, len(texts)),
        "augmented_from": before,
    }
    for name, values in new.items():
        at = table.schema.get_field_index(name)
        column = values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values, pa.string())
        copies = copies.set_column(at, table.schema.field(at), column)
    return copies
