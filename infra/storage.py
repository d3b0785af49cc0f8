"""Files on any fsspec file system: whole-file writes under a temporary name, then a rename, so "exists" means "complete".

Paths are plain folders or URLs (`s3://bucket/key`). An object store has no rename but puts whole objects atomically, so
the promise holds there too. Costs one extra rename per file. A store that is elsewhere is asked again, with growing pauses and within time
limits, before a StorageError names the path; the drivers do that, here are the bounds.
"""

from __future__ import annotations

import json
import os
import posixpath
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, BinaryIO, cast

import fsspec
from pydantic import AfterValidator

from infra import scratch
from infra.errors import GristmillError

LOCAL_PROTOCOLS = ("file", "local")
# botocore sends a request REQUESTS times with growing pauses, and s3fs makes a call CALLS times, also when an answer breaks off: a store
# that refuses is left after 5 to 30 s, one that is silent after REQUESTS * CALLS * ANSWER_TIMEOUT_S, 5 minutes
REQUESTS = 4
CALLS = 5
CONNECT_TIMEOUT_S = 5
ANSWER_TIMEOUT_S = 15


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute()) if path and "://" not in path else path


LocalPath = Annotated[str, AfterValidator(_absolute)]
"""A path in a configuration: made absolute where it is read, because a worker runs in another folder."""


class StorageError(GristmillError, OSError):
    """A file that should be there and is not, or cannot be read; the message names it and what to do."""


@lru_cache(maxsize=16)
def _file_system(protocol: str) -> Any:
    bounds = {}
    if protocol in ("s3", "s3a"):
        waits = {"connect_timeout": CONNECT_TIMEOUT_S, "read_timeout": ANSWER_TIMEOUT_S}
        bounds = {"config_kwargs": {**waits, "retries": {"mode": "standard", "total_max_attempts": REQUESTS}}}
    try:
        # other processes write there too: a remembered listing would hide what they have just written
        system = fsspec.filesystem(protocol, use_listings_cache=False, **bounds)
        if bounds:
            system.retries = CALLS
        return system
    except (ImportError, ValueError) as error:
        raise StorageError(f"storage: no driver for {protocol}:// ({error}); install the extra, for example [s3]") from error


def locate(path: str) -> tuple[Any, str]:
    """The fsspec file system of a path, and its name there."""
    protocol, separator, _ = path.partition("://")
    if not separator:
        return _file_system("file"), os.path.abspath(path)  # noqa: PTH100 -- a Path would fold s3:// URLs
    system = _file_system(protocol)
    return system, system._strip_protocol(path)


@contextmanager
def asking(path: str) -> Iterator[None]:
    """Tell what a store that is elsewhere could not do, with the path: its drivers have errors of many kinds, and no path in them."""
    try:
        yield
    except (FileNotFoundError, StorageError):
        raise
    except driver_errors(path) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise StorageError(
            f"{path}: the store did not do it ({reason}), asked {REQUESTS * CALLS} times; see that it runs, that its address and keys "
            "(AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID…) are right, then run again: what is finished is kept"
        ) from error


def driver_errors(path: str) -> tuple[type[Exception], ...]:
    """What the driver of a store that is elsewhere raises when the store does not answer or refuses."""
    if not path.startswith(("s3://", "s3a://")):
        return () if is_local(path) else (OSError,)
    from botocore.exceptions import BotoCoreError
    from s3fs.core import S3_RETRYABLE_ERRORS

    return (OSError, BotoCoreError, *S3_RETRYABLE_ERRORS)


def is_local(path: str) -> bool:
    """Whether `path` is on a local file system (so memory maps and native writers may open it)."""
    protocol, separator, _ = path.partition("://")
    return not separator or protocol in LOCAL_PROTOCOLS


def join(root: str, *parts: str) -> str:
    """A path below `root`, which may be a URL."""
    return posixpath.join(root, *parts)


def exists(path: str) -> bool:
    """Whether a file or folder is there."""
    system, name = locate(path)
    with asking(path):
        return bool(system.exists(name))


def size_bytes(path: str) -> int | None:
    """The file's size in bytes, None where there is no such file."""
    system, name = locate(path)
    try:
        with asking(path):
            return int(system.size(name))
    except FileNotFoundError:
        return None


