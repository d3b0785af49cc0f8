"""A guard before and after a model: what it asks is judged whole, what it answers piece by piece as it is generated.

`Guard(policy).before(messages)` and `.after(text)` decide: allow, change (matches masked) or refuse. `.stream()` reads an answer in any
pieces and holds back only what a rule can still complete: it masks what `after` masks, and ends where `after` refuses (scanner.py). What is
told of a match is its rule, kind and place, and a keyed hash under which equal matches of one process are equal; never the match.

What it cannot do: meaning. An attack or an insult in words that no rule has goes through, and a harmless text in such words does not;
docs/guardrails.md has how often, and for whom. Cost there, too.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from infra.errors import InputError
from tasks.serving.policy import LeakRule, LengthRule, Policy, Rule, name_of
from tasks.serving.scanner import MAX_TOLD, Found, Scanner
from tasks.serving.watching import watch_leak, watches_of

Message = dict[str, Any]


@dataclass(frozen=True)
class Fired:
    """A rule that fired: what it found, and where, but not the words."""

    rule: str
    kind: str
    """What of: `email`, `override`, `max_turns` …"""
    side: Literal["before", "after"]
    action: Literal["refuse", "change", "log"]
    message: int | None = None
    """Place of the message among those of the request; of an answer null."""
    start: int | None = None
    """Characters [start, end) of the text as it was given."""
    end: int | None = None
    score: float = 1.0
    """How sure it is."""
    digest: str = ""
    """Keyed hash of what was found; the key is drawn when the guard is made and never leaves it."""


@dataclass(frozen=True)
class Decision:
    """What a guard decided."""

    action: Literal["allow", "change", "refuse"] = "allow"
    rules: tuple[Fired, ...] = ()
    """What fired, rules that only log too, in order of the text; the first MAX_TOLD."""
    num_fired: int = 0
    """How often anything fired."""
    messages: tuple[Message, ...] | None = None
    """Of `before`: the messages as they may go to the model; null where it refuses."""
    text: str | None = None
    """Of `after`: the answer as it may be sent; null where it refuses, and of a stream."""
    refusal: str = ""
    """What the user reads in place of an answer, or at the end of one that was begun."""

    def as_json(self) -> dict[str, Any]:
        """What is logged: the action and what fired; no text."""
        return {"action": self.action, "num_fired": self.num_fired, "rules": [asdict(one) for one in self.rules]}


class Guard:
    """A policy at work; made once, used by any number of requests at a time."""

    def __init__(self, policy: Policy, count_tokens: Callable[[str], int] | None = None) -> None:
        """Load what the policy names.

        Args:
            count_tokens: of the served model, for a rule with max_tokens.

        Raises:
            InputError: a classifier is not there, or max_tokens is asked for and nobody can count.
        """
        self.policy = policy
        self._count_tokens = count_tokens
        self._key = secrets.token_bytes(16)
        self._watches = {side: watches_of(policy, side) for side in ("before", "after")}
        self._lengths = [rule for rule in policy.rules if isinstance(rule, LengthRule)]
        self._leaks = [(order, rule) for order, rule in enumerate(policy.rules) if isinstance(rule, LeakRule)]
        self._rules = {name_of(rule): rule for rule in policy.rules}
        if count_tokens is None and any(rule.max_tokens for rule in self._lengths):
            raise InputError(f"policy {policy.name}: max_tokens: nobody counts tokens here; use max_chars")

    def before(self, messages: Sequence[Message]) -> Decision:
        """Judge a request's messages, each alone and all for their length; only those of the policy's roles."""
        judged = [place for place, one in enumerate(messages) if one.get("role") in self.policy.roles]
        fired = self._too_long(messages, judged)
        changed, count, acted = list(messages), len(fired), False
        refused = next((one for one in fired if one.action == "refuse"), None)
        for place in judged if refused is None else ():
            parts = _parts(messages[place])
            for number, part in enumerate(parts):
                scanner = Scanner(self._watches["before"])
                parts[number] = scanner.feed(part) + scanner.finish()
                fired += [self._fired(one, "before", place) for one in scanner.found[: max(0, MAX_TOLD - len(fired))]]
                count += scanner.num_found
                acted = acted or scanner.changed
                if scanner.refused is not None and refused is None:
                    refused = self._fired(scanner.refused, "before", place)
            changed[place] = _with_parts(messages[place], parts)
        if refused is not None:
            return Decision("refuse", tuple(fired), count, refusal=self._refusal(refused.rule))
        return Decision("change" if acted else "allow", tuple(fired), count, messages=tuple(changed))

    def after(self, text: str, system_prompt: str = "") -> Decision:
        """Judge a whole answer; with the server's own system prompt, whose words must not be in it (a client knows what it sent)."""
        stream = self.stream(system_prompt)
        sent = stream.feed(text)
        sent += stream.finish()
        decision = stream.decision
        return decision if decision.action == "refuse" else replace(decision, text=sent)

    def stream(self, system_prompt: str = "") -> GuardStream:
        """Judge an answer while it is generated; see `after`."""
        leaks = [watch_leak(rule, order, system_prompt) for order, rule in self._leaks]
        watches = [*self._watches["after"], *(one for one in leaks if one is not None)]
        limits = [rule for rule in self._lengths if "after" in rule.sides and rule.max_chars]
        return GuardStream(self, Scanner(watches), limits)

    def _too_long(self, messages: Sequence[Message], judged: Sequence[int]) -> list[Fired]:
        texts = [part for place in judged for part in _parts(messages[place])]
        fired = []
        for rule in self._lengths:
            if "before" not in rule.sides:
                continue
            measured = {
                "max_chars": (sum(map(len, texts)), rule.max_chars),
                "max_turns": (len(judged), rule.max_turns),
                "max_tokens": (
                    sum(map(self._count_tokens, texts)) if self._count_tokens and rule.max_tokens else 0,
                    rule.max_tokens,
                ),
            }
            fired += [
                Fired(name_of(rule), kind, "before", rule.action)
                for kind, (value, most) in measured.items()
                if most is not None and value > most
            ]
        return fired

    def _fired(self, found: Found, side: Literal["before", "after"], message: int | None = None) -> Fired:
        digest = hashlib.blake2b(found.text.encode("utf-8", "replace"), digest_size=8, key=self._key).hexdigest()
        watch = found.watch
        return Fired(watch.rule, found.kind, side, watch.action, message, found.start, found.end, round(found.score, 4), digest)

    def _refusal(self, rule: str) -> str:
        return self._rules[rule].message or self.policy.refusal


