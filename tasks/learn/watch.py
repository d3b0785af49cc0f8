"""Hears one of transformers' Trainers: steps and lines of history, which checkpoints are whole, and whether a step may be made.

Trainer's own checkpoints are not atomic, so one counts only with the mark that is written once all of its files are synced, and whose sizes
they have. A gradient that is not finite stops training before it reaches the weights.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from infra.errors import InputError
from tasks.learn import device

Line = dict[str, float | None]
OnLog = Callable[[Line], None]
OnStep = Callable[[int, int], None]

PREFIX, MARK = "checkpoint-", "whole.json"
RENAMED = {"loss": "train_loss", "learning_rate": "lr"}
LEFT_OUT = ("num_tokens", "total_flos", "num_input_tokens_seen")
"""What TRL counts anew after a resume."""


class LossNotFinite(InputError):
    """The gradient became NaN or infinite; the weights of the step before are untouched."""


class Finished(Exception):
    """The checkpoint is that of the last step: transformers 5.23 would make one more where that lies within an epoch."""


class Watch(TrainerCallback):  # type: ignore[misc]
    """Tells steps and lines, marks checkpoints that are whole, and stops where the gradient is not finite or all steps are made."""

    def __init__(self, folder: Path, identity: dict[str, Any], on_log: OnLog, on_step: OnStep) -> None:
        self.folder, self.identity, self.tell_log, self.tell_step = folder, identity, on_log, on_step
        self.seconds = 0.0
        """In training, summed over all tries."""
        self.clock: dict[int, dict[str, float]] = {}
        """Step → what the clock said at its line."""
        self.trained_parameters = 0
        self._since = time.perf_counter()

    def newest(self) -> Path | None:
        """The newest whole checkpoint; what a kill left half-written is removed.

        Raises:
            InputError: it is of other data or settings.
        """
        found = sorted(self.folder.glob(f"{PREFIX}*"), key=lambda path: int(path.name.removeprefix(PREFIX)))
        for path in reversed(found):
            mark = _read_mark(path)
            if mark is None:
                shutil.rmtree(path)
                continue
            if other := sorted(key for key in self.identity if mark["identity"].get(key) != self.identity[key]):
                raise InputError(f"{path}: was made with another {', '.join(other)}; remove {self.folder} to begin anew")
            self.seconds = mark["seconds"]
            self.clock = {int(step): one for step, one in mark["clock"].items()}
            return path
        return None

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **rest: Any) -> None:
        """Count what is trained.

        Raises:
            Finished: the weights that were loaded are the last ones.
        """
        self._since = time.perf_counter()
        self.trained_parameters = sum(one.numel() for one in model.parameters() if one.requires_grad)
        if state.global_step >= state.max_steps:
            raise Finished

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **rest: Any) -> None:
        """Look at the gradient, while the weights are still those of the step before."""
        norm = torch.nn.utils.get_total_norm([one.grad for one in model.parameters() if one.grad is not None])
        if not torch.isfinite(norm):
            raise LossNotFinite(
                f"the gradient of step {state.global_step + 1} is not finite ({norm.item()}); lower learning_rate, or raise warmup_share"
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """Tell the step."""
        self.tell_step(state.global_step, state.max_steps)

    def on_log(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """Tell the line."""
        if line := line_of(state.log_history[-1]):
            self._read_clock()
            self.clock[state.global_step] = {
                "seconds": round(self.seconds, 3),
                "peak_bytes": device.peak_memory_bytes("cpu" if args.use_cpu else "cuda"),
            }
            self.tell_log({**line, **self.clock[state.global_step]})

    def on_save(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """Mark the checkpoint as whole, once its files are on the disk."""
        self._read_clock()
        path = self.folder / f"{PREFIX}{state.global_step}"
        sizes = {file.relative_to(path).as_posix(): file.stat().st_size for file in path.rglob("*") if file.is_file()}
        for name in sizes:
            _sync(path / name)
        mark = {"identity": self.identity, "seconds": self.seconds, "clock": self.clock, "sizes": sizes}
        part = path / f"{MARK}.part"
        part.write_text(json.dumps(mark), "utf-8")
        _sync(part)
        part.rename(path / MARK)
        _sync(path)
        self._since = time.perf_counter()  # checkpoints are not training

    def _read_clock(self) -> None:
        now = time.perf_counter()
        self.seconds += now - self._since
        self._since = now


def _read_mark(path: Path) -> dict[str, Any] | None:
    """What was noted of a whole checkpoint; None: it is not whole."""
    try:
        mark: dict[str, Any] = json.loads((path / MARK).read_text("utf-8"))
        whole = all((path / name).stat().st_size == size for name, size in mark["sizes"].items())
    except (OSError, ValueError, KeyError):
        return None
    return mark if whole else None


def line_of(logged: dict[str, Any]) -> Line | None:
    """A line of history from what Trainer logs; None: it is none, as the summary at the end."""
    if "train_runtime" in logged or "learning_rate" not in logged:
        return None
    first = {"step": logged["step"]}
    return first | {RENAMED.get(name, name): value for name, value in logged.items() if name not in (*LEFT_OUT, *first)}


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
