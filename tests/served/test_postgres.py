"""Prefect and MLflow on a real PostgreSQL instead of SQLite."""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from served_mill import STEPS, Mill, free_port

pytestmark = [pytest.mark.soak, pytest.mark.timeout(360, func_only=True)]


def binaries() -> Path | None:
    """Folder of PostgreSQL's programs; Debian's is fetched where apt is there."""
    if not (found := _look()) and os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run("apt-get update -qq && apt-get install -y -qq postgresql", shell=True, check=False, capture_output=True)
        found = _look()
    return found


def _look() -> Path | None:
    places = [*sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True), *filter(None, [shutil.which("initdb")])]  # noqa: PTH207
    folders = (Path(place) if Path(place).is_dir() else Path(place).resolve().parent for place in places)
    return next((folder for folder in folders if (folder / "initdb").exists() and (folder / "pg_ctl").exists()), None)


@pytest.fixture
def server() -> Iterator[str]:
    """`user:password@host:port` of a cluster in a folder of its own."""
    programs = binaries()
    if programs is None:
        pytest.skip("no PostgreSQL here, and apt-get cannot fetch it: apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="gristmill-postgres-", dir="/tmp"))
    port = free_port()
    (folder / "password").write_text("secret\n")
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        shutil.chown(folder, "postgres", "postgres")
        shutil.chown(folder / "password", "postgres", "postgres")

    def call(*words: str) -> None:
        before = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        subprocess.run([*before, *words], check=True, cwd=folder, stdout=subprocess.DEVNULL)

    data = str(folder / "data")
    call(str(programs / "initdb"), "-D", data, "-U", "mill", "-A", "scram-sha-256", f"--pwfile={folder / 'password'}")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
    call(str(programs / "pg_ctl"), "-D", data, "-w", "-o", options, "-l", str(folder / "log"), "start")
    try:
        yield f"mill:secret@127.0.0.1:{port}"
    finally:
        call(str(programs / "pg_ctl"), "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(folder)


def test_the_pipeline_runs_with_both_servers_on_postgres(new_mill: Callable[..., Mill], server: str) -> None:
    import psycopg2

    connection = psycopg2.connect(f"postgresql://{server}/postgres")
    connection.autocommit = True
    for name in ("prefect", "mlflow"):
        connection.cursor().execute(f"CREATE DATABASE {name}")
    mill = new_mill(
        {
            "GRISTMILL_PREFECT_DATABASE": f"postgresql://{server}/prefect",
            "GRISTMILL_MLFLOW_DATABASE": f"postgresql://{server}/mlflow",
        }
    )
    said = mill.run()
    assert said.returncode == 0, said.stdout + said.stderr + mill.logs()
    run_id = mill.newest_run()
    assert mill.states(run_id) == dict.fromkeys(STEPS, "Completed")
    assert not list(mill.home.rglob("*.db"))
    for name, query, least in (
        ("prefect", "SELECT count(*) FROM task_run", len(STEPS)),
        ("mlflow", "SELECT count(*) FROM runs", len(STEPS)),
    ):
        with psycopg2.connect(f"postgresql://{server}/{name}") as asked, asked.cursor() as cursor:
            cursor.execute(query)
            assert cursor.fetchone()[0] >= least
    connection.close()
    assert mill.cli("down").returncode == 0  # before the database goes
