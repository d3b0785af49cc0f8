"""Main text of 300 real pages: ours beside trafilatura and Resiliparse, in one run, with text and metadata on every side.

    python -m benchmarks.extraction PAGES [--curve]

PAGES is a folder with `gold.json` and `pages/*.html` (gzip): trafilatura's evaluation set, 300 pages with snippets that a good
extraction must hold (`with`) and must not hold (`without`). Prints precision, recall and F1 of the snippets' words, pages per second of
processor time, and the ratio to trafilatura's default; then our router's thresholds by five-fold cross-validation with a paired bootstrap
interval. `--curve` prints F1 against speed for other thresholds.
"""

from __future__ import annotations

import gzip
import json
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import trafilatura
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import detect_encoding
from resiliparse.parse.html import HTMLTree

from tasks.web import urls
from tasks.web.html import Rejected
from tasks.web.main_text import ExtractConfig, extract, fast_text

WORD = re.compile(r"\w+")
Gold = Mapping[str, Mapping[str, Any]]
SHARES = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 1.01)
LINES = (0, 30, 40, 50, 60, 70, 80, 100, 120)
MAX_ROUTED = 0.16
"""Share of pages that the exact extractor may be asked for: what leaves four times trafilatura's speed."""


def load(folder: Path) -> tuple[Gold, dict[str, bytes]]:
    """({page: snippets and URL}, {page: HTML})."""
    gold = json.loads((folder / "gold.json").read_text())
    return gold, {name: gzip.decompress((folder / "pages" / name).read_bytes()) for name in gold}


def score(text: str, snippets: Mapping[str, Sequence[str]]) -> tuple[int, int, int]:
    """(words of `with` snippets found, words of them missing, words of `without` snippets found); a snippet counts as a whole."""
    words = " " + " ".join(WORD.findall(text.lower())) + " "
    found = missing = wrong = 0
    for kind in ("with", "without"):
        for snippet in snippets[kind]:
            wanted = WORD.findall(snippet.lower())
            held = f" {' '.join(wanted)} " in words if wanted else False
            found += len(wanted) * (held and kind == "with")
            missing += len(wanted) * (not held and kind == "with")
            wrong += len(wanted) * (held and kind == "without")
    return found, missing, wrong


def figures(scores: np.ndarray) -> tuple[float, float, float]:
    """(precision, recall, F1) of (found, missing, wrong), one row a page."""
    found, missing, wrong = scores.sum(axis=0)
    precision, recall = found / (found + wrong), found / (found + missing)
    return precision, recall, 2 * precision * recall / (precision + recall)


def ours(mode: str, **changes: Any) -> Callable[[bytes, str], str]:
    """Our extraction as a crawl would call it."""
    config = ExtractConfig.model_validate({"mode": mode, **changes})

    def text(body: bytes, url: str) -> str:
        found = extract(body, "text/html", url, config)
        return "" if isinstance(found, Rejected) else found.text

    return text


def by_trafilatura(**options: Any) -> Callable[[bytes, str], str]:
    """Its text, with its metadata in the same JSON."""

    def text(body: bytes, url: str) -> str:
        found = trafilatura.extract(body, url=url, with_metadata=True, output_format="json", **options)
        return json.loads(found)["text"] or "" if found else ""

    return text


def by_resiliparse(body: bytes, url: str) -> str:
    """Its main text, with the title."""
    tree = HTMLTree.parse_from_bytes(body, detect_encoding(body))
    return f"{extract_plain_text(tree, main_content=True)}" if tree.title is not None else ""


Measured = tuple[np.ndarray, np.ndarray]


def measured(
    extractors: Mapping[str, Callable[[bytes, str], str]], gold: Gold, pages: Mapping[str, bytes]
) -> dict[str, Measured]:
    """{name: (scores, seconds of processor time)}, one row a page; page by page in turn, for the machine is not always equally fast."""
    scores: dict[str, list[tuple[int, int, int]]] = {name: [] for name in extractors}
    seconds: dict[str, list[float]] = {name: [] for name in extractors}
    for extractor in extractors.values():
        extractor(next(iter(pages.values())), "http://h/")  # what it loads once is not part of a page
    for page, body in pages.items():
        for name, extractor in extractors.items():
            begin = time.process_time()
            text = extractor(body, _url(gold[page]["url"]))
            seconds[name].append(time.process_time() - begin)
            scores[name].append(score(text, gold[page]))
    return {name: (np.array(scores[name]), np.array(seconds[name])) for name in extractors}


