"""signals: measure every document once and keep the numbers; no document is dropped and no text is carried along."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator

from infra.dataset import Outcome, ShardRef, ShardSet
from infra.ids import payload_digest
from infra.settings import settings
from infra.steps import Output, step
from infra.storage import StorageError
from tasks.text import bad_words
from tasks.text.groups import Measure
from tasks.text.language import identify, paragraph_languages
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
    bad_word_lists: dict[str, str] = Field(default_factory=dict)
    """Language (as lid.176 names it) → path of a UTF-8 file with a word or phrase a line: what the group `bad_words` looks for instead
    of the list that ships, or where none does."""
    keep_text: bool = False
    """Carry the documents along with their signals, so that a filter of local files writes whole documents."""

    @field_validator("bad_word_lists")
    @classmethod
    def _readable(cls, lists: dict[str, str]) -> dict[str, str]:
        absolute = {language: str(Path(path).expanduser().absolute()) for language, path in lists.items()}
        for language in absolute:
            try:
                entries = bad_words.read_list(language, absolute)
            except (OSError, UnicodeDecodeError) as error:
                raise ValueError(f"{language}: {lists[language]}: cannot be read as UTF-8 text: {error}") from error
            if not entries:
                raise ValueError(f"{language}: {lists[language]}: holds no words; one a line is needed")
        return absolute


def files_read(config: SignalsConfig) -> Mapping[str, str]:
    """The language model, the data of the groups and the user's own lists are part of the recipe."""
    path = settings().language_model
    if not path.exists():
        raise StorageError(f"{path}: the fastText language model is missing; run `make setup` (or set GRISTMILL_RESOURCES)")
    data = {f"{file.parent.name}/{file.name}": file for group in config.groups for file in GROUPS[group].files}
    if "bad_words" in config.groups:
        data |= {f"bad words {language}": Path(own) for language, own in config.bad_word_lists.items()}
    return {name: payload_digest(file.read_bytes()) for name, file in sorted({path.name: path, **data}.items())}


def measure_shard(shard: ShardRef, config: SignalsConfig) -> Outcome:
    """All signals of one shard, row by row with its documents."""
    documents = shard.read()
    text = readable(documents["text"])
    model = settings().language_model
    language, score = identify(text, model, min_score=config.language_floor)
    configured: dict[Group, Measure] = {
        "bad_words": partial(bad_words.measure, own=config.bad_word_lists),
        "paragraph_languages": partial(paragraph_languages, model_path=model),
    }
    table = measure(text, config.groups, language, configured)
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
