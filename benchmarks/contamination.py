"""The search for evaluation items in real documentation pages beside datatrove's n-gram decontamination, one core each, in one run.

    python -m benchmarks.contamination FOLDER [--pages N] [--without-datatrove]

FOLDER has evaluation sets of rows (as ../shared/data/tasks: GSM8K and BLiMP). The pages are those of `benchmarks.signals`; every 50th has
an item planted in it. datatrove 0.10.1 gets the first N pages and the items of GSM8K. Prints MB/s by processor time: for all sets, for
those with n-grams alone, and beside them the limits (a loop that reads every byte; the words of the normal form, without any search); how
many of the planted items each finds; and on how many pages the two disagree, by 13-grams alone. datatrove takes every number for the same.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.peers import peer_environment
from benchmarks.signals import PACKAGES, PEER, _read_every_byte, texts_of, timed
from tasks.text import needles
from tasks.text.buffers import string_buffers
from tasks.text.evaluation_sets import EvaluationSet, Items, read_set

NGRAM_WORDS, MIN_WORDS, STRICT = (8, 10, 13), 5, 13
PLANT_EVERY = 50


def planted(texts: Sequence[str], items: Items) -> list[str]:
    """The texts, every PLANT_EVERY-th with a passage of at least STRICT words in its middle, in capitals and on lines of its own."""
    long = [one for one in items.passages if len(one.split()) > STRICT]
    made = list(texts)
    for at in range(0, len(made), PLANT_EVERY):
        middle = len(made[at]) // 2
        made[at] = f"{made[at][:middle]}\n\n{long[at % len(long)].upper()}\n\n{made[at][middle:]}"
    return made


def by_datatrove(texts: Sequence[str], items: Items) -> dict[str, Any]:
    """What the peer says of these texts, and how long it took."""
    python = peer_environment(PEER)
    with tempfile.TemporaryDirectory(prefix="gristmill-bench-") as folder:
        documents, asked = Path(folder) / "documents.jsonl", Path(folder) / "items.jsonl"
        documents.write_text("\n".join(json.dumps({"text": text}) for text in texts), encoding="utf-8")
        asked.write_text("\n".join(json.dumps({"query": "", "label": passage}) for passage in items.passages), encoding="utf-8")
        script = str(Path(__file__).with_name("datatrove_decontamination.py"))
        words = [str(python), script, str(documents), str(asked), str(STRICT)]
        told = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    found: dict[str, Any] = json.loads(told.splitlines()[-1])
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="evaluation sets, a file of rows each")
    parser.add_argument("--pages", type=int, default=500, help="pages for datatrove")
    parser.add_argument("--without-datatrove", action="store_true", help="measure us alone")
    given = parser.parse_args()
    sets = [read_set(EvaluationSet(name=path.stem, path=str(path))) for path in sorted(given.folder.glob("*.jsonl"))]
    gsm8k = next(one for one in sets if "gsm8k" in one.name)
    texts = planted(texts_of(PACKAGES), gsm8k)
    array = pa.array(texts)
    data, starts = string_buffers(array)
    num_mb = data.size / 1e6
    needles.compile_kernels()
    everything = pa.array([passage for one in sets for passage in one.passages])
    looked_for, made_s = timed(lambda: needles.needles_of(everything, NGRAM_WORDS, MIN_WORDS), 1.0)
    grams = needles.needles_of(pa.array(gsm8k.passages), NGRAM_WORDS, min(NGRAM_WORDS))
    nothing = needles.needles_of(pa.array([""]), (1_000_000,), 1)
    print(
        f"{len(texts):,} pages, {num_mb:.1f} MB of text, one core; {sum(len(one.keys) for one in sets):,} items of {len(sets)} sets, "
        f"{looked_for.size:,} needles made in {made_s:.2f} s"
    )
    for name, work in (
        ("gristmill, all sets (at 5, 6, 7 and 8 words)", lambda: needles.search(array, looked_for)),
        ("gristmill, GSM8K (at 8 words)", lambda: needles.search(array, grams)),
        ("limit: the words, without a search", lambda: needles.search(array, nothing)),
        ("limit: a loop that reads every byte", lambda: _read_every_byte(data)),
    ):
        _, took = timed(work)
        print(f"{name:<46} {num_mb / took:>10,.1f} MB/s {len(texts) / took:>12,.0f} documents/s")
    strict = needles.needles_of(pa.array(gsm8k.passages), (STRICT,), STRICT)
    ours = np.zeros(len(texts), bool)
    docs, _ = needles.search(array, strict)
    ours[docs] = True
    has_item = np.arange(len(texts)) % PLANT_EVERY == 0
    print(
        f"gristmill: {(ours & has_item).sum()} of {has_item.sum()} planted items found, {(ours & ~has_item).sum()} pages beside them"
    )
    if given.without_datatrove:
        return
    first = np.arange(len(texts)) < given.pages
    some_mb = int(starts[first.sum()]) / 1e6
    theirs = by_datatrove(texts[: given.pages], gsm8k)
    flags = np.zeros(len(texts), bool)
    flags[: given.pages] = theirs["contaminated"]
    print(
        f"{'datatrove 0.10.1, GSM8K':<46} {some_mb / theirs['seconds']:>10,.2f} MB/s {given.pages / theirs['seconds']:>12,.1f} documents/s"
    )
    print(
        f"datatrove: {(flags & has_item).sum()} of {(has_item & first).sum()} planted items found, "
        f"{(flags & ~has_item).sum()} pages beside them; {(flags != ours)[first].sum()} of {first.sum()} verdicts differ from ours"
    )


if __name__ == "__main__":
    main()
