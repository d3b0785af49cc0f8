"""The index as a chain: each version of it holds what it adds, and refers to the one before it, back to the first crawl.

A version of step `index` adds the documents of one crawl, a generation; one of step `forget` takes documents away. What is asked of a
chain is asked of the documents that live: those that no later version has forgotten. Costs: files are read where they lie, in parts; in
memory are the forgotten numbers only.

Files of a version: `part-*` (documents, or forgotten numbers), `bands/` (band, key, node: sorted), `edges/` (similar pairs of nodes),
`reborn/` (of forget: nodes that go on under another number).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from expectations.schemas import EDGE, INDEXED
from infra import dataset, storage
from infra.dataset import ShardCorrupt, ShardRef, ShardSet
from infra.errors import InputError
from infra.relations import Files, connected

Ints = NDArray[np.int64]

INDEX, FORGET = "index", "forget"
"""The steps that make the versions of a chain."""
BANDS, EDGES, REBORN = "bands", "edges", "reborn"
"""Folders of a version."""

SQL_BYTES = 256_000_000
"""What DuckDB uses of an index before it spills to a disk, so that memory does not grow with the corpus …"""
SQL_BYTES_PER_DOCUMENT = 64
"""… up to 4 million documents: ranking and joining 10 million took more than 256 MB, however much was spilled, and less than 512."""


def sql_bytes(num_documents: float) -> int:
    """What DuckDB is limited to for an index of so many documents."""
    return max(SQL_BYTES, int(SQL_BYTES_PER_DOCUMENT * num_documents))


@dataclass(frozen=True)
class Segment:
    """One version of a chain."""

    folder: str
    documents: tuple[ShardSet, ...]
    """The versions that hold the texts it added; none for one that forgets."""

    def texts(self) -> list[ShardRef]:
        """The shards with its texts, as `INDEXED.shard` counts them."""
        return [shard for version in self.documents for shard in version.shards()]


@dataclass(frozen=True)
class Chain:
    """Versions from the oldest to the newest."""

    segments: tuple[Segment, ...]

    @classmethod
    def of(cls, index: ShardSet | None) -> Chain:
        """The chain that ends with a version of step `index` or `forget`; None: the empty chain.

        Raises:
            InputError: another step made the version, or one it refers to is not there as it was.
        """
        segments: list[Segment] = []
        while index is not None:
            if index.step not in (INDEX, FORGET):
                raise InputError(f"{index.folder}: made by step {index.step}, and not by {INDEX} or {FORGET}; give one of theirs")
            try:
                inputs = dataset.opened_inputs(index)
            except storage.StorageError as error:
                raise InputError(f"{index.folder}: what it was made from is gone: {error}") from error
            segments.append(Segment(index.folder, tuple(inputs.get("documents", ()))))
            before = inputs["base"] if index.step == INDEX else [inputs["index"]]
            index = before[0] if before else None
        return cls(tuple(reversed(segments)))

    def and_then(self, folder: str, documents: tuple[ShardSet, ...] = ()) -> Chain:
        """The chain with one more version, which may be in the making."""
        return Chain((*self.segments, Segment(folder, documents)))

    @property
    def generations(self) -> list[Segment]:
        """The versions that added documents, in order."""
        return [one for one in self.segments if one.documents]

    @cached_property
    def num_numbers(self) -> int:
        """How many numbers were given, those of forgotten documents among them."""
        return sum(dataset.open_version(one.folder).counts.kept for one in self.generations)

    @cached_property
    def dead(self) -> Ints:
        """Numbers of forgotten documents, ascending."""
        return np.sort(self.dead_rows["number"].to_numpy())

    @cached_property
    def dead_rows(self) -> pa.Table:
        """number and reason of forgotten documents, as they were named."""
        folders = [one.folder for one in self.segments if not one.documents]
        tables = [rows.to_table(["number", "reason"]) for folder in folders if (rows := dataset.dataset(folder)) is not None]
        return pa.concat_tables([pa.table({"number": pa.array([], pa.int64()), "reason": pa.array([], pa.string())}), *tables])

    @cached_property
    def reborn(self) -> tuple[Ints, Ints]:
        """(nodes that are dead, ascending; the living node of the same content)."""
        folders = [storage.join(one.folder, REBORN) for one in self.segments]
        old, new = self._column("node", *folders), self._column("reborn", *folders)
        order = np.argsort(old)
        old, new = old[order], new[order]
        while len(again := np.flatnonzero(np.isin(new, old))):  # a node that was reborn and died again
            new[again] = new[np.searchsorted(old, new[again])]
        alive = ~np.isin(new, self.dead)
        return old[alive], new[alive]

    @contextmanager
    def relations(self, num_new: int = 0, **tables: Any) -> Iterator[Any]:
        """DuckDB with two views: `indexed`, INDEXED with `generation` of every document, and `living`, of those not forgotten, the node
        of each being a living one; and with the tables given. `dead` has number and reason of the forgotten ones.

        Args:
            num_new: documents in the tables that are in no version yet.
        """
        found = {f"generation_{number}": dataset.part_paths(one.folder) for number, one in enumerate(self.generations)}
        given = {name: Files(paths) for name, paths in found.items() if paths}
        old, new = self.reborn
        renamed = pa.table({"node": old, "reborn": new})
        made = [one.folder for one in self.generations if storage.exists(storage.join(one.folder, dataset.MANIFEST))]
        limit = sql_bytes(num_new + sum(dataset.read_manifest(folder).counts.kept for folder in made))
        with connected(limit, **{**given, "dead": self.dead_rows, "renamed": renamed, **tables}) as connection:
            rows = " UNION ALL ".join(f"SELECT {name.rpartition('_')[2]} AS generation, * FROM {name}" for name in given)
            if not rows:
                connection.register("nothing", INDEXED.empty_table())
                rows = "SELECT 0 AS generation, * FROM nothing"
            connection.execute(f"CREATE TEMP VIEW indexed AS {rows}")
            living = "SELECT * FROM indexed"
            if len(self.dead):
                living = """SELECT d.* REPLACE (coalesce(renamed.reborn, d.node) AS node) FROM indexed d
                    LEFT JOIN renamed ON renamed.node = d.node ANTI JOIN dead ON dead.number = d.number"""
            connection.execute(f"CREATE TEMP VIEW living AS {living}")
            yield connection

    def bands(self) -> list[str]:
        """The files of the band keys."""
        return [path for one in self.segments for path in dataset.part_paths(storage.join(one.folder, BANDS))]

    def edges(self) -> pa.Table:
        """The similar pairs of living nodes, as EDGE."""
        files = [path for one in self.segments for path in dataset.part_paths(storage.join(one.folder, EDGES))]
        rows = dataset.of_files(files)
        if rows is None:
            return EDGE.empty_table()
        table = rows.to_table()
        if not len(self.dead):
            return table
        dead = pa.array(self.dead)
        return table.filter(pc.invert(pc.or_(pc.is_in(table["better"], dead), pc.is_in(table["worse"], dead))))

    def check(self) -> None:
        """Read every file against its digest.

        Raises:
            ShardCorrupt: one has other bytes.
        """
        for one in self.segments:
            for name in dataset.damaged(one.folder, dataset.read_manifest(one.folder)):
                raise ShardCorrupt(storage.join(one.folder, name), "not the bytes of its manifest")

    def _column(self, name: str, *folders: str) -> Ints:
        tables = [rows.to_table([name]) for folder in folders if (rows := dataset.dataset(folder)) is not None]
        return np.concatenate([np.empty(0, np.int64), *(table[name].to_numpy() for table in tables)])
