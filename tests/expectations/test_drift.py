from __future__ import annotations

import pyarrow as pa
import pyarrow.dataset as pads
import pytest
from hypothesis import given
from hypothesis import strategies as st

from expectations.drift import distance, drift
from expectations.numbers import DRIFT

COUNTS = st.dictionaries(st.sampled_from("abcd"), st.integers(1, 9), min_size=1)


def documents(*rows: tuple[str, str, str]) -> pads.Dataset:
    return pads.dataset(pa.table(dict(zip(("doc_id", "language", "text"), map(list, zip(*rows, strict=True)), strict=True))))


def test_the_numbers_are_those_counted_by_hand() -> None:
    before = documents(("a", "en", "x" * 10), ("b", "en", "x" * 20), ("c", "de", "x" * 20), ("d", "de", "x" * 100))
    now = documents(
        ("a", "en", "x" * 12), ("b", "en", "x" * 40), ("e", "en", "x" * 40), ("f", "de", "x" * 90), ("g", "fr", "x" * 200)
    )
    found = drift(now, before)
    assert set(found) == set(DRIFT)
    assert found == pytest.approx(
        {
            "drift_rows_ratio": 5 / 4,
            "drift_text_chars_p50_ratio": 40 / 20,
            # en 2/4 → 3/5, de 2/4 → 1/5, fr 0 → 1/5: (0.1 + 0.3 + 0.2) / 2
            "drift_language_distance": 0.3,
            # 8-15: 1/4 → 1/5; 16-31: 2/4 → 0; 32-63: 0 → 2/5; 64-127: 1/4 → 1/5; 128-255: 0 → 1/5
            "drift_text_chars_distance": (0.05 + 0.5 + 0.4 + 0.05 + 0.2) / 2,
            "drift_doc_ids_kept": 2 / 4,
            "drift_doc_ids_gone": 2 / 4,
            "drift_doc_ids_added": 3 / 5,
        }
    )


def test_an_equal_version_has_not_drifted() -> None:
    one = documents(("a", "en", "xyz"), ("b", "de", "x"))
    found = drift(one, one)
    assert found.pop("drift_rows_ratio") == found.pop("drift_text_chars_p50_ratio") == found.pop("drift_doc_ids_kept") == 1
    assert set(found.values()) == {0}


def test_columns_that_one_of_them_lacks_and_versions_without_rows_have_no_drift() -> None:
    bare, full = pads.dataset(pa.table({"doc_id": ["a"]})), documents(("a", "en", "x"))
    assert set(drift(full, bare)) == {"drift_rows_ratio", "drift_doc_ids_kept", "drift_doc_ids_gone", "drift_doc_ids_added"}
    assert drift(full, pads.dataset(full.schema.empty_table())) == {}


@given(COUNTS, COUNTS, COUNTS, st.integers(2, 5))
def test_the_distance_is_a_metric_of_shares(
    left: dict[str, int], right: dict[str, int], third: dict[str, int], times: int
) -> None:
    assert 0 <= distance(left, right) <= 1
    assert distance(left, right) == distance(right, left)
    assert distance(left, {key: times * count for key, count in left.items()}) == pytest.approx(0, abs=1e-12)
    assert distance(left, right) <= distance(left, third) + distance(third, right) + 1e-12
    assert distance({"a": 3}, {"b": 2}) == 1
