"""Answers that were called good or bad, each by itself, read from the same kinds of sources as `ingest`.

Of an answer that rows call both, the word of more rows stays; with as many for each, none does. Equal rows stay once. Every row becomes one
of CANDIDATES, a bad one with the rule that it breaks.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from expectations.schemas import RATINGS
from infra.dataset import Outcome
from infra.ids import digest_of, doc_id
from tasks.text.given_rows import WHY, candidates_of, origin_of
from tasks.text.readers import DatasetSource, Fields, FolderSource, IngestConfig, Piece
from tasks.text.turns import Unusable, answer_of, prompt_key, prompt_of, side_of

CANDIDATES = pa.schema(
    [
        *RATINGS,
        ("pair", pa.string()),  # hash of the prompt and the answer, whatever was said of it
        ("forward", pa.bool_()),  # what was said of it
        *WHY,
    ]
)
"""Rows before it is decided which stay, as `preferences.decide` takes them; `rule` and `detail` of those that cannot be used."""
SAID = {
    **dict.fromkeys(("true", "1", "1.0", "up", "good", "yes"), True),
    **dict.fromkeys(("false", "0", "0.0", "down", "bad", "no"), False),
}
"""What data sets write for good and bad, in lower case."""


class RatedFields(Fields):
    """Names of the fields of a row."""

    text: str = "answer"
    """Field with the answer: a text or a message; TRL's rows have `completion`."""
    good: str = "good"
    """Field that says whether it is good: true or false, 1 or 0, up or down; TRL's rows have `label`."""
    prompt: str = "prompt"
    """Field with the prompt: a text or messages."""
    origin: str = "origin"
    """Field with where the row came from; without one it is the row's address, its key, or its place in the file."""


class RatedFolder(FolderSource):
    """A folder source of rated answers."""

    fields: RatedFields = RatedFields()
    """Which fields of a row are used."""


class RatedDataset(DatasetSource):
    """A dataset source of rated answers."""

    fields: RatedFields = RatedFields()
    """Which fields of a row are used."""


class RateConfig(BaseModel):
    """Where rated answers come from, and how many are held out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sources: tuple[Annotated[RatedFolder | RatedDataset, Field(discriminator="kind")], ...] = ()
    """What to read."""
    test_share: float = Field(0.1, ge=0, lt=1)
    """Share of the prompts, by their hash, on which is measured and nothing is trained."""
    shard_bytes: int = Field(64_000_000, ge=1)
    """Bytes of input per shard, as in `ingest`."""

    def read(self) -> IngestConfig:
        """The sources as `ingest` would read them."""
        return IngestConfig(sources=self.sources, shard_bytes=self.shard_bytes)


def read_rated(pieces: Sequence[Piece], config: RateConfig) -> Outcome:
    """The candidates of some pieces, in the order of the sources' rows."""
    rows = candidates_of(pieces, config.read(), partial(_rated, test_share=config.test_share))
    return Outcome(pa.Table.from_pylist(rows, schema=CANDIDATES))


def _rated(row: dict[str, Any], source: str, test_share: float) -> dict[str, Any]:
    """A row as a candidate.

    Raises:
        Unusable: it is none.
    """
    prompt, answer = prompt_of(row.get("prompt")), answer_of(row["text"], "answer")
    good = SAID.get(str(row.get("good")).strip().lower())
    if good is None:
        raise Unusable("no_rating", f"the row says neither good nor bad (got {row.get('good')!r})")
    both = digest_of(prompt_key(prompt), digest_of("answer", answer))
    payload = digest_of(both, str(good))
    return {
        "row_id": doc_id(source, origin_of(row) or payload, payload),
        "task": "rating",
        "split": side_of(prompt, test_share),
        "prompt": prompt,
        "answer": answer,
        "good": good,
        "pair": both,
        "forward": good,
    }
