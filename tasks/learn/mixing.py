"""Mixing: how often each source is read, in shares that are exact and not drawn, and in stages.

Sample i of a stage is in a block of some hundred. How many samples of the first n are of source s follows from the shares alone, n times
each rounded so that they add up; so blocks have exact contents, a keyed permutation puts them in order, and the k-th sample of a source is
the k-th of its own epochs, each in an order of its own. After any number of whole blocks of a stage every source has been read to within
one sample of its share, for ever, and nothing is stored. Costs about 0.1 ms a call with three sources.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from infra.errors import InputError
from infra.ids import digest_of
from tasks.learn import order
from tasks.learn.data_config import DataConfig
from tasks.learn.order import Indices

BLOCK_SAMPLES = 256
"""Samples in a block; more where a source has less than one of these."""
# Shares are whole multiples of one part of about so many, so that n times a share is exact in 64 bits for n up to 2**40
PARTS = 1 << 22


class Mixture:
    """Which sample of which source each sample of the training is."""

    def __init__(self, sources: Sequence[str], sizes: Sequence[int], config: DataConfig, seed: int, max_samples: int) -> None:
        """Plan the stages.

        Args:
            sizes: samples in one pass over each source.
            max_samples: samples of the whole training; what is asked for beyond is as its last stage.

        Raises:
            InputError: weights or times of unknown sources, or weights that are not those of a whole.
        """
        self._sizes = list(sizes)
        self._seeds = [_seed("source", seed, name) for name in sources]
        stages = [
            *(
                (f"data.curriculum.{number}.weights", round(stage.until * max_samples), stage.weights)
                for number, stage in enumerate(config.curriculum)
            ),
            ("data.weights", max_samples, config.weights),
            ("data.weights", None, config.weights),
        ]
        self._stages: list[_Stage] = []
        first, self.num_read = 0, np.zeros(len(sizes), np.int64)
        """(S,) samples of each source that the training reads."""
        for number, (where, end, weights) in enumerate(stages):
            cumulative = _cumulative(_shares(dict(zip(sources, sizes, strict=True)), weights, config.epochs, where))
            if end is None or end > first:
                self._stages.append(_Stage(first, end, cumulative, self.num_read, _seed("stage", seed, number)))
            if end is not None and end > first:
                first, self.num_read = end, self.num_read + self._stages[-1].read(end - first)

    def samples(self, first: int, count: int) -> tuple[Indices, Indices]:
        """Source (count,) of the samples first, first + 1 …, and which sample of that source each is."""
        number = np.arange(first, first + count, dtype=np.int64)
        source, item = np.empty(count, np.int64), np.empty(count, np.int64)
        for stage in self._stages:
            mine = (number >= stage.first) & (number < (first + count if stage.end is None else stage.end))
            source[mine], item[mine] = stage.samples(number[mine] - stage.first)
        for one in np.unique(source).tolist():
            mine = source == one
            item[mine] = order.in_epochs(item[mine], self._sizes[one], self._seeds[one])
        return source, item


@dataclass(frozen=True)
class _Stage:
    """A part of the training with the same shares. Samples are counted from its first."""

    first: int
    end: int | None
    cumulative: Indices
    """(S + 1,) parts of all sources before each, and of all."""
    before: Indices
    """(S,) samples of each source that were read before it."""
    seed: int

    def read(self, count: int) -> Indices:
        """(S,) of each source among the first `count` samples, these being whole blocks or the whole stage."""
        return np.diff(self._bounds(count))

    def samples(self, number: Indices) -> tuple[Indices, Indices]:
        """Source of these samples, and which sample of that source, counted from the training's first."""
        source, item = np.empty(len(number), np.int64), np.empty(len(number), np.int64)
        block = number // self._block_size
        if self.end is not None:
            block = np.minimum(block, self._num_blocks - 1)
        for one in np.unique(block).tolist():
            mine = block == one
            begin = one * self._block_size
            end = begin + self._block_size if self.end is None or one < self._num_blocks - 1 else self.end - self.first
            bounds = self._bounds(end) - self._bounds(begin)
            place = order.permuted(number[mine] - begin, end - begin, self.seed, one)
            source[mine] = np.searchsorted(bounds, place, side="right") - 1
            item[mine] = (self.before + self.read(begin))[source[mine]] + place - bounds[source[mine]]
        return source, item

    @property
    def _block_size(self) -> int:
        """Enough for one sample of every source."""
        parts = np.diff(self.cumulative)
        return max(BLOCK_SAMPLES, math.ceil(int(self.cumulative[-1]) / int(parts[parts > 0].min())))

    @property
    def _num_blocks(self) -> int:
        """Of a stage that ends: what is left at its end goes into its last block, so that none is short."""
        return max(1, ((self.end or 0) - self.first) // self._block_size)

    def _bounds(self, count: int) -> Indices:
        """(S + 1,) samples among the first `count` that are of sources before each, and all."""
        whole = self.cumulative[-1]
        return (self.cumulative * count + whole // 2) // whole


def _shares(sizes: Mapping[str, int], weights: Mapping[str, float], epochs: Mapping[str, float], where: str) -> Sequence[float]:
    """Share of each source: its weight, or of what the weights leave, by its samples times its epochs."""
    for key, names in ((where, weights), ("data.epochs", epochs)):
        for name in names:
            if name not in sizes:
                raise InputError(f"{key}: unknown source {name!r}{_nearest(name, sizes)}")
    others = {name: size * epochs.get(name, 1.0) for name, size in sizes.items() if name not in weights}
    rest, whole = 1 - sum(weights.values()), sum(others.values())
    if rest > 1e-9 and not whole:
        raise InputError(f"{where}: the weights add up to {1 - rest:.4g} and there is nothing beside them; let them add up to 1")
    if rest <= 1e-9 and whole:
        left = ", ".join(sorted(name for name, size in others.items() if size))
        raise InputError(f"{where}: the weights add up to 1, so nothing would be left of {left}; lower them, or give these 0")
    return [weights[name] if name in weights else rest * others[name] / whole if whole else 0.0 for name in sizes]


def _cumulative(shares: Sequence[float]) -> Indices:
    parts = [max(1, round(share * PARTS)) if share > 0 else 0 for share in shares]
    return np.concatenate([[0], np.cumsum(parts)]).astype(np.int64)


def _nearest(name: str, valid: Mapping[str, int]) -> str:
    near = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    return f"; nearest: {near[0]}" if near else f"; there are: {', '.join(sorted(valid))}"


def _seed(*parts: str | int) -> int:
    """32 bits, as `order.permuted` takes them."""
    return int(digest_of(*(str(part) for part in parts))[:8], 16)
