"""Secrets come from files that nobody else can read, and what is started with them does not show them."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from infra import auth, launch
from infra.auth import AuthError
from infra.launch import LaunchError
from infra.settings import PROJECT, Settings, SettingsError, settings

PASSWORD = "a-password-of-some-length"


@pytest.fixture
def auth_file(tmp_path: Path) -> Path:
    path = tmp_path / "auth"
    auth.write_secret(path, f"miller:{PASSWORD}\n")
    return path


def test_a_login_is_one_line_and_does_not_show_its_password(auth_file: Path) -> None:
    login = auth.read_login(auth_file)
    assert (login.user, login.pair) == ("miller", f"miller:{PASSWORD}")
    assert PASSWORD not in repr(login) + str(login) + login.model_dump_json()
    assert stat.S_IMODE(auth_file.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "not one line `user:password`"),
        ("miller", "not one line `user:password`"),
        (f"miller:{PASSWORD}\nanother:{PASSWORD}", "not one line `user:password`"),
        (f"miller:{PASSWORD} and a blank", "not one line `user:password`"),
        ("miller:pässword-of-some-length", "not one line `user:password`"),
        ("miller:short", "the password has 5 characters; MLflow takes 12 or more"),
    ],
)
def test_a_file_that_is_no_login_is_told_by_name_and_not_by_content(content: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "auth"
    auth.write_secret(path, content)
    with pytest.raises(AuthError) as error:
        auth.read_login(path)
    assert str(error.value).startswith(f"{path}: ") and words in str(error.value)
    assert PASSWORD not in str(error.value)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o606, 0o660])
def test_a_file_that_others_can_read_is_refused(auth_file: Path, mode: int) -> None:
    auth_file.chmod(mode)
    if mode == 0o640 and auth_file.stat().st_uid == 0:
        assert auth.read_login(auth_file).user == "miller"  # root's, for a group: Kubernetes hands secrets out like that
        return
    with pytest.raises(AuthError, match=rf"has mode 0{mode:o} .*chmod 600 {auth_file}"):
        auth.read_login(auth_file)


def test_a_secret_of_ours_is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "mlflow" / "session-key"
    first = auth.kept_secret(path)
    assert len(first) > 30 and auth.kept_secret(path) == first
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_setting_can_be_in_a_file(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "database"
    auth.write_secret(path, "postgresql://mill:pa55@db/prefect\n")
    monkeypatch.setenv("GRISTMILL_PREFECT_DATABASE_FILE", str(path))
    assert settings().prefect_database == "postgresql://mill:pa55@db/prefect"
    path.chmod(0o644)
    with pytest.raises(AuthError, match="GRISTMILL_PREFECT_DATABASE_FILE names it, so others can read"):
        settings()


def test_a_command_with_an_auth_file_that_others_can_read_ends_with_words_and_no_traceback(
    auth_file: Path, tmp_path: Path
) -> None:
    auth_file.chmod(0o604)
    environment = {**os.environ, "GRISTMILL_AUTH_FILE": str(auth_file), "GRISTMILL_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "flows", "status"]
    done = subprocess.run(command, env=environment, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr
        == f"{auth_file}: has mode 0604 and GRISTMILL_AUTH_FILE names it, so others can read a secret: chmod 600 {auth_file}\n"
    )


def test_an_empty_auth_file_setting_is_none_and_a_bad_number_is_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRISTMILL_AUTH_FILE", "")
    assert settings().login is None
    monkeypatch.setenv("GRISTMILL_KEEP_RUNS_DAYS", "-1")
    with pytest.raises(SettingsError, match=r"GRISTMILL_KEEP_RUNS_DAYS: .*\(got '-1'\)"):
        settings()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.5"])
def test_beyond_this_machine_nothing_is_served_without_a_password(host: str, auth_file: Path, tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match=f"GRISTMILL_HOST={host}: .*GRISTMILL_AUTH_FILE"):
        launch.refuse_open_bind(Settings(home=tmp_path, host=host))
    launch.refuse_open_bind(Settings(home=tmp_path, host=host, auth_file=auth_file))
    launch.refuse_open_bind(Settings(home=tmp_path))


def test_an_open_server_takes_requests_for_its_own_names_only(auth_file: Path, tmp_path: Path) -> None:
    now = Settings(home=tmp_path, host="0.0.0.0", names="mill.example,prefect", auth_file=auth_file)
    mlflow, prefect = launch.mlflow_server(now, 5000), launch.prefect_server(now, 4200)
    assert mlflow.url == "http://mill.example:5000" and prefect.url == "http://mill.example:4200"
    hosts = mlflow.extra["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    assert {"mill.example", "mill.example:5000", "127.0.0.1:5000"} <= set(hosts) and not {"*", "0.0.0.0", ""} & set(hosts)
    for origins in (mlflow.extra["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"], prefect.extra["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"]):
        assert "https://mill.example" in origins.split(",") and "*" not in origins
    inside = launch.mlflow_server(Settings(home=tmp_path), 5000)
    assert "MLFLOW_SERVER_ALLOWED_HOSTS" not in inside.extra and "--app-name" not in inside.command


def test_a_worker_gets_no_database_and_a_temporary_folder_where_nothing_of_a_killed_one_is_left(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = home / "tmp" / "cpu" / "prefect-workspace-attempt-abc" / "workspace.json"
    other = home / "tmp" / "gpu" / "prefect-workspace-attempt-abc" / "workspace.json"
    for path in (left, other):
        auth.write_secret(path, "the environment of a flow")
    monkeypatch.setenv("GRISTMILL_PREFECT_DATABASE", "postgresql://mill:pa55@db/prefect")
    environment = launch.worker(settings(), "cpu").environment()
    assert environment["TMPDIR"] == str(home / "tmp" / "cpu") and stat.S_IMODE((home / "tmp" / "cpu").stat().st_mode) == 0o700
    assert not left.exists() and other.exists()
    assert not [value for value in environment.values() if "pa55" in value]


def test_runs_are_kept_for_ever_unless_a_setting_says_how_long(tmp_path: Path) -> None:
    assert not [name for name in launch.prefect_server(Settings(home=tmp_path), 1).extra if "VACUUM" in name]
    extra = launch.prefect_server(Settings(home=tmp_path, keep_runs_days=30), 1).extra
    assert extra["PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD"] == str(30 * 24 * 3600)
    assert extra["PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED"] == "events,flow_runs"


def test_prefect_understands_how_long_runs_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.settings.models.server.services import ServerServicesDBVacuumSettings

    for name, value in launch.prefect_server(Settings(home=tmp_path, keep_runs_days=30), 1).extra.items():
        monkeypatch.setenv(name, value)
    understood = ServerServicesDBVacuumSettings()
    assert understood.retention_period.days == 30 and "flow_runs" in understood.enabled_vacuum_types
