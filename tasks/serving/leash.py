"""Runs a program that ends when the one who started it does: `python -m tasks.serving.leash SOCKET COMMAND …`.

The socket is inherited; nothing is said over it. When its other end closes, the program and all that it has started are killed.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading


def main() -> None:
    """Start the command in a process group of its own, and wait for its end or for the end of the socket."""
    holder = socket.socket(fileno=int(sys.argv[1]))
    process = subprocess.Popen(sys.argv[2:], stdin=subprocess.DEVNULL, start_new_session=True)

    def follow() -> None:
        holder.recv(1)
        os.killpg(process.pid, signal.SIGKILL)

    threading.Thread(target=follow, daemon=True).start()
    sys.exit(process.wait() & 0xFF)


if __name__ == "__main__":
    main()
