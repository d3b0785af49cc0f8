"""The one sink of a training's numbers: each line of history goes to TensorBoard's files and to the run in MLflow.

TensorBoard's own writer is used, without torch or TensorFlow. A training that goes on from a checkpoint tells its lines since then again:
the start that is written first makes TensorBoard forget what it had beyond, and MLflow, which forgets nothing, is told only what it was not
told before, by a note beside the files. An MLflow that does not answer ends no training: what it missed it is told with the next line.
Costs about half a second to start.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from infra import tracking
from infra.tracking import Track

log = logging.getLogger("gristmill")

FLUSH_SECONDS = 10

Line = Mapping[str, float | None]


def _unheard(line: Line) -> None:
    return None


_listener: ContextVar[Callable[[Line], None]] = ContextVar("listener", default=_unheard)


@contextmanager
def heard(listener: Callable[[Line], None]) -> Iterator[None]:
    """Give each line of the trainings of this block to `listener`, once it is written; what it raises ends the training."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


class Curves:
    """Numbers by step, while they come."""

    def __init__(self, folder: Path, track: Track | None) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._track = track
        self._writer = EventFileWriter(str(folder), flush_secs=FLUSH_SECONDS)
        self._begun = False
        self._note = folder.with_name(f"{folder.name}.told.json")
        # one MLflow run can have the curves of several trainings, so not it is asked, but the training's own folder
        self._told: dict[str, int] = json.loads(self._note.read_text("utf-8")) if self._note.exists() else {}
        """The last step that a run in MLflow was told."""
        self._untold: list[Mapping[str, float | None]] = []

    def add(self, line: Line) -> None:
        """Take in a line: `step`, and numbers by name; None was not measured."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary

        at = int(line["step"] or 0)
        numbers = {name: float(value) for name, value in line.items() if value is not None and name != "step"}
        if not self._begun:
            self._begun = True
            self._writer.add_event(Event(wall_time=time.time(), step=at, session_log=SessionLog(status=SessionLog.START)))
        values = [Summary.Value(tag=_tag(name), simple_value=value) for name, value in numbers.items()]
        self._writer.add_event(Event(wall_time=time.time(), step=at, summary=Summary(value=values)))
        if self._track is not None and at > self._told.get(self._track.run_id, -1):
            self._untold.append({"step": at, **numbers})
        self._tell()
        _listener.get()(line)

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()
        self._tell()

    def _tell(self) -> None:
        """Tell MLflow the lines that it does not know."""
        if self._track is None or not self._untold:
            return
        try:
            self._track.history(self._untold, at="step")
        except tracking.failures() as error:
            log.warning(
                "MLflow was not told %d lines of the training, and will be with the next one: %s", len(self._untold), error
            )
        else:
            self._told[self._track.run_id] = max(int(line["step"] or 0) for line in self._untold)
            self._untold = []
            written = self._note.with_suffix(".part")
            written.write_text(json.dumps(self._told), "utf-8")
            written.replace(self._note)


def _tag(name: str) -> str:
    """TensorBoard groups by what stands before a slash."""
    return name.replace(".", "/", 1) if "." in name else name
