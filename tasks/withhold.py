"""withhold: the training documents of one version beside what another holds out, for models that are to be compared on its test split.

No document of its test or validation split can be among the training documents, by any of its names: doc_id (the same capture),
content_id (the same text as extracted), text_digest (the same text as published), the doc_id that a changed copy was made of, and its
host, where whole hosts were held out. What is left out is a reject with its rule. Near duplicates stay: `evaluate` tells the scores of
documents without them apart. Costs one pass over the texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict

from expectations.schemas import AUGMENTED, PUBLISHED
from infra import dataset
from infra.dataset import Outcome, ShardRef, ShardSet, rejects_table
from infra.errors import InputError
from infra.steps import Output, step

COPIED_FROM = AUGMENTED.names[1]
# rule, the column that names a document, and the column of the held-out documents that must not hold that name
RULES = (
    ("held_out_document", "doc_id", "doc_id"),
    ("held_out_copy", COPIED_FROM, "doc_id"),
    ("held_out_content", "content_id", "content_id"),
    ("held_out_text", "text_digest", "text_digest"),
    ("held_out_host", "host", "host"),
)
NEEDED = ("doc_id", "content_id", "source", "text")


class WithholdConfig(BaseModel):
    """Nothing to decide: a comparison is only fair in one way."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def train_shard(shard: ShardRef, held: Mapping[str, pa.Array], columns: Sequence[str], read: Sequence[str]) -> Outcome:
    """The documents of a training shard that are not held out.

    Args:
        held: the names that no training document may have, by the column of the held-out documents.
        columns: those that are kept.
        read: those that the rules ask besides.
    """
    table = shard.read([*columns, *read])
    parts, left = [], table
    for rule, mine, theirs in RULES:
        if mine in table.column_names and theirs in held:
            hit = pc.is_in(left[mine], held[theirs])
            parts += [
                {**row, "rule": rule, "detail": row[mine], "excerpt": row["text"]}
                for row in left.filter(hit).select([*{"doc_id", "source", "text", mine} | ({"url"} & {*columns})]).to_pylist()
            ]
            left = left.filter(pc.invert(hit))
    return Outcome(left.select(columns), rejects_table(parts))


def held_out_shard(shard: ShardRef, columns: Sequence[str]) -> Outcome:
    """The documents of a held-out shard."""
    return Outcome(shard.read(columns))


def shard_of(item: tuple[ShardRef, str], held: Mapping[str, pa.Array], columns: Sequence[str], read: Sequence[str]) -> Outcome:
    """Either of them, by the split."""
    shard, split = item
    return train_shard(shard, held, columns, read) if split == "train" else held_out_shard(shard, columns)


@step(schema="published")
def withhold(documents: ShardSet, held_out: ShardSet, config: WithholdConfig, out: Output) -> None:
    """The training split of `documents` without what `held_out` holds out, and the validation and test splits of that.

    Raises:
        InputError: `held_out` has no test split, a version has no documents of the published form, or nothing is left to train on.
    """
    train, validation, test = _split(documents, "train"), _split(held_out, "validation"), _split(held_out, "test")
    if not sum(shard.num_rows for shard in test):
        raise InputError(
            f"{held_out.step}/{held_out.version}: has no test split, on which the models are to be scored; publish it with split.test_share"
        )
    there = [set(_columns(version)) for version in (documents, held_out)]
    columns = [name for name in PUBLISHED.names if all(name in some for some in there)]
    by_host = held_out.manifest().facts.get("held_out_by") == "host" and "host" in columns
    held = _names(
        [*validation, *test],
        [name for name in ("doc_id", "content_id", "text_digest", *(["host"] if by_host else [])) if name in columns],
    )
    read = [COPIED_FROM] if COPIED_FROM in there[0] else []
    work = partial(shard_of, held=held, columns=columns, read=read)
    splits = {"train": train, **({"validation": validation} if validation else {}), "test": test}
    items = [(shard, name) for name, shards in splits.items() for shard in shards]
    receipts = out.map(work, items)
    indices = {name: [at for at, (_, split) in enumerate(items) if split == name] for name in splits}
    num_documents = {name: sum(receipts[at].num_rows for at in own) for name, own in indices.items()}
    if not num_documents["train"]:
        raise InputError(f"{documents.step}/{documents.version}: no training document is left without those that are held out")
    out.facts = {
        "splits": indices,
        "held_out_by": "host" if by_host else "document",
        **{f"num_documents.{name}": num for name, num in num_documents.items()},
    }


def _split(version: ShardSet, name: str) -> list[ShardRef]:
    """The shards of a split, which may have none; a version without splits is all for training."""
    shards = version.shards()
    splits = version.manifest().facts.get("splits")
    if splits is None:
        return shards if name == "train" else []
    return [shards[index] for index in splits.get(name, ())]


def _columns(version: ShardSet) -> list[str]:
    rows = dataset.dataset(version.folder)
    names: list[str] = [] if rows is None else rows.schema.names
    if missing := [name for name in NEEDED if name not in names]:
        raise InputError(
            f"{version.step}/{version.version}: has no column {', '.join(missing)}; give a dataset version, as `publish` makes it"
        )
    return names


def _names(held_out: Sequence[ShardRef], columns: Sequence[str]) -> dict[str, pa.Array]:
    """All names of the held-out documents, by column, without those that are not known."""
    tables = pa.concat_tables([shard.read(columns) for shard in held_out])
    return {name: pc.unique(tables[name].combine_chunks()).drop_null() for name in columns}
