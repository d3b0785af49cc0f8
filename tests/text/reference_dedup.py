"""Deduplication in plain, slow Python over lists of records, from the words of the design alone: number, node, candidate, edge, fate.

Of the project it takes only the band keys and shingle sets of single texts (tests/text/test_minhash.py holds those against
datasketch). Nothing here is incremental: what was forgotten is left out and everything is done afresh, so that every shortcut of the
steps has something to be equal to. `edges_of_all_pairs` needs no candidates, for recall and precision.
"""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

import pyarrow as pa

from tasks.text import minhash
from tasks.text.minhash import SketchConfig

BUCKET_CAP, BUCKET_HEADS, MIN_CONTAINMENT, LOOSE_JACCARD = 64, 8, 0.5, 0.5
Measure = Literal["jaccard", "containment"]
Pair = tuple[int, int]


@dataclass(frozen=True)
class Record:
    """One document as a crawl brought it."""

    doc_id: str
    text: str
    url: str = "http://a.example/"
    source: str = "web"
    quality: float | None = None

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or self.source

    def below(self, domain: str) -> bool:
        return f".{self.host}".endswith(f".{domain}")


class Edge(NamedTuple):
    """What two contents have in common: numbers of distinct shingles, of the better-ranked first."""

    shared: int
    left: int
    right: int

    def similarity(self, measure: Measure) -> float:
        whole = min(self.left, self.right) if measure == "containment" else self.left + self.right - self.shared
        return self.shared / whole if whole else 0.0


class Fate(NamedTuple):
    """Who stands for a document (itself, where it is kept), how similar, and by which level it went."""

    keeper: str
    similarity: float | None
    level: Literal["kept", "url", "exact", "near"]
    cluster: str


class Measured(NamedTuple):
    """Of one text: what tells its content from others, its band keys, and its distinct shingles."""

    content: str
    """Its normal form; where no word is left of it, its signs, for without words nothing proves that texts say the same."""
    bands: tuple[int, ...]
    shingles: frozenset[int]


@lru_cache(maxsize=100_000)
def measured(text: str, config: SketchConfig) -> Measured:
    column = pa.array([text], pa.string())
    keys = minhash.band_keys(minhash.signatures(column, config), config)[0]
    values, _ = minhash.shingle_hashes(column, config)
    signs = " ".join(unicodedata.normalize("NFC", text).lower().split())
    return Measured(minhash.normalise(text, config) or f"signs: {signs}", tuple(keys.tolist()), frozenset(values.tolist()))


def numbered(generations: Iterable[Iterable[Record]]) -> list[Record]:
    """All documents by number: crawl after crawl, in each by quality, length, id. A document seen again has its number already."""
    order: list[Record] = []
    seen: set[str] = set()
    for generation in generations:
        for one in sorted(generation, key=rank):
            if one.doc_id not in seen:
                order.append(one)
                seen.add(one.doc_id)
    return order


def rank(one: Record) -> tuple[float, int, str]:
    """Best first: higher quality (none is the lowest), then more characters, then the smaller id."""
    return (-one.quality if one.quality is not None else float("inf"), -len(one.text), one.doc_id)


def without(
    generations: Sequence[Sequence[Record]],
    *,
    doc_ids: Collection[str] = (),
    hosts: Collection[str] = (),
    urls: Collection[str] = (),
) -> list[list[Record]]:
    """The crawls as if these documents had never been."""
    return [
        [one for one in crawl if not (one.doc_id in doc_ids or any(map(one.below, hosts)) or one.url in urls)]
        for crawl in generations
    ]


def copies(order: Sequence[Record], config: SketchConfig) -> dict[int, list[int]]:
    """{node: all numbers of its content, ascending}: a node is the smallest number that has the content."""
    of_content: dict[str, list[int]] = defaultdict(list)
    for number, one in enumerate(order):
        of_content[measured(one.text, config).content].append(number)
    return {numbers[0]: numbers for numbers in of_content.values()}


def candidates(
    order: Sequence[Record], nodes: Collection[int], config: SketchConfig, cap: int = BUCKET_CAP, heads: int = BUCKET_HEADS
) -> set[Pair]:
    """(better, worse): in each bucket the node at place p meets all before it while p < cap, else the first few only."""
    buckets: dict[tuple[int, int], list[int]] = defaultdict(list)
    for node in sorted(nodes):
        for band, key in enumerate(measured(order[node].text, config).bands):
            buckets[band, key].append(node)
    return {
        (earlier, node)
        for bucket in buckets.values()
        for place, node in enumerate(bucket)
        for earlier in bucket[: place if place < cap else min(place, heads)]
    }


def edges_of(order: Sequence[Record], pairs: Iterable[Pair], config: SketchConfig) -> dict[Pair, Edge]:
    """The pairs of which the smaller text lies at least half in the other."""
    found = {}
    for left, right in pairs:
        one, other = measured(order[left].text, config).shingles, measured(order[right].text, config).shingles
        edge = Edge(len(one & other), len(one), len(other))
        if edge.similarity("containment") >= MIN_CONTAINMENT:
            found[left, right] = edge
    return found


