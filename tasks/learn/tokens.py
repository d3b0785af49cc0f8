"""Token shards: a corpus as one flat stream of token ids on disk, with the documents' places beside it.

Shard N is `part-NNNNN.bin`, raw little-endian uint16 (uint32 when the vocabulary exceeds 65535), and `part-NNNNN.parquet`,
one row per document in stream order, so that any position maps back to its document. Every document is closed by the
end-of-text token. The same table and tokeniser give the same bytes. Reading maps the file: it costs no memory until it is touched.
Encoding runs at the speed of `tokenizers`' own batch call (benchmarks/tokens.py): about 2 MB of text per second and core.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import tokenizers

from expectations.schemas import TOKEN_DOCS
from infra import dataset, storage
from infra.dataset import ShardCorrupt, ShardSet, name_of
from infra.errors import InputError
from models import tokeniser
from tasks.learn.config import MODEL, TOKENISER

Tokens = npt.NDArray[np.unsignedinteger[Any]]

# Documents per call into `tokenizers`: bounds what it keeps of them, many times their ids
CHUNK_DOCUMENTS = 512
COUNT_BLOCK_TOKENS = 1 << 22


class BadTokens(InputError):
    """A table that cannot be encoded, or a token shard whose two files do not belong together."""


@dataclass(frozen=True, eq=False)
class TokenShard:
    """One shard: `tokens` (T,) unsigned, usually a memory map; `docs` as TOKEN_DOCS, covering the tokens without a gap."""

    tokens: Tokens
    docs: pa.Table

    @cached_property
    def offsets(self) -> npt.NDArray[np.int64]:
        """(D,) position of each document's first token."""
        return self.docs["offset"].to_numpy()

    @cached_property
    def lengths(self) -> npt.NDArray[np.int32]:
        """(D,) tokens of each document, its end token included."""
        return self.docs["num_tokens"].to_numpy()


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """How a token id is stored."""
    return np.dtype("<u4") if vocab_size > 65_535 else np.dtype("<u2")


def encode_shard(table: pa.Table, tokeniser_folder: str) -> tuple[Tokens, pa.Table]:
    """Encode the documents of `table` (doc_id, source, text) in row order.

    Returns the token stream (T,) and its documents as TOKEN_DOCS. Special tokens' names inside a text stay plain text.

    Raises:
        BadTokens: a column is missing, a text is null, or the tokeniser lets a text forge the end of a document.
    """
    if missing := {"doc_id", "source", "text"} - set(table.column_names):
        raise BadTokens(f"tokens: the table has no column {', '.join(sorted(missing))} (got {', '.join(table.column_names)})")
    texts = table["text"].cast(pa.large_string()).combine_chunks()
    if texts.null_count:
        raise BadTokens(f"tokens: {texts.null_count} of {len(texts)} documents have no text; drop them in an earlier step")
    encoder, roles = tokeniser.shared(tokeniser_folder)
    dtype, end = token_dtype(roles.vocab_size), roles.end
    pieces = [np.empty(0, dtype)]
    lengths = [np.empty(0, np.int32)]
    for start in range(0, len(texts), CHUNK_DOCUMENTS):
        chunk = texts.slice(start, CHUNK_DOCUMENTS).to_pylist()
        encodings = encoder.encode_batch_fast(chunk, add_special_tokens=False)
        lengths.append(np.fromiter(map(len, encodings), np.int32, len(encodings)) + np.int32(1))
        pieces.append(_closed(encodings, end).astype(dtype))
        if np.count_nonzero(pieces[-1] == end) != len(encodings):
            raise BadTokens(
                f"tokens: a document's text gave the token that closes documents ({encoder.id_to_token(end)!r}); use another tokeniser"
            )
    num_tokens = np.concatenate(lengths)
    docs = pa.table(
        {
            "doc_id": table["doc_id"],
            "source": table["source"],
            "offset": np.concatenate([[0], np.cumsum(num_tokens, dtype=np.int64)])[:-1],
            "num_tokens": num_tokens,
            "num_bytes": _byte_lengths(texts),
        }
    )
    return np.concatenate(pieces), docs.select(TOKEN_DOCS.names).cast(TOKEN_DOCS)


def _closed(encodings: Iterable[tokenizers.Encoding], end: int) -> npt.NDArray[np.uint32]:
    """The ids of all, each with `end` behind it. They come as Python integers, one document at a time so that these stay in the cache."""
    ids = array("I")
    for encoding in encodings:
        ids.fromlist(encoding.ids)
        ids.append(end)
    return np.frombuffer(ids, np.uint32)


def _byte_lengths(texts: pa.LargeStringArray) -> npt.NDArray[np.int64]:
    offsets = np.frombuffer(texts.buffers()[1], np.int64)[texts.offset : texts.offset + len(texts) + 1]
    return np.diff(offsets)


def bin_name(index: int) -> str:
    """File name of the token stream of shard `index`."""
    return f"part-{index:05d}.bin"


def docs_name(index: int) -> str:
    """File name of the documents of shard `index`."""
    return dataset.part_name(index)


def write_stream(folder: str, index: int, tokens: Tokens) -> dataset.FileEntry:
    """Write the tokens of a shard atomically; returns the file's name, digest and size."""
    data = np.ascontiguousarray(tokens, tokens.dtype.newbyteorder("<")).view(np.uint8).data
    storage.write_bytes(storage.join(folder, bin_name(index)), data)
    return dataset.FileEntry(name=bin_name(index), digest=dataset.bytes_digest(data), num_bytes=len(data))


