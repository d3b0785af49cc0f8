"""Expectation suites as files: read, checked for their shape, never for their meaning (that is `gate.load_suite`).

A suite is JSON that a person edits: {"name", "schema", "meta", "expectations": [{"type", "kwargs", "severity", "scope", "note"}]}.
Reading one costs microseconds and imports no Great Expectations, so a recipe can hold `suite_digest` without the wait.
"""

from __future__ import annotations

import copy
import difflib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from expectations.numbers import NUMBERS, PREFIXES
from expectations.schemas import OPEN_SCHEMAS, OPTIONAL, SCHEMAS
from infra.errors import InputError
from infra.ids import digest_of

FOLDER = Path(__file__).resolve().parent


class SuiteError(InputError):
    """A suite file that cannot be used: one problem a line, each with file, key, value and the nearest valid one."""


class Expectation(BaseModel):
    """One expectation of a suite."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: str
    """Name in Great Expectations, `expect_…`."""
    kwargs: dict[str, Any]
    """Its arguments; `mostly` is the share of non-null values (0 to 1) that must hold over the whole dataset."""
    severity: Literal["critical", "warning"] = "critical"
    """`critical` stops the flow, `warning` is recorded and shown."""
    scope: Literal["shard", "dataset"] = "shard"
    """`shard`: row by row, counts summed over shards. `dataset`: one number of the profile (`profile.py`) or a fact."""
    note: str = ""
    """Why it is asked and what to do when it fails; shown to the user."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns it reads."""
        named = [self.kwargs[key] for key in ("column", "column_A", "column_B") if key in self.kwargs]
        return tuple(str(name) for name in [*named, *self.kwargs.get("column_list", ())])

    @property
    def column(self) -> str:
        """The columns it reads, as one word for people."""
        return ", ".join(self.columns)


class Suite(BaseModel):
    """A named set of expectations about the tables of one stage."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """What runs, reports and errors call it."""
    schema_name: str = Field(alias="schema")
    """The stage schema whose columns it speaks of; see `schemas.py`."""
    meta: dict[str, Any] = {}
    """Anything for people: owner, version, links."""
    expectations: tuple[Expectation, ...]
    """In the order in which reports show them."""

    @property
    def on_rows(self) -> dict[int, Expectation]:
        """Its expectations on rows, by their place in it."""
        return {index: one for index, one in enumerate(self.expectations) if one.scope == "shard"}

    @property
    def numbers(self) -> frozenset[str]:
        """The numbers of the profile that it asks for."""
        return frozenset(one.column for one in self.expectations if one.scope == "dataset")


def suite_names() -> list[str]:
    """Names of the suites that ship here."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def suite_path(name: str) -> Path:
    """The file of a suite: a name without folder is one of ours, anything else is a path.

    Raises:
        SuiteError: no such file.
    """
    path = Path(name) if name.endswith(".json") else FOLDER / f"{name}.json"
    if not path.is_file():
        near = did_you_mean(name, suite_names()) or "."
        raise SuiteError(f"{name}: no such suite{near} Give a path ending in .json, or one of {', '.join(suite_names())}")
    return path


def suite_digest(name: str) -> str:
    """32 hex characters over a suite's meaning: white space and key order do not count."""
    return digest_of("suite", json.dumps(_parse(suite_path(name)), sort_keys=True))


def read_suite(name: str) -> Suite:
    """Read a suite and check its shape, its schema and the columns it speaks of.

    Raises:
        SuiteError: with every problem found.
    """
    suite, problems = examined(name)
    if suite is None or problems:
        raise SuiteError("\n".join(problems))
    return suite


def examined(name: str) -> tuple[Suite | None, list[str]]:
    """A suite with every problem of its shape, its schema and its columns; where a field is wrong, with the rest of it to judge on.

    Raises:
        SuiteError: no such file, or no JSON.
    """
    path = suite_path(name)
    raw = _parse(path)
    problems: list[str] = []
    try:
        suite: Suite | None = Suite.model_validate(raw)
    except ValidationError as error:
        problems = [f"{path}: {_shape_problem(one)}" for one in error.errors()]
        suite = _without(raw, [one["loc"] for one in error.errors()])
    return suite, problems + [f"{path}: {problem}" for problem in (_column_problems(suite) if suite else ())]


def did_you_mean(word: str, valid: Iterable[str]) -> str:
    """`, did you mean 'x'?` for the nearest valid word, or nothing."""
    near = difflib.get_close_matches(word, list(valid), n=1, cutoff=0.5)
    return f", did you mean {near[0]!r}?" if near else ""


def _parse(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise SuiteError(f"{path}: no JSON from line {error.lineno}, column {error.colno} on: {error.msg}") from error


def _without(raw: Any, places: Iterable[tuple[int | str, ...]]) -> Suite | None:
    """The suite without the fields at these places; None where it is none without them."""
    rest: Any = copy.deepcopy(raw)
    for *parents, key in filter(None, places):  # an empty place is the whole file
        holder = rest
        for part in parents:
            holder = holder[part] if isinstance(part, int) or part in holder else {}
        if isinstance(holder, dict):
            holder.pop(key, None)
    try:
        return Suite.model_validate(rest)
    except ValidationError:
        return None


def _shape_problem(error: Any) -> str:
    *parents, key = error["loc"] or ("",)
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error["loc"]).lstrip(".")
    if error["type"] == "extra_forbidden":
        fields = Expectation.model_fields if parents else {"schema": None, **Suite.model_fields}
        return f"{where}: unknown key{did_you_mean(str(key), [name for name in fields if name != 'schema_name'])}"
    near = (
        did_you_mean(str(error["input"]), error["ctx"]["expected"].replace("'", "").split(" or "))
        if error["type"] == "literal_error"
        else ""
    )
    return f"{where or 'suite'}: {error['msg']} (got {error['input']!r}{near})"


def _column_problems(suite: Suite) -> list[str]:
    return [*_number_problems(suite), *_row_problems(suite)]


def _number_problems(suite: Suite) -> list[str]:
    return [
        f"expectations[{index}].kwargs: there is no number {name!r} of a dataset{did_you_mean(name, NUMBERS)}"
        for index, expectation in enumerate(suite.expectations)
        if expectation.scope == "dataset"
        for name in expectation.columns
        if name not in NUMBERS and not name.startswith(tuple(PREFIXES))
    ]


def _row_problems(suite: Suite) -> list[str]:
    known = (*SCHEMAS, *OPEN_SCHEMAS)
    if suite.schema_name not in known:
        return [f"schema: no schema {suite.schema_name!r}{did_you_mean(suite.schema_name, known)}"]
    if suite.schema_name in OPEN_SCHEMAS:
        return []
    columns = [*SCHEMAS[suite.schema_name].names, *OPTIONAL.get(suite.schema_name, ())]
    return [
        f"expectations[{index}].kwargs: schema {suite.schema_name!r} has no column {name!r}{did_you_mean(name, columns)}"
        for index, expectation in enumerate(suite.expectations)
        if expectation.scope == "shard"
        for name in expectation.columns
        if name not in columns
    ]
