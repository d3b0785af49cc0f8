"""A process that crawls: `python crawling.py CONFIG FOLDER`."""

from __future__ import annotations

import logging
import sys

if __name__ == "__main__":
    from infra.settings import adopt_quiet_environment

    adopt_quiet_environment()
    logging.basicConfig(level=logging.WARNING)
    from flows.config import load
    from infra.cluster import pool
    from tasks.crawl import crawl

    loaded = load(sys.argv[1])
    with pool(loaded.dask):
        crawl.run([], loaded.crawl, sys.argv[2])
