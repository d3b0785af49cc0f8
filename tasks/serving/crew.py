"""All replicas of one version of a model: started, watched, started again, retired.

A replica that ends is started again after a pause that doubles with each failure in a row. One that gives no sign of life gets nothing
new, and after a while is taken for dead. A crew that is retired lets its replicas end what they work on, then ends them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tasks.serving.config import ServeConfig, Served
from tasks.serving.process import Event, ReplicaFailed
from tasks.serving.requests import Wanted

log = logging.getLogger("gristmill")
LONGEST_PAUSE_S = 30.0
PULSE_S = 1.0
"""Between two questions for a sign of life."""
STARTING, READY, SILENT, DRAINING, ENDED = "starting", "ready", "silent", "draining", "ended"


class Worker(Protocol):
    """What a crew and its fleet ask of a replica, of whatever engine."""

    name: str
    served: Served
    heard_s: float
    resumes: bool

    async def start(self, hear: Callable[[Event], None]) -> dict[str, Any]:
        """Start it and wait until it is ready."""

    def begin(self, request: str, wanted: Wanted, resume: Sequence[int], *, stream: bool) -> None:
        """Let it write an answer."""

    def cancel(self, request: str) -> None:
        """Nobody waits for this answer."""

    def ping(self) -> None:
        """Ask for a sign of life."""

    def kill(self) -> None:
        """End it now."""

    async def gone(self) -> str:
        """Wait for its end."""

    @property
    def pid(self) -> int:
        """Of its process."""


@dataclass
class Place:
    """One of a crew's places, which a replica fills most of the time."""

    number: int
    state: str = STARTING
    replica: Worker | None = None
    failures: int = 0
    """In a row."""
    note: str = ""
    """Why the last one ended."""


class Watcher(Protocol):
    """Who is told what becomes of replicas."""

    def joined(self, replica: Worker, place: Place) -> None:
        """A replica takes requests from now on."""

    def held(self, replica: Worker, place: Place) -> None:
        """It takes no new ones for now."""

    def released(self, replica: Worker, place: Place) -> None:
        """It takes new ones again."""

    def lost(self, replica: Worker, place: Place) -> None:
        """It is gone."""

    def heard(self, replica: Worker, event: Event) -> None:
        """It said something of a request."""


class Crew:
    """The replicas of a version. Nothing is asked of them before `admit`."""

    def __init__(self, served: Served, config: ServeConfig, make: Callable[[Served, int], Worker], watcher: Watcher) -> None:
        self.served, self._config, self._make, self._watcher = served, config, make, watcher
        self.places = [Place(number) for number in range(config.replicas)]
        self.facts: dict[str, Any] = {}
        self.retired = False
        self._admitted = False
        self._changed = asyncio.Event()
        self._tasks = [asyncio.create_task(self._keep(place)) for place in self.places]

    async def ready(self, *, every: bool) -> bool:
        """Wait until the first replica, or every one, is ready; False: one could not start."""
        while True:
            self._changed.clear()
            states = [place.state for place in self.places]
            if (all if every else any)(state == READY for state in states):
                return True
            if self.retired or (any if every else all)(place.failures for place in self.places):
                return False
            await self._changed.wait()

    def admit(self) -> None:
        """Let requests come to those who are ready, and to others once they are."""
        self._admitted = True
        for place in self.places:
            if place.state == READY and place.replica is not None:
                self._watcher.joined(place.replica, place)

    def retire(self) -> None:
        """Take no more requests; each replica ends when it has nothing left to do."""
        self.retired = True
        for place, task in zip(self.places, self._tasks, strict=True):
            if place.replica is not None and place.state in (READY, SILENT) and self._admitted:
                place.state = DRAINING
                self._watcher.held(place.replica, place)
            elif place.state != DRAINING:
                task.cancel()  # it starts, or waits for its next start
        self._changed.set()

    async def end(self) -> None:
        """End all of them now, and wait until they are gone."""
        self.retired = True
        for place, task in zip(self.places, self._tasks, strict=True):
            if place.replica is not None:
                place.replica.kill()
            if place.state in (STARTING, ENDED):
                task.cancel()  # it loads, or waits for its next start
        _, late = await asyncio.wait(self._tasks, timeout=5.0)
        for task in late:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _keep(self, place: Place) -> None:
        """Fill a place as long as the crew is on duty."""
        try:
            while not self.retired:
                replica = place.replica = self._make(self.served, place.number)
                self._turn(place, STARTING)
                began_s = time.monotonic()
                try:
                    self.facts = await replica.start(lambda event, replica=replica: self._watcher.heard(replica, event))  # type: ignore[misc]
                    await self._work(replica, place)
                except ReplicaFailed as error:
                    place.note = str(error)
                if self.retired:
                    break
                place.failures = 1 if time.monotonic() - began_s > 2 * LONGEST_PAUSE_S else place.failures + 1
                self._turn(place, ENDED)
                log.warning("replica %s of %s %s: %s", place.number, self.served.name, self.served.version, place.note)
                await asyncio.sleep(min(self._config.restart_after_s * 2 ** (place.failures - 1), LONGEST_PAUSE_S))
        finally:
            if place.replica is not None:
                place.replica.kill()
            self._turn(place, ENDED)

    async def _work(self, replica: Worker, place: Place) -> None:
        """A replica's time on duty."""
        self._turn(place, READY)
        if self._admitted and not self.retired:
            self._watcher.joined(replica, place)
        pulse = asyncio.create_task(self._pulse(replica, place))
        try:
            place.note = await replica.gone()
        finally:
            pulse.cancel()
            self._watcher.lost(replica, place)

    async def _pulse(self, replica: Worker, place: Place) -> None:
        """Ask for signs of life, and draw the consequences where there are none."""
        while True:
            replica.ping()
            await asyncio.sleep(min(PULSE_S, self._config.silent_after_s / 3))
            quiet_s = time.monotonic() - replica.heard_s
            if quiet_s > self._config.dead_after_s:
                log.warning("replica %s of %s: no sign of life for %.0f s", place.number, self.served.name, quiet_s)
                replica.kill()
            elif quiet_s > self._config.silent_after_s and place.state == READY:
                place.state = SILENT
                self._watcher.held(replica, place)
            elif quiet_s <= self._config.silent_after_s and place.state == SILENT:
                place.failures, place.state = 0, READY
                self._watcher.released(replica, place)

    def _turn(self, place: Place, state: str) -> None:
        place.state = state
        self._changed.set()