def edges_of_all_pairs(order: Sequence[Record], config: SketchConfig) -> dict[Pair, Edge]:
    """The truth: the edges that there would be if every pair were a candidate."""
    return edges_of(order, combinations(sorted(copies(order, config)), 2), config)


def stars(nodes: Collection[int], near: Mapping[Pair, float], min_similarity: float) -> dict[int, tuple[int, float] | None]:
    """For each node who is kept for it and how similar that one is; None where it is kept itself."""
    neighbours: dict[int, list[tuple[int, float]]] = defaultdict(list)
    for (left, right), similarity in near.items():
        if similarity >= min_similarity:
            neighbours[right].append((left, similarity))
    fate: dict[int, tuple[int, float] | None] = {}
    for node in sorted(nodes):
        kept = [(-similarity, other) for other, similarity in neighbours[node] if fate[other] is None]
        fate[node] = (min(kept)[1], -min(kept)[0]) if kept else None
    return fate


def components(nodes: Collection[int], pairs: Iterable[Pair]) -> dict[int, int]:
    """The smallest node that can be reached from each."""
    label = {node: node for node in nodes}
    edges, changed = list(pairs), True
    while changed:
        changed = False
        for left, right in edges:
            low = min(label[left], label[right])
            changed |= label[left] != low or label[right] != low
            label[left] = label[right] = low
    return label


def fates(
    generations: Sequence[Sequence[Record]],
    config: SketchConfig,
    min_similarity: float = 0.8,
    measure: Measure = "jaccard",
    cap: int = BUCKET_CAP,
    heads: int = BUCKET_HEADS,
    *,
    near_level: bool = True,
    urls: bool = False,
    every_pair: bool = False,
) -> dict[str, Fate]:
    """What becomes of each document, by its id; the levels say whether near duplicates go, and all but one document of a URL."""
    order = numbered(generations)
    groups = copies(order, config)
    edges = (
        edges_of_all_pairs(order, config)
        if every_pair
        else edges_of(order, candidates(order, groups, config, cap, heads), config)
    )
    near = {pair: edge.similarity(measure) for pair, edge in edges.items() if near_level}
    loose = components(groups, (pair for pair, edge in edges.items() if edge.similarity("jaccard") >= LOOSE_JACCARD))
    chosen = by_documents(order, groups, near, min_similarity) if urls else by_nodes(groups, stars(groups, near, min_similarity))
    node_of = {number: node for node, numbers in groups.items() for number in numbers}
    return {
        one.doc_id: Fate(order[keeper].doc_id, similarity, level, order[loose[node_of[number]]].doc_id)
        for number, one in enumerate(order)
        for keeper, similarity, level in [chosen[number]]
    }


Chosen = tuple[int, float | None, Literal["kept", "url", "exact", "near"]]


def by_nodes(groups: Mapping[int, Sequence[int]], chosen: Mapping[int, tuple[int, float] | None]) -> dict[int, Chosen]:
    """Copies go to their node, or to its keeper: (keeper, similarity, level) of every number."""
    found: dict[int, Chosen] = {}
    for node, numbers in groups.items():
        keeper, similarity = chosen[node] or (node, 1.0)
        found |= dict.fromkeys(numbers, (keeper, similarity, "exact"))
        found[node] = (keeper, similarity, "near") if chosen[node] else (node, None, "kept")
    return found


def by_documents(
    order: Sequence[Record], groups: Mapping[int, Sequence[int]], near: Mapping[Pair, float], min_similarity: float
) -> dict[int, Chosen]:
    """The same with URLs: in order of number, a document goes with its content, else for a kept near one, else for its URL.

    A content's fate is that of its first document that does not go for its URL alone: other addresses of it are no worse for that.
    """
    neighbours: dict[int, list[tuple[int, float]]] = defaultdict(list)
    for (left, right), similarity in near.items():
        if similarity >= min_similarity:
            neighbours[left].append((right, similarity))
            neighbours[right].append((left, similarity))
    node_of = {number: node for node, numbers in groups.items() for number in numbers}
    of_content: dict[int, tuple[int, float]] = {}
    kept_content: dict[int, int] = {}
    kept_url: dict[str, int] = {}
    found: dict[int, Chosen] = {}
    for number, one in enumerate(order):
        node = node_of[number]
        if node in of_content:
            found[number] = (*of_content[node], "exact")
            continue
        kept = [(-similarity, kept_content[other]) for other, similarity in neighbours[node] if other in kept_content]
        if kept:
            found[number] = (min(kept)[1], -min(kept)[0], "near")
            of_content[node] = (min(kept)[1], -min(kept)[0])
        elif one.url in kept_url:
            found[number] = (kept_url[one.url], None, "url")
        else:
            found[number] = (number, None, "kept")
            of_content[node], kept_content[node], kept_url[one.url] = (number, 1.0), number, number
    return found


def copies_seen(generations: Sequence[Sequence[Record]], config: SketchConfig) -> Counter[str]:
    """{doc_id: how many sights of documents with its content there were in all crawls}; a document seen again counts again."""
    content = {one.doc_id: measured(one.text, config).content for one in numbered(generations)}
    sights = Counter(content[one.doc_id] for crawl in generations for one in crawl)
    return Counter({doc_id: sights[its] for doc_id, its in content.items()})
