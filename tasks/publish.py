"""publish: the dataset version that training receives: shards by split, with a data card and Croissant metadata from the run's own facts.

The folder loads with `datasets.load_dataset(folder)`: the card's head names the shards of each split. Nothing on the cards is volatile,
so equal recipes give equal cards.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml
from pydantic import BaseModel, ConfigDict

from expectations.cards import (
    audit_told,
    augment_told,
    certificate_files,
    contamination_told,
    duplicates_told,
    forget_told,
    index_told,
    mixture_told,
)
from expectations.croissant import File, Responsible, croissant, hub_licence, sources_told
from expectations.schemas import AUGMENTED, CERTIFICATE, CONTAMINATION, PUBLISHED
from infra import storage
from infra.cluster import at_hand
from infra.dataset import Manifest, Outcome, Receipt, ShardRef, ShardSet, part_name
from infra.steps import Output, step
from tasks.text.classifier_card import judges_told, summary

SPLITS = ("train", "validation", "test")
CARD, METADATA = "README.md", "croissant.json"
JUDGES = "references"
"""Schema of the versions that are classifiers."""
SIZES = (
    ("n<1K", 10**3),
    ("1K<n<10K", 10**4),
    ("10K<n<100K", 10**5),
    ("100K<n<1M", 10**6),
    ("1M<n<10M", 10**7),
    ("10M<n<100M", 10**8),
)
"""Size categories of Hugging Face: name, and the number of rows that it ends before."""
HASHERS = 4
TOLD = {"audit": audit_told, "index": index_told, "forget": forget_told, "augment": augment_told}
"""Steps that drop nothing, and are told in words instead of counts."""


class PublishConfig(BaseModel):
    """What the data card says beside the facts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str = "A corpus made by Gristmill"
    """Name of the dataset on its card."""
    licence: str = "unknown"
    """Licence of the texts, as an SPDX id or words; `unknown` is shown as such."""
    notice: str = ""
    """What a reader must know about this corpus: its domain, its limits, how it must not be used."""
    url: str = ""
    """Where the dataset can be had, for its Croissant metadata; empty: said of no place."""


def publish_shard(job: tuple[ShardRef, str]) -> Outcome:
    """The documents of one shard that belong to one split."""
    shard, split_name = job
    table = shard.read()
    if "split" not in table.column_names:  # documents that were not split are all for training
        table = table.append_column("split", pa.repeat("train", table.num_rows))
    columns = [name for name in (*PUBLISHED.names, *CONTAMINATION.names, *AUGMENTED.names) if name in table.column_names]
    return Outcome(table.filter(pc.equal(table["split"], split_name)).select(columns))


@step(schema="published")
def publish(documents: ShardSet, history: list[ShardSet], config: PublishConfig, out: Output) -> None:
    """Write the dataset version by split, with its data card; `history` are the versions it came from, for the card.

    Among them may be classifiers that judged the documents; their references are not what the documents came from.
    """
    jobs = [(shard, name) for name in SPLITS for shard in documents.shards()]
    with at_hand(documents.counts.kept):
        receipts = out.map(publish_shard, jobs)
    per_split = len(jobs) // len(SPLITS)
    splits = {name: list(range(at * per_split, (at + 1) * per_split)) for at, name in enumerate(SPLITS)}
    rows = {name: sum(receipts[index].num_rows for index in indices) for name, indices in splits.items()}
    made = [version.manifest() for version in (*history, documents)]
    held_out_by = made[-1].facts.get("unit", "none")
    out.facts = {"splits": splits, "held_out_by": held_out_by, **{f"num_documents.{name}": count for name, count in rows.items()}}
    # `datasets` cannot read a Parquet file without rows
    filled = {name: [index for index in indices if receipts[index].num_rows] for name, indices in splits.items()}
    certificate = _copy_certificate([*history, documents], out)
    storage.write_bytes(storage.join(out.folder, CARD), data_card(config, filled, rows, made, certificate).encode())
    storage.write_json(storage.join(out.folder, METADATA), _metadata(config, out, receipts, splits, made))
    for name in (CARD, METADATA):
        out.keep_file(name)


def _copy_certificate(history: Sequence[ShardSet], out: Output) -> dict[str, Any] | None:
    """The certificate of the last version that has one; its files become files of this version, so that it goes where the dataset goes."""
    for version in reversed(history):
        if names := certificate_files(version.manifest()):
            files = {name: version.read_file(name) for name in names}
            for name, data in files.items():
                storage.write_bytes(storage.join(out.folder, name), data)
                out.keep_file(name)
            return dict(json.loads(files[CERTIFICATE]))
    return None


