"""Runs several `gristmill` commands in one process that is not the test's: starting one takes seconds, and what is imported stays.

As a script it is that process's parent: it imports what most commands need, and forks for every line that it reads, which is a JSON object
of the commands, their environment and folder, and where to write a JSON list of [exit code, output].
"""

from __future__ import annotations

import atexit
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import traceback
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple


class Ended(NamedTuple):
    """How a command ended, and all it said."""

    code: int
    output: str


def commands(home: Path, *many: list[str]) -> list[Ended]:
    """Run commands one after another in a process of their own, with a home of their own."""
    with tempfile.TemporaryDirectory() as folder:
        told, said = Path(folder) / "told", Path(folder) / "said"
        job = {"many": many, "environment": environment(home), "folder": str(Path.cwd()), "told": str(told), "said": str(said)}
        try:
            code = _parent().ask(job)
        except BaseException:
            _parent().close()  # a test that ran out of time
            _parent.cache_clear()
            raise
        assert code == 0 and "Traceback" not in said.read_text(), said.read_text()  # of a worker process
        return [Ended(*one) for one in json.loads(told.read_text())]


def environment(home: Path) -> dict[str, str]:
    """The environment of a child with a home of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GRISTMILL_", "PREFECT_"))}
    return {**kept, "GRISTMILL_HOME": str(home), "COLUMNS": "200", "PYTHONPATH": str(Path(__file__).parents[2])}


class _Parent:
    """The process that forks for every call of `commands`."""

    def __init__(self) -> None:
        self.home = tempfile.TemporaryDirectory()
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            env=environment(Path(self.home.name)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, job: dict[str, Any]) -> int:
        """The exit code of the process that did the job."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.home.cleanup()


@lru_cache(maxsize=1)
def _parent() -> _Parent:
    made = _Parent()
    atexit.register(made.close)
    return made


def _serve() -> None:
    """Fork for every line; a child leaves by the end of the script, as any process does."""
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            return _work(json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _work(job: dict[str, Any]) -> None:
    os.environ.clear()
    os.environ.update(job["environment"])
    os.chdir(job["folder"])
    said = os.open(job["said"], os.O_WRONLY | os.O_CREAT)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for here, there in ((nothing, 0), (said, 1), (said, 2)):
        os.dup2(here, there)
    Path(job["told"]).write_text(json.dumps([_run(one) for one in job["many"]]))


def _run(arguments: list[str]) -> tuple[int, str]:
    from flows import __main__ as command

    said = io.StringIO()
    command.out.file = command.err.file = said
    sys.argv = ["gristmill", *arguments]
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            command.main()
        except SystemExit as ended:
            code = ended.code
            return (code if isinstance(code, int) else int(code is not None)), said.getvalue()
        except Exception:  # noqa: BLE001 -- what Python itself would do
            traceback.print_exc()
            return 1, said.getvalue()
    return 0, said.getvalue()


def _warm_up() -> None:
    """Import and compute what most commands do once a process; Prefect is left out, for it reads the environment as it is imported."""
    from flows import __main__, single  # noqa: F401
    from infra.versions import code_of
    from tasks import filter, ingest, signals  # noqa: F401
    from tasks.text.kernels import character_classes
    from tasks.text.words import word_table

    code_of("tasks.signals")
    character_classes()
    word_table()


if __name__ == "__main__":
    _warm_up()
    _serve()
