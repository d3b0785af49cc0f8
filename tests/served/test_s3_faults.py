"""Storage on S3 behind a network that fails: nothing is lost, nothing is half visible, and what cannot be done is told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import english
import pytest
import s3fs
import yaml
from backends import S3
from faulty import FAULTS, faulty
from served_mill import FOREIGN, PROJECT

pytestmark = [pytest.mark.soak, pytest.mark.timeout(400, func_only=True)]
RUNNER = PROJECT / "tests" / "flows" / "curating.py"
SHARES = dict.fromkeys(FAULTS, 0.012) | {"silent": 0.005}
NUM_ROWS = 24
# reads one file; the first word shortens the time limits, so that a silent store does not take this test's minutes
READER = """
import sys
from infra import storage
storage.ANSWER_TIMEOUT_S = float(sys.argv[1])
try:
    print(storage.read_bytes(sys.argv[2]))
except storage.StorageError as error:
    print(error)
    sys.exit(2)
"""


def config(folder: Path) -> Path:
    """Curation of two files of prose, in shards of a few rows."""
    (folder / "rows").mkdir()
    for number in range(2):
        rows = range(number * NUM_ROWS // 2, (number + 1) * NUM_ROWS // 2)
        lines = [json.dumps({"text": english.text(row), "url": f"http://rows{row % 5}.example/{row}"}) for row in rows]
        (folder / "rows" / f"{number}.jsonl").write_text("\n".join(lines))
    raw = {
        "dask": {"kind": "none"},
        "crawl": {"sources": []},
        "ingest": {"sources": [{"kind": "folder", "path": str(folder / "rows")}], "shard_bytes": 5000},
        "split": {"test_share": 0.3},
    }
    path = folder / "faults.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def environment(home: Path, extra: dict[str, str]) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    return clean | {"GRISTMILL_HOME": str(home)} | extra


def curate(home: Path, config: Path, extra: dict[str, str] | None = None) -> None:
    done = subprocess.run(
        [sys.executable, str(RUNNER), "first", str(config)],
        env=environment(home, extra or {}),
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


class Watcher(threading.Thread):
    """Looks at the store past the proxy all the while, for a manifest that is there before its files."""

    def __init__(self, system: Any, root: str) -> None:
        super().__init__(daemon=True)
        self.system, self.root, self.half_visible, self.looks, self.stop = system, root, [], 0, threading.Event()

    def run(self) -> None:
        while not self.stop.wait(0.3):
            # manifests are listed first: what they name must be there by then
            manifests = [name for name in self._sizes() if name.endswith("/manifest.json")]
            sizes = self._sizes()
            for name in manifests:
                manifest = json.loads(self.system.cat(name))
                for one in [*manifest["shards"], *manifest["files"]]:
                    file = one.get("name") or f"part-{one['index']:05d}.parquet"
                    if sizes.get(f"{name.rpartition('/')[0]}/{file}") != one["num_bytes"]:
                        self.half_visible.append(f"{name}: {file}")
            self.looks += 1

    def _sizes(self) -> dict[str, int]:
        return {name: found["size"] for name, found in self.system.find(self.root, detail=True).items()}


@pytest.fixture
def watcher(s3: S3) -> Iterator[Watcher]:
    made = Watcher(s3fs.S3FileSystem(key=s3.key, secret=s3.secret, endpoint_url=s3.url, use_listings_cache=False), "corpus")
    made.start()
    yield made
    made.stop.set()
    made.join(20)


def contents(root: Path) -> dict[str, bytes]:
    """All files of versions, by path; without what tells when they were made and published."""
    found = {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    return {
        name: data for name, data in found.items() if not name.endswith("run.json") and not name.startswith(("runs/", "corpora/"))
    }


@pytest.mark.parametrize("seed", [1, 2])
def test_curation_through_a_failing_network_ends_with_the_same_files_as_on_disk(
    s3: S3, watcher: Watcher, tmp_path: Path, seed: int
) -> None:
    curated = config(tmp_path)
    curate(tmp_path / "disk", curated)
    with faulty(s3.url, SHARES, seed) as proxy:
        started = time.monotonic()
        curate(tmp_path / "remote", curated, {"GRISTMILL_STORAGE": "s3://corpus/mill", **s3.variables(proxy.url)})
        print(f"{time.monotonic() - started:.0f} s, {sum(proxy.happened.values())} requests: {dict(proxy.happened)}")
    assert set(proxy.happened) == {*FAULTS, "well"}
    assert watcher.is_alive() and watcher.looks > 5 and not watcher.half_visible
    copy = tmp_path / "copy"
    watcher.system.get("corpus/mill/", f"{copy}/", recursive=True)
    wanted = contents(tmp_path / "disk" / "store")
    assert any(name.startswith("publish/") for name in wanted)
    assert contents(copy) == wanted


@pytest.mark.parametrize("fault", ["busy", "hung up", "silent", "cut down"])
def test_a_store_that_never_answers_is_left_in_time_with_an_error_that_names_the_file(s3: S3, tmp_path: Path, fault: str) -> None:
    with faulty(s3.url, {fault: 1.0}, max_silent=10**6, silence_s=1) as proxy:
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", READER, "0.3", "s3://corpus/mill/one.json"],
            env=environment(tmp_path, s3.variables(proxy.url)),
            cwd=PROJECT,
            capture_output=True,
            text=True,
            check=False,
        )
        took = time.monotonic() - started
    assert done.returncode == 2, done.stdout + done.stderr
    assert "s3://corpus/mill/one.json: the store did not do it" in done.stdout and "AWS_ENDPOINT_URL" in done.stdout
    assert s3.secret not in done.stdout + done.stderr
    assert took < 120
