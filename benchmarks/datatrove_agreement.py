"""The profile datatrove-0.10 beside datatrove itself: whether they judge real pages alike, filter by filter and together.

    python -m benchmarks.datatrove_agreement [--pages N] [--tokens]

The pages are the HTML of PACKAGES, Debian's documentation, extracted by us: those that fastText calls English with at least 0.65 (the
words of the profile are English), each text once, and of these N in even steps over all packages. datatrove 0.10.1 judges them in an
environment of its own, each filter the text as it is, and once more the four in a row. Prints the shares of equal verdicts and of equal
reasons, every class of disagreement with its count and a page, and our speed apart. With --tokens every page's words and sentences are
compared with spaCy's too. Ends with 1 where fewer than 98 % of the verdicts of any filter are equal.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from benchmarks.peers import peer_environment
from benchmarks.signals import PEER, timed
from benchmarks.web_server import unpacked
from infra.settings import settings
from tasks.text import datatrove
from tasks.text.buffers import string_buffers
from tasks.text.language import identify
from tasks.text.rules import FilterConfig, decide
from tasks.text.signals import measure
from tasks.text.spacy_words import tokenize
from tasks.web import main_text
from tasks.web.main_text import ExtractConfig, Extracted

PROFILE = "datatrove-0.10"
PACKAGES = (
    *("postgresql-doc-15", "installation-guide-amd64", "debian-handbook", "apache2-doc", "python3.11-doc", "sqlite3-doc"),
    *("anarchism", "git-doc", "python-django-doc"),
)
PREFIXES = {
    name: f"{PROFILE.partition('-')[0]}_{part}_"
    for name, part in (
        ("gopher-repetition", "repetition"),
        ("gopher-quality", "gopher"),
        ("c4", "c4"),
        ("fineweb", "fineweb"),
    )
}
"""datatrove's filters in the order in which the profile asks them, and what the names of their rules begin with."""
_WORD = re.compile("^datatrove_(repetition_|c4_|fineweb_)?")  # what stands before datatrove's reason in the name of a rule
MIN_SCORE, FLOOR = 0.65, 0.98
Flags = npt.NDArray[np.bool_]
Words = npt.NDArray[np.object_]


class Page(NamedTuple):
    """A page that was chosen."""

    name: str
    """package/file."""
    text: str


class Verdicts(NamedTuple):
    """Of one filter, or several."""

    kept: Flags
    reasons: Words
    """datatrove's word, "" where the page is kept."""


def pages() -> list[Page]:
    """The English pages of all packages, each text once."""
    config, cache = ExtractConfig(mode="fast"), settings().home / "benchmarks"
    found: dict[str, Page] = {}
    for package in PACKAGES:
        unpacked(package, cache)
        paths = [path for path in sorted((cache / package).rglob("*.html")) if path.is_file() and not path.is_symlink()]
        made = [
            main_text.extract(path.read_bytes(), "text/html", f"http://debian.example/{path.name}", config=config)
            for path in paths
        ]
        texts = [(path, one.text) for path, one in zip(paths, made, strict=True) if isinstance(one, Extracted)]
        languages, _ = identify(pa.array([text for _, text in texts]), settings().language_model, min_score=MIN_SCORE)
        for (path, text), language in zip(texts, languages.to_pylist(), strict=True):
            if language == "en":
                found.setdefault(text, Page(str(path.relative_to(cache)), text))
    return list(found.values())


def peer(script: str, words: Sequence[str], chosen: Sequence[Page]) -> str:
    """What a script of the peer's environment prints about these pages."""
    with tempfile.TemporaryDirectory(prefix="gristmill-bench-") as folder:
        path = Path(folder) / "documents.jsonl"
        path.write_text("\n".join(json.dumps({"text": page.text}) for page in chosen), encoding="utf-8")
        command = [str(peer_environment(PEER)), str(Path(__file__).with_name(script)), *words]
        command = [str(path) if word == "DOCUMENTS" else word for word in command]
        return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def ours(signals: pa.Table) -> dict[str, Verdicts]:
    """The profile's verdicts by filter, and of all four."""
    config = FilterConfig(profile=PROFILE, languages=())
    found = {}
    for name, prefix in {**PREFIXES, "together": ""}.items():
        others = tuple(rule.name for rule in config.rules() if not rule.name.startswith(prefix))
        decision = decide(signals, config.model_copy(update={"disabled": others}))
        reasons = ["" if rule is None else _WORD.sub("", rule) for rule in decision.rule.to_pylist()]
        found[name] = Verdicts(decision.keep, np.array(reasons, object))
    return found


