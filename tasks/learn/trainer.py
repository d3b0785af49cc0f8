"""Pre-training of a causal language model: one compact loop over transformers' model classes.

Promises: the same data, config, threads and machine give the same bits, also when training is killed at any moment and started
again on the same folder. A checkpoint is saved before the evaluation of its step, so a failing evaluation costs no training.
A loss that is not finite stops before it reaches the weights. Costs: float32 weights, gradients and two moments (16 bytes a
parameter), the logits of one forward pass, and the two kept checkpoints on disk (12 bytes a parameter each).
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from infra.errors import InputError
from models import presets, tokeniser
from tasks.learn import checkpoint, device
from tasks.learn.batches import Batches, TokenWindows
from tasks.learn.config import TrainConfig

logger = logging.getLogger(__name__)

# What may change between a checkpoint and its resume; all else would make the run another one
FREE_ON_RESUME = frozenset({"device", "num_threads"})
MAX_NAMED_DOCUMENTS = 8


class TrainingError(InputError):
    """Training that cannot start or go on as configured."""


class LossNotFinite(TrainingError):
    """The loss or the gradient became NaN or infinite; the weights of the step before are untouched."""


@dataclass(frozen=True)
class TrainResult:
    """What a finished training gave. Losses are mean nats per token."""

    steps: int
    train_loss: float
    """Mean since the last but one line of history."""
    valid_loss: float
    tokens: int
    """Tokens learned from, repeats included."""
    seconds: float
    """Time in training steps, summed over all resumes; evaluation and checkpoints are left out."""
    tokens_per_s: float
    device: str
    device_reason: str
    precision: str
    history: list[dict[str, float | None]]
    """Lines of step, tokens, train_loss, valid_loss (None between evaluations), lr, tokens_per_s, seconds."""
    model_folder: Path
    """The trained model as a Hugging Face folder."""


@dataclass
class _State:
    """What a checkpoint keeps beside tensors. The data's state is `step` alone."""

    step: int = 0
    seconds: float = 0.0
    # since the last line of history
    loss_sum: float = 0.0
    loss_steps: int = 0
    interval_seconds: float = 0.0
    history: list[dict[str, float | None]] = field(default_factory=list)


def train(
    train_windows: TokenWindows,
    valid_windows: TokenWindows,
    config: TrainConfig,
    folder: Path,
    *,
    tokeniser_folder: str,
    on_log: Callable[[dict[str, float | None]], None],
) -> TrainResult:
    """Train up to `config.max_steps`, or go on from the newest checkpoint in `folder`.

    `on_log` gets each new line of history; after a resume the lines since the checkpoint come again, with the same values.

    Raises:
        TrainingError: the windows or the checkpoint do not fit the config.
        LossNotFinite: training diverged; names the step and its documents.
        NoDevice: CUDA was asked for and does not work.
    """
    run = _Run(train_windows, valid_windows, config, folder, tokeniser_folder)
    if run.state.step:
        # the checkpoint was saved before the evaluation and the log line of its step
        run.observe(on_log)
    while run.state.step < config.max_steps:
        run.learn()
        if run.due(config.checkpoint_every_steps):
            run.save()
        run.observe(on_log)
    return run.result()


def learning_rate(config: TrainConfig, step: int) -> float:
    """Learning rate of `step` (from 1): linear up to `warmup_steps`, then a cosine down to min_lr_ratio at the last step."""
    if step <= config.warmup_steps:
        return config.learning_rate * step / config.warmup_steps
    progress = (step - config.warmup_steps) / (config.max_steps - config.warmup_steps)
    cosine = (1 + math.cos(math.pi * progress)) / 2
    return config.learning_rate * (config.min_lr_ratio + (1 - config.min_lr_ratio) * cosine)


