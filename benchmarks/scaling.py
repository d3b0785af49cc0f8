"""One gigabyte of text through a whole `curate` flow on one Dask worker and on two: seconds of each step, and the memory of a worker.

    python -m benchmarks.scaling [--megabytes N]

The documents are made of paragraphs of Debian's documentation, drawn at random with a seed, so that no two are alike. Each flow has servers
and a store of its own. The memory is the largest resident size that any worker had in the whole flow; a quarter of the text through one
worker shows whether it grows with the corpus.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from benchmarks.orchestration import servers
from benchmarks.signals import PACKAGES, texts_of

LIMIT = 1.7
"""Times as fast on two workers as on one: the step `signals`."""
FILE_BYTES = 50_000_000
_SAMPLE_S = 0.1


def write_corpus(folder: Path, num_bytes: int, texts: Sequence[str]) -> None:
    """JSONL files of documents with at least `num_bytes` of text in all."""
    folder.mkdir()
    paragraphs = [paragraph for text in texts for paragraph in text.split("\n\n") if paragraph.strip()]
    sizes = [text.count("\n\n") + 1 for text in texts]
    draw, written, number = random.Random(0), 0, 0
    while written < num_bytes:
        in_file = 0
        with (folder / f"{number // 1_000_000:02}-{written:012}.jsonl").open("w", encoding="utf-8") as file:
            while in_file < FILE_BYTES and written < num_bytes:
                text = "\n\n".join(draw.choices(paragraphs, k=sizes[number % len(sizes)]))
                file.write(json.dumps({"id": f"doc-{number}", "text": text}, ensure_ascii=False) + "\n")
                number += 1
                in_file += len(text.encode())
                written += len(text.encode())


@contextmanager
def largest_worker() -> Iterator[list[int]]:
    """A list whose only item is the largest resident size, in bytes, that a worker process has had so far."""
    largest, ended = [0], threading.Event()

    def watch() -> None:
        while not ended.wait(_SAMPLE_S):
            for process in psutil.Process().children(recursive=True):
                try:
                    if "spawn_main" in " ".join(process.cmdline()):
                        largest[0] = max(largest[0], process.memory_info().rss)
                except psutil.Error:
                    continue

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield largest
    finally:
        ended.set()
        watcher.join()


def measure(folder: str, workers: int) -> dict[str, Any]:
    """{"seconds": by step, "largest_worker": bytes} of a curation of these files."""
    with servers(), largest_worker() as largest:
        from flows.config import RunConfig
        from flows.curate import curate
        from infra import ledger

        config = {
            "name": "scaling",
            "dask": {"workers": workers},
            "ingest": {"sources": [{"kind": "folder", "name": "debian", "path": folder}], "shard_bytes": 16_000_000},
            "filter": {"languages": []},
            "budget": {"max_removed": 1, "max_removed_by_rule": 1},
            "approval": {"on_warning": "go"},
            "validate": {
                "stages": False
            },  # drawn from the same paragraphs, documents are not independent, which the audit takes them to be
            "split": {"by": "cluster"},
        }
        curate(RunConfig.model_validate(config))
        [run] = ledger.runs()
        return {"seconds": {entry.step: entry.seconds for entry in ledger.entries(run)}, "largest_worker": largest[0]}


def in_a_process(folder: Path, workers: int) -> dict[str, Any]:
    """`measure` in a process of its own."""
    words = [sys.executable, "-m", "benchmarks.scaling", "--only", str(folder), "--workers", str(workers)]
    told = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: dict[str, Any] = json.loads(told.splitlines()[-1])
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1000, help="text in the corpus")
    parser.add_argument("--only", help="measure these files, print JSON")
    parser.add_argument("--workers", type=int, default=1, help="workers of --only")
    given = parser.parse_args()
    if given.only:
        print(json.dumps(measure(given.only, given.workers)))
        return
    with tempfile.TemporaryDirectory(prefix="gristmill-bench-") as home:
        whole, part = Path(home) / "whole", Path(home) / "part"
        texts = texts_of(PACKAGES)
        write_corpus(whole, given.megabytes * 1_000_000, texts)
        write_corpus(part, given.megabytes * 250_000, texts)
        one, two, quarter = in_a_process(whole, 1), in_a_process(whole, 2), in_a_process(part, 1)
    print(f"{'step':<12} {'1 worker':>10} {'2 workers':>10} {'ratio':>6}   {given.megabytes:,} MB of text")
    for step, seconds in one["seconds"].items():
        print(f"{step:<12} {seconds:>8.1f} s {two['seconds'][step]:>8.1f} s {seconds / two['seconds'][step]:>6.2f}")
    ratio = one["seconds"]["signals"] / two["seconds"]["signals"]
    print(f"signals: {ratio:.2f} x, at least {LIMIT:g} x: {'met' if ratio >= LIMIT else 'MISSED'}")
    print(
        f"largest worker: {one['largest_worker'] / 1e6:,.0f} MB (one), {two['largest_worker'] / 1e6:,.0f} MB (two), "
        f"{quarter['largest_worker'] / 1e6:,.0f} MB with a quarter of the text"
    )


if __name__ == "__main__":
    main()
