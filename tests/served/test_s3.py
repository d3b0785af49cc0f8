"""The whole pipeline with its storage on S3 (moto's server): equal digests, and nothing of the store on local disk."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import s3fs
from backends import S3
from served_mill import STEPS, Mill

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900, func_only=True)]


def test_the_pipeline_on_s3_makes_what_it_makes_on_disk(
    mill: Mill, undisturbed: str, new_mill: Callable[..., Mill], s3: S3
) -> None:
    system = s3fs.S3FileSystem(key=s3.key, secret=s3.secret, endpoint_url=s3.url)
    remote = new_mill(
        {"GRISTMILL_STORAGE": "s3://corpus/mill", "GRISTMILL_MLFLOW_ARTIFACTS": "s3://corpus/artifacts", **s3.variables()}
    )
    said = remote.run(patience_s=500)
    assert said.returncode == 0, said.stdout + said.stderr + remote.logs()
    run_id = remote.newest_run()
    assert remote.states(run_id) == dict.fromkeys(STEPS, "Completed")
    entries = {
        path.rpartition("/")[2][: -len(".json")]: json.loads(system.cat(path))
        for path in system.ls(f"corpus/mill/runs/{run_id}")
        if path.endswith(".json") and not path.endswith("/about.json")
    }
    made = {step: entry["digest"] for step, entry in entries.items() if step not in ("report", "register")}
    assert made == mill.digests(undisturbed)
    assert not (remote.home / "mlflow" / "artifacts").exists()
    # the registered model went through the MLflow server, whole
    (weights,) = (name for name in system.find("corpus/artifacts") if name.endswith(".safetensors"))
    sizes = {
        file["name"]: file["num_bytes"]
        for file in json.loads(system.cat(f"corpus/mill/{entries['pretrain']['path']}/manifest.json"))["files"]
    }
    assert system.size(weights) in sizes.values()
    assert not (remote.home / "store").exists() and not any((remote.home / "training").glob("*"))
    for words in (("verify",), ("report", "--output", str(remote.home / "page.html"))):
        done = remote.cli(*words)
        assert done.returncode == 0, done.stdout + done.stderr
    again = remote.run(patience_s=500)
    assert again.returncode == 0 and remote.states(remote.newest_run()) == dict.fromkeys(STEPS, "Cached"), again.stderr
