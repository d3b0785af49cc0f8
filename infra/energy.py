"""How much electricity a piece of work took, by codecarbon: measured where the machine has counters, else estimated from its load.

In a virtual machine there are no counters, so the figure is the load of the cores times a power per core, plus a constant for memory:
every page that shows it says "estimated". No network is used. Starting the meter costs about half a second, once per process.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

JOULES_PER_KWH = 3.6e6


@dataclass
class Energy:
    """Electricity of one block, in joules; 0 until the block ends."""

    joules: float = 0.0


@contextmanager
def metered(name: str) -> Iterator[Energy]:
    """Measure the electricity that the whole machine takes while this block runs, by `name`."""
    energy = Energy()
    meter = _meter()
    meter.start_task(name)
    try:
        yield energy
    finally:
        energy.joules = float(meter.stop_task(name).energy_consumed) * JOULES_PER_KWH


@cache
def _meter() -> Any:
    from codecarbon import OfflineEmissionsTracker

    logging.getLogger("codecarbon").setLevel(logging.CRITICAL)  # its start-up lines come before log_level takes hold
    # the country only matters for grams of CO2, which are not reported: nobody here knows the site's power mix
    return OfflineEmissionsTracker(
        country_iso_code="DEU", save_to_file=False, log_level="critical", allow_multiple_runs=True, measure_power_secs=5
    )
