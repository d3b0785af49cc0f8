"""Prompt templates with a real MLflow server, at the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from served_mill import Mill

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]


def test_a_prompt_is_registered_listed_shown_and_its_alias_moved(mill: Mill, tmp_path: Path) -> None:
    def told(*words: str) -> str:
        done = mill.cli("prompt", *words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    path = tmp_path / "library.txt"
    path.write_text("You answer in {{language}}.")
    assert "library:1" in told("add", "library", str(path), "--message", "first", "--alias", "live")
    path.write_text("You answer briefly in {{language}}.")
    assert "library:2" in told("add", "library", str(path))
    assert "You answer in {{language}}." in told("show", "library@live")
    assert "library@live is library:2" in told("alias", "library", "live", "2")
    assert "You answer briefly in {{language}}." in told("show", "library@live")
    assert "live" in told("list", "library") and "language" in told("list")
    assert {one.name for one in mill.mlflow.search_prompts()} >= {"library"}
    wrong = mill.cli("prompt", "show", "libary")
    assert wrong.returncode == 2 and "no such version or alias" in wrong.stderr
