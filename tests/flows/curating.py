"""A process that curates: `python curating.py RUN CONFIG [RUN CONFIG …]`, each pair one after the other, by plain calls."""

from __future__ import annotations

import logging
import sys

if __name__ == "__main__":
    from infra.settings import adopt_quiet_environment

    adopt_quiet_environment()
    logging.basicConfig(level=logging.WARNING)
    from flows.approval import approve
    from flows.config import load
    from flows.prepare import prepare
    from flows.publish import publish
    from infra import ledger

    for run, config in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
        loaded = load(config)
        with ledger.run(run):
            prepared = prepare.fn(loaded)
            approve(prepared.checks, loaded)
            publish.fn(prepared, loaded)
