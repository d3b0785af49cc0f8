"""What a signal is, and a group of signals: columns that are measured together and can be left out together; how fractions divide."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

COUNT, SHARE, FLAG = pa.int32(), pa.float32(), pa.bool_()
Columns = Mapping[str, npt.NDArray[np.generic] | pa.Array]


class Signal(NamedTuple):
    """A column with one number of every document."""

    name: str
    kind: pa.DataType
    """COUNT, SHARE (any fraction) or FLAG; or string."""
    meaning: str
    """What is counted, in which unit."""


Measure = Callable[[pa.Array, pa.Array | None], Columns]


class SignalGroup(NamedTuple):
    """Signals by a kernel, or a library, of their own."""

    signals: tuple[Signal, ...]
    rate: str
    """How fast on one core of a 2.5 GHz server, by itself; for the help text."""
    measure: Measure | None = None
    """(text, language) of every document to its columns: a string array without nulls, and one of ISO 639 codes or "unknown". The
    language is None where nobody has identified it. A value is null where nothing can be said of a document. None: `signals.py` does it
    itself, or it has to be given what to measure with."""
    by_default: bool = True
    """Whether it is measured unless the configuration says otherwise."""
    needs_language: bool = False
    """Whether it cannot be measured without the languages."""
    files: tuple[Path, ...] = ()
    """Data that it reads and that ships: part of the recipe of what is measured."""

    def names(self) -> tuple[str, ...]:
        """The columns, in their order."""
        return tuple(signal.name for signal in self.signals)


def ratio(part: npt.NDArray[np.integer], whole: npt.NDArray[np.integer]) -> npt.NDArray[np.float32]:
    """part ÷ whole, 0 where whole is 0; divided in float64 so that equal fractions give equal float32 values."""
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0).astype(np.float32)
