"""forget: take documents out of an index, as a takedown asks; duplicates that were removed on their account come back to life.

A content whose first document is forgotten goes on under the number of its next one. Only buckets that held a forgotten document propose
anew, and only pairs that no version knows are compared; all other similarities are those of the index. The result is that of an index
that never had the forgotten documents. The texts of their versions go when `gristmill gc` finds that nothing refers to them any more.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, field_validator

from infra import dataset, storage
from infra.dataset import Counts, Outcome, ShardRef, ShardSet, file_entry
from infra.errors import InputError
from infra.rejects import FORGOTTEN
from infra.settings import settings
from infra.steps import Output, step
from tasks.index import bucket_ranges, compare, distinct_pairs, gather_facts, pair_table, read_range
from tasks.text import clusters
from tasks.text.generations import BANDS, FORGET, REBORN, Chain
from tasks.text.sketches import IndexConfig, band_table

Ints = NDArray[np.int64]


log = logging.getLogger("gristmill")

MAX_TOLD = 10
"""Of names that no document has."""
_COMMENT = re.compile(r"(?:^|\s)#")


class ForgetConfig(BaseModel):
    """What is taken out of the index; the step runs where anything is named. What is not there is no error: it may come with a crawl."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    doc_ids: tuple[str, ...] = ()
    """Single documents."""
    urls: tuple[str, ...] = ()
    """Pages, as their canonical URLs."""
    domains: tuple[str, ...] = ()
    """Hosts with all hosts below them: `example.org` means www.example.org too."""
    sources: tuple[str, ...] = ()
    """Whole sources, by name."""
    file: str = ""
    """A text file with more of them, one per line: a doc_id, a URL (with ://), or a domain; # begins a comment, at the start or behind a
    space."""
    reason: str = "takedown"
    """Why, in words: stands in the rejects instead of the text."""

    @field_validator("domains")
    @classmethod
    def _has_no_scheme(cls, domains: tuple[str, ...]) -> tuple[str, ...]:
        for domain in domains:
            if "/" in domain:
                raise ValueError(f"{domain}: a domain has no scheme and no path, as in example.org; single pages go in `urls`")
        return domains

    @property
    def wanted(self) -> bool:
        """Whether anything is named."""
        return bool(self.doc_ids or self.urls or self.domains or self.sources or self.file)

    def named(self) -> dict[str, list[str]]:
        """Everything that is named, with the lines of the file, by column of the index.

        Raises:
            InputError: there is no such file.
        """
        found = {"doc_id": list(self.doc_ids), "url": list(self.urls), "host": list(self.domains), "source": list(self.sources)}
        for line in self._lines():
            is_id = len(line) == 32 and set(line) <= set("0123456789abcdef")
            found["url" if "://" in line else "doc_id" if is_id else "host"].append(line)
        return {column: sorted({name.lower() if column == "host" else name for name in names}) for column, names in found.items()}

    def _lines(self) -> list[str]:
        if not self.file:
            return []
        try:
            lines = Path(self.file).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"forget.file: {self.file}: cannot be read: {error}") from error
        return [name for line in lines if (name := _COMMENT.split(line)[0].strip())]


def files_of(config: ForgetConfig) -> Mapping[str, str]:
    """{the file: its digest}, for the recipe."""
    if not config.file:
        return {}
    config.named()  # which tells the key of a file that is not there
    return {config.file: file_entry("", str(Path(config.file).resolve())).digest}


class Named(Protocol):
    """A document as rejects and samples name it."""

    @property
    def doc_id(self) -> str: ...
    @property
    def url(self) -> str: ...
    @property
    def source(self) -> str: ...


class Takedown:
    """Everything that a store was told to forget: whose texts are to be shown no more, wherever they still lie."""

    def __init__(self, configs: Iterable[ForgetConfig]) -> None:
        names: dict[str, set[str]] = {}
        for config in configs:
            for column, some in config.named().items():
                names.setdefault(column, set()).update(some)
        self._names = names

    def beyond(self, config: ForgetConfig) -> list[str]:
        """What is named here and not by this configuration."""
        given = {name for names in config.named().values() for name in names}
        return sorted({name for names in self._names.values() for name in names} - given)

    def covers(self, one: Named) -> bool:
        """Whether a document is named: by its id, address, host or source."""
        named = self._names
        host = (urlsplit(one.url).hostname or "").lower() if "://" in one.url else ""
        above = {host[at:] for at in (0, *(place + 1 for place, sign in enumerate(host) if sign == "."))}
        found = ((one.doc_id, "doc_id"), (one.url, "url"), (one.source, "source"))
        return any(value in named.get(column, ()) for value, column in found) or bool(above & named.get("host", set()) - {""})


def taken_down() -> Takedown:
    """What the versions of this step in the store name; a list whose file is gone counts no more."""
    configs = []
    for name in storage.list_folder(storage.join(settings().store, FORGET)):
        folder = storage.join(settings().store, FORGET, name)
        with contextlib.suppress(storage.StorageError, InputError):
            config = ForgetConfig.model_validate(dataset.read_manifest(folder).recipe["config"])
            config.named()
            configs.append(config)
    return Takedown(configs)