def theirs(told: Mapping[str, Any]) -> dict[str, Verdicts]:
    """datatrove's verdicts by filter, and of all four: the first reason in the order of the profile."""
    found = {
        name: Verdicts(np.array(told[name]["kept"]), np.array(told[name]["reasons"], object)) for name in (*PREFIXES, "pipeline")
    }
    reasons = np.full(len(found["c4"].kept), "", object)
    for name in reversed(PREFIXES):
        reasons[~found[name].kept] = found[name].reasons[~found[name].kept]
    return {**found, "together": Verdicts(reasons == "", reasons)}


def disagreements(one: Verdicts, other: Verdicts, chosen: Sequence[Page]) -> Iterator[str]:
    """A line for each class: (datatrove's reason, ours), how many pages, and the first of them."""
    differ = np.flatnonzero(one.kept != other.kept)
    classes = Counter(zip(other.reasons[differ], one.reasons[differ], strict=True))
    for (their_word, our_word), count in classes.most_common():
        first = next(at for at in differ if (other.reasons[at], one.reasons[at]) == (their_word, our_word))
        yield f"    datatrove {their_word or 'keeps'}, we {our_word or 'keep'}: {count:,}, such as {chosen[first].name}"


def compare_tokens(chosen: Sequence[Page]) -> None:
    """Print how many pages have the same words as spaCy gives, and the same number of sentences."""
    data, offsets = string_buffers(pa.array([page.text for page in chosen], pa.large_string()))
    found, raw, same, num = tokenize(data, offsets), data.tobytes(), 0, 0
    for number, line in enumerate(peer("spacy_english.py", ("tokens", "DOCUMENTS"), chosen).splitlines()):
        first, last = found.offsets[number], found.offsets[number + 1]
        spans = zip(found.starts[first:last].tolist(), found.ends[first:last].tolist(), strict=True)
        words = json.loads(line)["tokens"]
        same += words == [raw[start:end].decode() for start, end in spans]
        num += len(words)
    print(f"words equal to spaCy's: all of {same:,} of {len(chosen):,} pages, {num:,} words")


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=0, help="how many; 0: all")
    parser.add_argument("--tokens", action="store_true", help="compare every word with spaCy's")
    given = parser.parse_args()
    every = pages()
    number = min(given.pages, len(every)) or len(every)
    chosen = [every[at * len(every) // number] for at in range(number)]
    array = pa.array([page.text for page in chosen])
    num_bytes = sum(len(page.text.encode()) for page in chosen)
    of_package = Counter(page.name.partition("/")[0] for page in chosen)
    print(f"{number:,} pages, {num_bytes / 1e6:.1f} MB: " + ", ".join(f"{name} {count:,}" for name, count in of_package.items()))
    if given.tokens:
        compare_tokens(chosen)
    told = json.loads(peer("datatrove_filters.py", ("DOCUMENTS", "--by-document"), chosen).splitlines()[-1])
    we, they = ours(measure(array, ("datatrove",))), theirs(told)
    worst = 1.0
    print(f"{'':<20} {'verdicts equal':>16} {'reasons equal':>16} {'datatrove keeps':>16}")
    for name, one in we.items():
        verdicts, reasons = float(np.mean(one.kept == they[name].kept)), float(np.mean(one.reasons == they[name].reasons))
        worst = min(worst, verdicts)
        print(f"{name:<20} {verdicts:>16.2%} {reasons:>16.2%} {they[name].kept.mean():>16.1%}")
        print(*disagreements(one, they[name], chosen), sep="\n", end="")
    in_a_row = float(np.mean(we["together"].kept == they["pipeline"].kept))
    print(f"{'in a row':<20} {in_a_row:>16.2%} {'':>16} {they['pipeline'].kept.mean():>16.1%}  (with C4's lines handed on)")
    print(*disagreements(we["together"], they["pipeline"], chosen), sep="\n")
    _, seconds = timed(lambda: datatrove.measure(array, None))
    their_s = sum(told[name]["seconds"] for name in PREFIXES)
    print(
        f"speed, one core: the group datatrove {number / seconds:,.0f} documents/s, {num_bytes / 1e6 / seconds:.1f} MB/s;",
        end=" ",
    )
    print(f"datatrove's four filters, which share the words, {number / their_s:,.1f} documents/s: {their_s / seconds:,.0f} x")
    print(f"floor of {FLOOR:.0%} equal verdicts: {'met' if worst >= FLOOR else 'MISSED'}")
    return 0 if worst >= FLOOR else 1


if __name__ == "__main__":
    sys.exit(main())
