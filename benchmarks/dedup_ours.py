"""Ours as the peers' programs are run: `python -m benchmarks.dedup_ours CORPUS OUTPUT [--workers N]`, a process with nothing else in it.

CORPUS is a version of documents. OUTPUT gets its index (signatures, candidates, verification) and the documents that stay, as
`gristmill step index` and `gristmill step dedup` write them. One worker is this process itself.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from infra.garbage import collect_seldom


def run_ours(corpus: Path, output: Path, workers: int) -> None:
    """Deduplicate a corpus with the defaults: word 5-grams, 14 bands of 8, verified Jaccard of at least 0.8."""
    collect_seldom()  # before anything large is imported, as the command does
    from infra.cluster import DaskConfig, pool
    from infra.dataset import open_version
    from tasks.dedup import dedup
    from tasks.index import index

    with pool(DaskConfig(kind="none" if workers == 1 else "local", workers=workers)):
        documents = open_version(str(corpus))
        indexed = index.run([[documents], []], index.config_type(), str(output / "index")).shards
        dedup.run([[documents], indexed], dedup.config_type(), str(output / "kept"))


def main() -> None:
    """Run as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    run_ours(given.corpus.absolute(), given.output.absolute(), given.workers)


if __name__ == "__main__":
    main()
