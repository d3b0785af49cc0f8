"""The peer of `benchmarks.signals`, in an environment of its own: datatrove's filters over JSONL, one after the other, each with its time.

    python datatrove_filters.py DOCUMENTS.jsonl

Prints JSON: {filter: {"seconds": of processor time, "kept": [a flag a document], "reasons": [a word a document]}}.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from datatrove.data import Document
from datatrove.pipeline.filters import C4QualityFilter, FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter

FILTERS = {
    "gopher-quality": GopherQualityFilter,
    "gopher-repetition": GopherRepetitionFilter,
    "c4": C4QualityFilter,
    "fineweb": FineWebQualityFilter,
}


def main() -> None:
    """Every filter sees every document as it was: the C4 filter would else leave its cleaned text to the next."""
    texts = [json.loads(line)["text"] for line in Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()]
    found = {}
    for name, make in FILTERS.items():
        asked = make()
        asked.filter(Document(text=texts[0], id="warm-up"))  # loads the tokeniser
        documents = [Document(text=text, id=str(number)) for number, text in enumerate(texts)]
        started = time.process_time()
        verdicts = [asked.filter(document) for document in documents]
        seconds = time.process_time() - started
        kept = [verdict if isinstance(verdict, bool) else verdict[0] for verdict in verdicts]
        reasons = ["" if isinstance(verdict, bool) else verdict[1] for verdict in verdicts]
        found[name] = {"seconds": seconds, "kept": kept, "reasons": reasons}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
