"""What stands behind a mill elsewhere: a PostgreSQL cluster of Debian's, and an S3 server (moto's), as processes of a test's own."""

from __future__ import annotations

import glob
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from served_mill import free_port, wait_until


@dataclass(frozen=True)
class Postgres:
    """A running cluster."""

    port: int
    password: str
    folder: Path

    def url(self, name: str) -> str:
        """The address of a database."""
        return f"postgresql://mill:{self.password}@127.0.0.1:{self.port}/{name}"

    def create(self, *names: str) -> None:
        """Create databases."""
        import psycopg2

        connection = psycopg2.connect(self.url("postgres"))
        connection.autocommit = True
        for name in names:
            connection.cursor().execute(f"CREATE DATABASE {name}")
        connection.close()

    def ask(self, name: str, query: str) -> list[tuple[object, ...]]:
        """The rows of a query."""
        import psycopg2

        connection = psycopg2.connect(self.url(name))
        with connection, connection.cursor() as cursor:
            cursor.execute(query)
            rows = cursor.fetchall()
        connection.close()
        return list(rows)


def _programs() -> Path | None:
    """Folder of PostgreSQL's programs; Debian's is fetched where apt is there."""
    if not (found := _look()) and os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run("apt-get update -qq && apt-get install -y -qq postgresql", shell=True, check=False, capture_output=True)
        found = _look()
    return found


def _look() -> Path | None:
    places = [*sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True), *filter(None, [shutil.which("initdb")])]  # noqa: PTH207
    folders = (Path(place) if Path(place).is_dir() else Path(place).resolve().parent for place in places)
    return next((folder for folder in folders if (folder / "initdb").exists() and (folder / "pg_ctl").exists()), None)


@contextmanager
def postgres_cluster() -> Iterator[Postgres]:
    """A cluster in a folder of its own, with a password of its own."""
    programs = _programs()
    if programs is None:
        pytest.skip("no PostgreSQL here, and apt-get cannot fetch it: apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="gristmill-postgres-", dir="/tmp"))
    found = Postgres(free_port(), f"pg-{secrets.token_hex(8)}", folder)
    (folder / "password").write_text(found.password + "\n")
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        shutil.chown(folder, "postgres", "postgres")
        shutil.chown(folder / "password", "postgres", "postgres")

    def call(*words: str) -> None:
        before = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        subprocess.run([*before, *words], check=True, cwd=folder, stdout=subprocess.DEVNULL)

    data = str(folder / "data")
    call(str(programs / "initdb"), "-D", data, "-U", "mill", "-A", "scram-sha-256", f"--pwfile={folder / 'password'}")
    options = f"-p {found.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c max_connections=200"
    call(str(programs / "pg_ctl"), "-D", data, "-w", "-o", options, "-l", str(folder / "log"), "start")
    try:
        yield found
    finally:
        call(str(programs / "pg_ctl"), "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(folder)


@dataclass(frozen=True)
class S3:
    """A running S3 server, and keys to it."""

    url: str
    key: str
    secret: str

    def variables(self, url: str = "") -> dict[str, str]:
        """The environment of its clients, by way of `url` where that is given."""
        return {
            "AWS_ENDPOINT_URL": url or self.url,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": "us-east-1",
        }


@contextmanager
def s3_server(log: Path) -> Iterator[S3]:
    """A server with an empty bucket `corpus`."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with log.open("w") as sink:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        process = subprocess.Popen(command, stdout=sink, stderr=sink)
    try:
        wait_until(lambda: _answers(url), 60, "moto's server")
        assert httpx.put(f"{url}/corpus", trust_env=False).status_code == 200
        yield S3(url, f"AK{secrets.token_hex(9).upper()}", f"s3-{secrets.token_hex(16)}")
    finally:
        process.terminate()
        process.wait(20)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False).status_code < 500
    except httpx.HTTPError:
        return False
