"""Token shards beside `tokenizers`' own batch call, in one run; then what planning and assembling samples costs.

    python -m benchmarks.tokens ../shared/data [--megabytes N] [--kind wordpiece]

One process: `encode_shard` beside `encode_batch_fast` over the same texts, by processor time on one thread. Two cores: the step's own pass
(shards read, encoded, written, with their digests, by two Dask workers that are up) beside `encode_batch_fast` with two threads of its own
and 1000 texts a call, whose result is not even taken out of it; by the clock, and by the processor time of workers and threads, which
counts when the machine is not idle. Rounds alternate; the best of each counts.
The documents are paragraphs of WikiText-2 and Shakespeare drawn with a seed.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from expectations.schemas import TOKEN_DOCS
from infra import dataset, storage
from infra.cluster import DaskConfig, map_shards, pool
from infra.dataset import Outcome, ShardRef
from infra.settings import PROJECT, adopt_quiet_environment, child_environment
from models import tokeniser
from models.tokeniser import Roles, TokeniserConfig
from tasks.learn import tokens
from tasks.learn.data_config import DataConfig
from tasks.learn.sampler import Sampler
from tasks.learn.tokens import TokenShard
from tasks.tokenise import tokenise_shard

NUM_SHARDS = 8
ROUNDS = 5
PEER_BATCH = 1000
"""Texts in one call, as `datasets.map` makes them by default."""
LIMIT = 0.9
"""Tokens per second, as part of the peer's."""


