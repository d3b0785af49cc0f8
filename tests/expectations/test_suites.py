from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from expectations.gate import load_suite
from expectations.schemas import OPEN_SCHEMAS, SCHEMAS
from expectations.suites import SuiteError, read_suite, suite_digest, suite_names

NOT_NULL = {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "text"}}


def written(folder: Path, *expectations: dict[str, Any], **changes: Any) -> str:
    path = folder / "mine.json"
    path.write_text(json.dumps({"name": "mine", "schema": "documents", "expectations": list(expectations)} | changes))
    return str(path)


@pytest.mark.parametrize("name", suite_names())
def test_every_suite_that_ships_loads_travels_and_says_why(name: str) -> None:
    suite = load_suite(name)
    assert pickle.loads(pickle.dumps(suite)) == suite
    assert suite.name == name and len(suite.expectations) >= 10
    assert all(expectation.note for expectation in suite.expectations)
    assert {expectation.scope for expectation in suite.expectations} == {"shard", "dataset"}


def test_every_stage_whose_columns_are_known_has_a_suite_of_its_name() -> None:
    assert {read_suite(name).schema_name for name in suite_names()} == {*SCHEMAS, *OPEN_SCHEMAS} - {"any"}
    assert all(read_suite(name).schema_name == name for name in suite_names())


def test_a_suite_for_any_table_names_any_column(tmp_path: Path) -> None:
    asked = {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "nobody's own"}}
    assert load_suite(written(tmp_path, asked, schema="any")).expectations[0].column == "nobody's own"


@pytest.mark.parametrize(
    ("expectation", "said"),
    [
        (
            {"type": "expect_column_values_be_in_set", "kwargs": {"column": "text", "value_set": ["x"]}},
            "expectations[0].type: no expectation 'expect_column_values_be_in_set', "
            "did you mean 'expect_column_values_to_be_in_set'?",
        ),
        ({**NOT_NULL, "severty": "warning"}, "expectations[0].severty: unknown key, did you mean 'severity'?"),
        ({**NOT_NULL, "severity": "fatal"}, "expectations[0].severity: Input should be 'critical' or 'warning' (got 'fatal')"),
        (
            {**NOT_NULL, "kwargs": {"column": "txt"}},
            "expectations[0].kwargs: schema 'documents' has no column 'txt', did you mean 'text'?",
        ),
        (
            {**NOT_NULL, "kwargs": {"column": "text", "mostyl": 0.9}},
            "expectations[0].kwargs.mostyl: extra fields not permitted (got 0.9), did you mean 'mostly'?",
        ),
        (
            {**NOT_NULL, "kwargs": {"column": "text", "mostly": 90}},
            "expectations[0].kwargs.mostly: ensure this value is less than or equal to 1.0 (got 90)",
        ),
        ({**NOT_NULL, "kwargs": {}}, "expectations[0].kwargs.column: field required"),
        (
            {"type": "expect_column_values_to_be_unique", "kwargs": {"column": "doc_id"}},
            "expectations[0].type: 'expect_column_values_to_be_unique' cannot be summed over shards",
        ),
        (
            {"type": "expect_column_mean_to_be_between", "kwargs": {"column": "text", "min_value": 1}},
            "expectations[0].type: 'expect_column_mean_to_be_between' cannot be summed over shards",
        ),
        (
            {"type": "expect_table_row_count_to_be_between", "kwargs": {"min_value": 1}, "scope": "dataset"},
            "expectations[0].kwargs.column: missing",
        ),
    ],
)
def test_a_mistake_is_named_with_file_index_key_and_the_nearest_valid_word(
    tmp_path: Path, expectation: dict[str, Any], said: str
) -> None:
    path = written(tmp_path, expectation)
    with pytest.raises(SuiteError) as caught:
        load_suite(path)
    assert str(caught.value).startswith(f"{path}: {said}")


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    path = written(tmp_path, NOT_NULL, {**NOT_NULL, "type": "nonsense"}, {**NOT_NULL, "kwargs": {"column": "text", "x": 1}})
    with pytest.raises(SuiteError) as caught:
        load_suite(path)
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    assert "expectations[1].type" in lines[0] and "expectations[2].kwargs.x" in lines[1]
    # also where a mistake of shape comes first
    column = {"kwargs": {"column": "hsot"}}
    mixed = [
        {**NOT_NULL, "severity": "critcal"},
        {**NOT_NULL, **column},
        {**NOT_NULL, "type": "expect_column_values_to_be_in_sett"},
    ]
    with pytest.raises(SuiteError) as caught:
        load_suite(written(tmp_path, *mixed))
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert "expectations[0].severity" in lines[0] and "did you mean 'critical'?" in lines[0]
    assert "'hsot', did you mean 'host'?" in lines[1] and "expectations[2].type" in lines[2]


def test_an_unknown_schema_suite_or_key_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match=r"schema: no schema 'document', did you mean 'documents'\?"):
        read_suite(written(tmp_path, NOT_NULL, schema="document"))
    with pytest.raises(SuiteError, match=r"publised: no such suite, did you mean 'published'\?"):
        read_suite("publised")
    with pytest.raises(SuiteError, match=r"expectation: unknown key, did you mean 'expectations'\?"):
        read_suite(written(tmp_path, NOT_NULL, expectation=[]))


@pytest.mark.parametrize("whole", ["[]", "7", '{"name": "x", "schema": "documents", "expectations": [7]}'])
def test_a_file_of_another_shape_is_told_as_one(tmp_path: Path, whole: str) -> None:
    (tmp_path / "odd.json").write_text(whole)
    with pytest.raises(SuiteError, match=r"odd\.json: (suite|expectations\[0\]|expectations\.0)"):
        load_suite(str(tmp_path / "odd.json"))


def test_broken_json_names_line_and_column(tmp_path: Path) -> None:
    path = tmp_path / "broken.json"
    path.write_text('{"name": "x",\n "schema" "documents"}')
    with pytest.raises(SuiteError, match=r"broken\.json: no JSON from line 2, column 11 on"):
        read_suite(str(path))


def test_the_digest_follows_the_meaning_and_not_the_layout(tmp_path: Path) -> None:
    path = Path(written(tmp_path, NOT_NULL))
    before = suite_digest(str(path))
    path.write_text(json.dumps(json.loads(path.read_text()), indent=8, sort_keys=True))
    assert suite_digest(str(path)) == before
    assert suite_digest(written(tmp_path, {**NOT_NULL, "severity": "warning"})) != before
