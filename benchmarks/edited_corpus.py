"""A corpus in which it is known who resembles whom: documents of sentences of real pages, and copies of them with words edited.

    python -m benchmarks.edited_corpus FOLDER [--documents N] [--seed S] [--workers W]

Writes a dataset version of documents (Parquet shards, one text of about 700 words a row), which a step takes as it is, and any reader of
Parquet. The sentences are those of botocore's and Debian's documentation, 440,000 distinct ones, which are split once and kept; a document
draws its own by a seed, so that unrelated ones share next to nothing. What is planted (`Kind`): pairs and stars of copies at drawn rates of
edited words, chains A ~ B ~ C whose ends are far apart, exact copies, one text that a tenth of all documents have, and sites whose pages
share header and footer but not what is between. A row of the plan says all about a document, so that any shard can be made by itself: the
bytes follow from seed, number and sentences. Most of the time goes into digests and compression; memory is that of the sentences and of
one shard a worker.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator, Mapping
from enum import IntEnum
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numba import njit, types
from pydantic import BaseModel, ConfigDict, Field

from benchmarks.signals import PACKAGES, texts_of
from expectations.schemas import DOCUMENTS
from infra import ids, storage
from infra.cluster import DaskConfig, pool
from infra.dataset import Outcome, ShardSet, write_table
from infra.settings import settings
from infra.steps import Output, step
from tasks.text.buffers import string_buffers
from tasks.web import demo

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float64]

SOURCE = "edited-corpus"
MIN_WORDS, MAX_WORDS = 60, 6000
"""Words of a document before it is edited."""
_SENTENCE_END = re.compile(r"(?<=[.!?:;])\s+|\n+")
_TAG = re.compile(r"<[^>]+>")
_UNSPACED = re.compile("[\u0e00-\u109f\u1780-\u17ff\u3005-\u30ff\u31f0-\u9fff\uf900-\ufaff]")
_GOLDEN = 0x9E3779B97F4A7C15


class Kind(IntEnum):
    """What a document is planted for."""

    SINGLE = 0
    """Resembles no other."""
    PAIR = 1
    """Two, whose Jaccard similarity is drawn evenly from 0.02 to 1."""
    STAR = 2
    """An original and 2 to 9 copies, each edited by itself, at similarities to the original of 0.7 to 1."""
    CHAIN = 3
    """A, B edited from A, C edited from B: neighbours at about 0.84, the ends at about 0.72."""
    SITE = 4
    """200 pages with the same header and footer around bodies of their own: never above 0.75."""
    COPY = 5
    """2 to 5 times the same text."""
    BUCKET = 6
    """The same text, all of them."""


SHARES: Mapping[str, float] = {
    "single": 0.25, "pair": 0.3, "star": 0.15, "chain": 0.05, "site": 0.1, "copy": 0.05, "bucket": 0.1,
}  # fmt: skip

PLAN = np.dtype(
    [
        ("family", "i8"), ("kind", "i1"), ("copy", "i4"), ("body_seed", "u8"), ("body_words", "i4"), ("frame_seed", "u8"),
        ("frame_words", "i4"), ("edit_seed", "u8", 2), ("edit_rate", "f8", 2),
    ]
)  # fmt: skip
"""One document: its family, what it is planted for and which of the family it is; how its text is made. A body of `body_words` words, drawn
by its seed, within a frame of as many words at either end; then two rounds of edits, each of a share of the words."""
Plan = npt.NDArray[Any]


class EditedCorpusConfig(BaseModel):
    """What is made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_documents: int = Field(10_000, ge=1)
    seed: int = Field(0, ge=0)
    median_words: int = Field(600, ge=MIN_WORDS)
    """Of a document; their lengths are log-normal."""
    shares: dict[str, float] = Field(default_factory=lambda: dict(SHARES))
    """Of the documents, by kind."""
    shard_documents: int = Field(4000, ge=1)
    sentences: str
    """File of `sentence_file`."""


# --- sentences -------------------------------------------------------------------------------------------------------


class Sentences(NamedTuple):
    """Words as bytes, and sentences of them."""

    data: Bytes
    starts: Ints
    """(num_words,) where each word begins in `data`."""
    ends: Ints
    first: Ints
    """(num_sentences + 1,) the first word of each sentence."""