def write_shard(folder: str, index: int, tokens: Tokens, docs: pa.Table) -> tuple[dataset.FileEntry, dataset.FileEntry]:
    """Write both files of a shard atomically, the stream first; returns their names, digests and sizes."""
    stream = write_stream(folder, index, tokens)
    dataset.write_table(storage.join(folder, docs_name(index)), docs.cast(TOKEN_DOCS))
    return stream, dataset.file_entry(folder, docs_name(index))


def read_shard(folder: str, index: int) -> TokenShard:
    """Open a shard; a local stream is memory-mapped, a remote one is read whole.

    Raises:
        StorageError: there are no documents.
        ShardCorrupt: there is no stream, or it is none of these documents.
        BadTokens: the documents are those of another kind of shard.
    """
    docs = pq.read_table(pa.BufferReader(storage.read_bytes(storage.join(folder, docs_name(index)))))
    return _opened(storage.join(folder, bin_name(index)), docs)


def open_shards(version: ShardSet, indices: Sequence[int]) -> list[TokenShard]:
    """Open shards of a version whose bytes were compared with its manifest, all of them: about 1 s a gigabyte and core.

    Raises:
        ShardCorrupt: a file is gone or has other bytes; within a step it is made again.
        BadTokens: the documents are those of another kind of shard.
    """
    shards, wanted = version.shards(), {file.name: file.digest for file in version.manifest().files}
    names = [bin_name(index) for index in indices]
    with ThreadPoolExecutor() as threads:  # the hash leaves Python's lock
        sound = list(threads.map(lambda name: dataset.is_sound(version.folder, name, wanted[name]), names))
    for name, holds in zip(names, sound, strict=True):
        if not holds:
            raise ShardCorrupt(version.file(name), "not the bytes that the manifest names")
    return [_opened(version.file(name), shards[index].read()) for name, index in zip(names, indices, strict=True)]


def check_tokeniser(step: str, model: ShardSet, tokens: ShardSet) -> None:
    """Whether a model reads the tokens of these shards: both keep the tokeniser, and equal ones have equal bytes.

    Raises:
        InputError: they are of two tokenisers.
    """
    kept = [
        next((one.digest for one in version.manifest().files if one.name == f"{folder}/tokenizer.json"), "")
        for version, folder in ((model, MODEL), (tokens, TOKENISER))
    ]
    if kept[0] != kept[1]:
        raise InputError(
            f"{step}: the tokens {tokens.step}/{tokens.version} are of another tokeniser than the model {model.step}/{model.version}; "
            "give the shards that the model was trained on, or make some with its tokeniser (tokenise.tokeniser)"
        )


def check_trained_on(step: str, model: ShardSet, tokens: ShardSet) -> None:
    """Whether the training split of these shards is what the model was trained on.

    Raises:
        InputError: it was trained on others.
    """
    own = model.manifest().recipe["inputs"].get("tokens")
    if own not in (None, name_of(tokens)):
        raise InputError(
            f"{step}: the model {model.step}/{model.version} was trained on {own}, not on {name_of(tokens)}: what it remembers is "
            "asked of the documents that it has read; give those shards"
        )


def _opened(path: str, docs: pa.Table) -> TokenShard:
    if docs.schema.names != TOKEN_DOCS.names:
        raise BadTokens(f"documents of {path}: columns {docs.schema.names}, expected {TOKEN_DOCS.names}")
    num_tokens = int(docs["num_tokens"].to_numpy().sum())
    num_bytes = storage.size_bytes(path)
    if num_bytes is None:
        raise ShardCorrupt(path, "no such file, though there are its documents")
    if num_bytes not in (2 * num_tokens, 4 * num_tokens):
        raise ShardCorrupt(path, f"{num_bytes} bytes do not hold the {num_tokens} tokens that its documents have")
    dtype: np.dtype[np.unsignedinteger[Any]] = np.dtype("<u4" if num_tokens and num_bytes == 4 * num_tokens else "<u2")
    if num_tokens and storage.is_local(path):
        return TokenShard(np.memmap(path.removeprefix("file://"), dtype, mode="r"), docs)
    return TokenShard(np.frombuffer(storage.read_bytes(path), dtype), docs)


def read_shards(folder: str) -> Iterator[TokenShard]:
    """All shards of a folder in order of their index."""
    for name in storage.list_folder(folder):
        if name.startswith("part-") and name.endswith(".bin"):
            yield read_shard(folder, int(name.removeprefix("part-").removesuffix(".bin")))


def document_at(shard: TokenShard, position: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Rows of `docs` whose tokens stand at these positions of the stream (any shape).

    Raises:
        IndexError: a position is outside the stream.
    """
    where = np.asarray(position, np.int64)
    if where.size and not (where.min() >= 0 and where.max() < len(shard.tokens)):
        raise IndexError(f"positions {where.min()} to {where.max()} in a stream of {len(shard.tokens)} tokens")
    return np.searchsorted(shard.offsets, where, side="right") - 1


def token_counts(shards: Iterable[TokenShard], vocab_size: int) -> npt.NDArray[np.int64]:
    """(V,) how often each token occurs, end tokens included."""
    counts = np.zeros(vocab_size, np.int64)
    for shard in shards:
        # bincount widens its input to 8 bytes a token: by blocks, or a mapped shard would be held whole
        for start in range(0, len(shard.tokens), COUNT_BLOCK_TOKENS):
            counts += np.bincount(shard.tokens[start : start + COUNT_BLOCK_TOKENS], minlength=vocab_size)
    return counts
