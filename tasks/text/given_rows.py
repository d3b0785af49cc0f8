"""Rows of alignment data: where each came from, why one cannot be used, and which are kept. What `prefer` and `pose` share.

A row goes with its reason, whether it is unusable by itself or beside others. Kept rows are in the order of their ids.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from infra.dataset import Outcome, ShardRef, rejects_table
from infra.ids import doc_id, payload_digest
from tasks.text.readers import DatasetSource, FolderSource, IngestConfig, Piece, read_rows
from tasks.text.turns import Unusable

WHY = pa.schema([("rule", pa.string()), ("detail", pa.string())])
"""Beside rows before it is decided which stay: what is wrong with those that cannot be used."""
Verdicts = npt.NDArray[np.int8]


def candidates_of(
    pieces: Sequence[Piece], read: IngestConfig, made: Callable[[dict[str, Any], str], dict[str, Any]]
) -> list[Any]:
    """Each row of some pieces as what `made` makes of (row, its source), or with the rule that it breaks."""
    found = []
    for piece in pieces:
        for number, (row, document) in enumerate(read_rows(piece, read), 1):
            known = {
                "source": document["source"],
                "origin": origin_of(row) or _place(piece, read.sources[piece.source], number),
            }
            try:
                if "broken" in row:
                    raise Unusable(row["broken"], row["detail"])
                found.append(known | made(row, known["source"]))
            except Unusable as bad:
                payload = payload_digest(json.dumps(row, sort_keys=True, default=repr).encode())
                row_id = doc_id(known["source"], payload, payload)
                found.append(known | {"row_id": row_id, "rule": bad.rule, "detail": bad.detail})
    return found


def origin_of(row: Mapping[str, Any]) -> str:
    """What a row says of where it came from; "" where it says nothing."""
    given = next((str(row[name]) for name in ("origin", "url", "id") if row.get(name)), "")
    return given.encode("utf-8", "backslashreplace").decode()


def file_of(piece: Piece, source: FolderSource | DatasetSource) -> str:
    """The name of a file in its source, or of a dataset; no folder of this machine, so that equal rows are equal bytes anywhere."""
    if isinstance(source, DatasetSource):
        return f"{Path(source.dataset).name}/{source.split}"
    root, file = Path(source.path).expanduser(), Path(piece.path)
    return file.name if root == file else file.relative_to(root).as_posix()


def _place(piece: Piece, source: FolderSource | DatasetSource, number: int) -> str:
    """Where a row lies: file, where the piece begins in it, and the row there."""
    return f"{file_of(piece, source)}{f'@{piece.start}' if piece.start else ''}:{number}"


def columns_of(candidates: Sequence[ShardRef], names: Sequence[str]) -> Iterator[tuple[npt.NDArray[np.intp], pa.Table]]:
    """(places of the usable rows in a shard, these columns of them) shard by shard."""
    for shard in candidates:
        table = shard.read([*names, "rule"])
        used = np.flatnonzero(pc.is_null(table["rule"]).to_numpy(zero_copy_only=False))
        yield used, table.select(list(names)).take(pa.array(used))


def spread(found: Verdicts, used: Sequence[npt.NDArray[np.intp]], candidates: Sequence[ShardRef]) -> list[Verdicts]:
    """Verdicts of the usable rows of all shards, as verdicts of all rows of each."""
    verdicts, at = [], 0
    for places, shard in zip(used, candidates, strict=True):
        of_shard = np.zeros(shard.num_rows, np.int8)
        of_shard[places] = found[at : at + len(places)]
        at += len(places)
        verdicts.append(of_shard)
    return verdicts


def keep_rows(job: tuple[ShardRef, Verdicts], schema: pa.Schema, why_not: Mapping[int, str], excerpt: str) -> Outcome:
    """The rows of one shard of candidates that stay, by their ids, and the others as rejects with the rule of their verdict."""
    shard, verdicts = job
    table = shard.read()
    rule = pc.coalesce(table["rule"], pa.array([why_not.get(one) for one in verdicts.tolist()], pa.string()))
    gone = table.set_column(table.column_names.index("rule"), "rule", rule).filter(pc.is_valid(rule))
    rejects = rejects_table(
        {**row, "doc_id": row["row_id"], "url": row["origin"], "excerpt": _shown(row[excerpt])}
        for row in gone.select(["row_id", "origin", "source", "rule", "detail", excerpt]).to_pylist()
    )
    kept = table.filter(pc.is_null(rule)).select(schema.names).sort_by("row_id")
    test = pc.sum(pc.equal(kept["split"], "test")).as_py() or 0
    return Outcome(kept, rejects, facts={"num_rows.train": kept.num_rows - test, "num_rows.test": test})


def _shown(value: Any) -> str | None:
    return value[-1]["content"] if isinstance(value, list) and value else value