def sentence_file() -> Path:
    """A Parquet file of the sentences of all the real pages, made at the first call."""
    path = settings().home / "benchmarks" / "sentences.parquet"
    if not path.exists():
        print("splitting the sentences of real pages", flush=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_table(str(path), pa.table({"sentence": split_sentences(_real_texts())}))
    return path


def split_sentences(texts: Iterable[str]) -> list[str]:
    """The sentences of 6 to 60 words set apart by spaces, each once whatever its case, words joined by single spaces."""
    found: dict[str, str] = {}
    for text in texts:
        for sentence in _SENTENCE_END.split(text):
            words = sentence.split()
            if 6 <= len(words) <= 60 and not _UNSPACED.search(sentence):
                found.setdefault(" ".join(words).lower(), " ".join(words))
    return list(found.values())


def _real_texts() -> Iterator[str]:
    yield from texts_of(PACKAGES)
    for name in demo.service_names():
        yield from documentation_of(demo._read_service(name))


def documentation_of(entry: Any) -> Iterator[str]:
    """Every text of a service's description, however deep, without tags."""
    for key, value in entry.items() if isinstance(entry, dict) else enumerate(entry):
        if key == "documentation" and isinstance(value, str):
            yield _TAG.sub(" ", value)
        elif isinstance(value, dict | list):
            yield from documentation_of(value)


@lru_cache(maxsize=1)
def read_sentences(path: str) -> Sentences:
    """The sentences of a file that `sentence_file` made."""
    return sentences_of(pq.read_table(path)["sentence"].combine_chunks())


def sentences_of(array: pa.Array) -> Sentences:
    """The words of sentences whose words are set apart by single spaces."""
    data, offsets = string_buffers(array)
    data = data[offsets[0] : offsets[-1]]
    offsets = offsets - offsets[0]
    begins = np.ones(len(data), np.bool_)
    begins[1:] = data[:-1] == ord(" ")
    begins[offsets[:-1]] = True
    starts = np.flatnonzero(begins)
    ends = np.append(starts[1:], len(data))
    ends -= data[ends - 1] == ord(" ")
    return Sentences(data, starts, ends, np.searchsorted(starts, offsets))


# --- the plan --------------------------------------------------------------------------------------------------------


def edit_rate(jaccard: Floats) -> Floats:
    """The share of words to edit for this similarity of 5-word shingles, on the average: one is as it was if its five words are."""
    return 1 - (2 * jaccard / (1 + jaccard)) ** (1 / 5)


def make_plan(config: EditedCorpusConfig) -> Plan:
    """One row per document, in the order of the corpus: families are spread over it."""
    rng = np.random.default_rng(config.seed)
    shares = np.cumsum([config.shares.get(kind.name.lower(), 0) for kind in Kind])
    ends = np.rint(shares / shares[-1] * config.num_documents).astype(int).tolist()
    parts, family = [], 0
    for kind, start, end in zip(Kind, [0, *ends], ends, strict=False):
        part = _families(kind, end - start, family, config, rng)
        family += len(np.unique(part["family"]))
        parts.append(part)
    whole = np.concatenate(parts)
    return whole[rng.permutation(len(whole))]


def _families(kind: Kind, number: int, first: int, config: EditedCorpusConfig, rng: np.random.Generator) -> Plan:
    """The rows of one kind; its families are numbered from `first` on."""
    smallest, largest = {
        Kind.PAIR: (2, 2), Kind.STAR: (3, 10), Kind.CHAIN: (3, 3), Kind.SITE: (200, 200), Kind.COPY: (2, 5),
        Kind.BUCKET: (number, number),
    }.get(kind, (1, 1))  # fmt: skip
    sizes = rng.integers(smallest, largest + 1, number // max(1, smallest) + 1)
    local = np.repeat(np.arange(len(sizes)), sizes)[:number]
    rows = np.zeros(number, PLAN)
    rows["family"], rows["kind"] = local + first, kind
    rows["copy"] = np.arange(number) - np.searchsorted(local, local)
    rows["body_seed"] = _seeds(config.seed, 1, rows["family"])
    words = config.median_words * np.exp(rng.normal(0, 0.6, len(sizes)))
    rows["body_words"] = words.clip(MIN_WORDS, MAX_WORDS)[local]
    edited = rows["copy"] > 0
    rows["edit_seed"] = np.stack(
        [_seeds(config.seed, 2, rows["family"], rows["copy"]), _seeds(config.seed, 3, rows["family"])], axis=1
    )
    if kind == Kind.PAIR:
        rows["edit_rate"][:, 0] = np.where(edited, edit_rate(rng.uniform(0.02, 1, number)), 0)
    elif kind == Kind.STAR:
        rows["edit_rate"][:, 0] = np.where(edited, edit_rate(rng.uniform(0.7, 1, number)), 0)
    elif kind == Kind.CHAIN:
        rows["edit_seed"][:, 0] = rows["edit_seed"][:, 1] + np.uint64(1)  # C is edited from B, as B is from A
        rows["edit_rate"][:, 0] = np.where(edited, edit_rate(np.full(number, 0.84)), 0)
        rows["edit_rate"][:, 1] = np.where(rows["copy"] > 1, rows["edit_rate"][:, 0], 0)
    elif kind == Kind.SITE:
        rows["body_seed"] = _seeds(config.seed, 4, rows["family"], rows["copy"])
        rows["frame_seed"] = _seeds(config.seed, 5, rows["family"])
        rows["frame_words"] = rng.integers(MIN_WORDS, 151, len(sizes))[local]
        # header and footer are at most three times the body: similarities up to 3 / (3 + 2)
        least = np.maximum(MIN_WORDS, 2 * rows["frame_words"] / 3)
        rows["body_words"] = (config.median_words / 2 * np.exp(rng.normal(0, 0.6, number))).clip(least, MAX_WORDS)
    return rows


def _seeds(*parts: int | Ints) -> Hashes:
    """One hash of these numbers for each row."""
    state = np.zeros(1, np.uint64)
    for part in parts:
        value = np.asarray(part).astype(np.uint64)
        state = _mixed(state * np.uint64(_GOLDEN) + value + np.uint64(1))
    return state


def _mixed(value: Any) -> Any:
    """The finaliser of splitmix64 (Steele, Lea, Flood 2014)."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


# --- texts -----------------------------------------------------------------------------------------------------------
# data u8[], starts i64[num_words], ends i64[num_words], first i64[num_sentences + 1]: see Sentences. One row of the plan per document.

_mix = njit(_mixed)
_U8, _I64, _I32 = (types.Array(kind, 1, "C", readonly=True) for kind in (types.uint8, types.int64, types.int32))
_U64, _SEEDS, _RATES = (types.Array(kind, dim, "C") for kind, dim in ((types.uint64, 1), (types.uint64, 2), (types.float64, 2)))


@njit(cache=True)
def _copied(data: Bytes, start: int, end: int, out: Bytes, size: int) -> int:
    for at in range(start, end):
        out[size] = data[at]
        size += 1
    return size


@njit(cache=True)
def _write_words(
    data: Bytes, starts: Ints, ends: Ints, first: Ints, seed: Any, num_words: int, position: int, edit_seed: Any, edit_rate: Any,
    out: Bytes, size: int,
) -> tuple[Bytes, int, int]:  # fmt: skip
    """Draws sentences until there are `num_words` words, and writes them edited; (out, its size, position after the last word)."""
    drawn, end = np.uint64(0), position + num_words
    while position < end:
        draw = _mix(seed + drawn * np.uint64(_GOLDEN))
        drawn += np.uint64(1)
        sentence = np.int64(draw % np.uint64(first.size - 1))
        for word in range(first[sentence], first[sentence + 1]):
            action, other = np.uint64(4), np.int64(0)  # 0 and 1: another word, 2: none, 3: one more, 4: as it is
            for edit in range(edit_rate.size - 1, -1, -1):  # the last edit of a word counts
                value = _mix(edit_seed[edit] + np.uint64(position) * np.uint64(_GOLDEN))
                if np.float64(value >> np.uint64(11)) * 2.0**-53 < edit_rate[edit]:
                    value = _mix(value + np.uint64(_GOLDEN))
                    action, other = value & np.uint64(3), np.int64((value >> np.uint64(2)) % np.uint64(starts.size))
                    break
            position += 1
            needed = size + ends[word] - starts[word] + ends[other] - starts[other] + 2
            if needed > out.size:
                larger = np.empty(2 * needed, np.uint8)
                larger[:size] = out[:size]
                out = larger
            if action >= 3:
                size = _copied(data, starts[word], ends[word], out, size)
                out[size] = 32
                size += 1
            if action != 2 and action != 4:
                size = _copied(data, starts[other], ends[other], out, size)
                out[size] = 32
                size += 1
        if draw >> np.uint64(61) == 0 and size > 0:  # every eighth sentence ends a paragraph
            out[size - 1] = 10
    return out, size, position


_TEXTS = types.Tuple((types.uint8[::1], types.int64[::1]))


@njit(_TEXTS(_U8, _I64, _I64, _I64, _U64, _I32, _U64, _I32, _SEEDS, _RATES), cache=True)
def _write_texts(
    data: Bytes, starts: Ints, ends: Ints, first: Ints, body_seed: Hashes, body_words: Ints, frame_seed: Hashes, frame_words: Ints,
    edit_seed: Any, edit_rate: Any,
) -> tuple[Bytes, Ints]:  # fmt: skip
    out, size = np.empty(1 << 16, np.uint8), 0
    offsets = np.zeros(body_seed.size + 1, np.int64)
    for row in range(body_seed.size):
        position, frame, at_once = 0, frame_words[row], (edit_seed[row], edit_rate[row])
        if frame:
            out, size, position = _write_words(data, starts, ends, first, frame_seed[row], frame, position, *at_once, out, size)
        out, size, position = _write_words(
            data, starts, ends, first, body_seed[row], body_words[row], position, *at_once, out, size
        )
        if frame:
            footer = _mix(frame_seed[row])
            out, size, position = _write_words(data, starts, ends, first, footer, frame, position, *at_once, out, size)
        size -= size > offsets[row]  # the last space
        offsets[row + 1] = size
    return out[:size].copy(), offsets


def texts_of_plan(rows: Plan, sentences: Sentences) -> pa.LargeStringArray:
    """The text of each row."""
    columns = ("body_seed", "body_words", "frame_seed", "frame_words", "edit_seed", "edit_rate")
    data, offsets = _write_texts(*sentences, *(np.ascontiguousarray(rows[name]) for name in columns))
    return pa.LargeStringArray.from_buffers(len(rows), pa.py_buffer(offsets), pa.py_buffer(data))


# --- documents -------------------------------------------------------------------------------------------------------


def document_ids(rows: Plan, seed: int) -> list[str]:
    """The doc_id of each row: known without its text."""
    return [ids.digest_of("doc", SOURCE, str(seed), str(family), str(copy)) for family, copy in zip(*_names(rows), strict=True)]


def _names(rows: Plan) -> tuple[list[int], list[int]]:
    return rows["family"].tolist(), rows["copy"].tolist()


def make_shard(span: tuple[int, int], plan_file: str, config: EditedCorpusConfig) -> Outcome:
    """The documents of these rows of the plan, in the order of their ids."""
    rows = np.array(np.load(plan_file, mmap_mode="r")[slice(*span)])
    texts = texts_of_plan(rows, read_sentences(config.sentences)).cast(pa.string())
    strings = texts.to_pylist()
    hosts = [f"{Kind(kind).name.lower()}.example" for kind in rows["kind"].tolist()]
    known = {
        "doc_id": document_ids(rows, config.seed),
        "content_id": [ids.content_id(text) for text in strings],
        "source": [SOURCE] * len(rows),
        "url": [f"https://{host}/{family}/{copy}" for host, family, copy in zip(hosts, *_names(rows), strict=True)],
        "host": hosts,
        "text": texts,
        "text_digest": [ids.text_digest(text) for text in strings],
    }
    table = pa.table({field.name: known.get(field.name, pa.nulls(len(rows), field.type)) for field in DOCUMENTS})
    size = pc.sum(pc.binary_length(texts)).as_py()
    return Outcome(table.cast(DOCUMENTS).sort_by("doc_id"), facts={"num_text_bytes": float(size)})


def _sentences_digest(config: EditedCorpusConfig) -> Mapping[str, str]:
    return {"sentences": ids.payload_digest(Path(config.sentences).read_bytes())}


@step(schema="documents", fingerprint=_sentences_digest)
def edited_corpus(config: EditedCorpusConfig, out: Output) -> None:
    """Make the documents of the plan."""
    rows = make_plan(config)
    storage.make_folder(out.aside())
    plan_file = out.aside("plan.npy")
    np.save(plan_file, rows)
    spans = [(start, start + config.shard_documents) for start in range(0, len(rows), config.shard_documents)]
    out.sum_facts(out.map(partial(make_shard, plan_file=plan_file, config=config), spans))


def make(folder: Path, config: EditedCorpusConfig, workers: int) -> ShardSet:
    """The corpus in this folder, made or, where it is whole, as it is."""
    with pool(DaskConfig(kind="local" if workers > 1 else "none", workers=workers)):
        return edited_corpus.run([], config, str(folder.absolute())).shards


def main() -> None:
    """Make a corpus and say what is in it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--documents", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    config = EditedCorpusConfig(num_documents=given.documents, seed=given.seed, sentences=str(sentence_file()))
    made = make(given.folder, config, given.workers)
    plan = make_plan(config)
    for kind in Kind:
        of_kind = plan[plan["kind"] == kind]
        print(f"{kind.name.lower():<8} {len(of_kind):>10,} documents {len(np.unique(of_kind['family'])):>10,} families")
    print(f"{made.counts.kept:,} documents in {made.folder}")


if __name__ == "__main__":
    from benchmarks import edited_corpus as this  # a step, and what travels to workers, is called by its module's name

    this.main()
