"""What a worker process on this machine does before its first shard (Dask loads this module by name)."""

from __future__ import annotations

import logging
from typing import Any


def dask_setup(_worker: Any) -> None:
    """Say nothing of a scheduler that is gone: it is in the flow's process, and either that closes its workers, or it tells itself."""
    logging.getLogger("distributed.worker").addFilter(_is_no_lost_scheduler)


def _is_no_lost_scheduler(record: logging.LogRecord) -> bool:
    return "communicate with scheduler during heartbeat" not in record.getMessage()
