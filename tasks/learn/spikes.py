"""Steps whose loss or gradient is an outlier: the rule of OLMo-core's SkipStepOptimizer."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

WINDOW = 128
"""Steps that a new one is compared with; before half of them are known nothing is an outlier."""
MAX_IN_A_ROW = 16
"""So many outliers one after another are no outliers: training has diverged."""


@dataclass
class Spikes:
    """The losses and gradient norms of the last steps that were learned from; as JSON keeps it."""

    recent: list[list[float]] = field(default_factory=list)
    """Up to WINDOW of loss, norm."""
    in_a_row: int = 0

    @property
    def too_many(self) -> bool:
        """Whether this is no spike any more."""
        return self.in_a_row >= MAX_IN_A_ROW

    def is_one(self, loss: float, norm: float, sigmas: float) -> bool:
        """Whether a step lies more than `sigmas` standard deviations above the last ones; if not, it becomes one of them."""
        if len(self.recent) >= WINDOW // 2:
            known = np.array(self.recent)
            limits = known.mean(0) + sigmas * known.std(0)
            if (np.array([loss, norm]) > limits).any():
                self.in_a_row += 1
                return True
        self.in_a_row = 0
        self.recent = [*self.recent, [loss, norm]][-WINDOW:]
        return False
