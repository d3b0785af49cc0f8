"""The state of an installation over time: `migrate` brings databases and manifests to this release, `tidy` removes old runs.

Nothing of a newer release is touched: an unknown revision or manifest format is an error that names it. SQLite files are copied first;
who runs PostgreSQL has its own backups. Prefect removes old runs itself when `GRISTMILL_KEEP_RUNS_DAYS` is set, MLflow only here.
"""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from infra import launch, servers, storage, tracking
from infra.dataset import MANIFEST, MANIFEST_FORMAT
from infra.errors import GristmillError
from infra.settings import PROJECT, Settings, settings

# MLflow's commands take the database's address, which holds a password, as an argument: so they are called where no `ps` sees it
UPGRADE_MLFLOW = "import os; from mlflow.db import upgrade; upgrade.main([os.environ['MLFLOW_BACKEND_STORE_URI']])"
COLLECT_MLFLOW = """
import os
from mlflow.cli import gc
here = os.environ
words = {"--run-ids": "RUN_IDS", "--backend-store-uri": "BACKEND_STORE_URI", "--artifacts-destination": "ARTIFACTS_DESTINATION"}
gc.main([word for option, name in words.items() for word in (option, here[f"MLFLOW_{name}"])])
"""
RUNS_AT_ONCE = 500
DAY_MS = launch.DAY_S * 1000


class UpkeepError(GristmillError):
    """State that cannot be brought to this release, or removed; the message names it and what to do."""


def migrate(tell: Callable[[str], None]) -> None:
    """Upgrade the databases of the servers that `up` starts, after a copy of those that are files, and check every manifest.

    Raises:
        UpkeepError: a server still runs, or something is of a release that this one does not know.
    """
    now = settings()
    if running := [name for name, server in servers.known().items() if server.alive()]:
        raise UpkeepError(f"migrate: {', '.join(running)} still run; stop them first: gristmill down")
    _check_manifests(now.store, tell)
    files = {name: path for name, path in _files(now).items() if path.exists()}
    _copy(now.home / "backups" / datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ"), files, tell)
    if "prefect" in files or now.prefect_database:
        plan = launch.prefect_server(now, now.prefect_port)
        _upgrade("prefect", (sys.executable, "-m", "prefect", "server", "database", "upgrade", "--yes"), plan.environment(), tell)
    if "mlflow" in files or now.mlflow_database:
        environment = launch.mlflow_server(now, now.mlflow_port).environment()
        _upgrade("mlflow", (sys.executable, "-c", UPGRADE_MLFLOW), environment, tell)


def tidy(tell: Callable[[str], None]) -> None:
    """Remove from MLflow, with their artifacts, the runs that ended longer ago than the settings keep them.

    Raises:
        UpkeepError: the settings keep runs for ever, or the MLflow server or its database is another machine's.
    """
    servers.adopt()
    now = settings()
    if not now.keep_runs_days:
        raise UpkeepError("tidy: GRISTMILL_KEEP_RUNS_DAYS is not set, so runs are kept for ever")
    if not (now.mlflow_database or _files(now)["mlflow"].exists()):
        raise UpkeepError("tidy: MLflow's database is not on this machine; call it where the MLflow server runs")
    servers.require_servers()
    now = settings()
    gone = tracking.delete_runs(int(time.time() * 1000) - now.keep_runs_days * DAY_MS)
    environment = launch.mlflow_server(now, now.mlflow_port).environment()
    environment |= {"MLFLOW_ARTIFACTS_DESTINATION": launch.mlflow_artifacts(now), "MLFLOW_TRACKING_URI": now.mlflow_url}
    for ids in (gone[start : start + RUNS_AT_ONCE] for start in range(0, len(gone), RUNS_AT_ONCE)):
        _call("mlflow", (sys.executable, "-c", COLLECT_MLFLOW), environment | {"MLFLOW_RUN_IDS": ",".join(ids)})
    tell(f"mlflow: runs removed that ended more than {now.keep_runs_days} days ago: {len(gone)}")


def _check_manifests(root: str, tell: Callable[[str], None]) -> None:
    formats: Counter[object] = Counter()
    for step in storage.list_folder(root):
        for version in storage.list_folder(storage.join(root, step)):
            path = storage.join(root, step, version, MANIFEST)
            if not storage.exists(path):
                continue  # one that is being made, or no version at all
            raw = storage.read_json(path)
            found = raw.get("format") if isinstance(raw, dict) else None
            if found != MANIFEST_FORMAT:
                raise UpkeepError(
                    f"{path}: manifest format {found!r}; this release knows {MANIFEST_FORMAT}: update Gristmill if a newer one made it"
                )
            formats[found] += 1
    tell(f"manifests: {sum(formats.values())} of format {MANIFEST_FORMAT}, which is this release's")


def _files(now: Settings) -> dict[str, Path]:
    """The databases that are SQLite files of ours."""
    files = {} if now.prefect_database else {"prefect": now.home / "prefect" / "prefect.db"}
    if not now.mlflow_database:
        files |= {"mlflow": now.home / "mlflow" / "mlflow.db", "mlflow-users": now.home / "mlflow" / "users.db"}
    return files


def _copy(folder: Path, files: Mapping[str, Path], tell: Callable[[str], None]) -> None:
    for path in files.values():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        target = folder / path.name
        # SQLite's own copy has what is still in the write-ahead log
        source, copy = sqlite3.connect(path), sqlite3.connect(target)
        source.backup(copy)
        source.close()
        copy.close()
        tell(f"copied {path} to {target}")


def _upgrade(name: str, command: tuple[str, ...], environment: Mapping[str, str], tell: Callable[[str], None]) -> None:
    _call(name, command, environment)
    tell(f"{name}: the database is of this release")


def _call(name: str, command: tuple[str, ...], environment: Mapping[str, str]) -> None:
    done = subprocess.run(command, env=environment, cwd=PROJECT, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    if unknown := re.search(r"Can't locate revision identified by '(\w+)'", said):
        raise UpkeepError(
            f"{name}: the database has revision {unknown[1]}, which this release does not know: a newer one made it; update Gristmill"
        )
    if done.returncode:
        last = next((line for line in reversed(said.splitlines()) if line.strip()), "nothing said")
        raise UpkeepError(f"{name}: {command[2] if command[1] == '-m' else 'its command'} failed: {_without_passwords(last)}")


def _without_passwords(text: str) -> str:
    return re.sub(r"(://[^:/\s]+:)[^@\s]+@", r"\1***@", text)
