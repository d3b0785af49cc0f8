"""The signals of Gopher's, C4's and FineWeb's rules of real documentation pages beside datatrove's filters, one core each, in one run.

    python -m benchmarks.signals [--pages N] [--without-datatrove] [--groups]

The pages are Debian's documentation (see `benchmarks.web_server`), extracted by us; datatrove 0.10.1 in an environment of its own gets
the first N of them, because it needs 0.2 s a page. Prints documents/s and MB/s by processor time, the ratio, how far we are from a loop
that only reads every byte, and on how many pages the verdicts of Gopher's, C4's and FineWeb's rules agree, as they stand and unexplained.
With --groups only the rate of every group of signals by itself, as docs/signals.md has it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numba import njit, types

from benchmarks.peers import peer_environment
from benchmarks.web_server import documents
from infra.settings import settings
from tasks.text import kernels
from tasks.text.buffers import string_buffers
from tasks.text.groups import Measure
from tasks.text.language import identify, paragraph_languages
from tasks.text.rules import FilterConfig, decide
from tasks.text.signals import GROUPS, Group, measure
from tasks.web import main_text
from tasks.web.main_text import ExtractConfig, Extracted

PACKAGES = ("postgresql-doc-15", "installation-guide-amd64", "debian-handbook")
PEER = ("datatrove[io,processing]==0.10.1", "spacy", "lxml_html_clean", "aiohttp")
FLOOR, FLOOR_MB_PER_S = 100.0, 60.0
"""Times as many documents per second as the peer; MB/s of a core."""
PROFILES = {"gopher-quality": "gopher", "gopher-repetition": "gopher", "c4": "c4-paper", "fineweb": "fineweb-code"}
PREFIXES = {"gopher-quality": "gopher_", "gopher-repetition": "gopher_repetition_", "c4": "c4_", "fineweb": "fineweb_"}


@njit(types.int64(types.Array(types.uint8, 1, "C", readonly=True)), cache=True)
def _read_every_byte(data: Any) -> int:
    total = 0
    for byte in data:
        total += byte
    return total


def texts_of(packages: Sequence[str]) -> list[str]:
    """The texts of all pages that have one."""
    config = ExtractConfig(mode="fast")
    found = []
    for book in documents(settings().home / "benchmarks", packages):
        for page in sorted(book.folder.rglob("*.html")):
            text = main_text.extract(
                page.read_bytes(), "text/html", f"http://debian.example/{book.path}/{page.name}", config=config
            )
            if isinstance(text, Extracted):
                found.append(text.text)
    return found


def timed(work: Callable[[], Any], at_least_s: float = 3.0) -> tuple[Any, float]:
    """The result, and the processor seconds of the quickest of several runs."""
    best, spent = float("inf"), 0.0
    while spent < at_least_s:
        started = time.process_time()
        result = work()
        took = time.process_time() - started
        best, spent = min(best, took), spent + took
    return result, best


def print_group_rates(texts: Sequence[str]) -> None:
    """The rate of what is always measured, of every group by itself, and of all that are measured by default."""
    array, model = pa.array(texts), settings().language_model
    language, _ = identify(array, model)
    configured: dict[Group, Measure] = {"paragraph_languages": partial(paragraph_languages, model_path=model)}
    num_mb = sum(len(text.encode()) for text in texts) / 1e6
    _, always_s = timed(lambda: measure(array, ()))
    _, default_s = timed(lambda: measure(array, language=language))
    print(f"{len(texts):,} pages, {num_mb:.1f} MB of text, one core")
    seconds = {"always": always_s}
    for name, group in GROUPS.items():
        if group.measure is not None:
            _, seconds[name] = timed(lambda own=group.measure: own(array, language))
        else:  # part of another pass: what it adds to that
            _, took = timed(lambda name=name: measure(array, (name,), language, configured))
            seconds[name] = took - always_s
    for name, took in {**seconds, "all that are measured by default": default_s}.items():
        by_default = "" if name not in GROUPS or GROUPS[name].by_default else " (not by default)"
        print(f"{name + by_default:<40} {num_mb / took:>8,.0f} MB/s")


def by_datatrove(texts: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What the peer says of these texts, and how long it took."""
    python = peer_environment(PEER)
    with tempfile.TemporaryDirectory(prefix="gristmill-bench-") as folder:
        path = Path(folder) / "documents.jsonl"
        path.write_text("\n".join(json.dumps({"text": text}) for text in texts), encoding="utf-8")
        script = str(Path(__file__).with_name("datatrove_filters.py"))
        told = subprocess.run([str(python), script, str(path)], capture_output=True, text=True, check=True).stdout
    found: dict[str, dict[str, Any]] = json.loads(told.splitlines()[-1])
    return found


def kept_by_us(signals: pa.Table, family: str) -> np.ndarray[Any, Any]:
    """Which documents the rules of one family keep."""
    config = FilterConfig(profile=PROFILES[family], languages=())
    others = tuple(
        rule.name
        for rule in config.rules()
        if not rule.name.startswith(PREFIXES[family])
        or rule.name == "c4_bad_words"  # which datatrove's filter does not ask
        or (family == "gopher-quality" and rule.name.startswith(PREFIXES["gopher-repetition"]))
    )
    return decide(signals, config.model_copy(update={"disabled": others})).keep


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=500, help="pages for datatrove")
    parser.add_argument("--without-datatrove", action="store_true", help="measure us alone")
    parser.add_argument("--groups", action="store_true", help="only the rate of every group of signals")
    given = parser.parse_args()
    texts = texts_of(PACKAGES)
    if given.groups:
        print_group_rates(texts)
        return
    array = pa.array(texts)
    data, _ = string_buffers(array)
    num_bytes = sum(len(text.encode()) for text in texts)
    kernels.compile_kernels()
    signals, ours_s = timed(lambda: measure(array, ()))
    _, limit_s = timed(lambda: _read_every_byte(data), 1.0)
    rate = num_bytes / 1e6 / ours_s
    print(f"{len(texts):,} pages, {num_bytes / 1e6:.1f} MB of text, one core")
    print(f"{'gristmill, the four families':<36} {len(texts) / ours_s:>10,.0f} documents/s {rate:>10,.1f} MB/s")
    print(f"{'limit: a loop that reads every byte':<36} {'':>10} {'':>11} {num_bytes / 1e6 / limit_s:>10,.1f} MB/s")
    print(f"floor of {FLOOR_MB_PER_S:g} MB/s: {'met' if rate >= FLOOR_MB_PER_S else 'MISSED'}")
    if given.without_datatrove:
        return
    step = max(1, len(texts) // given.pages)
    chosen = list(range(0, len(texts), step))[: given.pages]
    theirs = by_datatrove([texts[number] for number in chosen])
    their_s = sum(one["seconds"] for one in theirs.values())
    ratio = (len(texts) / ours_s) / (len(chosen) / their_s)
    for name, one in theirs.items():
        rate = len(chosen) / one["seconds"]
        agrees = float(np.mean(kept_by_us(signals, name)[chosen] == np.array(one["kept"])))
        print(f"{f'datatrove 0.10.1, {name}':<36} {rate:>10,.1f} documents/s; {agrees:.1%} of {len(chosen)} verdicts equal")
    print(f"{'datatrove, the four together':<36} {len(chosen) / their_s:>10,.1f} documents/s")
    print(f"gristmill beside it: {ratio:,.0f} x, at least {FLOOR:g} x: {'met' if ratio >= FLOOR else 'MISSED'}")


if __name__ == "__main__":
    main()
