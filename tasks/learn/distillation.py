"""A student's loss with a teacher beside it: cross-entropy with the text, and with what the teacher holds likely (Hinton et al. 2015).

share x temperature² x KL(teacher || student), both softened by the temperature, and (1 - share) x the nats of the text. As in `loss.py`
logits are made, and turned into gradients, chunk by chunk. Told are the nats of the text alone, so a student's history compares with that
of one without a teacher. Costs the teacher's forward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from infra.errors import InputError
from models.loading import load
from tasks.learn.compress_config import Lesson
from tasks.learn.footprint import CHUNK_BYTES
from tasks.learn.loss import Objective
from tasks.learn.sampler import IGNORED


class _TaughtCrossEntropy(torch.autograd.Function):
    """As `loss._ChunkedCrossEntropy`, of hidden states (N, H) beside those of a teacher (N, G) with its output layer (V, G)."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        taught: torch.Tensor,
        teacher: nn.Linear,
        lesson: Lesson,
        scale: float,
        chunk: int,
        dtype: torch.dtype,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        nats = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        likeliest = torch.empty_like(targets)
        to_hidden = torch.empty_like(hidden)
        to_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
        to_bias = None if bias is None else torch.zeros_like(bias, dtype=torch.float32)
        head, hot = weight.to(dtype), lesson.temperature
        for start in range(0, len(hidden), chunk):
            rows = slice(start, start + chunk)
            part, wanted = hidden[rows].to(dtype), targets[rows, None]
            logits = (part @ head.t()).float()
            if bias is not None:
                logits += bias
            likeliest[rows] = logits.argmax(-1)
            told = logits.log_softmax(-1)
            nats[rows] = -told.gather(1, wanted)[:, 0]
            # the gradients of the nats, softmax - one-hot, and of temperature² x KL, temperature x (student - teacher)
            plain = told.exp_().scatter_add_(1, wanted, torch.full_like(wanted, -1.0, dtype=torch.float32))
            said = nn.functional.linear(taught[rows].to(dtype), teacher.weight.to(dtype), teacher.bias).float()
            softened = (logits / hot).softmax(-1) - (said / hot).softmax(-1)
            gradient = plain.mul_(1 - lesson.share).add_(softened, alpha=lesson.share * hot).mul_(scale)
            if to_bias is not None:
                to_bias += gradient.sum(0)
            narrow = gradient.to(dtype)
            to_hidden[rows] = (narrow @ head).to(hidden.dtype)
            to_weight += narrow.t() @ part
        ctx.save_for_backward(to_hidden, to_weight, to_bias)
        ctx.mark_non_differentiable(nats, likeliest)
        return nats.new_zeros(()), nats, likeliest

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor, *_: Any) -> tuple[Any, ...]:
        to_hidden, to_weight, to_bias = ctx.saved_tensors
        return to_hidden, to_weight, to_bias, None, None, None, None, None, None, None


class Taught(Objective):
    """An objective whose gradient is in part that of the distance from a teacher; without gradients it is the plain one."""

    def __init__(self, model: PreTrainedModel, teacher: PreTrainedModel, lesson: Lesson, *, masked: bool, chunk: int) -> None:
        super().__init__(model, masked=masked, smoothing=0.0, chunk=chunk)
        asked = Objective(teacher.requires_grad_(False).eval(), masked=masked, smoothing=0.0, chunk=chunk)
        if not (self.plain_head and asked.plain_head):
            raise InputError("distil: student and teacher must have one plain output layer, as Llama, GPT-2 and BERT have")
        self.lesson = lesson
        # in a tuple it is no part of what is trained, divided among ranks or saved
        self._asked = (asked,)

    def forward(
        self,
        inputs: torch.Tensor,
        labels: torch.Tensor,
        mask: torch.Tensor | None,
        positions: torch.Tensor | None,
        scale: float,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """As `Objective.forward`."""
        if not torch.is_grad_enabled():
            return super().forward(inputs, labels, mask, positions, scale)
        [asked] = self._asked
        at = (labels != IGNORED).flatten().nonzero()[:, 0]
        kind = inputs.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32
        hidden = self.hidden_at(at, inputs, mask, positions)
        with torch.no_grad():
            taught = asked.hidden_at(at, inputs, mask, positions)
        head, teacher = self.model.get_output_embeddings(), asked.model.get_output_embeddings()
        chunk = self.chunk or max(1, CHUNK_BYTES.get(kind, CHUNK_BYTES["cuda"]) // (4 * head.weight.shape[0]))
        with torch.autocast(kind, enabled=False):
            made: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = _TaughtCrossEntropy.apply(  # type: ignore[no-untyped-call]
                hidden, head.weight, head.bias, labels.flatten()[at], taught, teacher, self.lesson, scale, chunk, dtype
            )
        return made


def teacher_of(folder: str, vocab_size: int, context_length: int, device: str) -> PreTrainedModel:
    """The teacher, ready to be asked.

    Raises:
        InputError: it has another vocabulary than the student, or sees less at once.
    """
    teacher, _ = load(folder)
    if (size := teacher.config.vocab_size) != vocab_size:
        raise InputError(f"distil: the teacher has {size:,} tokens and the student {vocab_size:,}; both must know the same ones")
    if (most := teacher.config.max_position_embeddings) < context_length:
        raise InputError(
            f"distil.model.context_length: the teacher sees {most:,} tokens at once (got {context_length:,}); give at most as many"
        )
    return teacher.to(device)
