from __future__ import annotations

import pyarrow as pa
import pytest

from expectations.schemas import DOCUMENTS, PUBLISHED, SCHEMAS, SchemaError, conform, signals_schema
from infra.dataset import REJECTS_SCHEMA


def rows(**changes: pa.Array) -> pa.Table:
    columns = {name: pa.array(["x"]) for name in DOCUMENTS.names} | changes
    return pa.table(columns)


def test_columns_come_out_in_the_order_and_types_of_the_schema() -> None:
    shuffled = rows(text=pa.array(["x"], pa.large_string())).select(list(reversed(DOCUMENTS.names)))
    assert conform(shuffled, DOCUMENTS, "extract").schema == DOCUMENTS


def test_a_missing_and_an_unknown_column_are_both_named_with_their_step() -> None:
    table = rows(texts=pa.array(["x"])).drop_columns(["text"])
    with pytest.raises(SchemaError, match=r"^extract: column 'text' is missing; column 'texts' is unknown \(expected doc_id, "):
        conform(table, DOCUMENTS, "extract")


def test_a_value_that_does_not_fit_its_type_is_an_error_and_not_another_value() -> None:
    captures = SCHEMAS["captures"]
    table = pa.table(
        {name: pa.array(["x"]) for name in captures.names} | {"status": pa.array([2**40]), "num_bytes": pa.array([1])}
    )
    with pytest.raises(SchemaError, match=r"crawl: .*not in range"):
        conform(table, captures, "crawl")
    with pytest.raises(SchemaError, match="crawl: "):
        conform(table.set_column(4, "status", pa.array([[1]])), captures, "crawl")


def test_signals_are_identity_columns_then_the_given_ones() -> None:
    schema = signals_schema({"num_words": pa.int32(), "language": pa.string(), "mean_word_length": pa.float32()})
    assert schema.names == ["doc_id", "content_id", "source", "url", "host", "num_words", "language", "mean_word_length"]
    assert schema.field("mean_word_length").type == pa.float32()


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [("text", pa.int32(), "name of a document column"), ("score", pa.float64(), "type double")],
)
def test_a_signal_with_a_taken_name_or_another_type_is_refused(name: str, kind: pa.DataType, said: str) -> None:
    with pytest.raises(SchemaError, match=f"signals: {name}: .*{said}"):
        signals_schema({name: kind})


def test_published_documents_add_their_language_and_rejects_are_those_of_the_store() -> None:
    assert PUBLISHED.names == [*DOCUMENTS.names, "language"]
    assert SCHEMAS["rejects"] is REJECTS_SCHEMA
