"""A run that nobody knows is told before anything is started for it."""

from __future__ import annotations

from pathlib import Path

from infra import ledger

from .driver import commands


def test_a_run_that_nobody_knows_starts_no_server(home: Path) -> None:
    ledger.begin("first", "curate", "corpus", {})
    [said] = commands(home, ["rerun", "nobody"])
    assert said.code == 2 and "run 'nobody': no run of that name" in said.output and "known: first" in said.output
    assert "`gristmill up`" in said.output and not (home / "servers.json").exists() and not (home / "logs").exists()
