"""Nothing calls home: servers, workers, flows and commands ask the network for no host but this one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from served_mill import Mill

pytestmark = pytest.mark.timeout(360, func_only=True)


def test_no_process_of_a_mill_asks_for_an_outside_host(mill: Mill, retried: str) -> None:
    log = Path(mill.extra["NETWORK_LOG"])
    assert log.read_text() == ""
    # the watcher itself must see: a name that nobody has, asked for under the same environment
    script = "import socket\ntry: socket.getaddrinfo('gristmill.invalid', 80)\nexcept OSError: pass"
    subprocess.run([sys.executable, "-c", script], env=mill.env, check=True)
    try:
        assert "gristmill.invalid" in log.read_text()
    finally:
        log.write_text("")
