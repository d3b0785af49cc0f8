"""What the peers' programs have in common: their command line. Runs in the peers' environments; knows pyarrow and nothing of ours.

python by_PEER.py remove CORPUS OUTPUT      every document of CORPUS/*.parquet (columns doc_id and text) through the peer; what it keeps
                                            goes to OUTPUT, in the peer's own way or as Parquet
python by_PEER.py likeness PAIRS.jsonl      prints the exact Jaccard similarity of each {"left": text, "right": text}, of the shingles
                                            that the peer itself makes, as a JSON list
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

NUM_BANDS, NUM_ROWS, NGRAM_WORDS = 14, 8, 5
NUM_HASHES = NUM_BANDS * NUM_ROWS
SIMILAR = 0.8
"""From which similarity on two documents count as duplicates, for a peer that asks."""
_WORD = re.compile(r"\w+")


def run(remove: Callable[[Path, Path], None], shingles: Callable[[str], set[Hashable]]) -> None:
    """Do what the command line says."""
    if sys.argv[1] == "remove":
        remove(Path(sys.argv[2]), Path(sys.argv[3]))
        return
    rows = [json.loads(line) for line in Path(sys.argv[2]).read_text(encoding="utf-8").splitlines()]
    sets = [(shingles(row["left"]), shingles(row["right"])) for row in rows]
    print(json.dumps([len(left & right) / max(1, len(left | right)) for left, right in sets]))


def word_shingles(text: str) -> set[str]:
    """Word 5-grams as a user of a library of sketches makes them."""
    words = _WORD.findall(text.lower())
    return {" ".join(words[at : at + NGRAM_WORDS]) for at in range(max(1, len(words) - NGRAM_WORDS + 1))}


def batches(corpus: Path, batch_size: int = 1000) -> Iterator[pa.RecordBatch]:
    """The columns doc_id and text."""
    for path in sorted(corpus.glob("*.parquet")):
        yield from pq.ParquetFile(path).iter_batches(batch_size, columns=["doc_id", "text"])


class Kept:
    """Documents that stay, on their way to a Parquet file."""

    def __init__(self, output: Path) -> None:
        output.mkdir(parents=True)
        schema = pa.schema([("doc_id", pa.string()), ("text", pa.string())])
        self._writer = pq.ParquetWriter(output / "kept.parquet", schema, compression="zstd")

    def write(self, batch: pa.RecordBatch, keep: list[bool]) -> None:
        """The rows of a batch that are kept."""
        self._writer.write_batch(batch.filter(pa.array(keep, pa.bool_())))

    def close(self) -> None:
        """Write the end of the file."""
        self._writer.close()
