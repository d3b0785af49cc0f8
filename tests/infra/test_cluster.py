"""Workers on this machine, as the pool starts them."""

from __future__ import annotations

import logging

from infra.cluster import DaskConfig, pool


def told(message: str) -> bool:
    """Whether a worker would tell this."""
    logger = logging.getLogger("distributed.worker")
    return bool(logger.filter(logging.LogRecord(logger.name, logging.ERROR, __file__, 1, message, None, None)))


def test_a_worker_is_silent_of_a_scheduler_that_is_gone_and_of_nothing_else() -> None:
    messages = ["Failed to communicate with scheduler during heartbeat.", "Worker exceeded 95% memory budget. Restarting"]
    with pool(DaskConfig(workers=1)) as workers:
        assert sorted(workers.run(told, messages)) == [(0, False), (1, True)]
    assert told(messages[0]), "only in the workers"
