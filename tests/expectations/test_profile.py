from __future__ import annotations

import random
import statistics
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expectations.profile import profile

WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "doc_id": st.one_of(st.none(), st.sampled_from("abcdef")),
            "text_digest": st.sampled_from("uvwxyz"),
            "host": st.sampled_from(["one", "two", "three"]),
            "language": st.one_of(st.none(), st.sampled_from(["en", "fr"])),
            "text": st.one_of(st.none(), WORDS),
        }
    ),
    max_size=30,
)
SCHEMA = pa.schema([(name, pa.string()) for name in ("doc_id", "text_digest", "host", "language", "text")])


@settings(max_examples=25, deadline=None)
@given(ROWS)
def test_the_profile_counts_what_python_counts(rows: list[dict[str, str | None]]) -> None:
    found = profile(pads.dataset(pa.Table.from_pylist(rows, SCHEMA)))
    ids = [row["doc_id"] for row in rows if row["doc_id"] is not None]
    hosts = [row["host"] for row in rows]
    languages = [row["language"] for row in rows if row["language"] is not None]
    lengths = sorted(len(row["text"]) for row in rows if row["text"] is not None)
    assert found["num_rows"] == len(rows)
    assert found["duplicate_doc_ids"] == len(ids) - len(set(ids))
    assert found["duplicate_texts"] == len(rows) - len({row["text_digest"] for row in rows})
    assert found["num_hosts"] == len(set(hosts)) and found["num_languages"] == len(set(languages))
    assert found["top_language_share"] == (
        pytest.approx(max(map(languages.count, languages)) / len(languages)) if languages else None
    )
    assert found["text_chars_min"] == (lengths[0] if lengths else None)
    assert found["text_chars_max"] == (lengths[-1] if lengths else None)
    assert found["text_chars_p50"] == (statistics.median_low(lengths) if lengths else None)


def test_the_profile_is_the_same_for_any_order_and_any_cut_into_files(tmp_path: Path) -> None:
    rows = [
        {"doc_id": f"{i:032x}", "text_digest": f"{i // 2}", "host": f"h{i % 7}", "language": "en", "text": "ä" * (i % 311)}
        for i in range(4000)
    ]
    whole = profile(pads.dataset(pa.Table.from_pylist(rows, SCHEMA)))
    random.Random(3).shuffle(rows)
    for number, start in enumerate(range(0, 4000, 900)):
        pq.write_table(pa.Table.from_pylist(rows[start : start + 900], SCHEMA), tmp_path / f"part-{number}.parquet")
    assert profile(pads.dataset(tmp_path)) == whole
    assert whole["duplicate_texts"] == 2000


def test_columns_that_are_not_there_are_not_in_the_profile_and_facts_are() -> None:
    found = profile(pads.dataset(pa.table({"doc_id": ["a", "a"]})), {"removal_rate": 0.25})
    assert found == {"num_rows": 2, "duplicate_doc_ids": 1, "removal_rate": 0.25}


def test_a_fact_cannot_take_the_place_of_a_measurement() -> None:
    with pytest.raises(ValueError, match="num_rows"):
        profile(pads.dataset(pa.table({"doc_id": ["a"]})), {"num_rows": 5})


def test_shares_of_languages_and_duplicates_of_any_column_are_given_where_they_are_asked_for() -> None:
    rows = pads.dataset(
        pa.table({"language": ["en"] * 6 + ["de"] * 3 + [None], 'odd "name': [1, 1, 1, 2, 3, 4, 5, 6, None, None]})
    )
    found = profile(rows, asked={"language_share_fr", 'duplicate_values_odd "name', "duplicate_values_nowhere"})
    assert found == {
        "num_rows": 10,
        'duplicate_values_odd "name': 2,
        "num_languages": 2,
        "top_language_share": 6 / 9,
        "language_share_en": 6 / 9,
        "language_share_de": 3 / 9,
        "language_share_fr": 0.0,
    }
    assert profile(rows, asked={"num_languages"}, whole=False).keys() >= {"num_rows", "num_languages"}
    assert profile(rows, whole=False) == {"num_rows": 10}


def test_of_many_languages_the_most_common_are_shown() -> None:
    rows = pads.dataset(pa.table({"language": [f"l{n:02d}" for n in range(30) for _ in range(30 - n)]}))
    shares = [name for name in profile(rows) if name.startswith("language_share_")]
    assert shares == [f"language_share_l{n:02d}" for n in range(10)]
