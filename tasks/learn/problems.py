"""Problems: prompts whose answers can be checked, read from the same kinds of sources as `ingest`, or generated arithmetic in words.

A row whose answer no text could be checked against is a reject, so that a training never rewards nothing. Equal problems stay once; a
prompt whose rows name different right answers for one check has none. Memory of the decision: about 100 bytes a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from expectations.schemas import PROBLEMS
from infra.dataset import Outcome, ShardRef
from infra.ids import digest_of, doc_id
from tasks.learn import reasoning
from tasks.learn.benchmark_config import ReasoningConfig
from tasks.learn.verifiers import BadCheck, Check, usable
from tasks.text.given_rows import WHY, Verdicts, candidates_of, columns_of, origin_of, spread
from tasks.text.readers import DatasetSource, Fields, FolderSource, IngestConfig, Piece
from tasks.text.turns import Unusable, prompt_key, prompt_of, side_of

CANDIDATES = pa.schema([*PROBLEMS, ("asked", pa.string()), ("payload", pa.string()), *WHY])
"""Problems before it is decided which stay; `asked` is the hash of prompt and check, `payload` that of the answer too."""
STAYS, DUPLICATE, CONTRADICTED = range(3)
WHY_NOT = {DUPLICATE: "duplicate", CONTRADICTED: "contradicted"}
"""Rules by which usable problems go."""
NEEDED = ["row_id", "asked", "payload"]


class ProblemFields(Fields):
    """Names of the fields of a row."""

    text: str = "prompt"
    """Field with the prompt: a text or messages."""
    check: str = "check"
    """Field with how an answer is checked, where the source does not say it."""
    answer: str = "answer"
    """Field with what it is checked against: a number or a solution that names it last, a text, a pattern, a JSON schema."""
    origin: str = "origin"
    """Field with where the row came from; without one it is the row's address, its key, or its place in the file."""


class ProblemFolder(FolderSource):
    """A folder source of problems."""

    fields: ProblemFields = ProblemFields()
    """Which fields of a row are used."""
    check: Check | None = None
    """The check of all its rows; null where every row says its own. none: prompts that only a reward model judges."""


class ProblemDataset(DatasetSource):
    """A dataset source of problems."""

    fields: ProblemFields = ProblemFields()
    """Which fields of a row are used."""
    check: Check | None = None
    """The check of all its rows; null where every row says its own. none: prompts that only a reward model judges."""


class ArithmeticConfig(BaseModel):
    """Generated arithmetic in words, by difficulty."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_items: int = Field(1000, ge=1)
    """Problems, equally many of each level; where small numbers allow no more, fewer are left after duplicates are dropped."""
    levels: tuple[int, ...] = Field((1, 2, 3), min_length=1)
    """Difficulties: so many steps of adding and taking away."""
    largest: int = Field(20, ge=2)
    """Largest number in a problem's text; results lie between 0 and a few times it."""
    seed: int = Field(1, ge=0)
    """Fixes the problems."""


class PoseConfig(BaseModel):
    """Where problems come from, and how many are held out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sources: tuple[Annotated[ProblemFolder | ProblemDataset, Field(discriminator="kind")], ...] = ()
    """What to read."""
    arithmetic: ArithmeticConfig | None = None
    """What to generate; null: nothing."""
    system: str = ""
    """Put before each prompt that has no system turn of its own: what is expected of an answer, as to think before it."""
    test_share: float = Field(0.1, ge=0, lt=1)
    """Share of the prompts, by their hash, on which rewards are measured and nothing is trained."""
    shard_bytes: int = Field(64_000_000, ge=1)
    """Bytes of input per shard, as in `ingest`."""

    def read(self) -> IngestConfig:
        """The sources as `ingest` would read them."""
        return IngestConfig(sources=self.sources, shard_bytes=self.shard_bytes)


def pose_rows(pieces: Sequence[Piece] | None, config: PoseConfig) -> Outcome:
    """The candidates of some pieces, in the order of the sources' rows; of None the generated ones."""
    rows = generated(config) if pieces is None else []
    for piece in pieces or ():
        check = config.sources[piece.source].check
        rows += candidates_of([piece], config.read(), partial(_problem, check=check, config=config))
    return Outcome(pa.Table.from_pylist(rows, schema=CANDIDATES))


def generated(config: PoseConfig) -> list[dict[str, Any]]:
    """Arithmetic in words as candidates; its task says the level."""
    assert config.arithmetic is not None
    settings = ReasoningConfig(num_shots=0, **config.arithmetic.model_dump())
    rows = []
    for one in reasoning.problems(settings)[0]:
        known = {"source": "arithmetic", "origin": one.item}
        row = {"text": one.question, "check": "number", "answer": one.answer, "id": one.item}
        rows.append(known | _problem(row, "arithmetic", None, config) | {"task": f"arithmetic.{one.level}"})
    return rows


def _problem(row: dict[str, Any], source: str, check: Check | None, config: PoseConfig) -> dict[str, Any]:
    """A row as a candidate.

    Raises:
        Unusable: it is none.
    """
    prompt = prompt_of(row["text"])
    if config.system and prompt[0]["role"] != "system":
        prompt = [{"role": "system", "content": config.system}, *prompt]
    kind = check or str(row.get("check") or "")
    if not kind:
        raise Unusable("no_check", "the row does not say how its answer is checked, and nor does its source")
    try:
        answer = usable(kind, "" if row.get("answer") is None else str(row["answer"]))
        answer.encode()
    except (BadCheck, UnicodeEncodeError) as bad:
        raise Unusable("bad_answer", str(bad)) from bad
    key = prompt_key(prompt)
    asked, payload = digest_of(key, kind), digest_of(key, kind, answer)
    row_id = doc_id(source, origin_of(row) or payload, payload)
    told = {"task": kind, "split": side_of(prompt, config.test_share), "prompt": prompt, "check": kind, "answer": answer}
    return {"row_id": row_id, **told, "asked": asked, "payload": payload}


def decide(candidates: Sequence[ShardRef]) -> list[Verdicts]:
    """STAYS, DUPLICATE or CONTRADICTED for each row of each shard."""
    read = list(columns_of(candidates, NEEDED))
    table = pa.concat_tables([CANDIDATES.empty_table().select(NEEDED), *(one for _, one in read)])
    ids, asked, payload = (table[name].to_numpy().astype("U32") for name in NEEDED)
    order = np.lexsort((np.arange(len(ids)), ids, payload))
    found = np.full(len(ids), DUPLICATE, np.int8)
    found[order[np.unique(payload[order], return_index=True)[1]]] = STAYS
    distinct = found == STAYS
    questions, counts = np.unique(asked[distinct], return_counts=True)
    found[np.isin(asked, questions[counts > 1])] = CONTRADICTED
    return spread(found, [used for used, _ in read], candidates)
