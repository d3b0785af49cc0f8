"""What the store still needs: the versions that a run, a registry alias, a pin or a corpus refers to, and all those they came from.

The rest may go. A version goes manifest first, so that it is never half there. What is being made now is not known here: the caller
says which moment everything newer than is kept.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from infra import ledger, storage
from infra.dataset import MANIFEST, folder_of
from infra.graph import COMPARED, Graph
from infra.lineage import READERS, Record
from infra.settings import settings

DAY_S = 86_400.0


@dataclass(frozen=True)
class Unneeded:
    """A folder of the store that nothing refers to."""

    path: str
    num_bytes: int
    written: float
    """When something was last written there, seconds since 1970."""
    complete: bool
    """Whether it is a version, or work that was never finished."""


def unneeded(
    referred: Collection[str], graph: Graph, versions: Iterable[Record], paths: Sequence[str], newest: float
) -> list[Unneeded]:
    """What may go: versions that no referred one came from, and unfinished folders; nothing written after `newest`.

    Args:
        referred: ids of versions.
        graph: the lineage of the store.
        versions: its complete versions.
        paths: folders of versions, as `lineage.version_paths` gave them before anything was asked: what is made since is not among them.
        newest: a moment, seconds since 1970.
    """
    needed = graph.up(name for name in referred if name in graph.nodes)
    # what a needed check was held beside stays, for a later run of the same data asks for it; but not what that came from
    needed |= {edge.source for edge in graph.edges if edge.kind == COMPARED and edge.target in needed}
    needed |= set(referred)  # also of versions that are open now, because a file of theirs is made again
    complete = {one.path: one.id for one in versions}
    candidates = [path for path in paths if complete.get(path, path) not in needed]
    with ThreadPoolExecutor(READERS) as pool:
        sizes = pool.map(lambda path: storage.used(folder_of(path)), candidates)
    found = [
        Unneeded(path, num_bytes, written, path in complete) for path, (num_bytes, written) in zip(candidates, sizes, strict=True)
    ]
    return [one for one in found if one.written <= newest]


def counting_runs(keep_runs: int | None, older_than_days: float | None, unfinished: Collection[str]) -> list[str]:
    """Runs whose versions are needed: all; or the newest `keep_runs` and those younger than `older_than_days`; unfinished ones always."""
    known = ledger.runs()
    if keep_runs is None and older_than_days is None:
        return known
    kept = set(known[-keep_runs:] if keep_runs else ())
    if older_than_days is not None:
        oldest = time.time() - older_than_days * DAY_S
        kept |= {run for run in known if (heard := ledger.last_sign(run)) and datetime.fromisoformat(heard).timestamp() >= oldest}
    return [run for run in known if run in kept or run in unfinished]


def of_runs(runs: Iterable[str]) -> set[str]:
    """Ids of the versions that these runs are made of."""
    return {f"{entry.step}/{entry.version}" for run in runs for entry in ledger.entries(run)}


def of_corpora(versions: Iterable[Record]) -> set[str]:
    """Ids of what each corpus published last: the next run compares itself with it."""
    root = storage.join(settings().store, "corpora")
    newest = {listed[-1].path for name in storage.list_folder(root) if (listed := ledger.published(name))}
    return {one.id for one in versions if one.path in newest}


def remove(one: Unneeded) -> None:
    """Remove a version or unfinished work, and what corpora listed of it."""
    folder = folder_of(one.path)
    storage.remove(storage.join(folder, MANIFEST))
    storage.remove(folder)
    root = storage.join(settings().store, "corpora")
    for corpus in storage.list_folder(root):
        for listed in ledger.published(corpus):
            if listed.path == one.path:
                ledger.withdraw(corpus, listed)


def pin(version: Record, why: str) -> None:
    """Keep a version, and all it came from, until it is unpinned."""
    facts = {
        "id": version.id,
        "digest": version.manifest["digest"],
        "why": why,
        "pinned": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    storage.write_json(_pin_path(version.id), facts)


def unpin(version: str) -> bool:
    """Take a pin away, by the version's id; False if there was none."""
    there = storage.exists(_pin_path(version))
    storage.remove(_pin_path(version))
    return there


def pins() -> list[Mapping[str, Any]]:
    """All pins: id, digest, why, pinned."""
    root = storage.join(settings().store, "pins")
    return [storage.read_json(storage.join(root, name)) for name in storage.list_folder(root) if not name.startswith(".")]


def _pin_path(version: str) -> str:
    return storage.join(settings().store, "pins", version.replace("/", "-") + ".json")
