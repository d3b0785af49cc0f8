"""Who may ask the servers: one user and password in a file, for Prefect and MLflow alike.

The file holds one line, `user:password`, and nobody but its owner may read it. The password reaches processes by their environment only:
a command line can be read by everybody on the machine.
"""

from __future__ import annotations

import base64
import re
import secrets
import stat
from pathlib import Path

from pydantic import BaseModel, ConfigDict, SecretStr

from infra.errors import GristmillError

MIN_PASSWORD_CHARS = 12  # MLflow's own least length
VARIABLE = "GRISTMILL_AUTH_FILE"


class AuthError(GristmillError, ValueError):
    """A file of secrets that cannot be used; the message names it and what to do, never what is in it."""


class Login(BaseModel):
    """The one user of the servers."""

    model_config = ConfigDict(frozen=True)

    user: str
    password: SecretStr

    @property
    def pair(self) -> str:
        """`user:password`, as Prefect wants it."""
        return f"{self.user}:{self.password.get_secret_value()}"

    @property
    def header(self) -> dict[str, str]:
        """The HTTP header of a request that logs in."""
        return {"Authorization": "Basic " + base64.b64encode(self.pair.encode()).decode()}

    def for_clients(self) -> dict[str, str]:
        """Variables under which Prefect's and MLflow's clients log in."""
        return {
            "PREFECT_API_AUTH_STRING": self.pair,
            "MLFLOW_TRACKING_USERNAME": self.user,
            "MLFLOW_TRACKING_PASSWORD": self.password.get_secret_value(),
        }


def read_login(path: Path) -> Login:
    """The login in a file.

    Raises:
        AuthError: no such file, others may read it, or it is not one line `user:password`.
    """
    found = re.fullmatch(r"([A-Za-z0-9._@-]+):([!-~]+)", read_secret(path, VARIABLE))
    if found is None:
        raise AuthError(f"{path}: not one line `user:password` in ASCII without blanks, which {VARIABLE} needs")
    if len(found[2]) < MIN_PASSWORD_CHARS:
        raise AuthError(f"{path}: the password has {len(found[2])} characters; MLflow takes {MIN_PASSWORD_CHARS} or more")
    return Login(user=found[1], password=SecretStr(found[2]))


def read_secret(path: Path, variable: str) -> str:
    """The content of a file that only its owner may read, without the line's end.

    Raises:
        AuthError: no such file, or its mode lets others read it.
    """
    try:
        found = path.stat()
        content = path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise AuthError(f"{path}: cannot be read ({_reason(error)}), and {variable} names it") from error
    mode = stat.S_IMODE(found.st_mode)
    # as libpq has it: a group may read what root owns, which is how Kubernetes hands a secret to a container that is not root
    if mode & (0o037 if found.st_uid == 0 else 0o077):
        raise AuthError(f"{path}: has mode {mode:04o} and {variable} names it, so others can read a secret: chmod 600 {path}")
    return content


def kept_secret(path: Path) -> str:
    """The random secret in a file of ours, made at the first call."""
    if not path.exists():
        write_secret(path, secrets.token_urlsafe(32))
    return read_secret(path, "the server")


def write_secret(path: Path, content: str) -> None:
    """Write a file that nobody else could ever read, not even between its making and a chmod."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text(content, encoding="utf-8")


def _reason(error: OSError | UnicodeDecodeError) -> str:
    return error.strerror or "no reason given" if isinstance(error, OSError) else "not UTF-8"
