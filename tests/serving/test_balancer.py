"""The balancer beside a plain reference: who works on what, in which order, whatever happens."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.serving.balancer import LOST_TOO_OFTEN, QUEUE_FULL, Balancer, Idle, Refuse, Start

QUEUE, TRIES = 3, 2


class Plain:
    """The same rules without any cleverness: after each event all waiting requests are sorted and placed one by one."""

    def __init__(self) -> None:
        self.replicas: dict[str, dict[str, Any]] = {}
        self.requests: dict[int, dict[str, Any]] = {}
        self.came = 0

    def on(self, replica: str) -> list[int]:
        return [one for one, request in self.requests.items() if request["on"] == replica]

    def free(self, model: str) -> list[str]:
        return [
            name
            for name, one in self.replicas.items()
            if one["model"] == model and not one["held"] and len(self.on(name)) < one["slots"]
        ]

    def place(self) -> list[Any]:
        made = []
        for ticket in sorted(
            (one for one, it in self.requests.items() if not it["on"]), key=lambda one: self.requests[one]["came"]
        ):
            if not (free := self.free(self.requests[ticket]["model"])):
                continue
            chosen = min(free, key=lambda name: (len(self.on(name)), self.replicas[name]["begun"], name))
            self.requests[ticket]["on"] = chosen
            self.replicas[chosen]["begun"] += 1
            made.append(Start(ticket, chosen))
        return made

    def up(self, replica: str, model: str, slots: int) -> list[Any]:
        self.replicas[replica] = {"model": model, "slots": slots, "held": False, "begun": 0}
        return self.place()

    def hold(self, replica: str) -> list[Any]:
        self.replicas[replica]["held"] = True
        return [] if self.on(replica) else [Idle(replica)]

    def release(self, replica: str) -> list[Any]:
        self.replicas[replica]["held"] = False
        return self.place()

    def down(self, replica: str) -> list[Any]:
        told = []
        for ticket in sorted(self.on(replica), key=lambda one: self.requests[one]["came"]):
            self.requests[ticket]["lost"] += 1
            self.requests[ticket]["on"] = ""
            if self.requests[ticket]["lost"] == TRIES:
                del self.requests[ticket]
                told.append(Refuse(ticket, LOST_TOO_OFTEN))
        del self.replicas[replica]
        return told + self.place()

    def arrive(self, ticket: int, model: str) -> list[Any]:
        waiting = [one for one in self.requests.values() if one["model"] == model and not one["on"]]
        if not self.free(model) and len(waiting) >= QUEUE:
            return [Refuse(ticket, QUEUE_FULL)]
        self.came += 1
        self.requests[ticket] = {"model": model, "came": self.came, "on": "", "lost": 0}
        return self.place()

    def leave(self, ticket: int) -> list[Any]:
        replica = self.requests.pop(ticket)["on"]
        if replica and self.replicas[replica]["held"] and not self.on(replica):
            return [Idle(replica)]
        return self.place()


WHAT = ["up", "hold", "release", "down", "arrive", "arrive", "leave", "leave"]
EVENTS = st.lists(st.tuples(st.sampled_from(WHAT), st.integers(0, 10**6)))


@settings(max_examples=300, deadline=None)
@given(EVENTS)
def test_every_decision_is_that_of_the_plain_rules(events: list[tuple[str, int]]) -> None:
    clever, plain = Balancer(QUEUE, TRIES), Plain()
    for number, (what, chance) in enumerate(events):
        if what == "up":
            told = (
                clever.up(f"r{number}", "ab"[chance % 2], 1 + chance % 3),
                plain.up(f"r{number}", "ab"[chance % 2], 1 + chance % 3),
            )
        elif what == "arrive":
            told = clever.arrive(number, "ab"[chance % 2]), plain.arrive(number, "ab"[chance % 2])
        elif what == "leave":
            if not plain.requests:
                continue
            ticket = list(plain.requests)[chance % len(plain.requests)]
            told = clever.leave(ticket), plain.leave(ticket)
        else:
            if not plain.replicas:
                continue
            replica = list(plain.replicas)[chance % len(plain.replicas)]
            told = getattr(clever, what)(replica), getattr(plain, what)(replica)
        assert told[0] == told[1], (number, what)
        for model in "ab":
            assert clever.waiting(model) == sum(one["model"] == model and not one["on"] for one in plain.requests.values())
        for name in plain.replicas:
            assert set(clever.of_replica(name)) == set(plain.on(name)) and clever.working(name) == len(plain.on(name))


def test_requests_of_a_lost_replica_go_on_before_later_ones() -> None:
    balancer = Balancer(queue_size=10, max_tries=3)
    assert balancer.up("one", "m", 2) == []
    assert balancer.arrive("a", "m") + balancer.arrive("b", "m") + balancer.arrive("c", "m") == [
        Start("a", "one"),
        Start("b", "one"),
    ]
    assert balancer.down("one") == []
    assert balancer.up("two", "m", 2) == [Start("a", "two"), Start("b", "two")]
    assert balancer.leave("a") == [Start("c", "two")]


def test_who_was_never_there_and_who_left_already_change_nothing() -> None:
    balancer = Balancer(queue_size=10, max_tries=3)
    assert [balancer.leave("x"), balancer.down("x"), balancer.hold("x"), balancer.release("x")] == [[], [], [], []]