def data_card(
    config: PublishConfig,
    splits: dict[str, list[int]],
    rows: dict[str, int],
    history: list[Manifest],
    certificate: dict[str, Any] | None = None,
) -> str:
    """A dataset card in the Hugging Face format; every number on it comes from a manifest, or from the certificate of a decontamination."""
    files = [{"split": name, "path": [part_name(index) for index in indices]} for name, indices in splits.items() if indices]
    total = sum(rows.values())
    head = {
        "pretty_name": config.title,
        **hub_licence(config.licence),
        "tags": ["gristmill", "croissant"],
        "task_categories": ["text-generation"],
        "size_categories": [next((name for name, end in SIZES if total < end), "100M<n<1B")],
        "configs": [{"config_name": "default", "data_files": files}],
    }
    funnel = "\n".join(
        f"| {one.step} | {one.counts.total:,} | {one.counts.kept:,} | {_dropped(one)} | `{one.version}` |"
        for one in history
        if one.step not in TOLD and one.schema_name != JUDGES
    )
    judges = [_judge(one) for one in history if one.schema_name == JUDGES]
    counted = ", ".join(f"{count:,} in `{name}`" for name, count in rows.items())
    notice = f"\n{config.notice}\n" if config.notice else ""
    sources = "; ".join(_sources(history)) or "not known"
    return (
        f"---\n{yaml.safe_dump(head, sort_keys=True)}---\n# {config.title}\n{notice}\n"
        f"Documents: {counted}. Sources: {sources}. Licence of the texts: {config.licence}.\n\n"
        "## How it was made\n\n| step | in | kept | dropped by rule | version |\n| --- | ---: | ---: | --- | --- |\n"
        f"{funnel}\n\n"
        f"{judges_told(judges)}"
        f"{duplicates_told(history)}"
        f"{mixture_told(history)}"
        f"{contamination_told(certificate)}"
        "Columns: `doc_id` names the capture, `content_id` is equal for exact duplicates, `text` is the text after rewriting and "
        f"redaction. {_privacy(history)} Machine-readable: `{METADATA}` (Croissant 1.0).\n"
    )


def _metadata(
    config: PublishConfig, out: Output, receipts: Sequence[Receipt], splits: dict[str, list[int]], history: list[Manifest]
) -> dict[str, Any]:
    """The version as Croissant; its shards are read once more for the digests that format knows."""
    split_of = {index: name for name, indices in splits.items() for index in indices}
    with ThreadPoolExecutor(HASHERS) as pool:
        digests = pool.map(partial(_sha256, out.folder), [receipt.name for receipt in receipts])
    files = [File(one.name, one.num_bytes, digest, split_of[one.index]) for one, digest in zip(receipts, digests, strict=True)]
    with storage.open_read(storage.join(out.folder, receipts[0].name)) as first:
        schema = pq.read_schema(first)
    kinds = {"crawl": "Web Scraping", "ingest": "Secondary Data Analysis"}
    return croissant(
        title=config.title,
        description=config.notice or f"{config.title}: {sum(one.num_rows for one in receipts):,} documents.",
        licence=config.licence,
        url=config.url,
        version=out.version,
        files=files,
        schema=schema,
        rai=Responsible(
            collection="; ".join(_sources(history)),
            collection_types=[kinds[one.step] for one in history if one.step in kinds and one.counts.total],
            preprocessing=[_told(one) for one in history],
            limitations=config.notice,
            sensitive=_privacy(history),
        ),
    )


def _sha256(folder: str, name: str) -> str:
    state = hashlib.sha256()
    with storage.open_read(storage.join(folder, name)) as handle:
        while block := handle.read(1 << 22):
            state.update(block)
    return state.hexdigest()


def _sources(history: list[Manifest]) -> list[str]:
    made_from = (one for one in history if one.schema_name != JUDGES)
    return sources_told([source for one in made_from for source in one.recipe["config"].get("sources") or ()])


def _told(one: Manifest) -> str:
    """What one version did, in a sentence."""
    if one.step in TOLD:
        return TOLD[one.step](one)
    if one.schema_name == JUDGES:
        return f"Documents were scored by {_judge(one)}"
    return f"{one.step}: {one.counts.kept:,} of {one.counts.total:,} kept; dropped: {_dropped(one)}"


def _judge(one: Manifest) -> str:
    return summary(one.step, one.version, one.facts)


def _privacy(history: list[Manifest]) -> str:
    """What was masked, as the redact step's own recipe says."""
    config = next((one.recipe["config"] for one in history if one.step == "redact"), {"emails": False, "ips": False})
    masked = [words for name, words in (("emails", "e-mail addresses"), ("ips", "IP addresses")) if config[name]]
    if not masked:
        return "No personal data was masked."
    return f"Masked by their form: {' and '.join(masked)}. Names and other personal data are not masked."


def _dropped(manifest: Manifest) -> str:
    return ", ".join(f"{rule} {count:,}" for rule, count in manifest.counts.dropped.items()) or "none"
