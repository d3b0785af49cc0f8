"""A mill whose every password is a recognisable word: none of them is found where it does not belong."""

from __future__ import annotations

import base64
import json
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import s3fs
from backends import S3, Postgres
from served_mill import Mill, strict_suite
from test_s3_faults import config

pytestmark = [pytest.mark.soak, pytest.mark.timeout(780, func_only=True)]

# the files below the home folder that must hold a secret, and no other may
HOLDERS = {"mlflow/auth.ini": {"postgres"}}
LISTS = (
    "flow_runs",
    "task_runs",
    "flows",
    "deployments",
    "artifacts",
    "logs",
    "work_pools",
    "variables",
    "block_documents",
    "automations",
)


def test_no_secret_is_found_outside_the_files_that_must_hold_it(
    new_mill: Callable[..., Mill],
    auth_file: Path,
    postgres: Postgres,
    s3: S3,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    postgres.create("prefect", "mlflow")
    mill = new_mill(
        {
            "GRISTMILL_AUTH_FILE": str(auth_file),
            "GRISTMILL_PREFECT_DATABASE": postgres.url("prefect"),
            "GRISTMILL_MLFLOW_DATABASE": postgres.url("mlflow"),
            "GRISTMILL_MLFLOW_ARTIFACTS": "s3://corpus/artifacts",
            **s3.variables(),
        }
    )
    mill.config = config(tmp_path)
    user, password = mill.login or ("", "")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", user)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
    # one run that completes, and one that the gate stops: errors and tracebacks are where secrets leak
    said = [mill.run(*words, flow="curate", patience_s=350) for words in ((), (f"validate.suite={strict_suite(tmp_path)}",))]
    assert [one.returncode for one in said] == [0, 1], "".join(one.stdout + one.stderr for one in said) + mill.logs()
    said += [mill.cli(*words) for words in (("status",), ("doctor",), ("report", "--output", str(mill.home / "page.html")))]

    secrets = {"auth": password, "postgres": postgres.password, "s3": s3.secret}
    needles = {name: {word, base64.b64encode(word.encode()).decode()} for name, word in secrets.items()}
    needles["auth"].add(base64.b64encode(f"{user}:{password}".encode()).decode())

    def found(text: str) -> set[str]:
        return {name for name, words in needles.items() if any(word in text for word in words)}

    assert found(f"x {password} y") == {"auth"}  # the search itself must see
    for one in said:
        assert not found(one.stdout + one.stderr)
    holders = {}
    for path in (path for path in mill.home.rglob("*") if path.is_file()):
        if here := found(path.read_bytes().decode("latin-1")):
            holders[path.relative_to(mill.home).as_posix()] = here
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert holders == HOLDERS
    # Prefect's worker writes each flow's environment where temporary files are: ours has a folder of its own for that
    notes = [path for path in Path(tempfile.gettempdir()).glob("prefect-workspace-attempt-*/*.json") if found(path.read_text())]
    assert not notes
    assert list(mill.store.rglob("manifest.json"))  # the store is one of the folders that were looked through

    answers = {kind: list(everything(mill, kind)) for kind in LISTS}
    assert all(answers[kind] for kind in ("flow_runs", "task_runs", "deployments", "artifacts", "logs"))
    for kind, rows in answers.items():
        assert not found(json.dumps(rows)), kind
    runs = [run for one in {run["id"] for run in answers["flow_runs"]} for run in mill.tracked(one)]
    assert runs and any(run.data.params for run in runs)
    page = tmp_path / "page.txt"
    page.write_text("by way of the server, which alone has the keys")
    mill.mlflow.log_artifact(runs[0].info.run_id, str(page))
    system = s3fs.S3FileSystem(key=s3.key, secret=s3.secret, endpoint_url=s3.url)
    objects = system.find("corpus/artifacts")
    assert any(name.endswith("page.txt") for name in objects)
    assert not {name for name in objects if found(system.cat(name).decode("latin-1"))}
    for run in runs:
        assert not found(json.dumps(run.to_dictionary()))
    # what the servers themselves hold, past their APIs; MLflow keeps a hash of the password
    for name in ("prefect", "mlflow"):
        dump = subprocess.run(["pg_dump", "--inserts", postgres.url(name)], capture_output=True, text=True, check=True).stdout
        assert len(dump) > 10_000 and not found(dump), name
    assert mill.cli("down").returncode == 0


def everything(mill: Mill, kind: str) -> Iterator[object]:
    """All rows of one list of the Prefect API."""
    offset = 0
    while rows := mill.ask(f"/{kind}/filter", limit=200, offset=offset):
        yield from rows
        offset += len(rows)


def test_commands_and_their_servers_have_no_secret_in_their_command_lines(auth_file: Path, tmp_path: Path) -> None:
    """Of every process that a mill with passwords would start; the address of a database is one of them."""
    script = """
import json, sys
from infra import launch
from infra.settings import settings
now = settings()
plans = [launch.prefect_server(now, 1), launch.mlflow_server(now, 2), launch.worker(now, "cpu", 3)]
print(json.dumps([[plan.command, repr(plan)] for plan in plans]))
"""
    words = {"GRISTMILL_AUTH_FILE": str(auth_file), "GRISTMILL_HOME": str(tmp_path / "home")}
    words |= {f"GRISTMILL_{name}_DATABASE": f"postgresql://mill:Pa%24s-{name}@db/{name}" for name in ("PREFECT", "MLFLOW")}
    done = subprocess.run([sys.executable, "-c", script], env=words | {"PATH": ""}, capture_output=True, text=True, check=True)
    password = auth_file.read_text().strip().partition(":")[2]
    assert len(json.loads(done.stdout)) == 3
    assert password not in done.stdout and "Pa%24s" not in done.stdout
    assert "Pa%%24s-MLFLOW" in (tmp_path / "home" / "mlflow" / "auth.ini").read_text()
