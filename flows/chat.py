"""`gristmill chat`: a conversation in the terminal with a model that a gateway serves, and votes on its answers.

What a model writes is shown without control characters: it could move the cursor, or write into the clipboard.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import re
import secrets
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx
import openai
from rich.console import Console

from infra.errors import InputError
from infra.settings import PROJECT, child_environment, settings
from tasks.serving.votes import printable

HELP = (
    "/up [why]  /down [why]  judge the last answer · /new  a new conversation · /system [text]  the system prompt\n"
    "/consent  be asked anew what is kept · /quit · Ctrl-C stops an answer."
)
TIMEOUT_S = 10.0
Read = Callable[[str], str]
QUESTION = "Keep the conversation with your votes, and train models on it? [y/N] "
ANSWERS = {"y": True, "yes": True, "n": False, "no": False, "": False}


@dataclass
class Person:
    """Who votes here: a random number, and the wording that was agreed to or refused."""

    rater: str
    agreed: str = ""
    refused: str = ""

    @classmethod
    def here(cls) -> Person:
        """The one of this installation."""
        path = settings().chat
        with contextlib.suppress(FileNotFoundError, ValueError, TypeError):
            return cls(**json.loads(path.read_text("utf-8")))
        return cls(secrets.token_hex(16))

    def keep(self) -> None:
        """Remember it for the next conversation."""
        path = settings().chat
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(json.dumps(vars(self)) + "\n", encoding="utf-8")


@dataclass
class Chat:
    """One conversation."""

    client: openai.OpenAI
    http: httpx.Client
    model: str
    console: Console
    read: Read
    person: Person
    system: str = ""
    turns: list[dict[str, str]] = field(default_factory=list)
    vote_id: str = ""
    """Of the last answer: another vote on it takes the place of the first."""
    version: str = ""
    """Of the model that gave it."""

    def ask(self, text: str) -> None:
        """Ask, and show the answer as it is written; a stopped or broken one is taken back with its question."""
        asked = [*self._system(), *self.turns, {"role": "user", "content": text}]
        said = ""
        try:
            for piece in self._pieces(asked):
                said += piece
                self._say(piece, end="")
            self._say("")
        except KeyboardInterrupt:
            self._say("\nstopped; the question and half an answer are left out of the conversation", style="dim")
            return
        except openai.APIError as error:
            self._say(f"\n{_in_words(error)}", style="red")
            return
        self.turns = [*self.turns, {"role": "user", "content": text}, {"role": "assistant", "content": said}]
        self.vote_id = uuid.uuid4().hex

    def _pieces(self, asked: list[dict[str, str]]) -> Iterator[str]:
        completions: Any = self.client.chat.completions  # typed by the role of each message
        stream = completions.create(model=self.model, messages=asked, stream=True)
        with stream:
            for chunk in stream:
                self.version = chunk.system_fingerprint or self.version
                if chunk.choices and (piece := chunk.choices[0].delta.content):
                    yield piece

    def judge(self, vote: Literal["up", "down"], text: str) -> None:
        """Say of the last answer whether it is good."""
        if not self.turns:
            self._say("there is no answer to judge yet", style="yellow")
            return
        *before, answer = self.turns
        said = {
            "vote_id": self.vote_id,
            "rater": self.person.rater,
            "model": self.model,
            "version": self.version,
            "vote": vote,
            "messages": [*self._system(), *before],
            "answer": answer["content"],
            "text": text or None,
            "consent": self._consent(),
        }
        told = _body(self.http.post("/feedback", json=said))
        kept = "with the conversation" if "conversation" in told["kept"] else "without any text"
        self._say(f"your vote is kept {kept}", style="dim")

    def _consent(self) -> dict[str, Any]:
        """What the person agrees to, asked once for each wording."""
        terms = _body(self.http.get("/feedback"))
        wording = terms["wording"]
        if wording not in (self.person.agreed, self.person.refused):
            self._say(terms["text"].replace("tick this box", "say yes").replace("with the box ticked on", "with yes on"))
            self._say("You can change this at any time: /consent asks anew.")
            while (said := self.read(QUESTION).strip().lower()) not in ANSWERS:
                self._say("y or n?", style="dim")
            self.person.agreed, self.person.refused = (wording, "") if ANSWERS[said] else ("", wording)
            self.person.keep()
        return {"training": self.person.agreed == wording, "wording": wording}

    def _system(self) -> list[dict[str, str]]:
        return [{"role": "system", "content": self.system}] if self.system else []

    def command(self, line: str) -> bool:
        """Do what a line that begins with / says; False: the conversation is over."""
        name, _, rest = line.partition(" ")
        match name:
            case "/quit":
                return False
            case "/new":
                self.turns = []
                self._say("a new conversation", style="dim")
            case "/system":
                self.system, self.turns = rest.strip(), []
                self._say("a new conversation, with that system prompt" if self.system else "a new conversation", style="dim")
            case "/consent":
                self.person.agreed = self.person.refused = ""
                self._consent()
            case "/up" | "/down":
                self.judge("up" if name == "/up" else "down", rest.strip())
            case _:
                self._say(HELP, style="dim")
        return True

    def _say(self, text: str, *, end: str = "\n", style: str | None = None) -> None:
        self.console.print(printable(text), end=end, style=style, markup=False, highlight=False, soft_wrap=True)


def chat(url: str, model: str, console: Console, read: Read = input) -> None:
    """Talk until /quit or the end of the input; with a model that no gateway at `url` serves, one is started for it.

    Raises:
        InputError: there is no gateway, or it has no such model and none can be started for it.
    """
    base = url.rstrip("/").removesuffix("/v1")
    with contextlib.ExitStack() as stack:
        if model and model not in (names := _served(base)):
            with console.status(f"starting a gateway for {model}; {base} serves {', '.join(names) or 'nothing'}"):
                base = stack.enter_context(own_gateway(model))
            model = ""
        _at(base, model, console, read)


def _at(base: str, model: str, console: Console, read: Read) -> None:
    """Talk to what a gateway serves."""
    key = settings().api_key
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    proxied = not _on_this_machine(base)
    with (
        httpx.Client(base_url=base, headers=headers, timeout=TIMEOUT_S, trust_env=proxied) as http,
        # a program that asks for the tenth time does so at once, a person is told
        openai.OpenAI(
            base_url=f"{base}/v1",
            api_key=key or "none",
            max_retries=0,
            http_client=openai.DefaultHttpxClient(trust_env=proxied),
        ) as client,
    ):
        names = [one["id"] for one in _models(http, base)]
        if not names:
            raise InputError(f"{base}: serves no model")
        talk = Chat(client, http, model or names[0], console, read, Person.here())
        console.print(printable(f"{talk.model} at {base}\n{HELP}"), style="dim", markup=False, highlight=False, soft_wrap=True)
        _talk(talk)


def _talk(talk: Chat) -> None:
    while True:
        try:
            line = talk.read("> ").strip()
        except (EOFError, KeyboardInterrupt):
            talk.console.print()
            return
        try:
            if line.startswith("/"):
                if not talk.command(line):
                    return
            elif line:
                talk.ask(line)
        except (EOFError, KeyboardInterrupt):  # at a question of ours: not answered, so nothing was sent
            talk.console.print()
            return
        except (InputError, httpx.HTTPError) as error:
            talk.console.print(
                printable(str(error)) or type(error).__name__, style="red", markup=False, highlight=False, soft_wrap=True
            )


def _served(base: str) -> list[str]:
    """Names of the models at a gateway; none where there is none.

    Raises:
        InputError: it refuses to say.
    """
    key = settings().api_key
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        with httpx.Client(base_url=base, headers=headers, timeout=TIMEOUT_S, trust_env=not _on_this_machine(base)) as http:
            return [one["id"] for one in _body(http.get("/v1/models"))["data"]]
    except httpx.HTTPError:
        return []


def _on_this_machine(base: str) -> bool:
    """Whether an address means this machine: a proxy would look for the gateway on its own."""
    host = urlsplit(base).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@contextlib.contextmanager
def own_gateway(model: str) -> Iterator[str]:
    """A gateway for this conversation alone, at any free port; it ends with it, however that ends.

    Raises:
        InputError: it does not start; its own words say why.
    """
    ours, its = socket.socketpair()
    with ours, tempfile.TemporaryFile("w+") as words:
        what = str(Path(model).resolve()) if Path(model).exists() else model
        command = [sys.executable, "-m", "flows", "serve", what, "--port", "0"]
        with its:
            process = subprocess.Popen(
                [sys.executable, "-m", "tasks.serving.leash", str(its.fileno()), *command],
                cwd=PROJECT, env=child_environment(), pass_fds=[its.fileno()], stdout=subprocess.PIPE, stderr=words, text=True,
            )  # fmt: skip
        with process:
            assert process.stdout is not None
            found = next((match[1] for line in process.stdout if (match := re.search(r" on (http://\S+?);", line))), None)
            try:
                if found is None:
                    words.seek(0)
                    raise InputError(f"{model}: no gateway could be started for it: {words.read().strip() or process.wait()}")
                yield found
            finally:
                ours.close()  # at its other end this ends the gateway with its replicas


def _models(http: httpx.Client, base: str) -> list[dict[str, Any]]:
    try:
        found: list[dict[str, Any]] = _body(http.get("/v1/models"))["data"]
    except httpx.HTTPError as error:
        raise InputError(f"{base}: no gateway answers there ({error}); `gristmill serve MODEL` starts one") from error
    return found


def _body(answer: httpx.Response) -> dict[str, Any]:
    """What a gateway answered.

    Raises:
        InputError: it refused, or it is no gateway of ours.
    """
    try:
        body: dict[str, Any] = answer.json()
        if answer.is_success:
            return body
        words = str(body["error"]["message"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{answer.request.url}: answered {answer.status_code}, and not as a gateway does") from error
    hint = (
        "; put your key into GRISTMILL_API_KEY, or its file's name into GRISTMILL_API_KEY_FILE"
        if answer.status_code == 401
        else ""
    )
    raise InputError(f"{answer.request.url}: {words}{hint}")


def _in_words(error: openai.APIError) -> str:
    """What went wrong, and what to do."""
    if isinstance(error, openai.APIConnectionError):
        return "the gateway does not answer; is it still running? The question is not lost: ask again"
    body = error.body if isinstance(error.body, dict) else {}
    words = str(body.get("message") or error.message)
    if isinstance(error, openai.RateLimitError):
        again = error.response.headers.get("retry-after")
        return f"{words}{f'; try again in {again} seconds' if again else ''}"
    if isinstance(error, openai.AuthenticationError):
        return f"{words}; put your key into GRISTMILL_API_KEY"
    return words
