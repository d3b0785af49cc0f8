"""A process of its own that extracts page after page, so that one that hangs or swells costs itself and nothing else.

The limits are the kernel's: processor time by a timer whose signal ends the process even inside a C library, memory by RLIMIT_DATA. So the
caller needs no clock, and the process ends also when its caller is killed: at the end of its input, or by its timer. Starting one takes
about half a second; one that had nothing to do for `IDLE_S` seconds goes away. A page of 4 kB costs about 0.5 ms more than in the
caller's process (2.3 ms instead of 1.7, measured on loaded cores).
"""

from __future__ import annotations

import atexit
import contextlib
import pickle
import resource
import select
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tasks.web.html import Rejected
from tasks.web.main_text import ExtractConfig, Extracted, extract

IDLE_S = 30.0
_LENGTH = struct.Struct("<Q")
_MB = 2**20
_NO_MEMORY = 97
"""Exit status of a process that could not even say that it had no memory left."""

_idle: list[Extractor] = []
_lock = threading.Lock()


@contextlib.contextmanager
def extractor(config: ExtractConfig) -> Iterator[Extractor]:
    """An extractor for the time of the block: one that waits for work, else a new one."""
    with _lock:
        found = next((one for one in _idle if one.config == config), None)
        if found:
            _idle.remove(found)
    one = found or Extractor(config)
    try:
        yield one
    finally:
        with _lock:
            _idle.append(one)


class Extractor:
    """Extracts pages one after the other in a process that is started when it is needed."""

    def __init__(self, config: ExtractConfig) -> None:
        self.config = config
        self._process: subprocess.Popen[bytes] | None = None

    def extract(self, body: bytes, content_type: str | None, url: str) -> Extracted | Rejected:
        """As `main_text.extract`; besides, a page that needs too much is Rejected by `extractor_time`, `extractor_memory` or, where a
        library crashes, `extractor_crashed`."""
        for _ in range(2):
            process = self._started()
            assert process.stdin and process.stdout
            try:
                _send(process.stdin, (body, content_type, url))
            except BrokenPipeError:  # it had just gone away for want of work
                self.close()
                continue
            answer = _receive(process.stdout)
            if answer is not None:
                return pickle.loads(answer)
            return self._end_of(process)
        return Rejected("extractor_crashed", "the extractor's process could not be started")

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process:
            process.kill()
            process.communicate()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self.close()
            command = [sys.executable, "-m", "tasks.web.extractor", self.config.model_dump_json()]
            # from where its modules are found, whatever folder the caller is in
            root = Path(__file__).resolve().parents[2]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root)
        return self._process

    def _end_of(self, process: subprocess.Popen[bytes]) -> Rejected:
        self.close()
        status = process.returncode
        if status == -signal.SIGPROF:
            return Rejected("extractor_time", f"more than {self.config.page_cpu_s:g} s of processor time")
        if status == _NO_MEMORY:
            return Rejected("extractor_memory", f"more than {self.config.page_memory_mb} MB")
        how = signal.Signals(-status).name if status < 0 else f"status {status}"
        return Rejected("extractor_crashed", f"its process ended with {how}")


@atexit.register
def _close_idle() -> None:
    for one in _idle:
        one.close()


def _send(stream: IO[bytes], value: object) -> None:
    frame = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    stream.write(_LENGTH.pack(len(frame)))
    stream.write(frame)
    stream.flush()


def _receive(stream: IO[bytes]) -> bytes | None:
    """The next frame; None at the end of the stream."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (num_bytes,) = _LENGTH.unpack(head)
    frame = stream.read(num_bytes)
    return frame if len(frame) == num_bytes else None


def serve(config: ExtractConfig, stdin: IO[bytes], stdout: IO[bytes]) -> None:
    """Answer page after page until there is no more input, or nothing to do for `IDLE_S` seconds."""
    _limit_memory(config.page_memory_mb)
    # what is read ahead in a buffer is not seen by `select`; there is nothing, since the caller sends one page and waits for its answer
    while select.select([stdin], [], [], IDLE_S)[0] and (frame := _receive(stdin)) is not None:
        signal.setitimer(signal.ITIMER_PROF, config.page_cpu_s)
        try:
            body, content_type, url = pickle.loads(frame)
            answer = extract(body, content_type, url, config)
        except MemoryError:
            answer = Rejected("extractor_memory", f"more than {config.page_memory_mb} MB")
        signal.setitimer(signal.ITIMER_PROF, 0)
        _send(stdout, answer)


def _limit_memory(num_mb: int) -> None:
    """Let the process have `num_mb` more than it has now; where the kernel does not tell (macOS), there is no limit."""
    status = Path("/proc/self/status")
    if not status.exists():
        return
    [line] = [line for line in status.read_text().splitlines() if line.startswith("VmData:")]
    limit = int(line.split()[1]) * 1024 + num_mb * _MB
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def main() -> None:
    """The process's own entry."""
    # what a library prints must not lie between the answers
    answers = sys.stdout.buffer
    sys.stdout = sys.stderr
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the caller's to handle
    try:
        serve(ExtractConfig.model_validate_json(sys.argv[1]), sys.stdin.buffer, answers)
    except MemoryError:
        raise SystemExit(_NO_MEMORY) from None
    except BrokenPipeError:
        return


if __name__ == "__main__":
    main()
