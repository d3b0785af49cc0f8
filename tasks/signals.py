"""signals: measure every document once and keep the numbers; no document is dropped and no text is carried along."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from pydantic import BaseModel, ConfigDict, Field

from infra.dataset import Outcome, ShardRef, ShardSet
from infra.ids import payload_digest
from infra.settings import settings
from infra.steps import Output, step
from infra.storage import StorageError
from tasks.text.language import identify
from tasks.text.signals import DEFAULT_GROUPS, GROUPS, Group, measure, readable

KEYS = ("doc_id", "content_id", "source", "url", "host")


class SignalsConfig(BaseModel):
    """What is measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    language_floor: float = Field(0.3, ge=0, le=1)
    """Score below which a document's language is `unknown`, never silently English."""
    groups: tuple[Group, ...] = DEFAULT_GROUPS
    """Signals measured besides those of Gopher, C4, mC4 and FineWeb, each group at a rate of its own (tasks/text/signals.py); a profile
    that needs one left out says so."""
    keep_text: bool = False
    """Carry the documents along with their signals, so that a filter of local files writes whole documents."""


def files_read(config: SignalsConfig) -> Mapping[str, str]:
    """The language model and the data of the groups are part of the recipe."""
    path = settings().language_model
    if not path.exists():
        raise StorageError(f"{path}: the fastText language model is missing; run `make setup` (or set GRISTMILL_RESOURCES)")
    data = {file for group in config.groups for file in GROUPS[group].files}
    return {file.name: payload_digest(file.read_bytes()) for file in (path, *sorted(data))}


def measure_shard(shard: ShardRef, config: SignalsConfig) -> Outcome:
    """All signals of one shard, row by row with its documents."""
    documents = shard.read()
    text = readable(documents["text"])
    language, score = identify(text, settings().language_model, min_score=config.language_floor)
    table = measure(text, config.groups, language, settings().language_model)
    carried = documents.column_names if config.keep_text else KEYS
    for name in reversed(carried):
        table = table.add_column(0, name, documents[name])
    table = table.append_column("language", language).append_column("language_score", score)
    return Outcome(table)


@step(schema="signals", fingerprint=files_read)
def signals(documents: Sequence[ShardSet], config: SignalsConfig, out: Output) -> None:
    """Measure language, Gopher, C4 and FineWeb signals of every document, in one pass over its bytes."""
    shards = [shard for version in documents for shard in version.shards()]
    out.map(partial(measure_shard, config=config), shards, by_document=True)
