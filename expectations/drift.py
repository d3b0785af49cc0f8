"""How a dataset differs from the version before it: sizes, the mixes of languages and lengths, and which documents stayed.

A mix is a histogram; two of them are compared by total variation distance: the share (0 to 1) of documents that would have to be of
another kind to make them equal. Exact, by DuckDB, like the profile; costs one more pass over both versions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pyarrow.dataset as pads

from infra.relations import connected


def drift(now: pads.Dataset, before: pads.Dataset) -> dict[str, float]:
    """The numbers of `numbers.DRIFT`; an empty version before gives none."""
    columns = set(now.schema.names) & set(before.schema.names)
    with connected(now=now, before=before) as connection:
        rows = {name: _number(connection, f"SELECT count(*) FROM {name}") for name in ("now", "before")}
        if not rows["now"] or not rows["before"]:
            return {}
        found = {"drift_rows_ratio": rows["now"] / rows["before"]}
        if "doc_id" in columns:
            found |= _documents(connection)
        if "language" in columns:
            # a document without a language is one of a kind of its own
            mixes = [_counts(connection, "language", name) for name in ("now", "before")]
            found["drift_language_distance"] = distance(*mixes)
        if "text" in columns:
            found |= _lengths(*(_counts(connection, "length(coalesce(text, ''))", name) for name in ("now", "before")))
    return found


def distance(left: Mapping[Any, int], right: Mapping[Any, int]) -> float:
    """Total variation distance of two histograms: half the sum of the differences of their shares, 0 (equal) to 1."""
    total_left, total_right = sum(left.values()), sum(right.values())
    keys = {*left, *right}
    # fsum: the same in any order of the keys
    return math.fsum(abs(left.get(key, 0) / total_left - right.get(key, 0) / total_right) for key in keys) / 2


def _documents(connection: Any) -> dict[str, float]:
    kinds = connection.execute("""SELECT here, count(*) FROM (
        SELECT doc_id, bit_or(side) AS here
        FROM (SELECT doc_id, 1 AS side FROM now UNION ALL SELECT doc_id, 2 FROM before)
        WHERE doc_id IS NOT NULL GROUP BY doc_id) GROUP BY here""").fetchall()
    added, gone, kept = (dict(kinds).get(here, 0) for here in (1, 2, 3))
    if not added + kept or not gone + kept:
        return {}
    return {
        "drift_doc_ids_kept": kept / (gone + kept),
        "drift_doc_ids_gone": gone / (gone + kept),
        "drift_doc_ids_added": added / (added + kept),
    }


def _lengths(now: Mapping[int, int], before: Mapping[int, int]) -> dict[str, float]:
    found = {"drift_text_chars_distance": distance(_doubling(now), _doubling(before))}
    if earlier := _median(before):
        found["drift_text_chars_p50_ratio"] = _median(now) / earlier
    return found


def _doubling(counts: Mapping[int, int]) -> dict[int, int]:
    """Counts of 0, 1, 2-3, 4-7, 8-15 … characters."""
    bins: dict[int, int] = {}
    for length, count in counts.items():
        bins[length.bit_length()] = bins.get(length.bit_length(), 0) + count
    return bins


def _median(counts: Mapping[int, int]) -> int:
    seen, half = 0, sum(counts.values()) / 2
    for length in sorted(counts):
        seen += counts[length]
        if seen >= half:
            return length
    return 0


def _counts(connection: Any, what: str, table: str) -> dict[Any, int]:
    return dict(connection.execute(f"SELECT {what} AS value, count(*) FROM {table} GROUP BY value").fetchall())


def _number(connection: Any, query: str) -> int:
    return int(connection.execute(query).fetchone()[0])
