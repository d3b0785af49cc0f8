"""Questions that the documents of a corpus answer: titles ask, first paragraphs answer. And pairs: that answer before a worse one.

A corpus without instruction data of its own can so teach a model the form of question and answer, and to answer what was asked. The
questions are poor, all of one wording; that is said where they are used. Documents of the test split make test rows; those of the
validation split none. A title that a training document has, too, asks no test question.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, field_validator

from expectations.schemas import CONVERSATIONS, PREFERENCES
from infra.dataset import Outcome, ShardRef, ShardSet, rejects_table
from infra.errors import InputError
from infra.ids import content_id, digest_of

TASK = "title"
READ = ["doc_id", "source", "url", "title", "text"]
SIDES = {"train": "train", "test": "test"}
"""Splits of a dataset whose documents make rows, and the side of these."""
Asked = Mapping[str, Any]
"""A document with its `title`, `question` and `answer`."""


class TitledConfig(BaseModel):
    """How documents become questions and answers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    question: str = "What does “{title}” say?"
    """What the user asks; {title} stands for the document's title."""
    min_answer_chars: int = Field(20, ge=1)
    """A first paragraph with fewer characters answers nothing."""
    max_answer_chars: int = Field(600, ge=1)
    """One with more is no answer but an article."""

    @field_validator("question")
    @classmethod
    def _asks_for_the_title(cls, question: str) -> str:
        if question.count("{title}") != 1 or question.replace("{title}", "").count("{"):
            raise ValueError("must hold {title} once, and no other name in braces")
        return question


class ContrastConfig(TitledConfig):
    """How documents become questions with two answers."""

    worse: Literal["other", "run_on"] = "run_on"
    """Which answer is the worse one. run_on: the same with another document's behind it; so a model learns to stop where it has answered.
    other: that of another document alone; so it learns to answer what was asked, for which it must know that."""


def shards_of(dataset: ShardSet) -> list[tuple[ShardRef, str]]:
    """The shards whose documents make rows, each with its side.

    Raises:
        InputError: the dataset has no splits or no titles.
    """
    splits = dataset.manifest().facts.get("splits")
    if splits is None:
        raise InputError(
            f"{dataset.folder}: has no splits, so nothing can be held out; give a dataset that `split` or `publish` made"
        )
    shards = dataset.shards()
    return [(shards[index], side) for split, side in SIDES.items() for index in splits.get(split, ())]


def titles_of(shards: list[tuple[ShardRef, str]]) -> frozenset[str]:
    """Hashes of the titles of the training documents. Memory: about 100 bytes for each."""
    tables = (shard.read(["title"])["title"] for shard, side in shards if side == "train")
    return frozenset(content_id(title) for column in tables for title in column.to_pylist() if title)


def conversations(job: tuple[ShardRef, str], config: TitledConfig, in_training: Collection[str]) -> Outcome:
    """The questions of one shard with their answers, by their ids, and the documents that make none."""
    shard, side = job
    found = list(_asked(shard, side, config, in_training))
    rows = [
        {
            **_named(one, side, one["answer"]),
            "messages": [{"role": "user", "content": one["question"]}, {"role": "assistant", "content": one["answer"]}],
        }
        for one in found
        if "rule" not in one
    ]
    return _outcome(rows, [one for one in found if "rule" in one], side, CONVERSATIONS)


def pairs(job: tuple[ShardRef, str], config: ContrastConfig, in_training: Collection[str]) -> Outcome:
    """The questions of one shard, each with its own answer and a worse one, for which the next document with another title gives words."""
    shard, side = job
    found = list(_asked(shard, side, config, in_training))
    usable = [one for one in found if "rule" not in one]
    rows, rejects = [], [one for one in found if "rule" in one]
    for one, other in zip(usable, _others(usable), strict=True):
        if other is None:
            rejects.append({**one, "rule": "no_other_answer", "detail": "no other document of its shard answers otherwise"})
            continue
        worse = other["answer"] if config.worse == "other" else f"{one['answer']} {other['answer']}"
        row = {**_named(one, side, one["answer"], worse), "prompt": [{"role": "user", "content": one["question"]}]}
        rows.append({**row, "chosen": one["answer"], "rejected": worse})
    return _outcome(rows, rejects, side, PREFERENCES)


