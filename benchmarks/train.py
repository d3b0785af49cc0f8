"""Pre-training speed beside a bare loop, Hugging Face's Trainer and nanoGPT's own loop, in one run.

    python -m benchmarks.train TEXT… [--nanogpt FOLDER] [--rounds 3] [--steps 30] [--threads 2] [--profile]

A LLaMA of 10M parameters (320 wide, 7 layers, 5 heads, vocabulary 4,096, tied), samples of 256 tokens, 16 at a step, AdamW, clipping
at 1.0. Every contestant is a process of its own, taking turns; a figure is the median over the steps of all rounds without those that
warm up or compile. `--nanogpt` names a checkout of github.com/karpathy/nanoGPT, whose train.py is run as it is but for one line: on a
CPU it knows no bf16. Its model is a GPT of the same width, depth and vocabulary.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from benchmarks.train_runs import BATCH, CONTEXT, SHAPE, VOCAB
from infra.ids import text_digest
from models import presets, tokeniser
from models.tokeniser import TokeniserConfig
from tasks.learn import tokens
from tasks.learn.peak import matmul_peak

TOKENS = BATCH * CONTEXT
WARM_STEPS = 4
DOCUMENT_CHARS = 2000
CONTESTANTS = {
    "ours, fp32": "ours",
    "ours, bf16": "ours bf16",
    "ours, bf16, inside documents": "ours bf16 documents",
    "ours, bf16, compiled": "ours bf16 compile",
    "bare loop, bf16": "bare bf16",
    "bare loop, bf16, compiled": "bare bf16 compile",
    "HF Trainer, its defaults": "hf_trainer defaults",
    "HF Trainer, bf16": "hf_trainer bf16",
    "HF Trainer, bf16, compiled": "hf_trainer bf16 compile",
}
NANOGPT = {"nanoGPT, bf16": "nanogpt bf16", "nanoGPT, bf16, compiled": "nanogpt bf16 compile"}


@dataclass
class Measured:
    """Steps of one contestant over all rounds."""

    seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    peak_bytes: int = 0

    @property
    def tokens_per_s(self) -> float:
        """At the median step."""
        return TOKENS / statistics.median(self.seconds)


def main() -> None:
    """Measure and print the table."""
    given = _arguments()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _prepare(given.texts, folder)
        contestants = {**CONTESTANTS, **(NANOGPT if given.nanogpt else {})}
        measured = {who: Measured() for who in contestants}
        for number in range(given.rounds):
            for who, words in contestants.items():
                _run(words, folder, given, measured[who])
                print(f"round {number + 1}, {who}: {measured[who].tokens_per_s:,.0f} tokens/s", file=sys.stderr, flush=True)
        _show(measured, given.threads, folder)
        if given.profile:
            _profile(folder, given.threads)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", nargs="+", type=Path, help="files of plain text, some megabytes")
    parser.add_argument("--nanogpt", type=Path, help="a checkout of nanoGPT")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--profile", action="store_true", help="which operations the time goes to")
    return parser.parse_args()


def _prepare(texts: list[Path], folder: Path) -> None:
    whole = "\n".join(path.read_text("utf-8") for path in texts)
    documents = [whole[at : at + DOCUMENT_CHARS] for at in range(0, len(whole), DOCUMENT_CHARS)]
    words = folder / "tokeniser"
    tokeniser.save(tokeniser.train_bpe(documents, TokeniserConfig(vocab_size=VOCAB)), str(words))
    table = pa.table({"doc_id": [text_digest(one) for one in documents], "source": ["text"] * len(documents), "text": documents})
    stream, docs = tokens.encode_shard(table, str(words))
    tokens.write_shard(str(folder / "shards"), 0, stream, docs)
    print(f"{len(stream):,} tokens, vocabulary {tokeniser.roles(str(words)).vocab_size:,}", file=sys.stderr)


def _run(words: str, folder: Path, given: argparse.Namespace, into: Measured) -> None:
    who, *flags = words.split()
    if who == "nanogpt":
        told = _nanogpt(given, folder, compiled="compile" in flags)
    else:
        for left in ("ours", "hf"):
            shutil.rmtree(folder / left, ignore_errors=True)
        command = [sys.executable, "-m", "benchmarks.train_runs", who, str(folder), str(given.steps), str(given.threads), *flags]
        told = json.loads(_said(command, Path.cwd(), folder).splitlines()[-1])
    into.seconds += told["seconds"][WARM_STEPS:]
    into.losses = told["losses"]
    into.peak_bytes = max(into.peak_bytes, told["peak_bytes"])


def _nanogpt(given: argparse.Namespace, folder: Path, *, compiled: bool) -> dict[str, list[float] | int]:
    """Its train.py in a folder of its own; it tells the milliseconds of each step."""
    place = folder / "nanogpt"
    if not place.exists():
        place.mkdir()
        for name in ("train.py", "model.py", "configurator.py"):
            shutil.copy(given.nanogpt / name, place / name)
        script = (place / "train.py").read_text("utf-8")
        on_cpu = "nullcontext() if device_type == 'cpu' else torch.amp.autocast"
        assert on_cpu in script, "nanoGPT's train.py is another than this benchmark knows"
        (place / "train.py").write_text(script.replace(on_cpu, "torch.amp.autocast"), "utf-8")
        data = place / "data" / "text"
        data.mkdir(parents=True)
        stream = np.fromfile(folder / "shards" / "part-00000.bin", "<u2")
        for name in ("train.bin", "val.bin"):
            stream.tofile(data / name)
        (data / "meta.pkl").write_bytes(_vocabulary())
    shape = SHAPE.shape
    options = {
        "device": "cpu",
        "dtype": "bfloat16",
        "compile": compiled,
        "dataset": "text",
        "eval_interval": 10**9,
        "log_interval": 1,
        "gradient_accumulation_steps": 1,
        "batch_size": BATCH,
        "block_size": CONTEXT,
        "n_layer": shape.num_layers,
        "n_head": shape.num_heads,
        "n_embd": shape.hidden_size,
        "learning_rate": 1e-3,
        "decay_lr": False,
        "max_iters": given.steps,
        "eval_iters": 1,
    }
    command = [sys.executable, "train.py", *(f"--{name}={value}" for name, value in options.items())]
    environment = {**os.environ, "OMP_NUM_THREADS": str(given.threads)}  # noqa: TID251
    said = subprocess.run(
        ["/usr/bin/env", "time", "-f", "peak %M", *command] if shutil.which("time") else command,
        cwd=place,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    steps = re.findall(r"iter \d+: loss ([\d.]+), time ([\d.]+)ms", said.stdout)
    peak = re.search(r"peak (\d+)", said.stderr)
    return {
        "seconds": [float(ms) / 1000 for _, ms in steps],
        "losses": [float(loss) for loss, _ in steps],
        "peak_bytes": int(peak[1]) * 1024 if peak else 0,
    }


def _vocabulary() -> bytes:
    """nanoGPT reads the size of the vocabulary from a pickle of its own data preparation."""
    import pickle

    return pickle.dumps({"vocab_size": VOCAB})


def _said(command: list[str], place: Path, folder: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(place), "TORCHINDUCTOR_CACHE_DIR": str(folder / "compiled")}  # noqa: TID251
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr[-3000:]}")
    return done.stdout


def _show(measured: dict[str, Measured], threads: int, folder: Path) -> None:
    peaks = {precision: matmul_peak("cpu", precision, threads, None) for precision in ("bf16", "fp32")}
    flops = presets.flops_per_token(SHAPE, VOCAB)
    print(
        f"\n{presets.num_parameters(SHAPE, VOCAB):,} parameters, {flops / 1e6:.1f} MFLOP a token; measured matmul peak "
        f"{peaks['bf16'] / 1e12:.2f} TFLOP/s bf16, {peaks['fp32'] / 1e12:.2f} fp32, {threads} threads\n"
    )
    print("| | tokens/s, median | best | MFU | peak memory | loss at the end |\n| --- | ---: | ---: | ---: | ---: | ---: |")
    for who, one in measured.items():
        peak = peaks["bf16" if "bf16" in who else "fp32"]
        loss = f"{one.losses[-1]:.3f}" if one.losses else ""
        memory = f"{one.peak_bytes / 1e6:,.0f} MB" if one.peak_bytes else ""
        print(
            f"| {who} | {one.tokens_per_s:,.0f} | {TOKENS / min(one.seconds):,.0f} | {one.tokens_per_s * flops / peak:.0%} "
            f"| {memory} | {loss} |"
        )
    print()
    for mode in ("bf16", "bf16, compiled"):
        mine = measured[f"ours, {mode}"].tokens_per_s
        for who in (f"bare loop, {mode}", f"HF Trainer, {mode}", f"nanoGPT, {mode}", "HF Trainer, its defaults"):
            if who in measured:
                print(f"ours, {mode}: {mine / measured[who].tokens_per_s:.2f} times {who}")


def _profile(folder: Path, threads: int) -> None:
    """Where the time of our eager bf16 steps goes, by operation."""
    from benchmarks.train_runs import ours

    torch.set_num_threads(threads)
    shutil.rmtree(folder / "ours", ignore_errors=True)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        ours(folder, 8, True, False, lambda loss: None)
    print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=18, max_name_column_width=50))


if __name__ == "__main__":
    main()
