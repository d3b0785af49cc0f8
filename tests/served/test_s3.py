"""The whole pipeline with its storage on S3 (moto's server): equal digests, and nothing of the store on local disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import s3fs
from backends import S3
from served_mill import STEPS, Mill

from tasks.dedup import DedupConfig
from tasks.text.sketches import IndexConfig
from tests.flows.deduplicating import Crawls
from tests.text import edits

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


def test_an_index_that_grows_and_forgets_on_s3_is_that_of_the_reference(
    s3: S3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in {
        "GRISTMILL_STORAGE": "s3://corpus/deduplicated",
        "GRISTMILL_HOME": str(tmp_path),
        **s3.variables(),
    }.items():
        monkeypatch.setenv(name, value)
    config, half = IndexConfig(shingle_length=1, num_bands=4, rows_per_band=1, bucket_cap=3), DedupConfig(min_similarity=0.5)
    crawls = Crawls.of(config, *edits.crawls(edits.crowded(3, 60), 3, 3))
    assert crawls.told(half) == crawls.expected(half)
    crawls.forget([one.doc_id for one in crawls.living[0][::4]], ["h1.example"])
    assert crawls.told(half) == crawls.expected(half)
    assert crawls.index is not None and crawls.index.folder.startswith("s3://") and not (tmp_path / "store").exists()
