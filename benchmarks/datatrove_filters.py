"""The peer of `benchmarks.signals`, in an environment of its own: datatrove's filters over JSONL, one after the other, each with its time.

    python datatrove_filters.py DOCUMENTS.jsonl [--by-document]

Prints JSON: {filter: {"seconds": of processor time, "kept": [a flag a document], "reasons": [a word a document]}}. Every filter sees every
document as it was, one filter after the other. With --by-document each document meets all filters before the next one comes, as in a
pipeline, so that they share its words (datatrove caches those of the last five texts); and there is one more, "pipeline": the four in a
row, where each sees what the one before left, after the C4 filter the lines that it keeps.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from datatrove.data import Document
from datatrove.pipeline.filters import C4QualityFilter, FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter
from datatrove.pipeline.filters.base_filter import BaseFilter

FILTERS = {
    "gopher-quality": GopherQualityFilter,
    "gopher-repetition": GopherRepetitionFilter,
    "c4": C4QualityFilter,
    "fineweb": FineWebQualityFilter,
}


PIPELINE = ("gopher-repetition", "gopher-quality", "c4", "fineweb")  # the order of examples/fineweb.py


class Told:
    """What some filters in a row said of the documents so far."""

    def __init__(self, filters: Sequence[BaseFilter]) -> None:
        self.filters = filters
        self.seconds = 0.0
        self.reasons: list[str] = []

    def ask(self, text: str) -> None:
        """The first word against the document; each filter sees what the one before left of it."""
        document = Document(text=text, id=str(len(self.reasons)))
        started = time.process_time()
        verdicts = (one.filter(document) for one in self.filters)
        reason = next((no[1] if isinstance(no, tuple) else "dropped" for no in verdicts if no is not True), "")
        self.seconds += time.process_time() - started
        self.reasons.append(reason)


def main() -> None:
    """Print what they say."""
    texts = [json.loads(line)["text"] for line in Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()]
    by_document = "--by-document" in sys.argv
    filters = {name: make() for name, make in FILTERS.items()}
    for one in filters.values():
        one.filter(Document(text=texts[0], id="warm-up"))  # loads the tokeniser
    told = {name: Told([one]) for name, one in filters.items()}
    if by_document:
        told["pipeline"] = Told([filters[name] for name in PIPELINE])
    names, numbers = list(told), range(len(texts))
    turns = product(numbers, names) if by_document else ((number, name) for name, number in product(names, numbers))
    for number, name in turns:
        told[name].ask(texts[number])
    found = {
        name: {"seconds": one.seconds, "kept": [not reason for reason in one.reasons], "reasons": one.reasons}
        for name, one in told.items()
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
