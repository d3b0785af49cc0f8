"""The extractor's process: equal to extraction at home, and the end of one page is the end of nothing else."""

import io
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from tasks.web import extractor as module
from tasks.web.extractor import Extractor, extractor
from tasks.web.html import Rejected
from tasks.web.main_text import ExtractConfig, Extracted, extract

URL = "http://h/page"
PAGE = b"<html><body><main><p>A page that is like many others, and ends like them.</p></main></body></html>"
# half a gigabyte as a tree, and many seconds to go through
BIG = ExtractConfig(max_bytes=10**9, max_tags=10**9, max_nesting=10**9, mode="fast")


def test_it_gives_what_extraction_at_home_gives() -> None:
    with extractor(ExtractConfig()) as one:
        for body, kind in ((PAGE, "text/html"), (b"", "text/html"), (b"# Text\n", "text/markdown"), (b"%PDF-", None)):
            assert one.extract(body, kind, URL) == extract(body, kind, URL)
        big = b"<p>" + b"word. " * 600_000
        assert one.extract(big, "text/html", URL) == extract(big, "text/html", URL)


@pytest.mark.parametrize(
    ("limits", "rule"),
    [({"page_cpu_s": 0.3}, "extractor_time"), ({"page_memory_mb": 64}, "extractor_memory")],
)
def test_a_page_that_needs_too_much_costs_itself_alone(limits: dict[str, float], rule: str) -> None:
    with extractor(BIG.model_copy(update=limits)) as one:
        assert isinstance(one.extract(PAGE, "text/html", URL), Extracted)
        got = one.extract(b"<p><b>a</b>" * 700_000, "text/html", URL)
        assert isinstance(got, Rejected)
        assert got.rule == rule, got
        assert isinstance(one.extract(PAGE, "text/html", URL), Extracted)


def test_a_crash_and_a_process_that_went_away_are_outlived() -> None:
    one = Extractor(ExtractConfig(mode="fast"))
    assert isinstance(one.extract(PAGE, "text/html", URL), Extracted)
    process = one._process
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert isinstance(one.extract(PAGE, "text/html", URL), Extracted)
    one.close()


def test_it_ends_with_its_caller_also_by_kill() -> None:
    code = (
        "import time\nfrom tasks.web.extractor import *\none = Extractor(ExtractConfig(mode='fast'))\n"
        "one.extract(b'<p>a page.', 'text/html', 'http://h/')\nprint(one._process.pid, flush=True)\ntime.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as caller:
        assert caller.stdout
        child = psutil.Process(int(caller.stdout.readline()))
        caller.kill()
        deadline = time.monotonic() + 20
        while child.is_running() and child.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_one_that_has_nothing_to_do_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IDLE_S", 0.05)
    monkeypatch.setattr(module, "_limit_memory", lambda num_mb: None)  # this process is the tests'
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as stdin, os.fdopen(writing, "wb"):
        module.serve(ExtractConfig(mode="fast"), stdin, io.BytesIO())  # returns though its input is still open
