from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.dataset import ShardCorrupt
from models import tokeniser
from tasks.learn import tokens
from tasks.learn.tokens import BadTokens


def table_of(texts: list[str]) -> pa.Table:
    names = [f"{number:032x}" for number in range(len(texts))]
    columns = {"doc_id": names, "source": ["s"] * len(texts), "text": texts}
    return pa.table(columns, schema=pa.schema([(name, pa.string()) for name in columns]))


@settings(max_examples=30)
@given(texts=st.lists(st.text(), max_size=8))
def test_every_text_comes_back_from_the_stream_at_its_documents_place(texts: list[str], tokeniser_folder: str) -> None:
    stream, docs = tokens.encode_shard(table_of(texts), tokeniser_folder)
    words, closing, end = tokeniser.load(tokeniser_folder), tokeniser.roles(tokeniser_folder).end, 0
    for text, row in zip(texts, docs.to_pylist(), strict=True):
        assert row["offset"] == end
        end = row["offset"] + row["num_tokens"]
        piece = stream[row["offset"] : end].tolist()
        assert piece[-1] == closing and closing not in piece[:-1]
        assert words.decode(piece[:-1], skip_special_tokens=False) == text
        assert row["num_bytes"] == len(text.encode())
    assert end == len(stream)


def test_a_table_longer_than_a_chunk_and_cut_in_pieces_gives_the_same_stream(
    tokeniser_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"text {number} é" * (number % 5) for number in range(50)]
    whole = tokens.encode_shard(table_of(texts), tokeniser_folder)
    monkeypatch.setattr(tokens, "CHUNK_DOCUMENTS", 7)
    pieces = pa.concat_tables([table_of(texts).slice(0, 13), table_of(texts).slice(13)])
    again = tokens.encode_shard(pieces, tokeniser_folder)
    assert np.array_equal(whole[0], again[0]) and whole[1].equals(again[1])


def test_what_is_written_is_read_and_mapped_and_equal_shards_have_equal_bytes(tokeniser_folder: str, tmp_path: Path) -> None:
    stream, docs = tokens.encode_shard(table_of(["one", "", "three words here"]), tokeniser_folder)
    first = tokens.write_shard(str(tmp_path / "a"), 3, stream, docs)
    second = tokens.write_shard(str(tmp_path / "b"), 3, stream, docs)
    assert first == second and [entry.name for entry in first] == ["part-00003.bin", "part-00003.parquet"]
    assert (tmp_path / "a" / "part-00003.bin").read_bytes() == stream.astype("<u2").tobytes()
    (shard,) = tokens.read_shards(str(tmp_path / "a"))
    assert isinstance(shard.tokens, np.memmap)
    assert np.array_equal(shard.tokens, stream) and shard.docs.equals(docs)


def test_a_vocabulary_beyond_two_bytes_is_kept_in_four(tokeniser_folder: str, tmp_path: Path) -> None:
    assert [tokens.token_dtype(size).itemsize for size in (4096, 65_535, 65_536)] == [2, 2, 4]
    _, docs = tokens.encode_shard(table_of(["one", "two"]), tokeniser_folder)
    stream = np.arange(70_000, 70_000 + int(docs["num_tokens"].to_numpy().sum()), dtype=np.uint32)
    tokens.write_shard(str(tmp_path), 0, stream, docs)
    assert np.array_equal(tokens.read_shard(str(tmp_path), 0).tokens, stream)


def test_an_empty_shard_is_written_and_read(tokeniser_folder: str, tmp_path: Path) -> None:
    tokens.write_shard(str(tmp_path), 0, *tokens.encode_shard(table_of([]), tokeniser_folder))
    shard = tokens.read_shard(str(tmp_path), 0)
    assert len(shard.tokens) == 0 and shard.docs.num_rows == 0


def test_a_stream_cut_short_or_gone_is_damage_that_can_be_mended(tokeniser_folder: str, tmp_path: Path) -> None:
    tokens.write_shard(str(tmp_path), 0, *tokens.encode_shard(table_of(["some words"]), tokeniser_folder))
    path = tmp_path / "part-00000.bin"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(ShardCorrupt, match=r"part-00000\.bin: .* bytes do not hold") as caught:
        tokens.read_shard(str(tmp_path), 0)
    assert caught.value.path == str(path)
    path.unlink()
    with pytest.raises(ShardCorrupt, match="no such file"):
        tokens.read_shard(str(tmp_path), 0)


def test_a_position_leads_back_to_its_document(shards: list[tokens.TokenShard]) -> None:
    for shard in shards:
        owners = [row for row, size in enumerate(shard.lengths.tolist()) for _ in range(size)]
        assert tokens.document_at(shard, np.arange(len(owners))).tolist() == owners
    assert tokens.document_at(shards[0], [[0, 1], [2, 0]]).shape == (2, 2)
    assert tokens.document_at(shards[0], len(shards[0].tokens) - 1) == shards[0].docs.num_rows - 1
    for wrong in (-1, len(shards[0].tokens)):
        with pytest.raises(IndexError, match="in a stream of"):
            tokens.document_at(shards[0], [0, wrong])


def test_a_missing_column_and_a_missing_text_are_named(tokeniser_folder: str) -> None:
    with pytest.raises(BadTokens, match="no column source"):
        tokens.encode_shard(table_of(["x"]).drop_columns("source"), tokeniser_folder)
    with pytest.raises(BadTokens, match="1 of 2 documents have no text"):
        tokens.encode_shard(table_of(["x", None]), tokeniser_folder)  # type: ignore[list-item]


def test_tokens_are_counted_over_all_shards(shards: list[tokens.TokenShard], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "COUNT_BLOCK_TOKENS", 100)
    counts = tokens.token_counts(shards, 300)
    assert counts.tolist() == np.bincount(np.concatenate([s.tokens for s in shards]), minlength=300).tolist()
    assert counts[0] == sum(shard.docs.num_rows for shard in shards)
