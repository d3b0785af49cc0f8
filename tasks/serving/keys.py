"""The keys of those who may ask: a file of mode 0600 with a digest of each, never the key itself.

A key is 256 random bits, so a plain SHA-256 of it is as good as any slow digest: nobody can try them all. The file is replaced as a whole,
and read again when it has changed, so that a key that was removed opens nothing from then on.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from infra.errors import InputError
from tasks.serving.limits import Limit

PREFIX = "gm-"
NAME = r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$"


class Key(BaseModel):
    """What is kept of a key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=NAME)
    """Whose it is: in logs and metrics."""
    digest: str
    """SHA-256 of the key."""
    requests_per_minute: int = Field(0, ge=0)
    """Requests in any 60 seconds; 0: as many as it likes."""
    tokens_per_minute: int = Field(0, ge=0)
    """Tokens of prompts and answers in any 60 seconds; 0: as many as it likes."""
    made: str = ""

    @property
    def limit(self) -> Limit:
        """What it may use."""
        return Limit(self.requests_per_minute, self.tokens_per_minute)


class Keys:
    """The keys in a file, as it is now."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, int, int] | None = None
        self._by_digest: Mapping[str, Key] = {}

    def all(self) -> list[Key]:
        """Every key, in the order of their names.

        Raises:
            InputError: the file is none of ours.
        """
        self._read()
        return sorted(self._by_digest.values(), key=lambda one: one.name)

    def __bool__(self) -> bool:
        self._read()
        return bool(self._by_digest)

    def find(self, secret: str) -> Key | None:
        """Whose key this is; looked up by its digest, so that the time it takes tells nothing of any key."""
        self._read()
        return self._by_digest.get(_digest(secret))

    def add(self, name: str, requests_per_minute: int, tokens_per_minute: int) -> str:
        """Make a key and return it: it can be told only now.

        Raises:
            InputError: there is one of this name, or this is no name.
        """
        if not re.fullmatch(NAME, name):
            raise InputError(f"{name!r}: no name for a key; letters, digits and . _ @ -, at most 64, a letter or digit first")
        secret = PREFIX + secrets.token_urlsafe(32)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        key = Key(
            name=name,
            digest=_digest(secret),
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            made=now,
        )
        with self._alone():
            there = self.all()
            if name in {one.name for one in there}:
                raise InputError(f"{name}: has a key already; `gristmill keys remove {name}` takes it away")
            self._write([*there, key])
        return secret

    def remove(self, name: str) -> None:
        """Take a key away.

        Raises:
            InputError: there is none of this name.
        """
        with self._alone():
            there = self.all()
            if name not in {one.name for one in there}:
                known = ", ".join(one.name for one in there) or "there are none"
                raise InputError(f"{name}: has no key in {self.path}; these have: {known}")
            self._write([one for one in there if one.name != name])

    def _read(self) -> None:
        try:
            found = self.path.stat()
        except FileNotFoundError:
            self._seen, self._by_digest = None, {}
            return
        seen = (found.st_mtime_ns, found.st_ino, found.st_size)
        if seen == self._seen:
            return
        try:
            keys = [Key.model_validate(one) for one in json.loads(self.path.read_text("utf-8"))["keys"]]
        except (ValueError, KeyError, TypeError, ValidationError) as error:
            raise InputError(f"{self.path}: is no file of keys ({error}); `gristmill keys add` makes one") from error
        self._seen, self._by_digest = seen, {one.digest: one for one in keys}

    def _write(self, keys: list[Key]) -> None:
        text = json.dumps({"keys": [one.model_dump() for one in keys]}, indent=1)
        handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=".keys-")  # mode 0600 from its first moment
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(self.path)
        self._seen = None

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with (self.path.parent / f".{self.path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
