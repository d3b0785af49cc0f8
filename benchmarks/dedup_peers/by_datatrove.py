"""The peer datatrove 0.10.1: its four MinHash stages in a row, one process, as its examples/minhash_deduplication.py has them.

One task for each file, the buckets' 14 tasks, one for the clusters. Its defaults: word 5-grams of spaCy's words after its own normal form,
14 buckets of 8, 64-bit hashes. Reads Parquet, writes JSONL without compression.
"""

from __future__ import annotations

from pathlib import Path

import shared
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.readers import ParquetReader
from datatrove.pipeline.writers.jsonl import JsonlWriter


def config() -> MinhashConfig:
    """Its defaults, said."""
    return MinhashConfig(n_grams=shared.NGRAM_WORDS, num_buckets=shared.NUM_BANDS, hashes_per_bucket=shared.NUM_ROWS)


def remove(corpus: Path, output: Path) -> None:
    """Signatures, buckets, clusters, filter."""
    aside = output / "aside"
    num_files = len(list(corpus.glob("*.parquet")))

    def reader() -> ParquetReader:
        return ParquetReader(str(corpus), glob_pattern="*.parquet", recursive=False, id_key="doc_id", read_metadata=False)

    stages = (
        (num_files, [reader(), MinhashDedupSignature(str(aside / "signatures"), config())]),
        (shared.NUM_BANDS, [MinhashDedupBuckets(str(aside / "signatures"), str(aside / "buckets"), config=config())]),
        (1, [MinhashDedupCluster(str(aside / "buckets"), str(aside / "remove"), config=config())]),
        (num_files, [reader(), MinhashDedupFilter(str(aside / "remove")), JsonlWriter(str(output), compression=None)]),
    )
    for number, (tasks, pipeline) in enumerate(stages):
        LocalPipelineExecutor(pipeline, tasks=tasks, workers=1, logging_dir=str(aside / "logs" / str(number))).run()


def main() -> None:
    """See shared.py."""
    signature = MinhashDedupSignature("/tmp", config())
    shared.run(remove, lambda text: set(signature.get_shingles(text).ravel().tolist()))


if __name__ == "__main__":
    main()