class _Run:
    """One training: the model, its optimiser, its data and how far it is."""

    def __init__(
        self, train_windows: TokenWindows, valid_windows: TokenWindows, config: TrainConfig, folder: Path, tokeniser_folder: str
    ) -> None:
        _check_lengths(train_windows, valid_windows, config)
        self.config = config
        self.folder = folder
        self.tokeniser_folder = tokeniser_folder
        self.batches = Batches(train_windows, config.samples_per_step, config.seed)
        self.valid = Batches(valid_windows, config.batch_size, config.seed)
        self.device, self.device_reason = device.resolve(config.device)
        self.precision, _ = device.resolve_precision(config.precision, self.device)
        self.machine = {"device": self.device, "precision": self.precision, "threads": device.use_threads(config.num_threads)}
        words = tokeniser.roles(tokeniser_folder)
        self.model = presets.build(config.model, words, config.seed, tokeniser_folder=tokeniser_folder)
        self.model.to(self.device)
        self.model.train()
        self.optimizer = _optimizer(self.model, config)
        self.identity = _identity(config, train_windows, valid_windows)
        self.state = self._restored() or _State()
        # compiled last: the plain module is what is saved and restored
        self.forward = torch.compile(self.model) if config.compile else self.model

    def due(self, every_steps: int) -> bool:
        """Whether something that comes every so many steps, and at the last one, comes now."""
        return self.state.step % every_steps == 0 or self.state.step == self.config.max_steps

    def learn(self) -> None:
        """One optimiser step."""
        started = time.perf_counter()
        step = self.state.step + 1
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, step)
        loss = 0.0
        for tokens in np.split(self.batches.batch(step), self.config.gradient_accumulation):
            part = self._loss(tokens) / self.config.gradient_accumulation
            torch.autograd.backward(part)
            loss += part.item()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip).item()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise LossNotFinite(self._not_finite(step, loss, norm))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        elapsed = time.perf_counter() - started
        self.state.step = step
        self.state.seconds += elapsed
        self.state.interval_seconds += elapsed
        self.state.loss_sum += loss
        self.state.loss_steps += 1

    def save(self) -> None:
        """Write a checkpoint of the step just made."""
        checkpoint.save(
            self.folder,
            self.state.step,
            model=self.model,
            tokeniser_folder=self.tokeniser_folder,
            optimizer=self.optimizer,
            state={"identity": self.identity, "machine": self.machine, "training": asdict(self.state)},
        )

    def observe(self, on_log: Callable[[dict[str, float | None]], None]) -> None:
        """Evaluate and write a line of history where they are due."""
        evaluate = self.due(self.config.eval_every_steps)
        if not (evaluate or self.state.step == 1 or self.due(self.config.log_every_steps)):
            return
        state, config = self.state, self.config
        line: dict[str, float | None] = {
            "step": state.step,
            "tokens": state.step * config.tokens_per_step,
            "train_loss": state.loss_sum / state.loss_steps,
            "valid_loss": self._valid_loss() if evaluate else None,
            "lr": learning_rate(config, state.step),
            "tokens_per_s": state.loss_steps * config.tokens_per_step / state.interval_seconds,
            "seconds": state.seconds,
        }
        state.history.append(line)
        state.loss_sum, state.loss_steps, state.interval_seconds = 0.0, 0, 0.0
        on_log(line)

    def result(self) -> TrainResult:
        """The result once the last step is observed."""
        last, done = self.state.history[-1], checkpoint.latest(self.folder)
        assert done is not None and last["train_loss"] is not None and last["valid_loss"] is not None
        tokens = self.state.step * self.config.tokens_per_step
        return TrainResult(
            steps=self.state.step,
            train_loss=last["train_loss"],
            valid_loss=last["valid_loss"],
            tokens=tokens,
            seconds=self.state.seconds,
            tokens_per_s=tokens / self.state.seconds,
            device=self.device,
            device_reason=self.device_reason,
            precision=self.precision,
            history=self.state.history,
            model_folder=done / "model",
        )

    def _loss(self, tokens: npt.NDArray[np.int64]) -> torch.Tensor:
        """Mean nats per token of windows (B, C + 1)."""
        if tokens.max() >= self.model.config.vocab_size:
            raise TrainingError(
                f"token {tokens.max()} is beyond the tokeniser's {self.model.config.vocab_size}: the shards are another's"
            )
        batch = torch.from_numpy(tokens).to(self.device, non_blocking=True)
        with device.autocast(self.device, self.precision):
            logits = self.forward(input_ids=batch[:, :-1], use_cache=False).logits
            return functional.cross_entropy(logits.flatten(0, 1).float(), batch[:, 1:].flatten())

    @torch.no_grad()
    def _valid_loss(self) -> float:
        self.model.eval()
        size, num_windows = self.config.batch_size, len(self.valid.windows)
        chosen = self.valid.samples(0, min(self.config.eval_batches * size, num_windows)).tolist()
        nats = 0.0
        for start in range(0, len(chosen), size):
            tokens = np.stack([self.valid.windows[window] for window in chosen[start : start + size]])
            nats += self._loss(tokens).item() * len(tokens)
        self.model.train()
        return nats / len(chosen)

    def _restored(self) -> _State | None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = checkpoint.latest(self.folder)
        if path is None:
            torch.manual_seed(self.config.seed)
            return None
        saved = checkpoint.read_state(path)
        if changed := [name for name, value in self.identity.items() if saved["identity"].get(name) != value]:
            raise TrainingError(
                f"{path}: made with another {', '.join(changed)}; give the old values back, or train in another folder"
            )
        if saved["machine"] != self.machine:
            logger.warning("resumed with %s after %s: correct, but not bit-equal", self.machine, saved["machine"])
        checkpoint.restore(path, self.model, self.optimizer)
        state = _State(**saved["training"])
        logger.info("resumed from %s at step %d of %d", path, state.step, self.config.max_steps)
        return state

    def _not_finite(self, step: int, loss: float, norm: float) -> str:
        documents = self.batches.documents_of(step)
        more = len(documents) - MAX_NAMED_DOCUMENTS
        named = ", ".join(documents[:MAX_NAMED_DOCUMENTS]) + (f" and {more} more" if more > 0 else "")
        return (
            f"step {step}: the loss is {loss}, the gradient's norm {norm}; the step read the documents {named}; "
            "lower learning_rate, lengthen warmup_steps, or set precision to fp32"
        )


def _check_lengths(train_windows: TokenWindows, valid_windows: TokenWindows, config: TrainConfig) -> None:
    context = presets.context_length(config.model)
    for name, windows in (("training", train_windows), ("validation", valid_windows)):
        if windows.context_length != context:
            raise TrainingError(f"{name} windows hold {windows.context_length} tokens, the model's context_length is {context}")
        if not len(windows):
            raise TrainingError(
                f"{name}: {windows.num_tokens} tokens do not fill one window of {context} + 1; "
                "lower model.context_length, or give more text"
            )


def _identity(config: TrainConfig, train_windows: TokenWindows, valid_windows: TokenWindows) -> dict[str, Any]:
    """What a resume must find unchanged: the settings as JSON has them, and the amount of data."""
    kept = config.model_dump(mode="json", exclude=set(FREE_ON_RESUME))
    return {**kept, "training tokens": train_windows.num_tokens, "validation tokens": valid_windows.num_tokens}


def _optimizer(model: torch.nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=True)
