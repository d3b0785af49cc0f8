"""What a tokeniser makes of each language, source and split: tokens per word, bytes per token, what it does not know, what it uses.

Words are those of UAX #29 (tasks/text/words.py): ideographs and kana count one by one, Thai, Lao, Khmer and Burmese by characters, so
that fertility compares within a language, and bytes per token across them only with the bytes of a script in mind. Closing tokens are left
out. A shard's groups are sums (GROUPS) that can be added up. Costs one more reading of the texts, and 4 % of the time of encoding.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from models.tokeniser import Roles
from tasks.learn.tokens import BadTokens, TokenShard
from tasks.text import words

KINDS = ("all", "split", "language", "source")
COUNTS = ("documents", "words", "num_bytes", "tokens", "unknown")
SQUARES = ("tokens_tokens", "tokens_words", "words_words")
GROUPS = pa.schema(
    [
        ("kind", pa.string()),
        ("name", pa.string()),
        *((name, pa.int64()) for name in COUNTS),
        *((name, pa.float64()) for name in SQUARES),  # sums over documents of their products, for the interval
        ("used", pa.binary()),  # the tokens that occur, little-endian, 4 bytes each
    ]
)
"""The sums of one shard, one row for each group in it."""
NOT_KNOWN = "not known"
MIN_DOCUMENTS = 30
"""Below, no interval is given: that of a ratio rests on many documents (Cochran 1977, section 6.4)."""
NORMAL_95 = 1.96
_BLOCK_DOCUMENTS = 512
_MAX_CELLS = 1 << 26  # groups times vocabulary that are looked at together, a byte each

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Group:
    """A language, source or split (`kind`), or all there is; rates are None where there is nothing to divide by."""

    kind: str
    name: str
    documents: int
    words: int
    num_bytes: int
    tokens: int
    unknown: int
    fertility: float | None
    """Tokens per word."""
    fertility_low: float | None
    """Its 95 % interval, over documents as the sample; None with fewer than MIN_DOCUMENTS."""
    fertility_high: float | None
    bytes_per_token: float | None
    unknown_rate: float | None
    """Unknown tokens ÷ tokens."""
    vocab_used: float
    """Tokens of the vocabulary that occur ÷ all; grows with the text."""

    @property
    def small(self) -> bool:
        """Whether there is too little to tell much."""
        return self.documents < MIN_DOCUMENTS

    def as_json(self) -> dict[str, Any]:
        """The same as a row to be kept."""
        return {**asdict(self), "small": self.small}


def measure(table: pa.Table, shard: TokenShard, roles: Roles, split: str) -> pa.Table:
    """GROUPS of one shard: `table` has the documents (text, source, perhaps language) whose tokens `shard` has, row by row.

    Raises:
        BadTokens: they are not the same documents.
    """
    if not table["doc_id"].combine_chunks().equals(shard.docs["doc_id"].combine_chunks()):
        raise BadTokens(
            "fertility: the documents are not those of the token shard; remove the version's folder and tokenise again"
        )
    tokens = shard.lengths.astype(np.int64) - 1
    counts = {
        "documents": np.ones(len(tokens), np.int64),
        "words": words.measure(table["text"].combine_chunks(), None)["uax29_num_words"],
        "num_bytes": shard.docs["num_bytes"].to_numpy().astype(np.int64),
        "tokens": tokens,
        "unknown": _occurrences(shard, roles.unknown),
    }
    named = {"all": pa.repeat("all", len(tokens)), "split": pa.repeat(split, len(tokens)), "source": table["source"]}
    if "language" in table.column_names:
        named["language"] = table["language"]
    rows = [row for kind in KINDS if kind in named for row in _rows(kind, named[kind], counts, shard, roles)]
    return pa.Table.from_pylist(rows, schema=GROUPS)


def _rows(
    kind: str, names: pa.Array | pa.ChunkedArray, counts: Mapping[str, Ints], shard: TokenShard, roles: Roles
) -> Iterable[dict[str, Any]]:
    column = names.combine_chunks() if isinstance(names, pa.ChunkedArray) else names
    coded = column.cast(pa.string()).fill_null(NOT_KNOWN).dictionary_encode()
    code, found = coded.indices.to_numpy(), coded.dictionary.to_pylist()
    sums = {name: np.bincount(code, counts[name], len(found)) for name in COUNTS}
    for name in SQUARES:
        one, other = name.split("_")
        sums[name] = np.bincount(code, counts[one].astype(float) * counts[other], len(found))
    for place, (group, used) in enumerate(zip(found, _used(code, len(found), shard, roles), strict=True)):
        numbers = {name: int(sums[name][place]) for name in COUNTS} | {name: float(sums[name][place]) for name in SQUARES}
        yield {"kind": kind, "name": group, **numbers, "used": used.astype("<u4").tobytes()}


def _occurrences(shard: TokenShard, token: int | None) -> Ints:
    """(D,) how often each document holds a token."""
    if token is None or not len(shard.tokens):
        return np.zeros(shard.docs.num_rows, np.int64)
    # every document has at least its closing token, so no stretch is empty
    return np.add.reduceat(shard.tokens == token, shard.offsets, dtype=np.int64)


def _used(code: npt.NDArray[Any], num_groups: int, shard: TokenShard, roles: Roles) -> Iterator[Ints]:
    """For each group the tokens that occur in it, closing ones left out."""
    at_once = max(1, _MAX_CELLS // roles.vocab_size)
    for low in range(0, num_groups, at_once):
        used = np.zeros((min(at_once, num_groups - low), roles.vocab_size), bool)
        for start in range(0, len(code), _BLOCK_DOCUMENTS):
            first = int(shard.offsets[start])
            groups = np.repeat(code[start : start + _BLOCK_DOCUMENTS], shard.lengths[start : start + _BLOCK_DOCUMENTS]) - low
            mine = (groups >= 0) & (groups < len(used))
            used[groups[mine], shard.tokens[first : first + len(groups)][mine]] = True
        used[:, roles.end] = False
        yield from (np.flatnonzero(row) for row in used)


def summed(tables: Iterable[pa.Table], vocab_size: int) -> list[Group]:
    """The groups of all shards: all there is, then splits, languages and sources, each from the most text to the least."""
    numbers: dict[tuple[str, str], dict[str, float]] = {}
    used: dict[tuple[str, str], npt.NDArray[np.uint8]] = {}
    for table in tables:
        for row in table.to_pylist():
            key, bits = (row["kind"], row["name"]), np.zeros(vocab_size, bool)
            bits[np.frombuffer(row["used"], "<u4")] = True
            known = numbers.setdefault(key, dict.fromkeys((*COUNTS, *SQUARES), 0))
            for name in known:
                known[name] += row[name]
            packed = np.packbits(bits)
            used[key] = used[key] | packed if key in used else packed
    groups = [_group(*key, numbers[key], np.bitwise_count(used[key]).sum() / vocab_size) for key in numbers]
    return sorted(groups, key=lambda group: (KINDS.index(group.kind), -group.num_bytes, group.name))


def _group(kind: str, name: str, sums: Mapping[str, float], vocab_used: float) -> Group:
    documents, num_words, num_bytes, tokens, unknown = (int(sums[one]) for one in COUNTS)
    fertility = tokens / num_words if num_words else None
    margin = None
    if fertility is not None and documents >= MIN_DOCUMENTS:
        # the ratio of two sums over documents (Cochran 1977, equation 6.13)
        apart = sums["tokens_tokens"] - 2 * fertility * sums["tokens_words"] + fertility**2 * sums["words_words"]
        margin = NORMAL_95 * float(np.sqrt(max(apart, 0.0) * documents / (documents - 1))) / num_words
    return Group(
        kind=kind,
        name=name,
        documents=documents,
        words=num_words,
        num_bytes=num_bytes,
        tokens=tokens,
        unknown=unknown,
        fertility=_rounded(fertility),
        fertility_low=None if fertility is None or margin is None else _rounded(max(0.0, fertility - margin)),
        fertility_high=None if fertility is None or margin is None else _rounded(fertility + margin),
        bytes_per_token=_rounded(num_bytes / tokens if tokens else None),
        unknown_rate=_rounded(unknown / tokens if tokens else None),
        vocab_used=round(float(vocab_used), 6),
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
