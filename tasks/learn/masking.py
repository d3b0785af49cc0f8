"""Masked language modelling: which tokens of a row are to be guessed, from (seed, sample, place) alone (BERT, Devlin et al. 2019, 3.1).

Each token that is no special one is chosen with the chance `mask_share`; of a row in which none was, the one that came nearest. Of those
chosen 80 % become the mask token, 10 % another token at random and 10 % stay. Costs about 10 ns a token.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit, types

from infra.errors import InputError
from models.tokeniser import Roles
from tasks.learn import order

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

MASKED, REPLACED = 0.8, 0.1
"""Shares of the chosen tokens that are masked, and replaced by a random one; the others stay (BERT, 3.1)."""
# splitmix64's step and finaliser (Steele, Lea, Flood 2014): a copy of order's, for numba's cache notices changes in its own file only
_GOLDEN, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


class Masking:
    """Hides tokens of rows, the same ones whenever a sample is asked for."""

    def __init__(self, roles: Roles, mask_share: float, seed: int, *, whole_words: bool) -> None:
        """Raises InputError: the tokeniser has no mask token, or no parts of words where these are to be chosen together."""
        if roles.mask is None:
            raise InputError("data: the tokeniser has no mask token, which a masked model needs; use tokenise.kind wordpiece")
        if whole_words and not roles.continuing:
            raise InputError('data.mask_whole_words: the tokeniser has no parts of words ("##"); set it to false')
        special = {one for one in (roles.end, roles.padding, roles.unknown, roles.mask) if one is not None}
        self._mask = roles.mask
        self._special = np.zeros(roles.vocab_size, np.bool_)
        self._special[list(special)] = True
        self._continues = np.zeros(roles.vocab_size, np.bool_)
        if whole_words:
            self._continues[list(roles.continuing)] = True
        self._others = np.flatnonzero(~self._special).astype(np.int64)
        self._limit = min(int(mask_share * 2**64), 2**64 - 1)
        self._key = order.mixed(seed)

    def apply(self, first: int, inputs: Ints, labels: Ints) -> None:
        """Hide tokens of `inputs` (B, C), the rows of the samples first, first + 1 …, and write them into `labels` (B, C).

        Raises:
            InputError: a token is beyond the tokeniser's.
        """
        if inputs.size and inputs.max() >= len(self._special):
            raise InputError(f"token {inputs.max()} is beyond the tokeniser's {len(self._special)}: the shards are another's")
        tables = self._special, self._continues, self._others
        _hide(inputs, labels, first, np.uint64(self._key), np.uint64(self._limit), *tables, self._mask)


_U64, _FLAGS, _ROW, _ROWS = types.uint64, types.boolean[::1], types.int64[::1], types.int64[:, ::1]


@njit(_U64(_U64), cache=True, nogil=True)
def _mixed(value: np.uint64) -> np.uint64:
    value = (value ^ (value >> np.uint64(30))) * np.uint64(_FIRST)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(_SECOND)
    return value ^ (value >> np.uint64(31))


@njit(_U64(_ROW, _ROW, _U64, _U64, _FLAGS, _FLAGS, _ROW, types.int64), cache=True, nogil=True)
def _hide_row(
    inputs: Ints, labels: Ints, key: np.uint64, limit: np.uint64, special: Flags, continues: Flags, others: Ints, mask: int
) -> np.uint64:
    """Hides what draws less than `limit`; returns the least draw."""
    least = np.uint64(0xFFFFFFFFFFFFFFFF)
    draw, inside = least, False
    for place in range(inputs.size):
        token = inputs[place]
        if special[token]:
            inside = False
            continue
        if not (inside and continues[token]):
            draw = _mixed(key + np.uint64(2 * place + 1) * np.uint64(_GOLDEN))
        inside = True
        least = min(least, draw)
        if draw < limit:
            labels[place] = token
            fate = _mixed(key + np.uint64(2 * place + 2) * np.uint64(_GOLDEN))
            share = np.float64(fate >> np.uint64(11)) / 2.0**53
            if share < MASKED:
                inputs[place] = mask
            elif share < MASKED + REPLACED:
                inputs[place] = others[np.int64(_mixed(fate) % np.uint64(others.size))]
    return least


@njit(types.void(_ROWS, _ROWS, types.int64, _U64, _U64, _FLAGS, _FLAGS, _ROW, types.int64), cache=True, nogil=True)
def _hide(
    inputs: Ints,
    labels: Ints,
    first: int,
    seed: np.uint64,
    limit: np.uint64,
    special: Flags,
    continues: Flags,
    others: Ints,
    mask: int,
) -> None:
    for row in range(inputs.shape[0]):
        key = _mixed(seed + np.uint64(first + row) * np.uint64(_GOLDEN))
        least = _hide_row(inputs[row], labels[row], key, limit, special, continues, others, mask)
        if limit <= least < np.uint64(0xFFFFFFFFFFFFFFFF):
            _hide_row(inputs[row], labels[row], key, least + np.uint64(1), special, continues, others, mask)


def compile_kernels() -> None:
    """Compiles the kernels into numba's cache beside this file (importing does most of it) and runs them once."""
    roles = Roles(vocab_size=3, end=0, padding=None, unknown=None, mask=1)
    Masking(roles, 1.0, 0, whole_words=False).apply(0, np.full((1, 1), 2), np.full((1, 1), 2))