def used(path: str) -> tuple[int, float]:
    """Bytes in a folder and all below it, and when something was last written there (seconds since 1970, 0 for an empty one)."""
    system, name = locate(path)
    files = system.find(name, detail=True).values()
    return sum(int(one["size"]) for one in files), max((_written(one) for one in files), default=0.0)


def _written(info: dict[str, Any]) -> float:
    """When a file was written; file systems name it differently."""
    when = info.get("mtime") or info.get("LastModified") or info.get("created") or 0.0
    return float(when.timestamp()) if isinstance(when, datetime) else float(when)


def free_bytes(path: str) -> int | None:
    """Room that is left on the disk of a local folder, which need not be there yet; None for a store that is elsewhere."""
    if not is_local(path):
        return None
    _, name = locate(path)
    there = next(folder for folder in (Path(name), *Path(name).parents) if folder.exists())
    return shutil.disk_usage(there).free


def byte_words(num_bytes: float) -> str:
    """A number of bytes to read: 3 digits and a decimal unit."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if num_bytes < 999.5:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:,.3g} TB"


def list_folder(path: str) -> list[str]:
    """Base names in a folder, sorted; empty where there is no such folder."""
    system, name = locate(path)
    try:
        with asking(path):
            return sorted(posixpath.basename(entry.rstrip("/")) for entry in system.ls(name, detail=False))
    except FileNotFoundError:
        return []


def make_folder(path: str) -> None:
    """Create a folder and its parents."""
    system, name = locate(path)
    with asking(path):
        system.makedirs(name, exist_ok=True)


def remove(path: str) -> None:
    """Remove a file or a whole folder; nothing happens where there is none."""
    system, name = locate(path)
    with asking(path):
        if system.exists(name):
            system.rm(name, recursive=True)


@contextmanager
def open_write(path: str) -> Iterator[BinaryIO]:
    """Write a whole file: under a temporary name beside it, synced, renamed at the end; nothing is left after an error."""
    system, name = locate(path)
    if not is_local(path):
        # closing an object store's handle commits what was written so far, after an error too: so the whole file is made first
        with scratch.folder("upload") as folder, open(f"{folder}/whole", "wb") as whole:  # noqa: PTH123
            yield cast(BinaryIO, whole)
            whole.flush()
            with asking(path):
                system.put_file(whole.name, name)
        return
    folder = posixpath.dirname(name)
    os.makedirs(folder, exist_ok=True)  # noqa: PTH103
    temporary = f"{folder}/.tmp-{uuid.uuid4().hex}-{posixpath.basename(name)}"
    try:
        with open(temporary, "wb") as handle:  # noqa: PTH123
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, name)  # noqa: PTH105
    except BaseException:
        if os.path.exists(temporary):  # noqa: PTH110
            os.unlink(temporary)  # noqa: PTH108
        raise


def open_read(path: str, ahead_bytes: int | None = None) -> BinaryIO:
    """Open a file for reading.

    Args:
        ahead_bytes: how much is read at a time from a store that is elsewhere; by default some megabytes.

    Raises:
        StorageError: no such file.
    """
    system, name = locate(path)
    try:
        with asking(path):
            return system.open(name, "rb", **({"block_size": ahead_bytes} if ahead_bytes and not is_local(path) else {}))
    except FileNotFoundError as error:
        raise StorageError(f"{path}: no such file; was it removed, or does `storage` point elsewhere?") from error


def read_bytes(path: str) -> bytes:
    """The whole file."""
    with open_read(path) as handle, asking(path):
        return handle.read()


@contextmanager
def local_folder(path: str) -> Iterator[str]:
    """A folder of files as local files, for libraries that open nothing else: itself, or a copy for the time of the block."""
    if is_local(path):
        yield path
        return
    with scratch.folder("copy") as folder:
        for name in list_folder(path):
            write_bytes(join(folder, name), read_bytes(join(path, name)))
        yield folder


def write_bytes(path: str, data: bytes | memoryview) -> None:
    """Write a whole file, atomically."""
    with open_write(path) as handle:
        handle.write(data)


def write_json(path: str, value: Any) -> None:
    """Write JSON with sorted keys, so that equal values give equal bytes."""
    write_bytes(path, (json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False) + "\n").encode())


def read_json(path: str) -> Any:
    """Read a JSON file.

    Raises:
        StorageError: no such file, or not JSON.
    """
    try:
        return json.loads(read_bytes(path))
    except json.JSONDecodeError as error:
        raise StorageError(f"{path}: not JSON ({error}); remove it to have it made again") from error
