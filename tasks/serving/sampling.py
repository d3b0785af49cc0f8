"""The next tokens of all running answers, each by its own temperature, top-p and seed.

transformers' continuous batching draws with one generator for all requests, so what one is answered hangs on who else asks. Here a draw is
one number in [0, 1), made of the request's seed and the place of the token alone, and looked up in the sum of the probabilities: an answer
is the same whoever else is served, and goes on as it would have on another replica. Temperature 0 takes the likeliest token.

Each processor gets one 32-bit number per answer, which is how transformers carries such values (also into GPU graphs). Shapes: scores
[answers, vocabulary], values [answers].
"""

from __future__ import annotations

import hashlib
import struct
from typing import Any

import torch
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessor,
    ContinuousBatchingLogitsProcessorList,
)
from transformers.generation.logits_process import LogitsProcessorList

GREEDY = -1.0
"""In place of a draw: the likeliest token."""
NEVER = float("-inf")


class Processors(ContinuousBatchingLogitsProcessorList):  # type: ignore[misc]
    """What the scores of every step go through; behind it the highest one is the next token's."""

    def __init__(self) -> None:
        own = LogitsProcessorList([Temperature(), TopP(), Draw()])
        super().__init__(own, per_request_processors=True)
        self.tensors_required = len(own)
        self._some_are_drawn = True

    def prepare_tensor_args(self, requests_in_batch: list[Any], arg_storage: torch.Tensor) -> torch.Tensor:
        """The numbers of the answers of the next step; none where each takes the likeliest token, whose score is the highest already."""
        self._some_are_drawn = any(one.state.logit_processor_kwargs["temperature"] for one in requests_in_batch)
        return super().prepare_tensor_args(requests_in_batch, arg_storage) if self._some_are_drawn else arg_storage

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, logits_processor_args: torch.Tensor) -> torch.Tensor:
        """The scores of that step."""
        return super().__call__(input_ids, scores, logits_processor_args) if self._some_are_drawn else scores


class _PerAnswer(ContinuousBatchingLogitsProcessor):  # type: ignore[misc]
    """A number per answer, carried as the bits of a float32."""

    ignored_kwargs = ()
    default = 1.0

    def value(self, state: Any) -> float:
        """Of one answer."""
        raise NotImplementedError

    def fill_defaults(self, int32_tensor: torch.Tensor) -> None:
        """For places that hold no answer."""
        int32_tensor.copy_(torch.full_like(int32_tensor, self.default, dtype=torch.float32).view(torch.int32))

    def prepare_tensor_args(self, requests_with_new_token: list[Any]) -> torch.Tensor:
        """The numbers of these answers."""
        return torch.tensor([self.value(one.state) for one in requests_with_new_token], dtype=torch.float32).view(torch.int32)


class Temperature(_PerAnswer):
    """Scores divided by the temperature."""

    supported_kwargs = {"temperature": float}  # noqa: RUF012

    def value(self, state: Any) -> float:
        """1 where the likeliest is taken anyway."""
        return state.logit_processor_kwargs["temperature"] or 1.0

    def __call__(self, scores: torch.Tensor, tensor_arg: torch.Tensor) -> torch.Tensor:
        """As `TemperatureLogitsWarper`."""
        values = tensor_arg[: len(scores)].view(torch.float32)
        return scores if bool((values == 1).all()) else scores / values[:, None]


class TopP(_PerAnswer):
    """Only the likeliest tokens that together have so much of the probability."""

    supported_kwargs = {"top_p": float}  # noqa: RUF012

    def value(self, state: Any) -> float:
        """1 where the likeliest is taken anyway."""
        return state.logit_processor_kwargs["top_p"] if state.logit_processor_kwargs["temperature"] else 1.0

    def __call__(self, scores: torch.Tensor, tensor_arg: torch.Tensor) -> torch.Tensor:
        """As `TopPLogitsWarper`; sorts only where somebody asked for it."""
        values = tensor_arg[: len(scores)].view(torch.float32)
        rows = (values < 1).nonzero()[:, 0]
        if not len(rows):
            return scores
        ordered, places = scores[rows].sort(descending=False)
        drop = ordered.softmax(-1).cumsum(-1) <= (1 - values[rows])[:, None]
        drop[:, -1] = False
        kept = scores.clone()
        kept[rows] = scores[rows].masked_fill(drop.scatter(-1, places, drop), NEVER)
        return kept


class Draw(_PerAnswer):
    """Which token it is: every other one has no chance left."""

    supported_kwargs = {"seed": int, "prompt_tokens": int}  # noqa: RUF012
    default = GREEDY

    def value(self, state: Any) -> float:
        """The draw for the next token. What an evicted or resumed request had written before is part of its prompt."""
        given = state.logit_processor_kwargs
        if not given["temperature"]:
            return GREEDY
        return drawn(given["seed"], len(state.initial_tokens) + len(state.generated_tokens) - given["prompt_tokens"])

    def __call__(self, scores: torch.Tensor, tensor_arg: torch.Tensor) -> torch.Tensor:
        """The one token of each answer has score 0, all others none."""
        values = tensor_arg[: len(scores)].view(torch.float32)
        tokens = scores.argmax(-1)
        rows = (values >= 0).nonzero()[:, 0]
        if len(rows):
            sums = scores[rows].softmax(-1, dtype=torch.float64).cumsum(-1)
            at = values[rows].to(torch.float64) * sums[:, -1]
            tokens[rows] = torch.searchsorted(sums, at[:, None], right=True)[:, 0].clamp(max=scores.shape[-1] - 1)
        return torch.full_like(scores, NEVER).scatter_(1, tokens[:, None], 0.0)


def drawn(seed: int, place: int) -> float:
    """A number in [0, 1) with 24 bits, as many as a float32 has."""
    digest = hashlib.blake2b(struct.pack("<qq", _wrapped(seed), place), digest_size=4).digest()
    return (int.from_bytes(digest, "little") >> 8) / (1 << 24)


def _wrapped(seed: int) -> int:
    return (seed + 2**63) % 2**64 - 2**63  # choices count on from a seed
