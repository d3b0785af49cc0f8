"""A draft of a suite from data: what every column was seen to be, with margins, for a person to read and to edit.

It asks for nulls, patterns of ids, the values of columns that have few, lengths, ranges and uniqueness. It holds on the data it was drafted
from, and each expectation says what was seen. One DuckDB pass per column; texts are only measured.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads

from expectations.numbers import DUPLICATE_VALUES, LANGUAGE_SHARE
from expectations.schemas import SCHEMAS
from infra.errors import InputError
from infra.relations import connected, quoted

MAX_SET, MIN_REPEATS = 20, 10
# longer values are texts: nobody lists them, and grouping them would sort the corpus
MAX_KEY_CHARS = 256
# 98 % of the values lie between the two quantiles by which a range is drawn
LOW, HIGH, MOSTLY = 0.01, 0.99, 0.97
LARGEST = 2**53
SHARES = ("score", "fraction", "share", "probability", "likelihood")
"""How columns are named whose values are 0 to 1 by what they mean."""
PATTERNS = {
    "32 hex digits": "^[0-9a-f]{32}$",
    "40 hex digits": "^[0-9a-f]{40}$",
    "64 hex digits": "^[0-9a-f]{64}$",
    "a UUID": "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$",
    "an ISO date": "^[0-9]{4}-[0-9]{2}-[0-9]{2}",
    "a web address": "^https?://",
    "digits alone": "^[0-9]+$",
}


@dataclass(frozen=True)
class Seen:
    """A column as it was found."""

    name: str
    num_rows: int
    num_values: int
    """Rows that are neither null nor NaN."""
    low: float | None = None
    """The quantile LOW of a number's values or a string's lengths."""
    high: float | None = None
    least: float | None = None
    greatest: float | None = None
    num_distinct: int | None = None
    """None where it was not counted."""


def propose(rows: pads.Dataset, name: str, source: str) -> dict[str, Any]:
    """A suite as its file holds it.

    Args:
        rows: what to draft from.
        name: the suite's name.
        source: where the rows are, for the reader.

    Raises:
        InputError: there are no rows.
    """
    with connected(documents=rows) as connection:
        num_rows = connection.execute("SELECT count(*) FROM documents").fetchone()[0]
        if not num_rows:
            raise InputError(f"{source}: has no rows to draft a suite from")
        expectations = [one for field in rows.schema for one in _about(connection, field, num_rows)]
    expectations += [
        _number("num_rows", "critical", "An empty table is never right.", min_value=1),
        _number("num_rows", "warning", f"{num_rows:,} rows seen; half as many are asked for.", min_value=max(1, num_rows // 2)),
    ]
    return {
        "name": name,
        "schema": next((known for known, schema in SCHEMAS.items() if schema.names == rows.schema.names), "any"),
        "meta": {
            "about": f"Drafted from {num_rows:,} rows of {source}. Read it, keep what you mean, and loosen or tighten the rest.",
            "columns": {field.name: str(field.type) for field in rows.schema},
        },
        "expectations": sorted(expectations, key=lambda one: one["scope"] != "shard"),
    }


def as_text(suite: dict[str, Any]) -> str:
    """A suite as the files that ship are written: an expectation a line, its note below."""
    lines = []
    for one in suite["expectations"]:
        asked = ", ".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in one.items() if key != "note")
        lines.append(f'    {{{asked},\n     "note": {json.dumps(one["note"], ensure_ascii=False)}}}')
    head = ",\n".join(f"  {json.dumps(key)}: {json.dumps(suite[key], ensure_ascii=False)}" for key in ("name", "schema", "meta"))
    return f'{{\n{head},\n  "expectations": [\n' + ",\n".join(lines) + "\n  ]\n}\n"


def _about(connection: Any, field: pa.Field, num_rows: int) -> Iterator[dict[str, Any]]:
    kind = field.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        seen = _seen(connection, field.name, num_rows, f"length({quoted(field.name)})")
        yield from _nulls(seen)
        if seen.num_values:
            yield from _string(connection, seen)
    elif (pa.types.is_integer(kind) and kind != pa.uint64()) or kind in (pa.float32(), pa.float64()):
        seen = _seen(connection, field.name, num_rows, quoted(field.name), floating=pa.types.is_floating(kind))
        yield from _nulls(seen)
        yield from _range(seen, whole=pa.types.is_integer(kind))
    else:
        query = f"SELECT count({quoted(field.name)}) FROM documents"
        yield from _nulls(Seen(field.name, num_rows, connection.execute(query).fetchone()[0]))


def _seen(connection: Any, name: str, num_rows: int, measure: str, *, floating: bool = False) -> Seen:
    there = f"{quoted(name)} IS NOT NULL" + (f" AND NOT isnan({quoted(name)})" if floating else "")
    ends = f"count(*), quantile_disc(n, {LOW}), quantile_disc(n, {HIGH}), min(n), max(n)"
    count, low, high, least, greatest = connection.execute(
        f"SELECT {ends} FROM (SELECT {measure} AS n FROM documents WHERE {there})"
    ).fetchone()
    distinct = None
    if count and not floating and (measure == quoted(name) or high <= MAX_KEY_CHARS):
        query = f"SELECT count(*) FROM (SELECT {quoted(name)} FROM documents WHERE {there} GROUP BY {quoted(name)})"
        distinct = connection.execute(query).fetchone()[0]
    return Seen(name, num_rows, count, low, high, least, greatest, distinct)


def _nulls(seen: Seen) -> Iterator[dict[str, Any]]:
    if seen.num_values == seen.num_rows:
        yield _rows("column_values_to_not_be_null", seen, "critical", "No null seen.")
    elif (mostly := math.floor(98 * seen.num_values / seen.num_rows) / 100) > 0:
        said = f"{seen.num_rows - seen.num_values:,} of {seen.num_rows:,} rows are null."
        yield _rows("column_values_to_not_be_null", seen, "warning", said, mostly=mostly)


def _string(connection: Any, seen: Seen) -> Iterator[dict[str, Any]]:
    assert seen.low is not None and seen.high is not None
    matched = next((pair for pair in PATTERNS.items() if _all_match(connection, seen, pair[1])), None)
    few = seen.num_distinct is not None and seen.num_distinct <= min(MAX_SET, seen.num_values // MIN_REPEATS)
    if matched:
        yield _rows("column_values_to_match_regex", seen, "critical", f"Every value is {matched[0]}.", regex=matched[1])
    elif few:
        query = f"SELECT DISTINCT {quoted(seen.name)} AS v FROM documents WHERE {quoted(seen.name)} IS NOT NULL ORDER BY 1"
        values = [value for (value,) in connection.execute(query).fetchall()]
        said = f"Different values seen: {len(values)}."
        yield _rows("column_values_to_be_in_set", seen, "warning", said, value_set=values, mostly=0.99)
    else:
        if seen.least:
            yield _rows("column_value_lengths_to_be_between", seen, "critical", "No empty value seen.", min_value=1)
        said = f"98 % of the values have {seen.low:,} to {seen.high:,} characters; from half to twice that is asked for."
        bounds = {"min_value": int(seen.low) // 2, "max_value": 2 * max(int(seen.high), 1), "mostly": MOSTLY}
        yield _rows("column_value_lengths_to_be_between", seen, "warning", said, **bounds)
    if seen.name == "language":
        yield from _languages(connection, seen)
    yield from _unique(seen)


def _range(seen: Seen, *, whole: bool) -> Iterator[dict[str, Any]]:
    if seen.low is None or seen.high is None or not all(abs(end) < LARGEST for end in (seen.low, seen.high)):
        return  # no value, an infinite one, or integers that are names
    margin = (seen.high - seen.low or abs(seen.high) or 1) / 4
    low, high = seen.low - margin, seen.high + margin
    if seen.least is not None and seen.least >= 0:
        low = max(low, 0)
        if seen.name.endswith(SHARES) and seen.greatest is not None and seen.greatest <= 1:
            high = min(high, 1)
    ends = (math.floor(low), math.ceil(high)) if whole else (_rounded(low, math.floor), _rounded(high, math.ceil))
    said = f"98 % of the values lie between {seen.low:,.6g} and {seen.high:,.6g}; a quarter of that range is added at each end."
    yield _rows("column_values_to_be_between", seen, "warning", said, min_value=ends[0], max_value=ends[1], mostly=MOSTLY)
    if whole:
        yield from _unique(seen)


def _unique(seen: Seen) -> Iterator[dict[str, Any]]:
    if seen.num_values > 1 and seen.num_distinct == seen.num_values:
        named = seen.name == "id" or seen.name.endswith("_id")
        said = "Every value is there once."
        yield _number(DUPLICATE_VALUES + seen.name, "critical" if named else "warning", said, max_value=0)


def _languages(connection: Any, seen: Seen) -> Iterator[dict[str, Any]]:
    query = "SELECT language, count(*) AS n FROM documents WHERE language IS NOT NULL GROUP BY language ORDER BY n DESC, language"
    language, count = connection.execute(query).fetchone()
    share = count / seen.num_values
    bounds = {"min_value": max(0.0, math.floor(100 * share - 10) / 100), "max_value": min(1.0, math.ceil(100 * share + 10) / 100)}
    yield _number(LANGUAGE_SHARE + language, "warning", f"{100 * share:.1f} % of the texts.", **bounds)


def _all_match(connection: Any, seen: Seen, pattern: str) -> bool:
    query = f"SELECT count(*) FROM documents WHERE regexp_matches({quoted(seen.name)}, ?)"
    # the first values tell most columns apart from a pattern; only then are all asked
    some = f"SELECT {quoted(seen.name)} AS v FROM documents WHERE {quoted(seen.name)} IS NOT NULL LIMIT 1"
    first = f"SELECT count(*) FROM ({some}) WHERE regexp_matches(v, ?)"
    return bool(connection.execute(first, [pattern]).fetchone()[0]) and (
        connection.execute(query, [pattern]).fetchone()[0] == seen.num_values
    )


def _rounded(value: float, outward: Any) -> float:
    """Four digits are enough for a bound; at the ends of what a float can be it stays as it is."""
    if not 1e-300 < abs(value) < 1e300:
        return value
    unit = 10.0 ** (math.floor(math.log10(abs(value))) - 3)
    return float(f"{outward(value / unit) * unit:.4g}")


def _rows(kind: str, seen: Seen, severity: str, note: str, **kwargs: Any) -> dict[str, Any]:
    return {
        "type": f"expect_{kind}",
        "kwargs": {"column": seen.name, **kwargs},
        "severity": severity,
        "scope": "shard",
        "note": note,
    }


def _number(name: str, severity: str, note: str, **kwargs: Any) -> dict[str, Any]:
    kind = "expect_column_values_to_be_between"
    return {"type": kind, "kwargs": {"column": name, **kwargs}, "severity": severity, "scope": "dataset", "note": note}