class GuardStream:
    """An answer that is being generated. Once `ended`, nothing more of it is sent, and `decision` says why."""

    def __init__(self, guard: Guard, scanner: Scanner, limits: Sequence[Rule]) -> None:
        self.ended = False
        self._guard, self._scanner = guard, scanner
        self._limit = min(
            (rule for rule in limits if isinstance(rule, LengthRule)), key=lambda rule: rule.max_chars or 0, default=None
        )
        self._read = 0
        self._over: Fired | None = None

    def feed(self, text: str) -> str:
        """The answer's next piece; gives what may be sent now."""
        if self.ended or not text:
            return ""
        rule = self._limit
        room = len(text) if rule is None or rule.action == "log" else (rule.max_chars or 0) - self._read
        self._read += len(text)
        if rule is not None and self._over is None and self._read > (rule.max_chars or 0):
            self._over = Fired(name_of(rule), "max_chars", "after", rule.action, start=rule.max_chars, end=self._read)
        sent = self._scanner.feed(text[:room])
        if len(text) > room and self._scanner.refused is None:
            sent += self._scanner.finish()
            self.ended = True
        self.ended = self.ended or self._scanner.refused is not None
        return sent

    def finish(self) -> str:
        """The answer is at its end; gives the rest of it."""
        if self.ended:
            return ""
        self.ended = True
        return self._scanner.finish()

    @property
    def decision(self) -> Decision:
        """What was decided up to now; final once `ended`."""
        guard, scanner = self._guard, self._scanner
        over = [] if self._over is None or scanner.refused is not None else [self._over]
        fired = tuple(guard._fired(one, "after") for one in scanner.found)
        refused = scanner.refused.watch.rule if scanner.refused is not None else None
        if refused is None and over and over[0].action == "refuse":
            refused = over[0].rule
        changed = scanner.changed or any(one.action == "change" for one in over)
        action: Literal["allow", "change", "refuse"] = "refuse" if refused else "change" if changed else "allow"
        refusal = guard._refusal(refused) if refused else ""
        return Decision(action, (*fired, *over), scanner.num_found + len(over), refusal=refusal)


def _parts(message: Message) -> list[str]:
    """The texts of a message: its content, or the text parts of it."""
    content = message.get("content")
    if isinstance(content, str):
        return [content]
    return [part["text"] for part in content or () if isinstance(part, dict) and isinstance(part.get("text"), str)]


def _with_parts(message: Message, texts: Sequence[str]) -> Message:
    content = message.get("content")
    if isinstance(content, str):
        return {**message, "content": texts[0]}
    left = iter(texts)
    parts = [
        {**part, "text": next(left)} if isinstance(part, dict) and isinstance(part.get("text"), str) else part
        for part in content or ()
    ]
    return {**message, "content": parts} if content else message
