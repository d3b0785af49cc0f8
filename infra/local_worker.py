"""What a worker process on this machine does before its first shard (Dask loads this module by name)."""

from __future__ import annotations

import logging
from typing import Any

from infra.garbage import collect_seldom


def dask_setup(_worker: Any) -> None:
    """Look for garbage seldom. Say nothing of a scheduler that is gone: it is in the flow's process, which closes its workers, or tells
    itself why not."""
    collect_seldom()
    logging.getLogger("distributed.worker").addFilter(_is_no_lost_scheduler)


def _is_no_lost_scheduler(record: logging.LogRecord) -> bool:
    return "communicate with scheduler during heartbeat" not in record.getMessage()
