"""Optimisers, learning rates and penalties of pre-training, all from TrainConfig."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from tasks.learn.config import TrainConfig


def learning_rate(config: TrainConfig, step: int) -> float:
    """Learning rate of `step` (from 1): linear up to `warmup_steps`, then by `config.schedule` down to min_lr_ratio at the last step."""
    if step <= config.warmup_steps:
        return config.learning_rate * step / config.warmup_steps
    progress = (step - config.warmup_steps) / (config.max_steps - config.warmup_steps)
    return config.learning_rate * _left(config, progress, step)


def _left(config: TrainConfig, progress: float, step: int) -> float:
    """What is left of the highest rate when `progress` (0, 1] of the steps behind the warm-up are made."""
    floor = config.min_lr_ratio
    match config.schedule:
        case "constant":
            return 1.0
        case "cosine":
            return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2
        case "linear":
            return floor + (1 - floor) * (1 - progress)
        case "exponential":
            return float(floor**progress)
        case "step":
            return max(floor, config.step_factor ** int(progress * (config.step_times + 1) - 1e-9))
        case "wsd":
            # the decay is a part of all steps, but never begins within the warm-up
            decay_steps = min(round(config.decay_share * config.max_steps), config.max_steps - config.warmup_steps) or 1
            part = max(0.0, 1 - (config.max_steps - step) / decay_steps)
            return floor + (1 - floor) * (1 - math.sqrt(part))


def optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """The configured optimiser over all parameters; weight decay for those of two dimensions and more only (GPT-2's and LLaMA's way)."""
    parameters = [one for one in model.parameters() if one.requires_grad]
    groups = [
        {"params": [one for one in parameters if one.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [one for one in parameters if one.dim() < 2], "weight_decay": 0.0},
    ]
    rate = config.learning_rate
    match config.optimizer:
        case "adamw":
            return torch.optim.AdamW(groups, lr=rate, betas=config.betas, fused=True)
        case "adam":
            return torch.optim.Adam(groups, lr=rate, betas=config.betas, fused=True)
        case "sgd":
            return torch.optim.SGD(groups, lr=rate, momentum=config.momentum, nesterov=config.momentum > 0)
        case "rmsprop":
            return torch.optim.RMSprop(groups, lr=rate, momentum=config.momentum)


@torch.no_grad()
def penalise(parameters: Iterable[nn.Parameter], l1: float, l2: float) -> None:
    """Add the gradients of l1 x sum|w| and l2 x sum w^2 over matrices to theirs."""
    for one in parameters:
        if one.dim() < 2 or one.grad is None:
            continue
        if l1:
            one.grad.add_(one.sign(), alpha=l1)
        if l2:
            one.grad.add_(one, alpha=2 * l2)


class Average:
    """A moving average of the weights: w' = decay x w' + (1 - decay) x w at each step (Polyak and Juditsky 1992).

    It starts as the weights are. The first weights would hold a short run back, so the decay of step n is at most (1 + n) / (10 + n).
    """

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        self.parameters = list(parameters)
        self.decay = decay
        self.kept = [one.detach().clone() for one in self.parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after `step`."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for kept, one in zip(self.kept, self.parameters, strict=True):
            kept.lerp_(one, 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the weights with their average; a second call undoes it."""
        for kept, one in zip(self.kept, self.parameters, strict=True):
            held = one.detach().clone()
            one.copy_(kept)
            kept.copy_(held)


def clip(parameters: Sequence[nn.Parameter], longest: float) -> float:
    """Scale the gradient down to a global norm of `longest` and return what it was."""
    norm = torch.nn.utils.clip_grad_norm_(parameters, longest)
    return float((norm.full_tensor() if isinstance(norm, DTensor) else norm).item())
