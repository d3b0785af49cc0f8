"""Pre-training of a causal or masked language model: one compact loop over transformers' model classes.

Promises: the same data, config, threads, ranks and machine give the same bits, also when training is killed at any moment and started
again on the same folder; with other ranks or threads the same within rounding, but for the pattern of dropout, which is each rank's own.
The state of the data, of masks and of dropout is the number of the step. A checkpoint is saved before the evaluation of its step, so a
failing evaluation costs no training. A loss that is not finite stops before it reaches the weights. Costs: float32 weights, gradients and
two moments (16 bytes a parameter; 4 more for an average), the activations of one forward pass, a few megabytes of logits, and two
checkpoints on disk (12 bytes a parameter each).
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from infra.dataset import guards
from infra.errors import InputError
from infra.versions import code_version
from models import presets, tokeniser
from tasks.learn import checkpoint, device, distillation, optim, parallel, short_attention
from tasks.learn.attention import attention_mask
from tasks.learn.compress_config import Teacher
from tasks.learn.config import TrainConfig
from tasks.learn.loss import Objective
from tasks.learn.order import mixed
from tasks.learn.parallel import Ranks
from tasks.learn.peak import matmul_peak
from tasks.learn.sampler import IGNORED, ORDER, Batch, fixed, of_training
from tasks.learn.spikes import Spikes
from tasks.learn.tokens import TokenShard

logger = logging.getLogger(__name__)

Line = dict[str, float | None]
"""A line of history: step, tokens, losses, rates; None where something was not measured at that step."""

# What may change between a checkpoint and its resume: with other values training goes on right, but not bit for bit
MACHINE = frozenset({*guards(TrainConfig), "precision"} - {"costs"})
MAX_NAMED_DOCUMENTS = 8
CULPRIT = "culprit.json"
"""What a step read whose loss was not finite."""


class TrainingError(InputError):
    """Training that cannot start or go on as configured."""


class LossNotFinite(TrainingError):
    """The loss or the gradient became NaN or infinite; the weights of the step before are untouched."""


@dataclass(frozen=True)
class TrainResult:
    """What a finished training gave. Losses are mean nats per target."""

    steps: int
    train_loss: float
    """Mean since the last but one line of history."""
    valid_loss: float
    """Of the model that is kept."""
    kept_step: int
    """The step whose weights are kept."""
    stopped_early: bool
    skipped: list[dict[str, Any]]
    """Steps that changed nothing, because they were outliers: step, loss, norm, documents."""
    tokens: int
    """Tokens read, repeats included."""
    seconds: float
    """Time in training steps, summed over all resumes; evaluation and checkpoints are left out."""
    tokens_per_s: float
    num_parameters: int
    flops_per_token: int
    """As `presets.flops_per_token`."""
    mfu: float
    """Part of the measured matmul peak of all ranks together that the model's computed operations are."""
    peak_bytes: int
    """Most memory of this process: of the GPU, or resident."""
    device: str
    device_reason: str
    precision: str
    history: list[Line]
    model_folder: Path
    """The trained model as a Hugging Face folder."""
    other_folder: Path | None
    """The last weights where the best are kept, the best ones where the last are; None: they are the same."""
    data: Mapping[str, Any]
    """What the samples are made of, `Sampler.facts`, and their order by its fingerprint."""
    machines: list[dict[str, Any]]
    """By what means it was computed: one entry, and one more for each time that a resume changed them; `after_step`: since when."""


@dataclass
class _Sums:
    """What has happened since the last line of history."""

    nats: float = 0.0
    targets: int = 0
    hits: int = 0
    steps: int = 0
    seconds: float = 0.0
    norm: float = 0.0
    by_source: dict[str, list[float]] = field(default_factory=dict)
    """Source → nats, targets."""


