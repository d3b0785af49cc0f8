"""signals: measure every document once and keep the numbers; no document is dropped and no text is carried along."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_validator, model_validator

from infra.dataset import Outcome, ShardRef, ShardSet
from infra.ids import digest_of, payload_digest
from infra.settings import settings
from infra.steps import Output, step
from infra.storage import StorageError
from tasks.text import bad_words, compression
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
    _own_lists: dict[str, tuple[str, ...]] = PrivateAttr(default_factory=dict)

    @field_validator("bad_word_lists")
    @classmethod
    def _readable(cls, lists: dict[str, str]) -> dict[str, str]:
        for language, path in lists.items():
            try:
                entries = bad_words.read_entries(Path(path).expanduser())
            except (OSError, UnicodeDecodeError) as error:
                raise ValueError(f"{language}: {path}: cannot be read as UTF-8 text: {error}") from error
            if not entries:
                raise ValueError(f"{language}: {path}: holds no words; one a line is needed")
        return {language: str(Path(path).expanduser().absolute()) for language, path in lists.items()}

    @model_validator(mode="after")
    def _read_once(self) -> SignalsConfig:
        """The entries travel inside the configuration: a worker elsewhere has no such file, or another."""
        self._own_lists = {language: bad_words.read_entries(Path(path)) for language, path in self.bad_word_lists.items()}
        return self

    def own_lists(self) -> Mapping[str, tuple[str, ...]]:
        """The entries of `bad_word_lists`, by language, as they were when the configuration was made."""
        return self._own_lists


def files_read(config: SignalsConfig) -> Mapping[str, str]:
    """The language model, the data of the groups, the user's own lists and the version of zlib are part of the recipe."""
    path = settings().language_model
    if not path.exists():
        raise StorageError(f"{path}: the fastText language model is missing; run `make setup` (or set GRISTMILL_RESOURCES)")
    data = {f"{file.parent.name}/{file.name}": file for group in config.groups for file in GROUPS[group].files}
    digests = {name: payload_digest(file.read_bytes()) for name, file in {path.name: path, **data}.items()}
    if "bad_words" in config.groups:
        digests |= {f"bad words {language}": digest_of(*entries) for language, entries in config.own_lists().items()}
    if "compression" in config.groups:
        digests["zlib"] = compression.VERSION
    return dict(sorted(digests.items()))


def measure_shard(shard: ShardRef, config: SignalsConfig) -> Outcome:
    """All signals of one shard, row by row with its documents."""
    documents = shard.read()
    text = readable(documents["text"])
    model = settings().language_model
    language, score = identify(text, model, min_score=config.language_floor)
    configured: dict[Group, Measure] = {
        "bad_words": partial(bad_words.measure, own=config.own_lists()),
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
