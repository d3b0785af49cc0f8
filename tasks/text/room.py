"""What making an index needs in memory, disk and time, from what a sample tells of its documents.

Bytes on disk and seconds are scaled from the sample; memory follows from how the passes work, with the constants below.
"""

from __future__ import annotations

from dataclasses import dataclass

from tasks.text.generations import SQL_BYTES
from tasks.text.likeness import Likeness, Sample

MIB = 1 << 20
PROCESS_BYTES = 430 * MIB
"""Of a process with its libraries and kernels: measured 466 MB in a flow and 478 MB in a worker that indexed 20,000 documents of 1.6 kB."""
FLOW_BYTES_PER_PAIR = 110
"""Peak of dividing pairs into units; measured 93 beside the pairs themselves, with as many documents as pairs."""
RANKED_BYTES_PER_DOCUMENT = 400
"""What ranking keeps of a document in DuckDB, until that spills."""
TEXT_COPIES = 3
"""A shard as it is read: the file, its table, the column in one piece."""
BYTES_PER_BAND = 64
"""A band key while a shard's bands are put together: key and node, sorted, and once more as they are encoded."""
BYTES_PER_ENTRY = 80
"""A bucket entry while it is sorted (IndexConfig.max_bucket_entries)."""
FILES_PER_SHARD = 10
"""Sketch, numbers, rows, bands, shingles and their list of a shard, with the receipts of four of them."""
SHINGLE_BYTES = 8
"""A shingle on disk, as no compression makes it smaller."""
BYTES_PER_SHINGLE = 16
"""A shingle while sets are compared (IndexConfig.max_unit_shingles)."""


@dataclass(frozen=True)
class FileBytes:
    """Bytes on disk, compressed, as measured on a sample: of a document if nothing else is said."""

    sketch: float
    row: float
    numbers: float
    bands: float
    """Of a content."""
    proposal: float
    """Of a pair."""
    edge: float
    """Of a pair that is kept."""
    seconds: float
    """To encode sketch, row and bands of a document."""
    seconds_per_file: float
    """To put a small file on a disk."""


@dataclass(frozen=True)
class Forecast:
    """What an index needs: bytes and seconds."""

    likeness: Likeness
    aside_bytes: int
    """On disk while it is made, removed at its end."""
    kept_bytes: int
    """On disk for good."""
    spilled_bytes: int
    """In the folder for temporary files, at most: of ranks or pairs what DuckDB cannot hold."""
    flow_bytes: int
    """Peak memory of the flow's process."""
    worker_bytes: int
    """Peak memory of a worker."""
    seconds: float
    """With so many workers, each of them a core of its own."""
    workers: int

    @property
    def disk_bytes(self) -> int:
        """On disk at the worst time."""
        return self.aside_bytes + self.kept_bytes


def forecast(
    sample: Sample,
    found: Likeness,
    files: FileBytes,
    workers: int,
    *,
    num_bands: int,
    num_earlier: int,
    max_bucket_entries: int,
    max_unit_shingles: int,
    sql_bytes: int,
) -> Forecast:
    """What making an index needs, of what a sample tells.

    Args:
        sql_bytes: the memory that DuckDB is limited to for ranking; for pairs it is SQL_BYTES.
    """
    documents = found.num_documents
    mean_text = found.text_bytes / max(1, documents)
    phases = (
        sample.most_in_shard * (TEXT_COPIES * mean_text + BYTES_PER_BAND * num_bands) + 22 * found.longest_bytes,
        min(max_bucket_entries, num_earlier + found.contents) * BYTES_PER_ENTRY,
        min(2 * max_unit_shingles, found.shingles) * BYTES_PER_SHINGLE,
    )
    proposed = found.proposals * 16
    ranked = (documents + num_earlier) * RANKED_BYTES_PER_DOCUMENT
    in_sql = min(sql_bytes, max(ranked, proposed))
    per_document = sample.read_seconds + files.seconds
    num_files = FILES_PER_SHARD * sample.num_shards + 2 * num_bands
    return Forecast(
        likeness=found,
        aside_bytes=int(
            documents * (files.sketch + files.numbers) + found.proposals * files.proposal + found.shingles * SHINGLE_BYTES
        ),
        kept_bytes=int(documents * files.row + found.contents * files.bands + found.edges * files.edge),
        spilled_bytes=int(max(0, proposed - SQL_BYTES, ranked - sql_bytes)),
        flow_bytes=int(PROCESS_BYTES + in_sql + found.pairs * FLOW_BYTES_PER_PAIR),
        worker_bytes=int(PROCESS_BYTES + max(phases)),
        seconds=(
            documents * per_document + num_files * files.seconds_per_file + found.seconds_sketching + found.seconds_verifying
        )
        / max(1, workers),
        workers=workers,
    )
