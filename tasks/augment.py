"""augment: changed copies of training documents beside them, with identity words swapped, letters mistyped or contractions written out.

Optional: it runs only where configured, after split and on documents of `train` alone, so nothing that is measured on is ever made or
changed. Which documents are copied follows from a hash of (seed, kind, doc_id). A copy has a doc_id of its own, says in `augmented` how
and in `augmented_from` of what it was made, and keeps source, cluster and split; where nothing matches there is none, nor where its text
is that of another document. Copies are made after dedup, which would remove them again, and after redact: addresses and what stands for
them are the same bytes in a copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
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
from infra.settings import settings
from infra.steps import Output, step
from tasks.signals import SignalsConfig
from tasks.text.augmenting import Axis, add_noise, load_swaps, paraphrase, shipped_swaps, swap_words, swaps_path
from tasks.text.language import identify
from tasks.text.pii import MASKS, RedactConfig, shield, unshield
from tasks.text.sampling import draws, hashes

KINDS = ("swap", "noise", "paraphrase")
ORIGINALS = "originals.parquet"
_DIGESTS = pa.schema([("text_digest", pa.string()), ("held_out", pa.bool_())])
MIN_LANGUAGE_SCORE: float = SignalsConfig.model_fields["language_floor"].default  # documents that have a language got it by this
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Change = Callable[[pa.Array], tuple[pa.Array, Ints]]


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
    """Chance with which a word of four ASCII letters or more, and no other, is mistyped in a noisy copy."""
    masks: tuple[str, ...] = MASKS
    """What stands for addresses: the same bytes in every copy, as addresses are. In a run those of `redact` are added."""
    seed: int = 0
    """Decides which documents are copied, and where noise falls."""

    @field_validator("swap_lists")
    @classmethod
    def _absolute_and_one_of_a_language(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        languages = [load_swaps(name).language for name in names]
        if twice := sorted({one for one in languages if languages.count(one) > 1}):
            raise ValueError(f"more than one list of {', '.join(twice)}")
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

    def beside(self, redact: RedactConfig) -> AugmentConfig:
        """The same where these masks stand for addresses."""
        masks = dict.fromkeys((*self.masks, redact.email_replacement, redact.ip_replacement))
        return self.model_copy(update={"masks": tuple(masks)})

    def axes_by_language(self) -> dict[str, list[Axis]]:
        """The axes that are swapped, by language; of a list that has none of them there is nothing."""
        lists = map(load_swaps, self.swap_lists)
        found = {one.language: [axis for axis in one.axes if axis.name in self.axes] for one in lists}
        return {language: axes for language, axes in found.items() if axes}


def files_read(config: AugmentConfig) -> Mapping[str, str]:
    """The swap lists are part of the recipe, and the language model where it is there: documents without a language are asked for it."""
    names = config.swap_lists if config.swap else ()
    files = {f"swaps {load_swaps(name).language}": swaps_path(name) for name in names}
    model = settings().language_model
    if (config.swap or config.paraphrase) and model.exists():
        files[model.name] = model
    return {name: payload_digest(path.read_bytes()) for name, path in files.items()}


class _Copies(NamedTuple):
    """Changed texts of some rows of a shard."""

    rows: Ints
    text: pa.Array
    changes: Ints
    """How many words of each were changed."""
    num_addresses: int = 0
    """Texts left out because a changed word made or unmade an address."""


def augment_shard(shard: ShardRef, config: AugmentConfig, originals: str) -> Outcome:
    """One shard with its copies, in `doc_id` order; facts count what was tried, made and left out, by kind.

    Args:
        originals: path of the table of all documents' text digests, as `_write_digests` makes it.
    """
    table = shard.read()
    for name in AUGMENTED.names:
        table = table.append_column(AUGMENTED.field(name), pa.nulls(table.num_rows, pa.string()))
    train = pc.equal(table["split"], "train").to_numpy()
    tables: list[pa.Table] = [table]
    facts: dict[str, float] = {}
    for kind in KINDS:
        if not getattr(config, kind):
            continue
        chosen = np.flatnonzero(train & (draws(table["doc_id"], config.seed, f"augment {kind}") < getattr(config, kind)))
        made = _copies_of(table, kind, chosen, config)
        copies = _as_documents(table, kind, made)
        in_train, in_held_out = _there_already(copies["text_digest"], originals)
        new = ~(in_train | in_held_out)
        tables.append(copies.filter(pa.array(new)))
        facts |= {
            f"num_tried.{kind}": float(len(chosen)),
            f"num_augmented.{kind}": float(tables[-1].num_rows),
            f"num_held_out_texts.{kind}": float(in_held_out.sum()),
            f"num_training_texts.{kind}": float((in_train & ~in_held_out).sum()),
            f"num_addresses.{kind}": float(made.num_addresses),
            f"num_changed_words.{kind}": float(made.changes[new].sum()),
        }
    whole = pa.concat_tables(tables)
    check_copies(whole)
    return Outcome(whole.sort_by("doc_id").combine_chunks(), facts=facts)


def check_copies(table: pa.Table) -> None:
    """Raises AssertionError if a copy is anywhere but in `train`: then it must not be written."""
    wrong = table.filter(pc.and_(pc.is_valid(table["augmented"]), pc.fill_null(pc.not_equal(table["split"], "train"), True)))
    if wrong.num_rows:
        first = wrong.slice(0, 1).to_pylist()[0]
        raise AssertionError(
            f"augment: {wrong.num_rows} copies outside `train`, the first {first['doc_id']} in {first['split']}; nothing that is measured "
            "on may be a copy, so this is a mistake in Gristmill"
        )


@step(schema="augmented_documents", fingerprint=files_read)
def augment(documents: ShardSet, config: AugmentConfig, out: Output) -> None:
    """Add changed copies of training documents: swapped identity words, typing errors, contractions; held-out documents stay alone."""
    originals = out.aside(ORIGINALS)
    _write_digests(documents, originals, config)
    out.sum_facts(out.map(partial(augment_shard, config=config, originals=originals), documents.shards(), by_document=True))
    out.facts["num_augmented"] = sum(out.facts.get(f"num_augmented.{kind}", 0) for kind in KINDS)
    out.facts["unit"] = documents.manifest().facts.get("unit", "none")  # how they were held out is still true


def _write_digests(documents: ShardSet, path: str, config: AugmentConfig) -> None:
    """Writes the digest of every text and whether it is held out, batch by batch; no text is read.

    Raises:
        InputError: nobody has said which are held out, copies are among them, or their languages are not known and cannot be found.
    """
    rows = dataset.dataset(documents.folder)
    names = rows.schema.names if rows is not None else _DIGESTS.names
    if rows is not None and "split" not in names:
        raise InputError(
            "augment: these documents are not split, so nobody knows which are for measuring; run `gristmill step split` on them first"
        )
    if "augmented" in names:
        raise InputError("augment: there are copies among these documents already; give it what `gristmill step split` made")
    model = settings().language_model
    if rows is not None and "language" not in names and (config.swap or config.paraphrase) and not model.exists():
        raise InputError(
            f"augment: these documents have no language, and the model that finds it is not there ({model}); run `make setup`, or make "
            "noise alone"
        )
    with storage.open_write(path) as handle, pq.ParquetWriter(handle, _DIGESTS) as writer:
        for batch in rows.to_batches(columns=["text_digest", "split"]) if rows is not None else ():
            writer.write_batch(pa.record_batch([batch["text_digest"], pc.not_equal(batch["split"], "train")], schema=_DIGESTS))


def _there_already(digests: pa.ChunkedArray, originals: str) -> tuple[Mask, Mask]:
    """Whether each text is that of a training document, and whether of a held-out one; all others are read batch by batch."""
    found: dict[bool, set[str]] = {False: set(), True: set()}
    wanted = digests.combine_chunks()
    with storage.open_read(originals) as handle:
        for batch in pq.ParquetFile(handle).iter_batches():
            hits = batch.filter(pc.is_in(batch["text_digest"], wanted))
            for held_out, names in found.items():
                names.update(hits.filter(pc.equal(hits["held_out"], held_out))["text_digest"].to_pylist())
    train, held = (pc.is_in(wanted, pa.array(sorted(found[one]), pa.string())) for one in (False, True))
    return train.to_numpy(zero_copy_only=False), held.to_numpy(zero_copy_only=False)


def _copies_of(table: pa.Table, kind: str, rows: Ints, config: AugmentConfig) -> _Copies:
    """The texts of these rows as `kind` makes them, of those in which it changes something."""
    parts = [_changed(table, own, change, config) for own, change in _changes(table, kind, rows, config)]
    return _Copies(
        np.concatenate([np.zeros(0, np.int64), *(part.rows for part in parts)]),
        pa.concat_arrays([pa.array([], table.schema.field("text").type), *(part.text for part in parts)]),
        np.concatenate([np.zeros(0, np.int64), *(part.changes for part in parts)]),
        sum(part.num_addresses for part in parts),
    )


def _changes(table: pa.Table, kind: str, rows: Ints, config: AugmentConfig) -> Iterator[tuple[Ints, Change]]:
    """(rows, what is done to their texts)."""
    if kind == "noise":
        some = table["doc_id"].combine_chunks().take(pa.array(rows))
        yield rows, partial(add_noise, keys=hashes(some, config.seed, "noise"), rate=config.noise_rate)
        return
    language = _languages(table, rows)
    if kind == "paraphrase":
        own = rows[language == "en"]
        some = table["doc_id"].combine_chunks().take(pa.array(own))
        yield own, partial(paraphrase, contract=draws(some, config.seed, "contract") < 0.5)
        return
    for name, axes in config.axes_by_language().items():
        yield rows[language == name], partial(swap_words, axes=axes)


def _languages(table: pa.Table, rows: Ints) -> npt.NDArray[np.object_]:
    """The language of each of these rows: the one that was found before, or is found now."""
    if "language" in table.column_names:
        found = table["language"].take(pa.array(rows)).combine_chunks()
    else:
        found, _ = identify(table["text"].take(pa.array(rows)), settings().language_model, min_score=MIN_LANGUAGE_SCORE)
    return found.to_numpy(zero_copy_only=False)


def _changed(table: pa.Table, rows: Ints, change: Change, config: AugmentConfig) -> _Copies:
    """The texts of these rows that `change` changes, with the addresses that they had and no others."""
    shielded, addresses = shield(table["text"].combine_chunks().take(pa.array(rows)), config.masks)
    made, changes = change(shielded)
    text = unshield(made, addresses)
    _, after = shield(text, config.masks)
    same = np.array([addresses.get(row) == after.get(row) for row in range(len(rows))], bool)
    there = np.flatnonzero((changes > 0) & same)
    return _Copies(rows[there], text.take(pa.array(there)), changes[there], int(((changes > 0) & ~same).sum()))


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
