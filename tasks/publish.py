"""publish: the dataset version that training receives: shards by split, and a data card written from the run's own facts.

The folder loads with `datasets.load_dataset(folder)`: the card's head names the shards of each split.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import yaml
from pydantic import BaseModel, ConfigDict

from expectations.schemas import PUBLISHED
from infra import storage
from infra.dataset import Manifest, Outcome, ShardRef, ShardSet, part_name
from infra.steps import Output, step

SPLITS = ("train", "test")


class PublishConfig(BaseModel):
    """What the data card says beside the facts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str = "A corpus made by Gristmill"
    """Name of the dataset on its card."""
    licence: str = "unknown"
    """Licence of the texts, as an SPDX id or words; `unknown` is shown as such."""
    notice: str = ""
    """What a reader must know about this corpus: its domain, its limits, how it must not be used."""


def publish_shard(job: tuple[ShardRef, str]) -> Outcome:
    """The documents of one shard that belong to one split."""
    shard, split_name = job
    table = shard.read()
    if "split" not in table.column_names:  # documents that were not split are all for training
        table = table.append_column("split", pa.repeat("train", table.num_rows))
    columns = [name for name in PUBLISHED.names if name in table.column_names]
    return Outcome(table.filter(pc.equal(table["split"], split_name)).select(columns))


@step(schema="published")
def publish(documents: ShardSet, history: list[ShardSet], config: PublishConfig, out: Output) -> None:
    """Write the dataset version by split, with its data card; `history` are the versions it came from, for the card."""
    jobs = [(shard, name) for name in SPLITS for shard in documents.shards()]
    receipts = out.map(publish_shard, jobs)
    per_split = len(jobs) // len(SPLITS)
    splits = {name: list(range(at * per_split, (at + 1) * per_split)) for at, name in enumerate(SPLITS)}
    rows = {name: sum(receipts[index].num_rows for index in indices) for name, indices in splits.items()}
    made = [version.manifest() for version in (*history, documents)]
    held_out_by = made[-1].facts.get("unit", "none")
    out.facts = {"splits": splits, "held_out_by": held_out_by, **{f"num_documents.{name}": count for name, count in rows.items()}}
    card = data_card(config, splits, rows, made)
    storage.write_bytes(storage.join(out.folder, "README.md"), card.encode())
    out.keep_file("README.md")


def data_card(config: PublishConfig, splits: dict[str, list[int]], rows: dict[str, int], history: list[Manifest]) -> str:
    """A dataset card in the Hugging Face format; every number on it comes from a manifest."""
    files = [{"split": name, "path": [part_name(index) for index in indices]} for name, indices in splits.items()]
    head = {"pretty_name": config.title, "license": config.licence, "configs": [{"config_name": "default", "data_files": files}]}
    funnel = "\n".join(
        f"| {one.step} | {one.counts.total:,} | {one.counts.kept:,} | {_dropped(one)} | `{one.version}` |" for one in history
    )
    counted = ", ".join(f"{count:,} in `{name}`" for name, count in rows.items())
    notice = f"\n{config.notice}\n" if config.notice else ""
    return (
        f"---\n{yaml.safe_dump(head, sort_keys=True)}---\n# {config.title}\n{notice}\n"
        f"Documents: {counted}. Licence of the texts: {config.licence}.\n\n"
        "## How it was made\n\n| step | in | kept | dropped by rule | version |\n| --- | ---: | ---: | --- | --- |\n"
        f"{funnel}\n\n"
        "Columns: `doc_id` names the capture, `content_id` is equal for exact duplicates, `text` is the text after rewriting and "
        f"redaction. {_privacy(history)}\n"
    )


def _privacy(history: list[Manifest]) -> str:
    """What was masked, as the redact step's own recipe says."""
    config = next((one.recipe["config"] for one in history if one.step == "redact"), {"emails": False, "ips": False})
    masked = [words for name, words in (("emails", "e-mail addresses"), ("ips", "IP addresses")) if config[name]]
    if not masked:
        return "No personal data was masked."
    return f"Masked by their form: {' and '.join(masked)}. Names and other personal data are not masked."


def _dropped(manifest: Manifest) -> str:
    return ", ".join(f"{rule} {count:,}" for rule, count in manifest.counts.dropped.items()) or "none"