def _url(url: str) -> str:
    try:
        return urls.canonical(url)
    except urls.UrlError:
        return "http://host.example/"


def doubts(pages: Mapping[str, bytes]) -> np.ndarray:
    """What the router sees of each page: (share of what does not look like text, mean characters of a line)."""
    return np.array([fast_text(HTMLTree.parse_from_bytes(body, detect_encoding(body)))[1] for body in pages.values()])


def routed(seen: np.ndarray, share: float, line_chars: float) -> np.ndarray:
    """Which pages go to the exact extractor under these thresholds."""
    return (seen[:, 0] >= share) | (seen[:, 1] < line_chars)


def best_thresholds(seen: np.ndarray, fast: np.ndarray, exact: np.ndarray) -> tuple[float, float]:
    """Those of the best F1 among the grid's that ask the exact extractor for at most MAX_ROUTED of the pages."""

    def f1(thresholds: tuple[float, float]) -> float:
        chosen = routed(seen, *thresholds)
        return figures(np.where(chosen[:, None], exact, fast))[2] if chosen.mean() <= MAX_ROUTED else 0.0

    return max(((share, line_chars) for share in SHARES for line_chars in LINES), key=f1)


def cross_validated(
    seen: np.ndarray, fast: np.ndarray, exact: np.ndarray, seed: int = 0
) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """(which pages are routed by thresholds that were chosen without them, the thresholds of each of five folds)."""
    order = np.random.default_rng(seed).permutation(len(seen))
    chosen, thresholds = np.zeros(len(seen), bool), []
    for fold in np.array_split(order, 5):
        others = np.setdiff1d(order, fold)
        thresholds.append(best_thresholds(seen[others], fast[others], exact[others]))
        chosen[fold] = routed(seen[fold], *thresholds[-1])
    return chosen, thresholds


def interval(a: np.ndarray, b: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """Paired bootstrap 95 % interval of F1(a) - F1(b), over pages."""
    rng = np.random.default_rng(seed)
    draws = [rng.integers(0, len(a), len(a)) for _ in range(2000)]
    low, high = np.quantile([figures(a[draw])[2] - figures(b[draw])[2] for draw in draws], (0.025, 0.975))
    return float(low), float(high)


def main() -> None:
    """Measure, and print the table."""
    gold, pages = load(Path(sys.argv[1]))
    rows = {
        "trafilatura, default": by_trafilatura(),
        "trafilatura, fast": by_trafilatura(fast=True),
        "Resiliparse, main content": by_resiliparse,
        "gristmill fast": ours("fast"),
        "gristmill balanced (default)": ours("balanced"),
        "gristmill exact": ours("exact"),
    }
    results = measured(rows, gold, pages)
    peer_scores, peer_seconds = results["trafilatura, default"]
    print(f"{'':30} {'precision':>9} {'recall':>7} {'F1':>7} {'pages/s':>8} {'x':>6}   F1 less trafilatura's, 95 %")
    for name, (scores, seconds) in results.items():
        precision, recall, f1 = figures(scores)
        low, high = interval(scores, peer_scores)
        rate, ratio = len(pages) / seconds.sum(), peer_seconds.sum() / seconds.sum()
        print(f"{name:30} {precision:9.3f} {recall:7.3f} {f1:7.4f} {rate:8.1f} {ratio:6.1f}   {low:+.4f} to {high:+.4f}")
    seen = doubts(pages)
    (fast, fast_s), (exact, exact_s) = results["gristmill fast"], results["gristmill exact"]
    chosen, thresholds = cross_validated(seen, fast, exact)
    mixed = np.where(chosen[:, None], exact, fast)
    print(f"\nthresholds of five folds: {thresholds}; F1 of pages not seen {figures(mixed)[2]:.4f}, {chosen.mean():.0%} routed")
    print(f"all pages: {best_thresholds(seen, fast, exact)}")
    if "--curve" in sys.argv:
        print(f"\n{'share':>6} {'chars':>6} {'routed':>7} {'F1':>7} {'x':>6}")
        for share, line_chars in [(share, line_chars) for line_chars in (0, 50, 80) for share in SHARES]:
            some = routed(seen, share, line_chars)
            seconds = fast_s + np.where(some, np.maximum(exact_s - fast_s, 0), 0)
            f1 = figures(np.where(some[:, None], exact, fast))[2]
            print(f"{share:6.2f} {line_chars:6.0f} {some.mean():7.0%} {f1:7.4f} {peer_seconds.sum() / seconds.sum():6.1f}")


if __name__ == "__main__":
    main()
