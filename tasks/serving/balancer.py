"""Which replica works on which request: events in, decisions out; no socket, no clock.

Requests of a model wait in one queue, in the order in which they came. A free place goes to the first of them, on the replica with the
least to do (of equals, the one that has begun the fewest). Requests of a lost replica wait again where they stood, before all that came
later. No request is begun twice at a time, none is forgotten. An event costs the number of replicas; a lost replica also its requests.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import NamedTuple

Ticket = Hashable
"""A request's name here."""


class Start(NamedTuple):
    """Let a replica work on a request."""

    ticket: Ticket
    replica: str


class Refuse(NamedTuple):
    """Give a request up."""

    ticket: Ticket
    reason: str


class Idle(NamedTuple):
    """A replica that takes no more has nothing left to do."""

    replica: str


Decision = Start | Refuse | Idle
QUEUE_FULL, LOST_TOO_OFTEN = "queue_full", "replicas_lost"


@dataclass
class _Replica:
    model: str
    slots: int
    held: bool = False
    begun: int = 0
    working: set[Ticket] = field(default_factory=set)

    @property
    def free(self) -> bool:
        return not self.held and len(self.working) < self.slots


@dataclass
class _Request:
    model: str
    order: int
    replica: str = ""
    """Empty: it waits."""
    lost: int = 0
    """Replicas that ended under it."""


class Balancer:
    """The state of all queues and replicas."""

    def __init__(self, queue_size: int, max_tries: int) -> None:
        self._queue_size, self._max_tries = queue_size, max_tries
        self._replicas: dict[str, _Replica] = {}
        self._requests: dict[Ticket, _Request] = {}
        self._queues: dict[str, list[tuple[int, Ticket]]] = {}
        self._waiting: dict[str, int] = {}
        self._order = 0

    def up(self, replica: str, model: str, slots: int) -> list[Decision]:
        """A replica is ready to work."""
        self._replicas[replica] = _Replica(model, slots)
        return self._fill(model)

    def hold(self, replica: str) -> list[Decision]:
        """A replica takes no more requests; those that it works on go on."""
        if (found := self._replicas.get(replica)) is None:
            return []
        found.held = True
        return [] if found.working else [Idle(replica)]

    def release(self, replica: str) -> list[Decision]:
        """A replica that was held takes requests again."""
        if (found := self._replicas.get(replica)) is None:
            return []
        found.held = False
        return self._fill(found.model)

    def down(self, replica: str) -> list[Decision]:
        """A replica is lost; what it worked on waits again, unless that has lost too many."""
        found = self._replicas.pop(replica, None)
        if found is None:
            return []
        refused: list[Decision] = []
        for ticket in sorted(found.working, key=lambda one: self._requests[one].order):
            request = self._requests[ticket]
            request.lost += 1
            if request.lost >= self._max_tries:
                del self._requests[ticket]
                refused.append(Refuse(ticket, LOST_TOO_OFTEN))
            else:
                self._wait(ticket, request)
        return [*refused, *self._fill(found.model)]

    def arrive(self, ticket: Ticket, model: str) -> list[Decision]:
        """A request comes in."""
        free = any(one.free for one in self._replicas.values() if one.model == model)
        if not free and self.waiting(model) >= self._queue_size:
            return [Refuse(ticket, QUEUE_FULL)]
        self._order += 1
        self._requests[ticket] = _Request(model, self._order)
        self._wait(ticket, self._requests[ticket])
        return self._fill(model)

    def leave(self, ticket: Ticket) -> list[Decision]:
        """A request is over: answered, or nobody waits for it any more."""
        request = self._requests.pop(ticket, None)
        if request is None:
            return []
        if not request.replica:
            self._waiting[request.model] -= 1
            return []
        replica = self._replicas[request.replica]
        replica.working.discard(ticket)
        if replica.held and not replica.working:
            return [Idle(request.replica)]
        return self._fill(request.model)

    def waiting(self, model: str) -> int:
        """Requests of a model that have no place yet."""
        return self._waiting.get(model, 0)

    def working(self, replica: str) -> int:
        """Requests that a replica works on."""
        found = self._replicas.get(replica)
        return len(found.working) if found else 0

    def of_replica(self, replica: str) -> list[Ticket]:
        """The requests that it works on."""
        found = self._replicas.get(replica)
        return list(found.working) if found else []

    def _wait(self, ticket: Ticket, request: _Request) -> None:
        request.replica = ""
        heapq.heappush(self._queues.setdefault(request.model, []), (request.order, ticket))
        self._waiting[request.model] = self.waiting(request.model) + 1

    def _fill(self, model: str) -> list[Decision]:
        """Give free places to those who wait."""
        queue, started = self._queues.get(model, []), list[Decision]()
        while queue:
            order, ticket = queue[0]
            request = self._requests.get(ticket)
            if request is None or request.replica or request.order != order:  # left while it waited
                heapq.heappop(queue)
                continue
            free = [
                (len(one.working), one.begun, name) for name, one in self._replicas.items() if one.model == model and one.free
            ]
            if not free:
                break
            heapq.heappop(queue)
            name = min(free)[2]
            replica = self._replicas[name]
            replica.working.add(ticket)
            replica.begun += 1
            request.replica = name
            self._waiting[model] -= 1
            started.append(Start(ticket, name))
        return started
