"""The peer text-dedup 0.4.0: its own program `python -m text_dedup.minhash` as a process, on one core (or as many as --num_proc says)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import shared


def remove(corpus: Path, output: Path) -> None:
    """Its command line; what it keeps is a folder that `datasets` loads."""
    words = {
        "path": "parquet", "data_files": corpus / "*.parquet", "split": "train", "cache_dir": output / "cache", "output": output / "kept",
        "column": "text", "batch_size": 10_000, "ngram": shared.NGRAM_WORDS, "min_length": 5, "num_perm": shared.NUM_HASHES,
        "b": shared.NUM_BANDS, "r": shared.NUM_ROWS, "hash_func": "xxh3", "num_proc": 1,
    }  # fmt: skip
    command = [
        sys.executable,
        "-m",
        "text_dedup.minhash",
        *(str(word) for key, value in words.items() for word in (f"--{key}", value)),
    ]
    output.mkdir(parents=True)
    subprocess.run(command, check=True, cwd=output)


def shingles(text: str) -> set[bytes]:
    """As its `embed_func` makes them."""
    from text_dedup.minhash import NON_ALPHA
    from text_dedup.utils import ngrams

    return {bytes(" ".join(words).lower(), "utf-8") for words in ngrams(NON_ALPHA.split(text.lower()), shared.NGRAM_WORDS, 5)}


if __name__ == "__main__":
    shared.run(remove, shingles)
