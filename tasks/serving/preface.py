"""The system prompt that a gateway puts before every conversation which has none of its own, and how it follows its alias.

A client that gives a system message of its own has that one alone; texts to go on with (`/v1/completions`) have none. What is said is
decided once a request. The guard does not judge it, and looks for its words in the answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from infra.errors import GristmillError, InputError
from infra.ids import payload_digest
from tasks.serving.metrics import Metrics
from tasks.serving.prompts import Prompt, render, variables
from tasks.serving.requests import Wanted

log = logging.getLogger("gristmill")
WITH = " + prompt "
"""Between a model's version and its prompt in `system_fingerprint`."""
SHOWN_DIGITS = 12
PromptNow = Callable[[], Prompt]
"""What a prompt's name or alias means now; asked again while serving."""


@dataclass(frozen=True)
class Preface:
    """A system prompt as it is said."""

    prompt: Prompt
    text: str
    """The template with its values."""

    @property
    def label(self) -> str:
        """For votes and fingerprints: name and version in the registry, and the beginning of the text's digest."""
        name = f"{self.prompt.name}:{self.prompt.version}" if self.prompt.version else self.prompt.name
        return f"{name} {self._digest[:SHOWN_DIGITS]}"

    @property
    def _digest(self) -> str:
        return payload_digest(self.text.encode("utf-8", "surrogatepass"))

    def as_json(self) -> dict[str, str]:
        """For logs: where it is from, the template's digest, and the text's, where values make it another."""
        own = {} if self.text == self.prompt.template else {"text_digest": self._digest}
        return {**self.prompt.as_json(), **own}

    def put_before(self, wanted: Wanted) -> Wanted:
        """A conversation with it as its first message."""
        assert wanted.messages is not None
        return replace(wanted, messages=({"role": "system", "content": self.text}, *wanted.messages))


class SystemPrompt:
    """What is said now; None where the configuration names no prompt."""

    def __init__(self, ask: PromptNow | None, values: Mapping[str, str], metrics: Metrics) -> None:
        """Ask what the prompt is.

        Raises:
            InputError: it is not there, is empty, or its variables and the values do not fit together.
        """
        self._ask, self._values, self._metrics = ask, values, metrics
        self.note = ""
        """Why what it means now is not said."""
        try:
            self.now = None if ask is None else self._said(ask())
        except GristmillError as error:
            raise InputError(f"system_prompt: {error}") from error
        if self.now is not None:
            log.info("system prompt: %s, %d characters", self.now.label, len(self.now.text))

    def of(self, roles: Iterable[str]) -> Preface | None:
        """What is put before a conversation with messages of these roles."""
        return None if "system" in roles else self.now

    def state(self) -> dict[str, str]:
        """For /health."""
        return {**self.now.as_json(), "note": self.note} if self.now is not None else {}

    async def follow(self, poll_s: float) -> None:
        """Ask again and again what it is; one that cannot be said leaves the last one at work."""
        while self._ask is not None:
            await asyncio.sleep(poll_s)
            try:
                found = self._said(await asyncio.to_thread(self._ask))
            except GristmillError as error:
                if (note := f"what it means now is not said: {error}") != self.note:
                    self._metrics.prompt_reloads.labels("failed").inc()
                    log.warning("system prompt: %s", note)
                self.note = note
                continue
            self.note = ""
            if found != self.now:
                self.now = found
                self._metrics.prompt_reloads.labels("done").inc()
                log.warning("system prompt: %s from now on", found.label)

    def _said(self, prompt: Prompt) -> Preface:
        missing = [name for name in variables(prompt.template) if name not in self._values]
        if missing:
            wanted = ", ".join(f"system_prompt_values.{name}" for name in missing)
            over = ", ".join(name for name in self._values if name not in variables(prompt.template))
            also = f"; it has none that is called {over}" if over else ""
            raise InputError(f"{prompt.name}: its variables have no values; give {wanted}{also}")
        try:
            text = render(prompt.template, self._values)
            text.encode("utf-8")
        except InputError as error:
            raise InputError(f"system_prompt_values: {error}") from error
        except UnicodeEncodeError as error:
            raise InputError(f"{prompt.name}: holds half a surrogate pair, which no tokeniser reads") from error
        if not text.strip():
            raise InputError(f"{prompt.name}: says nothing")
        return Preface(prompt, text)


def fingerprint(version: str, preface: Preface | None) -> str:
    """What is told of an answer's making, as `system_fingerprint`."""
    return version if preface is None else f"{version}{WITH}{preface.label}"


def taken_apart(told: str) -> tuple[str, str]:
    """A fingerprint's version of the model, and its prompt's label or nothing."""
    version, between, label = told.rpartition(WITH)
    return (version, label) if between else (told, "")
