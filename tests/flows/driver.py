"""Runs several `gristmill` commands in one process that is not the test's: starting one takes seconds, and what is imported stays.

As a script it reads a JSON list of argument lists from its first argument and prints a JSON list of [exit code, output].
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import traceback
from pathlib import Path
from typing import NamedTuple


class Ended(NamedTuple):
    """How a command ended, and all it said."""

    code: int
    output: str


def commands(home: Path, *many: list[str]) -> list[Ended]:
    """Run commands one after another in a process of their own, with a home of their own."""
    text = subprocess.run(
        [sys.executable, __file__, json.dumps(many)], env=environment(home), check=True, capture_output=True, text=True
    )
    assert "Traceback" not in text.stderr, text.stderr  # of a worker process
    return [Ended(*one) for one in json.loads(text.stdout.splitlines()[-1])]


def environment(home: Path) -> dict[str, str]:
    """The environment of a child with a home of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GRISTMILL_", "PREFECT_"))}
    return {**kept, "GRISTMILL_HOME": str(home), "COLUMNS": "200", "PYTHONPATH": str(Path(__file__).parents[2])}


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


if __name__ == "__main__":
    answer = json.dumps([_run(one) for one in json.loads(sys.argv[1])])
    sys.stdout.write(answer + "\n")
