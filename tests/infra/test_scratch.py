"""Temporary folders go with their process, however it ends, and never before."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from infra import scratch

MAKER = """
import sys
from pathlib import Path
from infra import scratch
with scratch.folder("test") as folder:
    Path(folder, "weights").write_bytes(bytes(1000))
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def test_a_folder_goes_with_its_block(temporary: Path) -> None:
    with pytest.raises(KeyError), scratch.folder("test") as folder:
        assert list(Path(folder).iterdir()) == []
        Path(folder, "file").touch()
        raise KeyError
    assert list(temporary.iterdir()) == []


def test_what_a_killed_process_left_goes_and_what_a_living_one_uses_stays(temporary: Path) -> None:
    makers = [
        subprocess.Popen([sys.executable, "-c", MAKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    killed, living = (Path(maker.stdout.readline().strip()) for maker in makers)  # type: ignore[union-attr]
    stranger = temporary / "gristmill-notes"  # somebody's own, that is no folder of ours
    stranger.mkdir()
    os.kill(makers[0].pid, signal.SIGKILL)
    makers[0].wait()
    assert (killed / "weights").exists()
    with scratch.folder("test"):
        assert not killed.parent.exists()
        assert (living / "weights").exists() and stranger.exists()
    makers[1].communicate("")
    assert not living.parent.exists() and makers[1].returncode == 0
