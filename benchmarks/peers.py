"""Environments for the systems that we measure ourselves against: each holds one of them and nothing of ours."""

from __future__ import annotations

import subprocess
import venv
from collections.abc import Sequence
from pathlib import Path

from infra.ids import digest_of
from infra.settings import settings


def peer_environment(packages: Sequence[str]) -> Path:
    """The Python of an environment with these packages, the peer first; made at the first call."""
    name = packages[0].partition("[")[0].partition("==")[0]
    folder = settings().home / "benchmarks" / f"{name}-{digest_of(*packages)[:8]}"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        print(f"making an environment for {packages[0]}", flush=True)
        venv.create(folder, clear=True, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-qq", "--disable-pip-version-check", *packages], check=True)
        (folder / "ready").touch()
    return python
