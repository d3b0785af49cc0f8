"""Ten million documents through the `validate` step, beside Great Expectations' own pandas engine, in one run.

    python -m benchmarks.validation [ROWS]

Makes a dataset version of seeded rows (ids, URLs, hosts, languages, texts of about 200 characters) in a temporary folder of 2 GB, then
runs the step on it as a flow does: suite `published`, two Dask workers, profile and page. Prints wall and CPU seconds, rows a second
and the peak memory of each process. The peer judges every tenth shard by the same suite on the same workers, as the step did before
it had kernels of its own.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc

from expectations import gate
from expectations.suites import Suite
from infra import dataset, storage
from infra.cluster import DaskConfig, Pool, pool
from infra.dataset import Counts, Outcome, ShardRef, ShardSet
from infra.settings import set_for_children, settings
from tasks.validate import ValidateConfig, validate

NUM_ROWS = 10_000_000
SHARD_ROWS = 125_000
NUM_WORKERS = 2
NUM_HOSTS = 50_000
LANGUAGES, LANGUAGE_SHARES = ["en", "de", "fr", "unknown"], [0.995, 0.002, 0.002, 0.001]
WORDS = """the of and to in a is that for it as was with be by on not he his but at are this have from or had an they which one you were all
bridge letter harvest engine garden festival painting ship road window story market tower lesson journey machine kitchen river village
""".split()  # noqa: SIM905


def strings(lengths: np.ndarray, data: bytes) -> pa.Array:
    """Strings that lie one behind the other in `data`."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.Array.from_buffers(pa.string(), len(lengths), [None, pa.py_buffer(offsets), pa.py_buffer(data)])


def shard(index: int, num_rows: int) -> Outcome:
    """The rows of one shard, from a seed of its own."""
    random = np.random.default_rng(index)
    ids, contents, digests = (strings(np.full(num_rows, 32), random.bytes(16 * num_rows).hex().encode()) for _ in range(3))
    pool_of_words = " ".join(random.choice(WORDS, 200_000)).encode()
    lengths = random.gamma(8, 25, num_rows).astype(np.int64) + 100 - 50
    starts = random.integers(0, len(pool_of_words) - lengths.max(), num_rows)
    places = np.arange(lengths.sum()) + np.repeat(starts - np.cumsum(lengths) + lengths, lengths)
    text = strings(lengths, np.frombuffer(pool_of_words, np.uint8)[places].tobytes())
    host = pc.binary_join_element_wise("host", pa.array(random.zipf(1.3, num_rows) % NUM_HOSTS).cast(pa.string()), ".example", "")
    language = pa.array(LANGUAGES).take(pa.array(random.choice(len(LANGUAGES), num_rows, p=LANGUAGE_SHARES)))
    score = pa.array(random.random(num_rows, np.float32))
    url = pc.binary_join_element_wise("https://", host, "/", ids, "")
    names = ("doc_id", "content_id", "source", "url", "host", "text", "text_digest", "language", "language_score")
    columns = (ids, contents, pa.repeat("web", num_rows), url, host, text, digests, language, score)
    return Outcome(pa.table(dict(zip(names, columns, strict=True))))


def write_shard(index: int, folder: str, sizes: list[int]) -> dataset.Receipt:
    """Make one shard."""
    return dataset.write_shard(folder, index, shard(index, sizes[index]))


def make(workers: Pool, num_rows: int) -> ShardSet:
    """The whole version."""
    sizes = [min(SHARD_ROWS, num_rows - start) for start in range(0, num_rows, SHARD_ROWS)]
    recipe = {"step": "redact", "inputs": {}, "rows": num_rows}
    folder = storage.join(settings().store, "redact", dataset.version_of(recipe))
    receipts = [receipt for _, receipt in workers.run(partial(write_shard, folder=folder, sizes=sizes), range(len(sizes)))]
    counts = Counts(total=num_rows, kept=num_rows)
    dataset.seal(
        folder,
        step="redact",
        schema_name="clustered_documents",
        recipe=recipe,
        receipts=receipts,
        files=[],
        facts={},
        counts=counts,
    )
    return dataset.open_version(folder)


def by_great_expectations(one: ShardRef, suite: Suite) -> int:
    """The peer: the same expectations on the rows of one shard, by Great Expectations over pandas."""
    return len(gate.by_great_expectations(one.read(), suite.on_rows))


@dataclass
class Usage:
    """What this process and its children used, by process id."""

    peak_bytes: dict[int, int] = field(default_factory=dict)
    cpu_s: dict[int, float] = field(default_factory=dict)
    seconds: float = 0.0


@contextmanager
def measured() -> Iterator[Usage]:
    """Wall and CPU seconds and the highest resident memory of the block, looked at five times a second."""
    usage, ended, me = Usage(), threading.Event(), psutil.Process()
    before = sum(me.cpu_times()[:2])

    def watch() -> None:
        while not ended.wait(0.2):
            for process in (me, *me.children(recursive=True)):
                try:
                    usage.peak_bytes[process.pid] = max(usage.peak_bytes.get(process.pid, 0), process.memory_info().rss)
                    usage.cpu_s[process.pid] = sum(process.cpu_times()[:2]) - (before if process.pid == me.pid else 0)
                except psutil.NoSuchProcess:
                    continue

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    started = time.monotonic()
    try:
        yield usage
    finally:
        usage.seconds = time.monotonic() - started
        ended.set()
        watcher.join()


def told(name: str, num_rows: int, usage: Usage) -> None:
    """One line of figures."""
    each = ", ".join(f"{peak / 1e6:,.0f}" for peak in sorted(usage.peak_bytes.values(), reverse=True)[: NUM_WORKERS + 1])
    cpu_s = sum(usage.cpu_s.values())
    print(
        f"{name:<44} {num_rows:>11,} rows {usage.seconds:>7.1f} s {num_rows / usage.seconds:>9,.0f} rows/s "
        f"{cpu_s:>7.1f} CPU s {num_rows / cpu_s:>9,.0f} rows/CPU s   peak MB: {each}",
        flush=True,
    )


def main() -> None:
    """Measure and print."""
    num_rows = int(sys.argv[1].replace("_", "")) if len(sys.argv) > 1 else NUM_ROWS
    with tempfile.TemporaryDirectory(prefix="gristmill-bench-") as home:
        set_for_children("GRISTMILL_HOME", home)
        with pool(DaskConfig(workers=NUM_WORKERS)) as workers:
            documents = make(workers, num_rows)
        with pool(DaskConfig(workers=NUM_WORKERS)), measured() as usage:
            made = validate.run([documents, [], []], ValidateConfig())
        facts = made.shards.manifest().facts
        told("gristmill: rows, profile, page", num_rows, usage)
        some = documents.shards()[::10]
        suite = gate.load_suite("published")
        with pool(DaskConfig(workers=NUM_WORKERS)) as workers, measured() as usage:
            num_checks = {count for _, count in workers.run(partial(by_great_expectations, suite=suite), some)}
        told("great_expectations over pandas: rows alone", sum(one.num_rows for one in some), usage)
        print(f"verdict {facts['verdict']}; {facts['num_expectations']} expectations, of them on rows {num_checks.pop()}")


if __name__ == "__main__":
    main()
