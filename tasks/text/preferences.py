"""Preference pairs: two answers to a prompt, and which was preferred, read from the same kinds of sources as `ingest`.

Rows have a prompt with two answers (TRL, ShareGPT, exported votes), or two whole conversations that differ in their last turn (HH). Of a
pair of answers that rows prefer both ways, the way of more rows stays; with as many for each, none does. Equal rows stay once.
Every row becomes one of CANDIDATES, a bad one with the rule that it breaks. Memory of the decision: about 100 bytes a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from expectations.schemas import PREFERENCES
from infra.dataset import Outcome, ShardRef
from infra.ids import digest_of, doc_id
from tasks.text.given_rows import WHY, Verdicts, candidates_of, columns_of, origin_of, spread
from tasks.text.readers import DatasetSource, Fields, FolderSource, IngestConfig, Piece
from tasks.text.turns import Unusable, answer_of, prompt_key, prompt_of, side_of, turns_of

CANDIDATES = pa.schema(
    [
        *PREFERENCES,
        ("pair", pa.string()),  # hash of the prompt and the two answers, whichever was preferred
        ("forward", pa.bool_()),  # whether the preferred answer's hash is the smaller one
        *WHY,
    ]
)
"""Pairs before it is decided which stay; `rule` and `detail` of those that cannot be used."""
STAYS, DUPLICATE, OUTVOTED, CONTRADICTED = range(4)
WHY_NOT = {DUPLICATE: "duplicate", OUTVOTED: "outvoted", CONTRADICTED: "contradicted"}
"""Rules by which usable pairs go."""
NEEDED = ["row_id", "pair", "forward"]


class PairFields(Fields):
    """Names of the fields of a row; only the two answers must be there."""

    text: str = "chosen"
    """Field with the preferred answer: a text, a message, or the whole conversation that ends with it."""
    rejected: str = "rejected"
    """Field with the other one, in the same shape."""
    prompt: str = "prompt"
    """Field with the prompt: a text or messages; without one, `chosen` and `rejected` are whole conversations."""
    conversations: str = "conversations"
    """Field with the prompt as ShareGPT's turns."""
    origin: str = "origin"
    """Field with where the row came from; without one it is the row's address, its key, or its place in the file."""


class PairFolder(FolderSource):
    """A folder source of pairs."""

    fields: PairFields = PairFields()
    """Which fields of a row are used."""


class PairDataset(DatasetSource):
    """A dataset source of pairs."""

    fields: PairFields = PairFields()
    """Which fields of a row are used."""


class PreferConfig(BaseModel):
    """Where preference pairs come from, and how many are held out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sources: tuple[Annotated[PairFolder | PairDataset, Field(discriminator="kind")], ...] = ()
    """What to read."""
    test_share: float = Field(0.1, ge=0, lt=1)
    """Share of the prompts, by their hash, on which preference accuracy is measured and nothing is trained."""
    shard_bytes: int = Field(64_000_000, ge=1)
    """Bytes of input per shard, as in `ingest`."""

    def read(self) -> IngestConfig:
        """The sources as `ingest` would read them."""
        return IngestConfig(sources=self.sources, shard_bytes=self.shard_bytes)


def read_pairs(pieces: Sequence[Piece], config: PreferConfig) -> Outcome:
    """The candidates of some pieces, in the order of the sources' rows."""
    rows = candidates_of(pieces, config.read(), partial(_pair, test_share=config.test_share))
    return Outcome(pa.Table.from_pylist(rows, schema=CANDIDATES))


def _pair(row: dict[str, Any], source: str, test_share: float) -> dict[str, Any]:
    """A row as a candidate.

    Raises:
        Unusable: it is none.
    """
    task, prompt, chosen, rejected = _parts(row)
    if chosen.split() == rejected.split():
        raise Unusable("equal_answers", "the preferred answer is the other one")
    key, (better, worse) = prompt_key(prompt), (digest_of("answer", one) for one in (chosen, rejected))
    payload = digest_of(key, better, worse)
    return {
        "row_id": doc_id(source, origin_of(row) or payload, payload),
        "task": task,
        "split": side_of(prompt, test_share),
        "prompt": prompt,
        "chosen": chosen,
        "rejected": rejected,
        "pair": digest_of(key, *sorted((better, worse))),
        "forward": better < worse,
    }


def _parts(row: dict[str, Any]) -> tuple[str, list[dict[str, str]], str, str]:
    """(shape, prompt, preferred answer, other answer).

    Raises:
        Unusable: the row has no such parts.
    """
    for field, task in (("prompt", "pair"), ("conversations", "sharegpt")):
        if row.get(field):
            return task, prompt_of(row[field]), answer_of(row["text"], "chosen"), answer_of(row["rejected"], "rejected")
    chosen, rejected = turns_of(row["text"], "chosen"), turns_of(row["rejected"], "rejected")
    for what, one in (("chosen", chosen), ("rejected", rejected)):
        if one[-1]["role"] != "assistant" or len(one) < 2:
            raise Unusable("no_prompt", f"the row has no prompt, and `{what}` is no conversation that ends with an answer")
    if chosen[:-1] != rejected[:-1]:
        raise Unusable("other_prompt", "the two conversations differ before their last turn")
    return "conversation", prompt_of(chosen[:-1]), chosen[-1]["content"], rejected[-1]["content"]


def decide(candidates: Sequence[ShardRef]) -> list[Verdicts]:
    """STAYS, DUPLICATE, OUTVOTED or CONTRADICTED for each row of each shard; rows of one id are one vote."""
    read = list(columns_of(candidates, NEEDED))
    table = pa.concat_tables([CANDIDATES.empty_table().select(NEEDED), *(one for _, one in read)])
    ids, forward = table["row_id"].to_numpy().astype("U32"), table["forward"].to_numpy(zero_copy_only=False).astype(bool)
    pairs = np.unique(table["pair"].to_numpy().astype("U32"), return_inverse=True)[1]
    order = np.lexsort((np.arange(len(ids)), ids, pairs))
    counts = np.ones(len(ids), bool)
    counts[order[1:]] = (ids[order[1:]] != ids[order[:-1]]) | (pairs[order[1:]] != pairs[order[:-1]])
    votes = np.zeros((2, pairs.max(initial=-1) + 1), np.int64)
    np.add.at(votes, (forward[counts].astype(int), pairs[counts]), 1)
    mine, against = votes[forward.astype(int), pairs], votes[1 - forward.astype(int), pairs]
    found = np.where(mine == against, CONTRADICTED, np.where(mine < against, OUTVOTED, DUPLICATE)).astype(np.int8)
    winners = order[found[order] == DUPLICATE]
    found[winners[np.unique(pairs[winners], return_index=True)[1]]] = STAYS
    return spread(found, [used for used, _ in read], candidates)
