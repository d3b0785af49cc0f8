"""One replica: a process with a model and transformers' continuous batching, which a gateway talks with over a socket that it inherits.

    python -m tasks.serving.replica '{"socket": 5, "folder": …}'

Lines of JSON in both directions (`tasks.serving.wire`). All tokens of one step of the model go out in one line, so many clients cost little
more than one. It ends when the socket closes: whatever becomes of the gateway, no replica outlives it. It ends by itself when the engine
does, which the gateway takes for a loss like any other.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import threading
from typing import TYPE_CHECKING, Any

from infra.errors import GristmillError, InputError
from infra.versions import code_version
from tasks.serving.pieces import Pieces
from tasks.serving.wire import MAX_LINE_BYTES, Job, read_line, write_line

if TYPE_CHECKING:
    from tasks.serving.engine import Engine


TOLD_TOKENS = 16
"""Of an answer that is wanted as a whole, between two reports: what a lost replica makes others write again."""


class Answer:
    """An answer that is being written."""

    def __init__(self, request: str, pieces: Pieces, ends: frozenset[int], resumed: list[int]) -> None:
        self.request, self.pieces, self._ends = request, pieces, ends
        self._told = 0
        pieces.feed(resumed)  # that much was sent by a replica that is no more

    def more(self, written: list[int], *, over: bool) -> list[Any]:
        """What to tell of all tokens so far: new tokens, text, and why it is over, if it is."""
        new = written[self._told :]
        self._told += len(new)
        met_end = bool(new) and new[-1] in self._ends
        text = self.pieces.feed([one for one in new if one not in self._ends])
        ended = ""
        if self.pieces.stopped or met_end:
            ended = "stop"
        elif over:
            ended = "length"
        if ended:
            text += self.pieces.finish()
        return [self.request, new, text, ended]


class Replica:
    """The socket's side of it: all in one event loop, but for the engine's own thread."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._engine: Engine | None = None
        self._answers: dict[str, Answer] = {}
        self._told: list[list[Any]] = []
        self._writer: asyncio.StreamWriter | None = None

    async def run(self) -> None:
        """Load the model, say so, and answer until the socket closes."""
        loop = asyncio.get_running_loop()
        gateway = socket.socket(fileno=self._job.socket)
        reader, self._writer = await asyncio.open_connection(sock=gateway, limit=MAX_LINE_BYTES)
        threading.Thread(target=self._load, args=(loop,), daemon=True).start()
        while (message := await read_line(reader)) is not None:
            self._hear(message)

    def _load(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            if (mine := code_version()) != self._job.code_version:
                raise InputError(
                    f"the code is {mine} by now and the gateway's is {self._job.code_version}: start the gateway again"
                )
            from tasks.serving.engine import Engine

            engine = Engine(self._job)
        except (GristmillError, OSError, ValueError, RuntimeError) as error:
            loop.call_soon_threadsafe(self._say_and_end, {"fatal": f"{type(error).__name__}: {error}"})
            return
        loop.call_soon_threadsafe(self._ready, engine)

    def _ready(self, engine: Engine) -> None:
        self._engine = engine
        self._say({"ready": engine.facts})

    def _say_and_end(self, message: dict[str, Any]) -> None:
        self._say(message)
        assert self._writer is not None
        self._writer.close()  # the line goes out; then the gateway closes its side, too
        asyncio.get_running_loop().call_later(1.0, os._exit, 1)

    def _hear(self, message: dict[str, Any]) -> None:
        if message["op"] == "ping":
            if self._engine is not None and (fault := self._engine.fault()):
                self._say_and_end({"fatal": fault})
                return
            self._say({"pong": message["number"]})
        elif message["op"] == "generate":
            self._begin(message)
        elif message["op"] == "cancel" and self._answers.pop(message["id"], None) is not None:
            assert self._engine is not None
            self._engine.cancel(message["id"])

    def _begin(self, message: dict[str, Any]) -> None:
        from tasks.serving.engine import Unfit

        request, engine = message["id"], self._engine
        assert engine is not None  # the gateway asks nothing before it is ready
        try:
            prompt = engine.prompt(message)
        except Unfit as error:
            self._say({"unfit": [request, error.code, str(error)]})
            return
        self._say({"began": [request, len(prompt.ids)]})
        pieces = Pieces(engine.decode, message["stop"])
        every = 1 if message["stream"] or message["stop"] else TOLD_TOKENS
        self._answers[request] = Answer(request, pieces, engine.ends, message["resume"])
        engine.start(request, prompt, message, every, self._written)

    def _written(self, output: Any) -> None:
        """Called in the loop with what is to be told of an answer."""
        answer = self._answers.get(output.request_id)
        if answer is None:
            return  # cancelled
        if output.error is not None:
            self._say_and_end({"fatal": f"the engine failed: {output.error}"})
            return
        told = answer.more(output.generated_tokens, over=output.is_finished())
        if told[-1]:
            del self._answers[output.request_id]
            if not output.is_finished():  # a stop string, which the engine does not know
                assert self._engine is not None
                self._engine.cancel(output.request_id)
        if not self._told:
            asyncio.get_running_loop().call_soon(self._flush)
        self._told.append(told)

    def _flush(self) -> None:
        told, self._told = self._told, []
        self._say({"wrote": told})

    def _say(self, message: dict[str, Any]) -> None:
        assert self._writer is not None
        write_line(self._writer, message)


def main() -> None:
    """The process; its one argument is a `Job`."""
    job = Job(**json.loads(sys.argv[1]))
    try:
        asyncio.run(Replica(job).run())
    finally:
        sys.stderr.flush()
        os._exit(0)  # the engine's thread would have to be waited for, and nobody is left to wait


if __name__ == "__main__":
    main()