def _matched(chain: Chain, config: ForgetConfig) -> tuple[pa.Table, list[str]]:
    """(number, first, node and reason of the living documents that are named; the names of which there is none)."""
    named = {column: pa.table({"name": pa.array(names, pa.string())}) for column, names in config.named().items()}
    with chain.relations(**{f"named_{column}": table for column, table in named.items()}) as sql:
        below = "EXISTS (SELECT 1 FROM named_host WHERE lower(host) = name OR ends_with(lower(host), '.' || name))"
        equal = " OR ".join(f"{column} IN (SELECT name FROM named_{column})" for column in ("doc_id", "url", "source"))
        ids = f"SELECT DISTINCT doc_id FROM living WHERE {equal} OR {below}"
        # all captures of a document go together, also those of later crawls
        found = sql.sql(f"SELECT number, first, node FROM living WHERE doc_id IN ({ids}) ORDER BY number").to_arrow_table()
        there = {column: f"SELECT {column} FROM living" for column in ("doc_id", "url", "source")}
        missing = [f"SELECT name FROM named_{column} WHERE name NOT IN ({rows})" for column, rows in there.items()]
        missing.append("""SELECT name FROM named_host WHERE NOT EXISTS
            (SELECT 1 FROM living WHERE lower(host) = name OR ends_with(lower(host), '.' || name))""")
        unknown = sql.sql(f"SELECT name FROM ({' UNION ALL '.join(missing)}) ORDER BY name").fetchall()
        return found.append_column("reason", pa.repeat(config.reason, found.num_rows)), [name for (name,) in unknown]


def _reborn(before: Chain, matched: pa.Table, gone: Ints) -> pa.Table:
    """node, reborn: for each node that goes and of which a document that stays has the content, the number that it goes on under."""
    with before.relations(matched=matched, gone=pa.table({"node": gone})) as sql:
        staying = "SELECT number, node FROM living ANTI JOIN matched USING (number) WHERE number = first"
        query = f"SELECT node, min(number) AS reborn FROM ({staying}) SEMI JOIN gone USING (node) GROUP BY node"
        return sql.sql(f"SELECT * FROM ({query}) ORDER BY node").to_arrow_table()


def _entries(bucket: tuple[int, int, int], files: Sequence[str], dead: Ints, nodes: Ints) -> Outcome:
    """Band keys of these nodes, in one range."""
    keys, found = read_range(files, dead, bucket)
    of_them = np.isin(found, nodes)
    return band_table({bucket[0]: (keys[of_them], found[of_them])})


def _propose_again(
    bucket: tuple[int, int, int], files: Sequence[str], dead: Ints, gone: Ints, reborn: Ints, config: IndexConfig
) -> Outcome:
    """What the buckets of forgotten nodes propose now and did not before, in one range.

    A bucket that was never full proposed all pairs of its nodes; new there are those of a node that has another number now.
    """
    keys, nodes = read_range(files, dead, bucket)
    was = np.isin(nodes, gone)
    touched = np.isin(keys, keys[was]) & ~np.isin(nodes, reborn)
    full_keys, sizes = np.unique(keys[touched], return_counts=True)
    full = np.isin(keys, full_keys[sizes > config.bucket_cap])
    alive = np.isin(keys, keys[was]) & ~was
    found = clusters.propose(keys[alive], nodes[alive], bucket_cap=config.bucket_cap, bucket_heads=config.bucket_heads)
    fresh = np.isin(found.pairs, reborn).any(axis=1) | np.isin(found.pairs, nodes[full]).all(axis=1)
    return pair_table(found.pairs[fresh], found)


def _as_it_is(table: pa.Table) -> Outcome:
    return Outcome(table)


def _renumbered(entries: ShardRef, renamed: pa.Table) -> Outcome:
    """Band keys of nodes under the numbers that they go on under."""
    table = entries.read()
    place = np.searchsorted(renamed["node"].to_numpy(), table["node"].to_numpy())
    bands, keys, nodes = table["band"].to_numpy(), table["key"].to_numpy(), renamed["reborn"].to_numpy()[place]
    return band_table({band: (keys[bands == band], nodes[bands == band]) for band in np.unique(bands).tolist()})


@step(schema="forgotten", fingerprint=files_of)
def forget(index: ShardSet, config: ForgetConfig, out: Output) -> None:
    """Take the named documents out of the index."""
    before = Chain.of(index)
    before.check()
    compared = IndexConfig.model_validate(dataset.read_manifest(before.generations[-1].folder).recipe["config"])
    ranges = bucket_ranges(before.num_numbers, compared)
    matched, unknown = _matched(before, config)
    if unknown:
        more = f" and {len(unknown) - MAX_TOLD:,} more" if len(unknown) > MAX_TOLD else ""
        log.warning("forget: there is no document of %s%s", ", ".join(unknown[:MAX_TOLD]), more)
    out.map(_as_it_is, [matched], "forgotten documents")
    gone = matched.filter(pc.equal(matched["number"], matched["node"]))["node"].to_numpy()
    renamed = _reborn(before, matched, gone)
    out.map_files(REBORN, _as_it_is, [renamed])
    reborn = renamed["reborn"].to_numpy()
    taken = partial(_entries, files=before.bands(), dead=before.dead, nodes=renamed["node"].to_numpy())
    entries = out.map_aside("taken", taken, ranges if len(reborn) else [])
    out.map_files(BANDS, partial(_renumbered, renamed=renamed), entries)
    chain = before.and_then(out.folder)
    again = partial(_propose_again, files=chain.bands(), dead=before.dead, gone=gone, reborn=reborn, config=compared)
    proposed = out.map_aside("candidates", again, ranges if len(gone) else [])
    compare(out, chain, distinct_pairs(proposed, known=before.edges()), compared)
    gather_facts(out)
    living = before.num_numbers - len(before.dead)
    out.counts = Counts(
        total=living, kept=living - matched.num_rows, dropped={FORGOTTEN: matched.num_rows} if matched.num_rows else {}
    )
    out.facts |= {
        "contents_forgotten": len(gone) - len(reborn),
        "contents_reborn": len(reborn),
        "names_without_documents": len(unknown),
    }
