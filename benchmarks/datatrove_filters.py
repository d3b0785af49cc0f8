"""The peer of `benchmarks.signals`, in an environment of its own: datatrove's filters over JSONL, one after the other, each with its time.

    python datatrove_filters.py DOCUMENTS.jsonl [--pipeline]

Prints JSON: {filter: {"seconds": of processor time, "kept": [a flag a document], "reasons": [a word a document]}}. Every filter sees every
document as it was. With --pipeline there is one more, "pipeline": the four in a row, where each sees what the one before left of the
documents that it kept, the C4 filter its lines.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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


def asked(filters: Sequence[BaseFilter], documents: Sequence[Document]) -> dict[str, Any]:
    """The first word against each document, and how long that took."""
    started = time.process_time()
    verdicts = [next((no for one in filters if (no := one.filter(document)) is not True), True) for document in documents]
    seconds = time.process_time() - started
    kept = [verdict is True for verdict in verdicts]
    reasons = [verdict[1] if isinstance(verdict, tuple) else "" for verdict in verdicts]
    return {"seconds": seconds, "kept": kept, "reasons": reasons}


def main() -> None:
    """Print what they say."""
    texts = [json.loads(line)["text"] for line in Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()]
    filters = {name: make() for name, make in FILTERS.items()}
    found = {}
    runs = {name: [one] for name, one in filters.items()}
    if "--pipeline" in sys.argv:
        runs["pipeline"] = [filters[name] for name in PIPELINE]
    for name, some in runs.items():
        asked(some, [Document(text=texts[0], id="warm-up")])  # loads the tokeniser
        found[name] = asked(some, [Document(text=text, id=str(number)) for number, text in enumerate(texts)])
    print(json.dumps(found))


if __name__ == "__main__":
    main()
