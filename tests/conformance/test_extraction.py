"""Extraction against pages and snippets made by others: trafilatura's evaluation set, with its scorer's idea, beside trafilatura itself."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.extraction import by_trafilatura, doubts, figures, load, measured, ours, routed, score
from tasks.web.main_text import ExtractConfig

GOLD = Path(__file__).parents[3] / "shared" / "data" / "extraction"


def test_the_scorer_counts_words_of_whole_snippets() -> None:
    snippets = {"with": ["Two words", "three more words", ""], "without": ["a menu", "Cookies"]}
    assert score("It has two WORDS, and a menu.", snippets) == (2, 3, 2)
    precision, recall, f1 = figures(np.array([[2, 3, 2], [6, 1, 0]]))
    assert (precision, recall, f1) == pytest.approx((8 / 10, 8 / 12, 16 / 22))


def f1_of(*modes: str) -> tuple[dict[str, float], np.ndarray]:
    """({mode: F1, and `peer` for trafilatura's own}, what the router sees of each page)."""
    if not GOLD.is_dir():
        pytest.skip(f"no gold pages at {GOLD}")
    gold, pages = load(GOLD)
    results = measured({mode: by_trafilatura() if mode == "peer" else ours(mode) for mode in modes}, gold, pages)
    return {mode: figures(scores)[2] for mode, (scores, _) in results.items()}, doubts(pages)


@pytest.mark.soak
def test_fast_and_default_are_as_exact_as_they_were() -> None:
    f1, seen = f1_of("fast", "balanced")
    assert f1["fast"] >= 0.89 and f1["balanced"] >= 0.911, f1
    config = ExtractConfig()
    assert routed(seen, config.doubt_share, config.doubt_line_chars).mean() <= 0.16  # what leaves four times trafilatura's speed


@pytest.mark.soak
def test_the_default_is_nearly_as_exact_as_the_best_of_all() -> None:
    f1, _ = f1_of("fast", "balanced", "exact", "peer")
    best = max(f1.values())
    assert f1["exact"] >= f1["peer"] and f1["balanced"] >= best - 0.01 and f1["fast"] >= best - 0.03, f1
