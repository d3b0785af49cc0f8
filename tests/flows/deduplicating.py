"""Crawls of small documents through index, forget and dedup, and what the slow reference says of them.

As a script it makes a chain of versions that is told in a JSON file, `python deduplicating.py JOB`, so that it can be killed.
"""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from collections.abc import Collection, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from expectations.schemas import REWRITTEN
from infra import dataset, ids, storage
from infra.dataset import Outcome, ShardSet
from infra.settings import adopt_quiet_environment, settings
from tasks.dedup import DedupConfig, dedup, documents_of
from tasks.forget import ForgetConfig, forget
from tasks.index import index
from tasks.text.minhash import SketchConfig
from tasks.text.sketches import IndexConfig

sys.path.insert(0, str(Path(__file__).parents[2]))  # as a script it is found, but not its neighbours
from tests.text import reference_dedup as reference
from tests.text.reference_dedup import Record

REASON = "takedown"


class Told(NamedTuple):
    """What becomes of one row: rule, keeper and similarity where it goes; loose cluster and number of copies where it stays."""

    doc_id: str
    rule: str | None
    keeper: str | None
    similarity: float | None
    cluster: str | None = None
    num_copies: int | None = None


def documents(crawl: Sequence[Record], seed: int = 0, num_shards: int = 3) -> ShardSet:
    """A version with these documents: dealt out to shards, and in an order within them, by the seed."""
    draw = random.Random(f"shards {seed}")
    rows = [_row(one) for one in crawl]
    draw.shuffle(rows)
    cuts = [0, *sorted(draw.randint(0, len(rows)) for _ in range(num_shards - 1)), len(rows)]
    return version([pa.Table.from_pylist(rows[start:end], REWRITTEN) for start, end in pairwise(cuts)])


def version(tables: Sequence[pa.Table]) -> ShardSet:
    """A version of step rewrite with these shards."""
    digests = [
        ids.digest_of(*(str(one) for one in table["doc_id"].to_pylist()), *table["text_digest"].to_pylist()) for table in tables
    ]
    recipe = {"step": "rewrite", "inputs": {}, "config": {"rows": digests}}
    folder = storage.join(settings().store, "rewrite", dataset.version_of(recipe))
    if storage.exists(storage.join(folder, dataset.MANIFEST)):
        return dataset.open_version(folder)
    receipts = [dataset.write_shard(folder, place, Outcome(table)) for place, table in enumerate(tables)]
    manifest = dataset.seal(folder, step="rewrite", schema_name="rewritten", recipe=recipe, receipts=receipts, files=[], facts={})
    return dataset.shard_set(folder, manifest)


def _row(one: Record) -> dict[str, Any]:
    return {
        "doc_id": one.doc_id,
        "content_id": ids.content_id(one.text),
        "source": one.source,
        "url": one.url,
        "host": one.host,
        "text": one.text,
        "text_digest": ids.text_digest(one.text),
        "quality_percentile": one.quality,
    }


class Crawls:
    """Crawls added one by one, and documents forgotten in between: as versions, and as lists for the reference."""

    def __init__(self, config: IndexConfig, seed: int = 0, num_shards: int = 3) -> None:
        self.config, self.seed, self.num_shards = config, seed, num_shards
        self.versions: list[ShardSet] = []
        self.index: ShardSet | None = None
        self.living: list[list[Record]] = []
        self.forgotten: list[Record] = []

    @classmethod
    def of(cls, config: IndexConfig, *crawls: Sequence[Record], seed: int = 0, num_shards: int = 3) -> Crawls:
        """These crawls, one after the other."""
        made = cls(config, seed, num_shards)
        for crawl in crawls:
            made.add(crawl)
        return made

    def add(self, crawl: Sequence[Record]) -> None:
        """One crawl more."""
        self.versions.append(documents(crawl, self.seed + len(self.versions), self.num_shards))
        self.index = index([self.versions[-1]], [self.index] if self.index else [], config=self.config)
        self.living.append(list(crawl))

    def forget(self, doc_ids: Collection[str] = (), hosts: Collection[str] = (), urls: Collection[str] = ()) -> None:
        """Without these documents from here on."""
        assert self.index is not None
        config = ForgetConfig(doc_ids=tuple(doc_ids), domains=tuple(hosts), urls=tuple(urls), reason=REASON)
        self.index = forget(self.index, config=config)
        left = reference.without(self.living, doc_ids=doc_ids, hosts=hosts, urls=urls)
        gone = Counter(one for crawl in self.living for one in crawl) - Counter(one for crawl in left for one in crawl)
        self.forgotten += gone.elements()
        self.living = left

    def told(self, config: DedupConfig) -> Counter[Told]:
        """What step dedup makes of all rows of all crawls."""
        assert self.index is not None
        return rows_of(dedup(documents_of(self.index, config), self.index, config=config))

    def expected(self, config: DedupConfig) -> Counter[Told]:
        """What the reference says of them."""
        sketches = SketchConfig(**{name: getattr(self.config, name) for name in SketchConfig.model_fields})
        fates = reference.fates(
            self.living,
            sketches,
            config.min_similarity,
            config.measure,
            self.config.bucket_cap,
            self.config.bucket_heads,
            near_level=config.near,
            urls=config.same_url,
        )
        copies = reference.copies_seen(self.living, sketches)
        text = {one.doc_id: one.text for one in reference.numbered(self.living)}
        found: Counter[Told] = Counter(Told(one.doc_id, "forgotten", REASON, None) for one in self.forgotten)
        seen: set[str] = set()
        for one in (one for crawl in self.living for one in crawl):
            fate = fates[one.doc_id]
            if one.doc_id in seen:
                found[Told(one.doc_id, "seen_before", fate.keeper, None)] += 1
            elif fate.level == "kept":
                found[Told(one.doc_id, None, None, None, fate.cluster, copies[one.doc_id])] += 1
            else:
                equal = len({reference.measured(text[doc_id], sketches).content for doc_id in (one.doc_id, fate.keeper)}) == 1
                rule = "same_url" if fate.level == "url" else "exact_duplicate" if equal else "near_duplicate"
                found[Told(one.doc_id, rule, fate.keeper, fate.similarity)] += 1
            seen.add(one.doc_id)
        return found


def rows_of(deduplicated: ShardSet) -> Counter[Told]:
    """Every row that step dedup wrote, kept or rejected."""
    kept, rejects = dataset.dataset(deduplicated.folder), dataset.dataset(deduplicated.folder, rejects=True)
    assert kept is not None
    found = [Told(row["doc_id"], None, None, None, row["cluster"], row["num_copies"]) for row in kept.to_table().to_pylist()]
    gone = rejects.to_table().to_pylist() if rejects is not None else []
    return Counter(found + [Told(row["doc_id"], row["rule"], row["detail"], row["value"]) for row in gone])


def chained(job: dict[str, Any]) -> None:
    """Index crawls one after the other, forget documents of them, and decide."""
    base: list[ShardSet] = []
    for name in job["crawls"]:
        base = [index([dataset.named(name)], base, config=IndexConfig.model_validate(job["index"]))]
    left = forget(base[0], config=ForgetConfig.model_validate(job["forget"]))
    dedup(documents_of(left, DedupConfig()), left, config=DedupConfig.model_validate(job["dedup"]))


if __name__ == "__main__":
    adopt_quiet_environment()
    chained(json.loads(Path(sys.argv[1]).read_text()))