@dataclass
class _State:
    """What a checkpoint keeps beside tensors. The data's state is `step` alone."""

    step: int = 0
    seconds: float = 0.0
    sums: _Sums = field(default_factory=_Sums)
    history: list[Line] = field(default_factory=list)
    skipped: list[dict[str, Any]] = field(default_factory=list)
    spikes: Spikes = field(default_factory=Spikes)
    best_loss: float | None = None
    best_step: int = 0
    looks_without_better: int = 0
    stopped: bool = False
    machines: list[dict[str, Any]] = field(default_factory=list)
    """As `TrainResult.machines`."""

    @classmethod
    def of(cls, saved: dict[str, Any]) -> _State:
        """As `asdict` wrote it."""
        return cls(**{**saved, "sums": _Sums(**saved["sums"]), "spikes": Spikes(**saved["spikes"])})


def train(
    train_shards: Sequence[TokenShard],
    valid_shards: Sequence[TokenShard],
    config: TrainConfig,
    folder: Path,
    *,
    tokeniser_folder: str,
    on_log: Callable[[Line], None],
    on_step: Callable[[int], None] = lambda step: None,
    provenance: Mapping[str, str] | None = None,
    ranks: Ranks | None = None,
    cache: Path | None = None,
    teacher: Teacher | None = None,
) -> TrainResult:
    """Train up to `config.max_steps`, or go on from the newest checkpoint in `folder`.

    Args:
        on_log: gets each new line of history; after a resume the lines since the checkpoint come again, with the same values.
        on_step: gets the number of each step made.
        provenance: data and code that the model comes from: kept in checkpoints; a resume must have the same.
        ranks: which of several processes this is; only the first writes.
        cache: folder where this machine's measured peak is kept.
        teacher: what the model learns from beside the data.

    Raises:
        TrainingError: the shards or the checkpoint do not fit the config.
        LossNotFinite: training diverged; names the step and its documents.
        NoDevice: CUDA was asked for and does not work.
    """
    run = _Run(
        train_shards, valid_shards, config, folder, tokeniser_folder, dict(provenance or {}), ranks or Ranks(), cache, teacher
    )
    if run.state.step:
        # the checkpoint was saved before the evaluation and the log line of its step
        run.observe(on_log)
    while not run.finished:
        run.learn()
        on_step(run.state.step)
        # the look that ends a training early must find its last step saved
        if run.due(config.checkpoint_every_steps) or (config.early_stopping and run.due(config.eval_every_steps)):
            run.save()
        run.observe(on_log)
    return run.result()


