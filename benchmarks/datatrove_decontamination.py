"""The peer of `benchmarks.contamination`, in an environment of its own: datatrove's n-gram decontamination over JSONL.

    python datatrove_decontamination.py DOCUMENTS.jsonl ITEMS.jsonl WORDS

Prints JSON: {"seconds": of processor time, "contaminated": [a flag a document]}. Its indexer takes tasks by way of lighteval, which wants
torch and the hub; here its own `compute_hashes` is given our items instead, question and answer as query and label, so that its filter has
the index that it would have.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.decont import NGramsDecontConfig, NGramsDecontFilter, NGramsDecontIndexer


def main() -> None:
    """Print what it says."""
    documents, items = (
        [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()] for path in sys.argv[1:3]
    )
    config = NGramsDecontConfig(n_grams=int(sys.argv[3]), find_query_ngrams=True, find_overlap_ngrams=False)
    with tempfile.TemporaryDirectory() as folder:
        judge = NGramsDecontFilter(folder, config)
        indexer = object.__new__(NGramsDecontIndexer)  # its __init__ asks for lighteval
        indexer.config, indexer.tokenizer, indexer.hash_func = config, judge.tokenizer, judge.hash_func
        hashes = {one for item in items for one in indexer.compute_hashes(item["label"], item["query"])}
        np.array(sorted(hashes), config.hash_config.np_descr).tofile(Path(folder, "items.index.hashes"))
        judge.filter(Document(text=documents[0]["text"], id="warm-up"))  # loads index and tokeniser
        started = time.process_time()
        flags = [judge.filter(Document(text=one["text"], id=str(number))) is not True for number, one in enumerate(documents)]
        print(json.dumps({"seconds": time.process_time() - started, "contaminated": flags}))


if __name__ == "__main__":
    main()
