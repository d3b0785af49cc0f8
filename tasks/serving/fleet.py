"""All models that are served, their replicas, and the answers on their way: the balancer's decisions carried out.

A replica that ends loses no answer: what it had not begun waits again where it stood, and what it had begun goes on elsewhere, from the
token at which it stopped, with the same draws as before. Only where the engine tells no tokens, or another version has taken over, can an
answer of which the reader has a part not go on; its stream ends with an error. A model whose name means another version from now on is
loaded beside the old one; then new requests go to it, and the old one ends what it works on.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from infra.errors import GristmillError, InputError
from tasks.serving.balancer import LOST_TOO_OFTEN, QUEUE_FULL, Balancer, Decision, Idle, Refuse, Start
from tasks.serving.config import Resolve, ServeConfig, Served
from tasks.serving.crew import ENDED, READY, Crew, Place, Worker
from tasks.serving.metrics import Metrics
from tasks.serving.process import Began, Event, Wrote
from tasks.serving.requests import Refused
from tasks.serving.ticket import Ticket

log = logging.getLogger("gristmill")
TRY_AGAIN_S = 60.0
"""Until a version that did not start is tried again."""
RETRY_AFTER_S = 1.0


@dataclass
class Model:
    """A name that requests can give."""

    resolve: Resolve
    crew: Crew
    note: str = ""
    """What went wrong with its last reload."""
    not_before_s: float = 0.0
    created: int = 0

    @property
    def served(self) -> Served:
        """What answers now."""
        return self.crew.served


class Fleet:
    """What the gateway asks for answers."""

    def __init__(
        self,
        resolves: Mapping[str, Resolve],
        config: ServeConfig,
        make: Callable[[Served, int], Worker],
        metrics: Metrics,
    ) -> None:
        self.config, self.metrics = config, metrics
        self.models: dict[str, Model] = {}
        self.stopping = False
        self._resolves, self._make = resolves, make
        self._balancer = Balancer(config.queue_size, config.max_tries)
        self._tickets: dict[str, Ticket] = {}
        self._replicas: dict[str, Worker] = {}
        self._old: list[Crew] = []
        self._number = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Load every model; returns when each has a replica.

        Raises:
            InputError: a name means nothing, or a model does not start.
        """
        for name, resolve in self._resolves.items():
            served = await asyncio.to_thread(resolve)
            crew = Crew(served, self.config, self._make, self)
            crew.admit()
            self.models[name] = Model(resolve, crew, created=int(time.time()))
        for name, model in self.models.items():
            if not await model.crew.ready(every=False):
                raise InputError(f"{name}: does not start: {model.crew.places[0].note}")
        self._task(self._watch())

    async def stop(self) -> None:
        """End all replicas; answers that are not over fail."""
        self.stopping = True
        for task in self._tasks:
            task.cancel()
        self.give_up()
        crews = [*self._old, *(model.crew for model in self.models.values())]
        await asyncio.gather(*(crew.end() for crew in crews))

    def give_up(self) -> None:
        """Fail all answers that are not over."""
        for ticket in list(self._tickets.values()):
            ticket.fail(Refused(503, "The server is stopping", "stopping", retry_after_s=self.config.stop_s))

    async def answer(self, ticket: Ticket) -> AsyncGenerator[tuple[str, str]]:
        """An answer in pieces as they come: text, and why it is over with the last; what else there is to know is in the ticket.

        Raises:
            Refused: it cannot be written, or not to its end.
        """
        self._tickets[ticket.name] = ticket
        try:
            self._do(self._balancer.arrive(ticket.name, ticket.model))
            while True:
                text = await ticket.next(self.config)
                ended = ticket.ended  # as of this text: while the reader has it, more may come
                yield text, ended
                if ended:
                    return
        finally:
            self._leave(ticket)

    def ticket_name(self) -> str:
        """One that no other has."""
        self._number += 1
        return f"a{self._number}"

    def retry_after_s(self, model: str) -> float:
        """When a place may be free."""
        return max(RETRY_AFTER_S, 0.1 * self._balancer.waiting(model))

    def state(self) -> dict[str, Any]:
        """Each model's version and replicas."""
        told = {}
        for name, model in self.models.items():
            replicas = [self._told(place) for place in model.crew.places]
            told[name] = {
                "version": model.served.version,
                "ready": any(place.state == READY for place in model.crew.places),
                "queue": self._balancer.waiting(name),
                "replicas": replicas,
                "note": model.note,
            }
        return told

    def _told(self, place: Place) -> dict[str, Any]:
        busy = self._balancer.working(place.replica.name) if place.replica else 0
        pid = place.replica.pid if place.replica else 0
        return {"number": place.number, "state": place.state, "in_flight": busy, "pid": pid, "note": place.note}

    # what becomes of replicas

    def joined(self, replica: Worker, place: Place) -> None:
        """A replica takes requests from now on."""
        self._replicas[replica.name] = replica
        self._do(self._balancer.up(replica.name, replica.served.name, self.config.slots))
        self._show(replica, place, up=1)

    def held(self, replica: Worker, place: Place) -> None:
        """It takes no new ones."""
        self._do(self._balancer.hold(replica.name))
        self._show(replica, place, up=0)

    def released(self, replica: Worker, place: Place) -> None:
        """It takes new ones again."""
        self._do(self._balancer.release(replica.name))
        self._show(replica, place, up=1)

    def lost(self, replica: Worker, place: Place) -> None:
        """It is gone; its answers go on elsewhere."""
        name = replica.served.name
        waiting = self._balancer.of_replica(replica.name)
        self.metrics.retried.labels(name).inc(len(waiting))
        for one in waiting:
            ticket = self._tickets[str(one)]
            ticket.begun_s, ticket.waits_since_s = 0.0, time.monotonic()
        self._replicas.pop(replica.name, None)
        self._do(self._balancer.down(replica.name))
        if self._on_duty(replica) and not self.stopping:
            self.metrics.restarts.labels(name).inc()
        self._show(replica, place, up=0)

    def heard(self, replica: Worker, event: Event) -> None:
        """News of an answer."""
        ticket = self._tickets.get(event.request)
        if ticket is None:
            return  # nobody waits for it any more
        if isinstance(event, Began):
            ticket.prompt_tokens = event.prompt_tokens
        elif isinstance(event, Wrote):
            ticket.write(event.tokens, event.text, event.ended, event.num_tokens)
            if event.ended:  # its place is free, though its reader may take its time, or read nothing any more
                self._do(self._balancer.leave(ticket.name))
        else:
            ticket.fail(Refused(400, event.words, event.code, param="messages" if ticket.wanted.messages else "prompt"))

    def _show(self, replica: Worker, place: Place, *, up: int) -> None:
        if self._on_duty(replica):
            self.metrics.up.labels(replica.served.name, str(place.number)).set(up)

    def _on_duty(self, replica: Worker) -> bool:
        """Whether it is of the version that answers now."""
        model = self.models.get(replica.served.name)
        return model is None or any(place.replica is replica for place in model.crew.places)

    # what becomes of answers

    def _do(self, decisions: list[Decision]) -> None:
        for decision in decisions:
            if isinstance(decision, Start):
                self._start(self._tickets[str(decision.ticket)], self._replicas[decision.replica])
            elif isinstance(decision, Refuse):
                self._refuse(self._tickets[str(decision.ticket)], decision.reason)
            else:
                self._idle(decision)

    def _start(self, ticket: Ticket, replica: Worker) -> None:
        ticket.begun_s = time.monotonic()
        self.metrics.queue_seconds.labels(ticket.model).observe(ticket.begun_s - ticket.waits_since_s)
        if ticket.first_token_s and not (replica.resumes and ticket.tokens and ticket.digest == replica.served.digest):
            if ticket.handed:
                ticket.fail(
                    Refused(502, "The replica that wrote this answer ended, and no other can go on with it", "replica_lost")
                )
                return
            ticket.again()
        ticket.digest, ticket.version = replica.served.digest, replica.served.version
        replica.begin(ticket.name, ticket.wanted, ticket.tokens, stream=ticket.streaming)

    def _refuse(self, ticket: Ticket, reason: str) -> None:
        if reason == QUEUE_FULL:
            words = "This server has all the requests that it can take; try again later"
            ticket.fail(Refused(503, words, QUEUE_FULL, retry_after_s=self.retry_after_s(ticket.model)))
        else:
            assert reason == LOST_TOO_OFTEN
            words = f"{self.config.max_tries} replicas ended while they worked on this request"
            ticket.fail(Refused(502, words, LOST_TOO_OFTEN))

    def _idle(self, decision: Idle) -> None:
        replica = self._replicas.get(decision.replica)
        if replica is not None and not self._on_duty(replica):
            replica.kill()

    def _leave(self, ticket: Ticket) -> None:
        """An answer is over, or its reader is gone."""
        self._tickets.pop(ticket.name, None)
        if not ticket.ended:
            for replica in self._replicas.values():
                if ticket.name in self._balancer.of_replica(replica.name):
                    replica.cancel(ticket.name)
        if ticket.first_token_s:
            self.metrics.first_token_seconds.labels(ticket.model).observe(ticket.first_token_s - ticket.arrived_s)
        self.metrics.tokens_in.labels(ticket.model).inc(ticket.prompt_tokens)
        self.metrics.tokens_out.labels(ticket.model).inc(ticket.num_tokens)
        self._do(self._balancer.leave(ticket.name))

    # what names mean

    async def _watch(self) -> None:
        """Ask again and again what the names mean, and follow them."""
        while True:
            await asyncio.sleep(self.config.poll_s)
            self._old = [crew for crew in self._old if any(place.replica and place.state != ENDED for place in crew.places)]
            for name, model in self.models.items():
                try:
                    served = await asyncio.to_thread(model.resolve)
                except GristmillError as error:
                    model.note = f"not known what it means now: {error}"
                    continue
                if served.digest == model.served.digest:
                    model.note = ""
                elif time.monotonic() >= model.not_before_s:
                    await self._replace(name, model, served)

    async def _replace(self, name: str, model: Model, served: Served) -> None:
        """Load a version beside the one that answers, and let it take over; where it does not start, all stays as it is."""
        log.warning("%s: now means %s; loading it beside %s", name, served.version, model.served.version)
        crew = Crew(served, self.config, self._make, self)
        try:
            good = await crew.ready(every=True)
        except asyncio.CancelledError:
            await crew.end()
            raise
        if not good:
            why = next((place.note for place in crew.places if place.note), "")
            model.note = f"{served.version} does not start, so {model.served.version} goes on: {why}"
            model.not_before_s = time.monotonic() + TRY_AGAIN_S
            log.warning("%s: %s", name, model.note)
            self.metrics.reloads.labels(name, "failed").inc()
            await crew.end()
            return
        before, model.crew, model.note, model.created = model.crew, crew, "", int(time.time())
        self._old.append(before)
        crew.admit()
        before.retire()
        self.metrics.reloads.labels(name, "done").inc()
        log.warning("%s: %s answers now", name, served.version)

    def _task(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("aliases are not followed any more: %s", error, exc_info=error)

    def show_load(self) -> None:
        """Bring the gauges of queues and replicas up to date."""
        for name, model in self.models.items():
            self.metrics.queue.labels(name).set(self._balancer.waiting(name))
            for place in model.crew.places:
                busy = self._balancer.working(place.replica.name) if place.replica else 0
                self.metrics.working.labels(name, str(place.number)).set(busy)