def main() -> None:
    """Print both comparisons and the costs of samples."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--megabytes", type=int, default=64, help="of text, in eight shards")
    parser.add_argument("--kind", default="bpe", choices=["bpe", "wordpiece"])
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    given = parser.parse_args()
    adopt_quiet_environment()  # as the command does: no threads of `tokenizers` in a worker
    if given.peer:
        print(json.dumps(peer_seconds(given.peer)))
        return
    with tempfile.TemporaryDirectory() as folder:
        paragraphs = [
            line.strip() for path in sorted((given.data / "text").glob("*.txt")) for line in path.read_text().split("\n\n")
        ]
        paragraphs = [one for text in paragraphs for one in text.split("\n") if one.strip()]
        words = tokeniser.train(paragraphs, TokeniserConfig(kind=given.kind, vocab_size=16_384))
        tokeniser.save(words, f"{folder}/tokeniser")
        shards = write_corpus(folder, paragraphs, given.megabytes * 1_000_000 // NUM_SHARDS)
        one_process(folder, shards[0])
        two_cores(folder, shards, given)
    samples()


def write_corpus(folder: str, paragraphs: list[str], shard_bytes: int) -> list[ShardRef]:
    """Shards of documents of 1 to 40 paragraphs."""
    draw, receipts = random.Random(0), []
    for index in range(NUM_SHARDS):
        texts: list[str] = []
        size = 0
        while size < shard_bytes:
            texts.append("\n".join(draw.choices(paragraphs, k=draw.randint(1, 40))))
            size += len(texts[-1].encode())
        rows = pa.table({"doc_id": [f"{index} {at}" for at in range(len(texts))], "source": ["text"] * len(texts), "text": texts})
        receipts.append(dataset.write_shard(f"{folder}/corpus", index, Outcome(rows)))
    return dataset.shard_refs(f"{folder}/corpus", receipts)


def one_process(folder: str, shard: ShardRef) -> None:
    """One thread, by processor time."""
    table = shard.read()
    encoder, texts = tokeniser.load(f"{folder}/tokeniser"), table["text"].to_pylist()
    num_tokens = len(tokens.encode_shard(table, f"{folder}/tokeniser")[0])
    encoder.encode_batch_fast(texts, add_special_tokens=False)
    ours, theirs = [], []
    for _ in range(ROUNDS):
        started = time.process_time()
        tokens.encode_shard(table, f"{folder}/tokeniser")
        ours.append(time.process_time() - started)
        started = time.process_time()
        encoder.encode_batch_fast(texts, add_special_tokens=False)
        theirs.append(time.process_time() - started)
    told("one process, one thread, processor time", num_tokens, min(ours), min(theirs))


def two_cores(folder: str, shards: list[ShardRef], given: argparse.Namespace) -> None:
    """Two Dask workers, and two threads, by the clock."""
    environment = child_environment(TOKENIZERS_PARALLELISM="true", RAYON_NUM_THREADS="2", PYTHONPATH=str(PROJECT))
    command = [sys.executable, "-m", "benchmarks.tokens", str(given.data), "--peer", folder]
    ours, theirs = [], []
    with pool(DaskConfig(workers=2)):
        for number in range(ROUNDS + 1):
            made = f"{folder}/tokens-{number}"
            work = partial(tokenise_shard, tokeniser_folder=f"{folder}/tokeniser", folder=made)
            started, before = time.perf_counter(), children_seconds()
            map_shards(work, shards, made, "shards")
            if number:  # the first one starts the workers
                ours.append((time.perf_counter() - started, children_seconds() - before))
                peer = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
                theirs.append(json.loads(peer.stdout))
    num_tokens = sum(len(shard.tokens) for shard in tokens.read_shards(made))
    for which, what in enumerate(("by the clock", "processor time")):
        best = [min(one[which] for one in many) for many in (ours, theirs)]
        told(f"two Dask workers beside two threads, {what}", num_tokens, *best)


def children_seconds() -> float:
    """Processor seconds of the processes that this one has started."""
    used = [one.cpu_times() for one in psutil.Process().children(recursive=True)]
    return sum(one.user + one.system for one in used)


def peer_seconds(folder: str) -> tuple[float, float]:
    """What `tokenizers` takes for all texts, which were read before: by the clock, and processor time of all threads."""
    encoder = tokeniser.load(f"{folder}/tokeniser")
    names = [name for name in storage.list_folder(f"{folder}/corpus") if name.endswith(".parquet")]
    texts = [text for name in names for text in pq.read_table(f"{folder}/corpus/{name}")["text"].to_pylist()]
    started, before = time.perf_counter(), time.process_time()
    for first in range(0, len(texts), PEER_BATCH):
        encoder.encode_batch_fast(texts[first : first + PEER_BATCH], add_special_tokens=False)
    return time.perf_counter() - started, time.process_time() - before


def told(what: str, num_tokens: int, ours: float, theirs: float) -> None:
    """One line."""
    ratio = theirs / ours
    print(
        f"{what}: ours {num_tokens / ours:,.0f} tokens/s, tokenizers {num_tokens / theirs:,.0f} tokens/s, ratio {ratio:.3f} "
        f"({'within' if ratio >= LIMIT else 'BELOW'} the limit of {LIMIT})"
    )


def samples() -> None:
    """A million documents of three sources in ten shards: seconds of planning, milliseconds of a batch of 16 × 256."""
    chance = np.random.default_rng(0)
    shards = []
    for shard in range(10):
        lengths = np.maximum(1, chance.exponential(300, 100_000)).astype(np.int32)
        stream = chance.integers(5, 30_000, int(lengths.sum())).astype(np.uint16)
        names = [f"{shard:08x}{at:024x}" for at in range(len(lengths))]
        columns = [names, chance.choice(["books", "code", "web"], len(lengths)), np.cumsum(lengths) - lengths, lengths, lengths]
        shards.append(TokenShard(stream, pa.table(dict(zip(TOKEN_DOCS.names, columns, strict=True))).cast(TOKEN_DOCS)))
    roles = Roles(vocab_size=30_000, end=0, padding=1, unknown=None, mask=2)
    for config, masked in (
        (DataConfig(packing="stream"), False),
        (DataConfig(), False),
        (DataConfig(weights={"books": 0.5}), False),
        (DataConfig(packing="best_fit"), False),
        (DataConfig(packing="best_fit", weights={"books": 0.5}), True),
    ):
        started = time.process_time()
        made = Sampler(shards, 256, config, roles=roles, masked=masked, seed=1, max_samples=10**6)
        planned = time.process_time() - started
        made.batch(0, 16)
        started = time.process_time()
        for number in range(500):
            made.batch(16 * number, 16)
        each_ms = (time.process_time() - started) * 2
        what = f"{config.packing}{', mixed' if config.mixes else ''}{', masked' if masked else ''}"
        print(
            f"1,000,000 documents, {what}: planned in {planned:.2f} s, a batch of 16 x 256 in {each_ms:.3f} ms of processor time"
        )


if __name__ == "__main__":
    main()
