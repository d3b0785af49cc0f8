"""What a request's line in the log tells of its texts: their length, language and repetition, in numbers; never their words.

From these `gristmill drift` sees that people ask otherwise than they did, or that a model answers otherwise (tasks/serving/drift.py).
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pyarrow as pa

from tasks.text.language import MAX_CHARS, identify

logger = logging.getLogger("gristmill")
MIN_SCORE = 0.5
"""Of a language; short questions are often of none that is sure, and "unknown" is one more kind of question."""
WORDS_OF_A_PIECE = 3


class Traits:
    """Sees texts in 0.3 to 0.8 ms."""

    def __init__(self, language_model: Path) -> None:
        """Load the model of `make setup`; without it there are no languages."""
        self._model: Path | None = language_model
        try:
            identify(pa.array([""]), language_model)
        except (OSError, ValueError) as error:
            logger.warning("the log will say nothing of languages: %s", error)
            self._model = None

    def of(self, asked: str, said: str, ended: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Of a question's last message, and of the answer (of several the first) with why it is over."""
        traits: tuple[dict[str, Any], dict[str, Any]] = (
            {"chars": len(asked)},
            {"chars": len(said), "repeated": round(repeated_share(said), 4), "ended": ended},
        )
        if self._model is not None:
            languages, _ = identify(pa.array([asked, said]), self._model, min_score=MIN_SCORE)
            for found, language in zip(traits, languages.to_pylist(), strict=True):
                found["language"] = language
        return traits


def repeated_share(text: str) -> float:
    """Share of the runs of three words that stood there before, in the text's first 1,000 characters; 0 for fewer words."""
    words = text[:MAX_CHARS].split()
    pieces = list(zip(*(words[first:] for first in range(WORDS_OF_A_PIECE)), strict=False))
    return 1 - len(set(pieces)) / len(pieces) if pieces else 0.0