def _others(asked: Sequence[Asked]) -> list[Asked | None]:
    """For each the next one, round the whole list, with another title and another answer.

    Costs one pass backwards, twice round, with the few ahead that can matter (`_enough`).
    """
    found: list[Asked | None] = []
    near: list[Asked] = []
    for one in [*reversed(asked), *reversed(asked)]:
        found.append(next((two for two in near if _differs(one, two)), None))
        near = _enough([one, *near])
    return found[: len(asked) - 1 : -1]


def _enough(near: Sequence[Asked]) -> list[Asked]:
    """Those of the next ones, the nearest first, of which the first that differs from any document is the first of all that does.

    Of two with the same title and two answers one differs wherever a third with that title would, and so it is with answers; a document has
    the title of two of these and the answer of two, at most, so the fifth always differs.
    """
    kept: list[Asked] = []
    for one in near:
        titles = [two["answer"] for two in kept if two["title"] == one["title"]]
        answers = sum(two["answer"] == one["answer"] for two in kept)
        if len(titles) < 2 and answers < 2 and one["answer"] not in titles:
            kept.append(one)
    return kept[:5]


def _differs(one: Asked, two: Asked) -> bool:
    return bool(one["answer"] != two["answer"] and one["title"] != two["title"])


def _asked(shard: ShardRef, side: str, config: TitledConfig, in_training: Collection[str]) -> Iterator[dict[str, Any]]:
    """Each document with its question and answer, or the rule by which it makes none, in `doc_id` order."""
    table = shard.read(READ).sort_by("doc_id")
    for row in table.to_pylist():
        title, answer = (row["title"] or "").strip(), _first_paragraph(row["text"])
        rule, detail = _problem(title, answer, config)
        if not rule and side == "test" and content_id(title) in in_training:
            rule, detail = "asked_in_training", "a training document has the same title"
        if rule:
            yield {**row, "rule": rule, "detail": detail}
        else:
            yield {**row, "title": title, "question": config.question.replace("{title}", title), "answer": answer}


def _first_paragraph(text: str) -> str:
    return next((part.strip() for part in text.split("\n") if part.strip()), "")


def _problem(title: str, answer: str, config: TitledConfig) -> tuple[str, str]:
    """(rule, detail) by which a document makes no question; empty: it makes one."""
    if not title:
        return "no_title", "the document has no title"
    if content_id(answer) == content_id(title):
        return "title_alone", "the first paragraph is the title"
    if not config.min_answer_chars <= len(answer) <= config.max_answer_chars:
        limits = f"{config.min_answer_chars:,} to {config.max_answer_chars:,}"
        return "answer_length", f"the first paragraph has {len(answer):,} characters; asked are {limits}"
    if not answer.endswith((".", "!", "?", "。")):
        return "no_sentence", "the first paragraph does not end as a sentence does"
    return "", ""


def _named(one: Mapping[str, Any], side: str, *answers: str) -> dict[str, Any]:
    return {
        "row_id": digest_of("row", one["doc_id"], one["question"], *answers),
        "source": one["source"],
        "origin": one["doc_id"],
        "task": TASK,
        "split": side,
    }


def _outcome(rows: list[dict[str, Any]], rejects: list[dict[str, Any]], side: str, schema: pa.Schema) -> Outcome:
    table = pa.Table.from_pylist(rows, schema=schema).sort_by("row_id")
    told = rejects_table(
        {name: one.get(name) for name in ("doc_id", "url", "source", "rule", "detail")} | {"excerpt": one["text"]}
        for one in rejects
    )
    return Outcome(table, told, facts={f"rows.{side}": len(rows)})
