"""Runs of tools that deduplicate: each in a process of its own over the files of a corpus, with what it used and what it kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.edited_corpus import EditedCorpusConfig, Plan, document_ids, edited_corpus, make, make_plan, sentence_file
from benchmarks.peers import peer_environment
from infra import dataset
from infra.dataset import ShardSet
from infra.settings import settings

Flags = npt.NDArray[np.bool_]

SCRIPTS = Path(__file__).with_name("dedup_peers")
OURS = "gristmill"
_SAMPLE_S = 0.1


class Peer(NamedTuple):
    """Somebody else's tool."""

    packages: tuple[str, ...]
    """Of its environment, itself first."""
    script: str
    words: tuple[str, ...] = ()
    """Added to its command line."""


PEERS: Mapping[str, Peer] = {
    "datatrove": Peer(("datatrove[io,processing]==0.10.1", "spacy", "lxml_html_clean", "aiohttp"), "by_datatrove.py"),
    "text-dedup": Peer(("text-dedup==0.4.0",), "by_text_dedup.py"),
    "data-juicer": Peer(("py-data-juicer==1.6.1", "torch==2.13.0", "aiohttp"), "by_data_juicer.py"),
    "datasketch": Peer(("datasketch==2.0.0", "pyarrow", "xxhash"), "by_datasketch.py"),
    "rensa": Peer(("rensa==0.5.0", "pyarrow"), "by_rensa.py"),
    "rensa LSH": Peer(("rensa==0.5.0", "pyarrow"), "by_rensa.py", ("--lsh",)),
}


@dataclass(frozen=True)
class Usage:
    """What a command and all its children used."""

    cpu_s: float
    wall_s: float
    largest_bytes: int
    """Resident memory of the largest process at any time."""
    total_bytes: int
    """Of all processes at the worst time; what they share counts once for each."""
    disk_bytes: int
    """Size of its folder, temporary files included, at the worst time."""


class Corpus(NamedTuple):
    """Documents on disk, and what is known of them."""

    config: EditedCorpusConfig
    version: ShardSet
    plan: Plan

    @property
    def folder(self) -> Path:
        """Of its Parquet files."""
        return Path(self.version.folder)

    @property
    def num_mb(self) -> float:
        """Of UTF-8 text."""
        return float(self.version.manifest().facts["num_text_bytes"]) / 1e6

    @property
    def file_bytes(self) -> int:
        """Of its Parquet files."""
        return sum(path.stat().st_size for path in self.folder.glob("*.parquet"))


def corpus_of(num_documents: int, **changes: Any) -> Corpus:
    """The corpus of so many documents, which is made once and kept beside the peers' environments."""
    config = EditedCorpusConfig(num_documents=num_documents, sentences=str(sentence_file()), **changes)
    version = dataset.version_of(edited_corpus.recipe([], config))
    folder = settings().home / "benchmarks" / f"edited-{num_documents}-{version[:8]}"
    return Corpus(config, make(folder, config, workers=2 if num_documents > 20_000 else 1), make_plan(config))


def ours_command(corpus: Path, output: Path, workers: int) -> list[str]:
    """Ours from start to end in a process of its own."""
    return [sys.executable, "-m", "benchmarks.dedup_ours", str(corpus), str(output), "--workers", str(workers)]


def peer_command(peer: Peer, corpus: Path, output: Path) -> list[str]:
    """The same of a peer."""
    python = peer_environment(peer.packages)
    return ["-u", "PYTHONPATH", str(python), str(SCRIPTS / peer.script), "remove", str(corpus), str(output), *peer.words]


def measured(command: Sequence[str], folder: Path) -> Usage:
    """Run a command whose files all go into this empty folder; words before the program are those of `env`."""
    temporary = folder / "tmp"
    temporary.mkdir(parents=True)
    first = 2 if command[0] == "-u" else 0
    one_core = ("OMP_NUM_THREADS=1", "RAYON_NUM_THREADS=1", "HF_HUB_OFFLINE=1", f"TMPDIR={temporary}")
    words = ["env", *command[:first], *one_core, *command[first:]]
    started = time.monotonic()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT)
    peak, cpu_s, ended = [0, 0, 0], dict[int, float](), threading.Event()
    watcher = threading.Thread(target=_watch, args=(process.pid, folder, peak, cpu_s, ended))
    watcher.start()
    try:
        _, status, used = os.wait4(process.pid, 0)  # with all its children that ended
    finally:
        wall_s = time.monotonic() - started
        ended.set()
        watcher.join()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        tail = (folder / "log").read_text(errors="replace")[-2000:]
        raise SystemExit(f"{' '.join(words)}\nended with {process.returncode}:\n{tail}")
    # a worker that is killed at the end, and that nobody waits for, is only in what was seen of it
    return Usage(max(used.ru_utime + used.ru_stime, sum(cpu_s.values())), wall_s, *peak)


def _watch(pid: int, folder: Path, peak: list[int], cpu_s: dict[int, float], ended: threading.Event) -> None:
    """Keep the largest sizes seen until the end: of a process, of all, of the folder; and what each process has used so far."""
    top = psutil.Process(pid)
    while not ended.wait(_SAMPLE_S):
        sizes = []
        with suppress(psutil.Error):
            for process in [top, *top.children(recursive=True)]:
                with suppress(psutil.Error):
                    sizes.append(process.memory_info().rss)
                    peak[0] = max(peak[0], _peak_bytes(process.pid))
                    times = process.cpu_times()
                    cpu_s[process.pid] = times.user + times.system
        now = (0, sum(sizes), _size_of(folder))
        peak[:] = [max(pair) for pair in zip(peak, now, strict=True)]


def _peak_bytes(pid: int) -> int:
    """The largest a process has been; what `wait4` tells of it counts the one that started it too, before the program began."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def _size_of(folder: Path) -> int:
    size = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                size += os.lstat(os.path.join(parent, name)).st_size  # noqa: PTH118 (ten times a second)
    return size


def kept_ids(output: Path) -> pa.Array:
    """The ids of the documents that a tool kept, in whichever way it wrote them."""
    found: list[Any] = []
    for path in sorted(output.rglob("*")):
        if {"index", "cache", "aside", "rejects", "tmp", "shards"} & set(path.relative_to(output).parts[:-1]):
            continue
        if path.suffix == ".parquet":
            found += pq.read_table(path, columns=["doc_id"])["doc_id"].chunks
        elif path.suffix == ".arrow":
            with pa.memory_map(str(path)) as source:
                found += pa.ipc.open_stream(source).read_all()["doc_id"].cast(pa.string()).chunks
        elif path.suffix == ".jsonl":
            with path.open(encoding="utf-8") as lines:
                found.append(pa.array([json.loads(line)["id"] for line in lines], pa.string()))
    if not found:
        raise SystemExit(f"{output}: no kept documents found")
    return pa.chunked_array(found).combine_chunks()


def is_kept(rows: Plan, corpus: Corpus, kept: pa.Array) -> Flags:
    """For each row of the plan whether its document was kept."""
    return np.isin(np.array(document_ids(rows, corpus.config.seed)), kept.to_numpy(zero_copy_only=False).astype(str))


def run_tool(name: str, corpus: Corpus, workers: int = 1) -> tuple[Usage, pa.Array]:
    """Run a tool over a corpus: what it used, and what it kept."""
    with tempfile.TemporaryDirectory(prefix="gristmill-bench-") as home:
        output = Path(home) / "run" / "output"
        command = (
            ours_command(corpus.folder, output, workers) if name == OURS else peer_command(PEERS[name], corpus.folder, output)
        )
        return measured(command, output.parent), kept_ids(output)
