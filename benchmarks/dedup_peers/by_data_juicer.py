"""The peer data-juicer 1.6.1: its operator `document_minhash_deduplicator` over a data set that `datasets` loads, in one process.

Words set apart by white space, lower-cased, 5 at a time; hashes once, then clusters by union and find; the first of each stays.
"""

from __future__ import annotations

from pathlib import Path

import shared
from data_juicer.core.data import NestedDataset
from data_juicer.ops.deduplicator.document_minhash_deduplicator import DocumentMinhashDeduplicator, split_on_whitespace
from datasets import load_dataset


def remove(corpus: Path, output: Path) -> None:
    """Hashes, clusters, and what is kept saved in the way of `datasets`."""
    files = sorted(str(path) for path in corpus.glob("*.parquet"))
    loaded = load_dataset("parquet", data_files=files, split="train", columns=["doc_id", "text"], cache_dir=str(output / "cache"))
    operator = DocumentMinhashDeduplicator(
        window_size=shared.NGRAM_WORDS,
        num_permutations=shared.NUM_HASHES,
        num_bands=shared.NUM_BANDS,
        num_rows_per_band=shared.NUM_ROWS,
    )
    hashed = NestedDataset(loaded).map(operator.compute_hash)
    kept, _ = operator.process(hashed)
    kept.save_to_disk(str(output / "kept"))


def shingles(text: str) -> set[str]:
    """As its `compute_hash` makes them with the tokenisation `space`."""
    words = split_on_whitespace(text.lower())
    return {" ".join(words[at : at + shared.NGRAM_WORDS]) for at in range(len(words) - shared.NGRAM_WORDS + 1)}


if __name__ == "__main__":
    shared.run(remove, shingles)
