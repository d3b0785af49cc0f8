"""The whole pipeline with its storage on S3 (moto's server): equal digests, and nothing of the store on local disk."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import s3fs
from served_mill import STEPS, Mill, free_port, wait_until

pytestmark = [pytest.mark.soak, pytest.mark.timeout(360, func_only=True)]


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[str]:
    """Address of an S3 server of this test's own."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with (tmp_path / "s3.log").open("w") as log:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_until(lambda: _answers(url), 60, "moto's server")
        yield url
    finally:
        process.terminate()
        process.wait(20)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False).status_code < 500
    except httpx.HTTPError:
        return False


def test_the_pipeline_on_s3_makes_what_it_makes_on_disk(
    mill: Mill, undisturbed: str, new_mill: Callable[..., Mill], endpoint: str
) -> None:
    system = s3fs.S3FileSystem(key="mill", secret="secret", endpoint_url=endpoint)
    assert httpx.put(f"{endpoint}/corpus", trust_env=False).status_code == 200
    remote = new_mill(
        {
            "GRISTMILL_STORAGE": "s3://corpus/mill",
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": "mill",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
    )
    said = remote.run()
    assert said.returncode == 0, said.stdout + said.stderr + remote.logs()
    run_id = remote.newest_run()
    assert remote.states(run_id) == dict.fromkeys(STEPS, "Completed")
    entries = {
        path.rpartition("/")[2][: -len(".json")]: json.loads(system.cat(path)) for path in system.ls(f"corpus/mill/runs/{run_id}")
    }
    made = {step: entry["digest"] for step, entry in entries.items() if step not in ("report", "register")}
    assert made == mill.digests(undisturbed)
    assert not (remote.home / "store").exists() and not any((remote.home / "training").glob("*"))
    for words in (("verify",), ("report", "--output", str(remote.home / "page.html"))):
        done = remote.cli(*words)
        assert done.returncode == 0, done.stdout + done.stderr
    again = remote.run()
    assert again.returncode == 0 and remote.states(remote.newest_run()) == dict.fromkeys(STEPS, "Cached"), again.stderr
