"""Ours as the peers' programs are run: `python -m benchmarks.dedup_ours CORPUS OUTPUT [--workers N]`, a process with nothing else in it.

CORPUS is a version of documents; what is kept goes to OUTPUT, with signatures, candidates, verification and removal on the way, as
`gristmill step` does it. One worker is this process itself.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from infra.cluster import DaskConfig, pool
from infra.dataset import open_version
from tasks.dedup import dedup


def run_ours(corpus: Path, output: Path, workers: int) -> None:
    """Deduplicate a corpus with the defaults: word 5-grams, 14 bands of 8, verified Jaccard of at least 0.8."""
    with pool(DaskConfig(kind="none" if workers == 1 else "local", workers=workers)):
        dedup.run([open_version(str(corpus))], dedup.config_type(), str(output))


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