class _Run:
    """One training: the model, its optimiser, its data and how far it is."""

    def __init__(
        self,
        train_shards: Sequence[TokenShard],
        valid_shards: Sequence[TokenShard],
        config: TrainConfig,
        folder: Path,
        tokeniser_folder: str,
        provenance: dict[str, str],
        ranks: Ranks,
        cache: Path | None,
        teacher: Teacher | None,
    ) -> None:
        self.config, self.folder, self.tokeniser_folder, self.ranks = config, folder, tokeniser_folder, ranks
        self.words = tokeniser.roles(tokeniser_folder)
        self.context = presets.context_length(config.model)
        self.masked = presets.masked(config.model)
        self._check_tokens([*train_shards, *valid_shards])
        data: dict[str, Any] = {"roles": self.words, "masked": self.masked, "seed": config.seed}
        self.samples = of_training(train_shards, config, roles=self.words, context_length=self.context, masked=self.masked)
        self.valid = fixed(valid_shards, self.context, config.data, **data)
        self.device, self.device_reason = device.resolve(config.device)
        self.precision, _ = device.resolve_precision(config.precision, self.device)
        threads = device.use_threads(config.num_threads, ranks.number)
        self.machine = {name: value for name, value in config.model_dump(mode="json").items() if name in MACHINE}
        self.machine |= {"device": self.device, "precision": self.precision, "num_threads": threads}
        self.model = presets.build(config.model, self.words, config.seed, tokeniser_folder=tokeniser_folder)
        if config.activation_checkpointing:
            self.model.activation_checkpointing_enable({"use_reentrant": False})
        self.model.train()
        self.short = short_attention.use(self.model, self.context, self.device, self.precision)
        objective = self._objective(teacher)
        if config.compile:
            for block in parallel.blocks(self.model):
                block.compile()
        self.forward = parallel.wrapped(objective, ranks, config.parallel, self.device, self.precision)
        self.parameters = [one for one in self.model.parameters() if one.requires_grad]
        self.optimizer = optim.optimizer(self.model, config)
        self.average = optim.Average(self.parameters, config.ema_decay) if config.ema_decay else None
        # of a checkpoint the whole model is built to be counted
        self.flops_per_token = presets.flops_per_token(config.model, self.words.vocab_size)
        self.peak_flops = self._peak(threads, cache)
        self.identity = self._identity(provenance) | ({"lesson": teacher.lesson.model_dump()} if teacher else {})
        self.state = self._restored() or _State()
        self._note_machine()

    def _objective(self, teacher: Teacher | None) -> Objective:
        how: dict[str, Any] = {"masked": self.masked, "chunk": self.config.loss_chunk}
        if teacher is None:
            return Objective(self.model, smoothing=self.config.label_smoothing, **how)
        known = distillation.teacher_of(teacher.folder, self.model.config.vocab_size, self.context, self.device)
        if self.short:
            short_attention.use(known, self.context, self.device, self.precision)
        return distillation.Taught(self.model, known, teacher.lesson, **how)

    @property
    def finished(self) -> bool:
        """Whether no step is to be made any more."""
        return self.state.stopped or self.state.step >= self.config.max_steps

    def due(self, every_steps: int) -> bool:
        """Whether something that comes every so many steps, and at the last one, comes now."""
        return self.state.step % every_steps == 0 or self.finished

    def learn(self) -> None:
        """One optimiser step."""
        started = time.perf_counter()
        config, step = self.config, self.state.step + 1
        for group in self.optimizer.param_groups:
            group["lr"] = optim.learning_rate(config, step)
        first = (step - 1) * config.samples_per_step
        batch = self.samples.batch(first, config.samples_per_step)
        num_targets = max(1, int(np.count_nonzero(batch.labels != IGNORED)))
        measured = _Measured(config.samples_per_step)
        for part in range(config.gradient_accumulation):
            self._seed(step, part)
            rows = self._my_rows(part)
            with parallel.gathering(self.forward, last=part == config.gradient_accumulation - 1):
                loss, nats, likeliest = self._forward(batch, rows, self.ranks.number / num_targets)
                torch.autograd.backward(loss)
            measured.add(rows, batch.labels[rows], nats, likeliest)
        measured.gather(self.ranks, self.device)
        loss_now = measured.nats.sum() / num_targets
        if config.l1 or config.l2:
            optim.penalise(self.parameters, config.l1, config.l2)
        norm = optim.clip(self.parameters, config.grad_clip)
        if not (math.isfinite(loss_now) and math.isfinite(norm)):
            raise LossNotFinite(self._not_finite(step, loss_now, norm, measured))
        if config.skip_spikes and self.state.spikes.is_one(loss_now, norm, config.skip_spikes):
            self._skip(step, loss_now, norm)
        else:
            self.optimizer.step()
            if self.average:
                self.average.update(step)
        self.optimizer.zero_grad(set_to_none=True)
        self._count(step, batch, measured, norm, time.perf_counter() - started)

    def save(self) -> None:
        """Write a checkpoint of the step just made."""
        keep = self.ranks.first
        weights = parallel.whole_state(self.model, keep=keep)
        moments = parallel.optimizer_state(self.optimizer, self.model, keep=keep)
        average = {name: parallel.whole(kept, keep=keep) for name, kept in self._averages()} or None
        if self.ranks.first:
            checkpoint.save(
                self.folder,
                self.state.step,
                model=self.model,
                weights=weights,
                tokeniser_folder=self.tokeniser_folder,
                moments=moments,
                average=average,
                state={"identity": self.identity, "code_version": code_version(), "training": asdict(self.state)},
            )

    def observe(self, on_log: Callable[[Line], None]) -> None:
        """Evaluate and write a line of history where they are due."""
        evaluate = self.due(self.config.eval_every_steps)
        if not (evaluate or self.state.step == 1 or self.due(self.config.log_every_steps)):
            return
        state, sums = self.state, self.state.sums
        tokens_per_step = self.config.samples_per_step * self.context
        rate = sums.steps * tokens_per_step / sums.seconds
        line: Line = {
            "step": state.step,
            "tokens": state.step * tokens_per_step,
            "train_loss": sums.nats / sums.targets,
            "train_accuracy": sums.hits / sums.targets,
            **{f"train_loss.{name}": nats / targets for name, (nats, targets) in sorted(sums.by_source.items())},
            "valid_loss": None,
            "lr": optim.learning_rate(self.config, state.step),
            "grad_norm": sums.norm / sums.steps,
            "skipped": len(state.skipped),
            "tokens_per_s": rate,
            "mfu": self._mfu(rate),
            "seconds": state.seconds,
            "peak_bytes": device.peak_memory_bytes(self.device),
        }
        state.history.append(line)
        state.sums = _Sums()
        if evaluate:
            with self._averaged():
                line |= self._validated()
                self._compare(line["valid_loss"])
        on_log(line)

    def result(self) -> TrainResult:
        """The result once the last step is observed."""
        state, last = self.state, self.state.history[-1]
        folders = {"best": checkpoint.best(self.folder, state.best_step) / "model", "last": self._last_model()}
        kept_step = state.best_step if self.config.keep == "best" else state.step
        kept = next(line for line in reversed(state.history) if line["step"] == kept_step)
        assert last["train_loss"] is not None and kept["valid_loss"] is not None
        tokens = state.step * self.config.samples_per_step * self.context
        other = folders["last" if self.config.keep == "best" else "best"]
        return TrainResult(
            steps=state.step,
            train_loss=last["train_loss"],
            valid_loss=kept["valid_loss"],
            kept_step=kept_step,
            stopped_early=state.stopped,
            skipped=state.skipped,
            tokens=tokens,
            seconds=state.seconds,
            tokens_per_s=tokens / state.seconds,
            num_parameters=sum(one.numel() for one in self.model.parameters()),
            flops_per_token=self.flops_per_token,
            mfu=self._mfu(tokens / state.seconds),
            peak_bytes=device.peak_memory_bytes(self.device),
            device=self.device,
            device_reason=self.device_reason,
            precision=self.precision,
            history=state.history,
            model_folder=folders[self.config.keep],
            other_folder=other if state.best_step != state.step else None,
            data={**self.samples.facts_of(state.step * self.config.samples_per_step), ORDER: self.samples.fingerprint()},
            machines=state.machines,
        )

    def _forward(self, batch: Batch, rows: slice, scale: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Run rows of a batch: a loss to go backward from, and nats and likeliest token of each target."""
        inputs, labels, documents, positions = (
            None if one is None else torch.from_numpy(one[rows]).to(self.device, non_blocking=True)
            for one in (batch.inputs, batch.labels, batch.documents, batch.positions)
        )
        mask = None if documents is None else attention_mask(documents, causal=not self.masked)
        if mask is not None and self.short:
            mask = short_attention.additive(mask)
        with device.autocast(self.device, self.precision):
            made: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = self.forward(inputs, labels, mask, positions, scale)
        return made

    def _my_rows(self, part: int) -> slice:
        """The samples of a step that this rank reads in a forward pass."""
        size = self.config.batch_size // self.ranks.number
        first = part * self.config.batch_size + self.ranks.mine * size
        return slice(first, first + size)

    def _seed(self, step: int, part: int) -> None:
        """Dropout follows from the step, so there is no random state to keep."""
        torch.manual_seed(mixed(mixed(mixed(mixed(self.config.seed) ^ step) ^ part) ^ self.ranks.mine) >> 1)

    def _count(self, step: int, batch: Batch, measured: _Measured, norm: float, elapsed: float) -> None:
        state, sums = self.state, self.state.sums
        state.step = step
        state.seconds += elapsed
        sums.seconds += elapsed
        sums.steps += 1
        sums.norm += norm
        sums.nats += float(measured.nats.sum())
        sums.targets += int(measured.targets.sum())
        sums.hits += int(measured.hits.sum())
        for number in np.unique(batch.sources).tolist():
            mine = batch.sources == number
            if targets := float(measured.targets[mine].sum()):
                so_far = sums.by_source.setdefault(self.samples.sources[number], [0.0, 0.0])
                so_far[0] += float(measured.nats[mine].sum())
                so_far[1] += targets

    def _skip(self, step: int, loss: float, norm: float) -> None:
        first = (step - 1) * self.config.samples_per_step
        documents = self.samples.documents_of(first, self.config.samples_per_step)
        self.state.skipped.append({"step": step, "loss": loss, "norm": norm, "documents": documents})
        if self.state.spikes.too_many:
            raise TrainingError(
                f"step {step}: the loss {loss:.3f} and the gradient's norm {norm:.3f} are the {self.state.spikes.in_a_row}th outlier in a "
                "row: training has diverged; lower learning_rate, lengthen warmup_steps, or set skip_spikes to 0"
            )
        logger.warning("step %d changes nothing: loss %.3f, gradient's norm %.3f, %s", step, loss, norm, _named(documents))

    @torch.no_grad()
    def _validated(self) -> Line:
        """Loss, accuracy, macro F1 over tokens and loss by source, on the same samples each time."""
        self.model.eval()
        size = self.config.batch_size
        count = min(self.config.eval_batches * size, self.valid.num_samples)
        # spread over all sources and documents
        chosen = np.linspace(0, self.valid.num_samples - 1, count).round().astype(np.int64)
        measured, classes = _Measured(count), np.zeros((3, self.words.vocab_size))
        sources = np.zeros(count, np.int64)
        num_batches = -(-count // size)
        for number in range(self.ranks.mine, -(-num_batches // self.ranks.number) * self.ranks.number, self.ranks.number):
            # all ranks run equally often, or those that share weights would wait for ever
            start = number * size if number < num_batches else 0
            batch = _joined([self.valid.batch(int(one), 1) for one in chosen[start : start + size]])
            rows = slice(start, start + len(batch.inputs))
            _, nats, likeliest = self._forward(batch, slice(None), 1.0)
            if number >= num_batches:
                continue
            measured.add(rows, batch.labels, nats, likeliest)
            sources[rows] = batch.sources
            classes += _by_class(batch.labels, likeliest, self.words.vocab_size)
        measured.gather(self.ranks, self.device)
        classes = parallel.summed(classes, self.ranks, self.device)
        sources = parallel.summed(sources.astype(np.float64), self.ranks, self.device).astype(np.int64)
        self.model.train()
        targets = measured.targets.sum()
        told: Line = {
            "valid_loss": float(measured.nats.sum() / targets),
            "valid_accuracy": float(measured.hits.sum() / targets),
            "valid_f1": macro_f1(classes),
        }
        for number, name in enumerate(self.valid.sources):
            if of := measured.targets[sources == number].sum():
                told[f"valid_loss.{name}"] = float(measured.nats[sources == number].sum() / of)
        return told

    def _compare(self, loss: float | None) -> None:
        """Keep the best weights; stop where they have not become better for long."""
        assert loss is not None
        state, config = self.state, self.config
        if state.best_loss is None or loss < state.best_loss:
            # what is kept is the best; what counts as progress must be better by the configured nats
            progress = state.best_loss is None or loss < state.best_loss - config.early_stopping_delta
            state.looks_without_better = 0 if progress else state.looks_without_better + 1
            state.best_loss, state.best_step = loss, state.step
            weights = parallel.whole_state(self.model, keep=self.ranks.first)
            if self.ranks.first:
                checkpoint.save_best(
                    self.folder,
                    state.step,
                    model=self.model,
                    weights=weights,
                    tokeniser_folder=self.tokeniser_folder,
                    # a resume that is not bit-equal may find no better one than its checkpoint knew
                    needed=[checkpoint.read_state(path)["training"]["best_step"] for path in checkpoint.complete(self.folder)],
                )
        else:
            state.looks_without_better += 1
        state.stopped = bool(config.early_stopping) and state.looks_without_better >= config.early_stopping

    def _last_model(self) -> Path:
        """The last weights as a model; those of an average are not what the checkpoint goes on from."""
        done = checkpoint.latest(self.folder)
        assert done is not None
        if not self.average:
            return done / "model"
        with self._averaged():
            weights = parallel.whole_state(self.model, keep=self.ranks.first)
        path = self.folder / "average"
        if self.ranks.first:
            checkpoint.write_model(path, self.model, weights, self.tokeniser_folder)
        return path

    def _averages(self) -> Iterator[tuple[str, torch.Tensor]]:
        if self.average:
            names = [name for name, one in self.model.named_parameters() if one.requires_grad]
            yield from zip(names, self.average.kept, strict=True)

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """The moving average in place of the weights, where there is one."""
        if self.average is None:
            yield
            return
        self.average.swap()
        try:
            yield
        finally:
            self.average.swap()

    def _peak(self, threads: int, cache: Path | None) -> float:
        """FLOP/s of matrix products of all ranks together: of their GPUs, or of the CPUs that they share."""
        if self.device == "cuda":
            return matmul_peak(self.device, self.precision, threads, cache) * self.ranks.number
        together = min(threads * self.ranks.number, max(threads, device.usable_cpus()))
        # one rank measures while the others wait: two at a time would halve what they see
        mine = matmul_peak(self.device, self.precision, together, cache) if self.ranks.first else 0.0
        return float(parallel.summed(np.array([mine]), self.ranks, self.device)[0])

    def _mfu(self, tokens_per_s: float) -> float:
        return self.flops_per_token * tokens_per_s / self.peak_flops

    def _check_tokens(self, shards: Sequence[TokenShard]) -> None:
        largest = max((int(shard.tokens.max()) for shard in shards if len(shard.tokens)), default=0)
        if largest >= self.words.vocab_size:
            raise TrainingError(
                f"token {largest} is beyond the tokeniser's {self.words.vocab_size}: the shards are another's; tokenise again"
            )

    def _identity(self, provenance: dict[str, str]) -> dict[str, Any]:
        """What a resume must find unchanged: the settings as JSON has them, the data and the code."""
        kept = self.config.model_dump(mode="json", exclude={*MACHINE, "costs"})
        return {
            **kept,
            "training tokens": self.samples.num_tokens,
            "validation tokens": self.valid.num_tokens,
            **provenance,
        }

    def _restored(self) -> _State | None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.ranks.first:
            checkpoint.tidy(self.folder)
            (self.folder / CULPRIT).unlink(missing_ok=True)
        path = checkpoint.latest(self.folder)
        if path is None:
            return None
        saved = checkpoint.read_state(path)
        if changed := [name for name, value in self.identity.items() if saved["identity"].get(name) != value]:
            raise TrainingError(
                f"{path}: made with another {', '.join(changed)}; give the old values back, or train in another folder"
            )
        try:
            self._put(checkpoint.read_weights(path))
            parallel.restore_optimizer(self.optimizer, self.model, checkpoint.read_moments(path))
            if self.average:
                average = checkpoint.read_average(path)
                for name, kept in self._averages():
                    parallel.put(kept, average[name])
        except (KeyError, RuntimeError, ValueError) as error:
            raise checkpoint.unreadable(path, error) from error
        state = _State.of(saved["training"])
        logger.info("resumed from %s at step %d of %d", path, state.step, self.config.max_steps)
        return state

    def _note_machine(self) -> None:
        known = self.state.machines
        before = {name: value for name, value in known[-1].items() if name in MACHINE} if known else None
        if before == self.machine:
            return
        if before:
            changed = ", ".join(
                f"{name} {was} to {self.machine[name]}" for name, was in before.items() if was != self.machine[name]
            )
            logger.warning("resumed at step %d with %s: correct, but not bit-equal", self.state.step, changed)
        known.append({"after_step": self.state.step, **self.machine})

    def _put(self, weights: Mapping[str, torch.Tensor]) -> None:
        for name, tensor in self.model.state_dict().items():
            # of tied weights one is saved
            if name in weights or name not in (self.model._tied_weights_keys or ()):
                parallel.put(tensor, weights[name])

    def _not_finite(self, step: int, loss: float, norm: float, measured: _Measured) -> str:
        size = self.config.samples_per_step
        first = (step - 1) * size
        # where the loss is finite, the gradient is not, and any sample may be why
        bad = np.flatnonzero(~np.isfinite(measured.nats)) if not math.isfinite(loss) else np.arange(size)
        documents = list(dict.fromkeys(doc for sample in bad.tolist() for doc in self.samples.documents_of(first + sample, 1)))
        if self.ranks.first:
            rows = {"step": step, "loss": str(loss), "norm": str(norm), "samples": (first + bad).tolist(), "documents": documents}
            (self.folder / CULPRIT).write_text(json.dumps(rows), "utf-8")
        # the first rank that tells the error ends all, so none tells it before the file is there
        parallel.wait_for_all(self.ranks, self.device)
        return (
            f"step {step}: the loss is {loss}, the gradient's norm {norm}, by {len(bad)} of its {size} samples; they read the documents "
            f"{_named(documents)} (all in {self.folder / CULPRIT}); lower learning_rate, lengthen warmup_steps, or set precision to fp32"
        )


class _Measured:
    """What the samples of a step gave: (S,) sums over their targets."""

    def __init__(self, num_samples: int) -> None:
        self.nats, self.targets, self.hits = np.zeros((3, num_samples))

    def add(self, rows: slice, labels: npt.NDArray[np.int64], nats: torch.Tensor, likeliest: torch.Tensor) -> None:
        """Take in the targets of some samples, which come in reading order."""
        row, column = np.nonzero(labels != IGNORED)
        size = len(labels)
        self.nats[rows] = np.bincount(row, nats.double().cpu().numpy(), size)
        self.targets[rows] = np.bincount(row, minlength=size)
        self.hits[rows] = np.bincount(row, likeliest.cpu().numpy() == labels[row, column], size)

    def gather(self, ranks: Ranks, device_name: str) -> None:
        """Take in what the other ranks have measured."""
        self.nats, self.targets, self.hits = parallel.summed(np.stack([self.nats, self.targets, self.hits]), ranks, device_name)


def _by_class(labels: npt.NDArray[np.int64], likeliest: torch.Tensor, vocab_size: int) -> npt.NDArray[np.float64]:
    """(3, V) times that a token was hit, predicted, and there."""
    there, said = labels[labels != IGNORED], likeliest.cpu().numpy()
    return np.stack([np.bincount(one, minlength=vocab_size) for one in (there[there == said], said, there)]).astype(np.float64)


def macro_f1(classes: npt.NDArray[np.float64]) -> float:
    """Mean F1 of the tokens that were there or predicted, from (3, V) times that each was hit, predicted, and there."""
    hit, said, there = classes
    of = said + there > 0
    return float((2 * hit[of] / (said[of] + there[of])).mean())


def _joined(batches: Sequence[Batch]) -> Batch:
    """Rows of several batches as one; of `stream` a masked row that is filled up has its document, and then all have one."""
    columns = [[getattr(one, name) for one in batches] for name in ("inputs", "labels", "positions", "sources")]
    inputs, labels, positions, sources = (None if column[0] is None else np.concatenate(column) for column in columns)
    documents = None
    if any(one.documents is not None for one in batches):
        whole = (np.zeros(one.inputs.shape, np.int32) if one.documents is None else one.documents for one in batches)
        documents = np.concatenate(list(whole))
    return Batch(inputs, labels, documents, positions, sources)  # type: ignore[arg-type]


def _named(documents: Sequence[str]) -> str:
    more = len(documents) - MAX_NAMED_DOCUMENTS
    return ", ".join(documents[:MAX_NAMED_DOCUMENTS]) + (f" and {more} more" if more > 0 else "")
