"""One training of a 10M-parameter LLaMA as a process of its own: `python -m benchmarks.train_runs WHO FOLDER STEPS [bf16] [compile] …`.

Prints one JSON line: seconds of every step, loss of every step, most resident memory. Every contestant sees the same tokens, 16 x 256 at a
step, AdamW with clipping at 1.0, on the threads that it is given.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models import presets, tokeniser
from models.presets import ModelConfig
from tasks.learn.config import TrainConfig
from tasks.learn.data_config import DataConfig

VOCAB, CONTEXT, BATCH = 4096, 256, 16
SHAPE = ModelConfig(
    preset="micro",
    hidden_size=320,
    num_layers=7,
    num_heads=5,
    num_kv_heads=5,
    intermediate_size=864,
    context_length=CONTEXT,
)
RATE, BETAS, DECAY = 1e-3, (0.9, 0.95), 0.1
Step = Callable[[float | None], None]


def ours(folder: Path, steps: int, bf16: bool, compiled: bool, told: Step, **more: Any) -> None:
    """The trainer as the step runs it; losses come with its lines."""
    from tasks.learn import tokens, trainer

    shards = list(tokens.read_shards(str(folder / "shards")))
    config = TrainConfig(
        model=SHAPE,
        data=DataConfig(packing=more.get("packing", "stream")),
        max_steps=steps,
        batch_size=BATCH,
        learning_rate=RATE,
        schedule="constant",
        warmup_steps=0,
        betas=BETAS,
        weight_decay=DECAY,
        precision="bf16" if bf16 else "fp32",
        compile=compiled,
        num_threads=torch.get_num_threads(),
        device="cpu",
        log_every_steps=1,
        eval_every_steps=10**9,
        checkpoint_every_steps=10**9,
        eval_batches=1,
    )
    work = folder / "ours"
    losses: list[float] = []
    trainer.train(
        shards,
        shards,
        config,
        work,
        tokeniser_folder=str(folder / "tokeniser"),
        on_log=lambda line: losses.append(line["train_loss"] or 0.0),
        on_step=lambda step: told(None),
        cache=folder,
    )
    told.losses = losses  # type: ignore[attr-defined]


def bare(folder: Path, steps: int, bf16: bool, compiled: bool, told: Step) -> None:
    """The least loop that learns: the model's own loss, fused AdamW."""
    model = _model(folder)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=BETAS, weight_decay=DECAY, fused=True)
    forward = torch.compile(model) if compiled else model
    data = _data(folder)
    for step in range(steps):
        batch = torch.from_numpy(data[step % len(data)])
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = forward(input_ids=batch[:, :-1], use_cache=False).logits
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), batch[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        told(loss.item())


def hf_trainer(folder: Path, steps: int, bf16: bool, compiled: bool, told: Step, defaults: bool = False) -> None:
    """Hugging Face's Trainer at the same settings, or at its own defaults but for the batch and the amount."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Told(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            told(None)

    class Rows(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
        def __init__(self) -> None:
            self.rows = torch.from_numpy(_data(folder)).flatten(0, 1)

        def __len__(self) -> int:
            return len(self.rows)

        def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
            ids = self.rows[row, :CONTEXT]
            return {"input_ids": ids, "labels": ids}

    same: dict[str, Any] = {
        "learning_rate": RATE,
        "adam_beta2": BETAS[1],
        "weight_decay": DECAY,
        "lr_scheduler_type": "constant",
        "bf16": bf16,
        "torch_compile": compiled,
        "logging_strategy": "no",
    }
    arguments = TrainingArguments(
        output_dir=str(folder / "hf"),
        max_steps=steps,
        per_device_train_batch_size=BATCH,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        **({} if defaults else same),
    )
    Trainer(_model(folder), arguments, train_dataset=Rows(), callbacks=[Told()]).train()


def _model(folder: Path) -> Any:
    return presets.build(SHAPE, tokeniser.roles(str(folder / "tokeniser")), seed=1)


def _data(folder: Path) -> np.ndarray[Any, Any]:
    """(N, B, C + 1) int64"""
    stream = np.fromfile(folder / "shards" / "part-00000.bin", "<u2").astype(np.int64)
    count = (len(stream) - 1) // (BATCH * CONTEXT)
    rows = np.lib.stride_tricks.sliding_window_view(stream, CONTEXT + 1)[::CONTEXT][: count * BATCH]
    return np.ascontiguousarray(rows).reshape(count, BATCH, CONTEXT + 1)


def main() -> None:
    """Run what the command line names."""
    who, folder, steps, threads, *flags = sys.argv[1:]
    torch.set_num_threads(int(threads))
    seconds: list[float] = []
    losses: list[float] = []
    last = time.perf_counter()

    def told(loss: float | None) -> None:
        nonlocal last
        now = time.perf_counter()
        seconds.append(now - last)
        last = now
        if loss is not None:
            losses.append(loss)

    how: dict[str, Any] = {"bf16": "bf16" in flags, "compiled": "compile" in flags}
    if who == "hf_trainer":
        how["defaults"] = "defaults" in flags
    if who == "ours" and "documents" in flags:
        how["packing"] = "documents"
    {"ours": ours, "bare": bare, "hf_trainer": hf_trainer}[who](Path(folder), int(steps), told=told, **how)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds, "losses": getattr(told, "losses", losses), "peak_bytes": peak}))


if __name__ == "__main__":
    main()
