"""Models by their names in the MLflow registry, and the versions of the store that have their weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infra import lineage, tracking
from infra.dataset import ShardSet, folder_of, open_version
from infra.errors import InputError
from infra.settings import settings

MODEL_SCHEMA, VERSION_TAG = "model", "model.version"


def is_path(what: str) -> bool:
    """Whether a word can only be a place on this machine, not a name or a version."""
    return what.startswith(("/", ".", "~")) or what.endswith(".gguf")


def row_of(what: str) -> Mapping[str, Any]:
    """The row of the registry that `name`, `name@alias` or `name:version` means: of a name alone, its champion.

    Raises:
        InputError: the registry does not answer, or knows none.
    """
    if is_path(what):
        why = "is no folder of a model" if Path(what).exists() else "there is no such file or folder"
        if what.endswith(".gguf"):
            why += f"; a GGUF file is taken in by `gristmill step adopt --input {what} --output FOLDER`"
        raise InputError(f"{what}: {why}")
    name, _, version = what.partition(":")
    name, _, alias = name.partition("@")
    if not tracking.reachable():
        where = f"does not answer at {settings().mlflow_url}" if tracking.enabled() else "is not running here"
        raise InputError(
            f"{what}: is no folder and no version, and the MLflow registry, which may know the name, {where}; `gristmill up` starts it"
        )
    try:
        rows = tracking.registered_models(name)
    except tracking.failures() as error:
        raise InputError(f"{what}: the MLflow registry has no answer: {error}") from error
    alias = alias or tracking.CHAMPION
    found = [row for row in rows if (row["version"] == version if version else alias in row["aliases"])]
    if not found:
        there = ", ".join(f"{row['version']} {' '.join(row['aliases'])}".strip() for row in rows)
        wanted = f"version {version}" if version else f"alias {alias}"
        others = ", ".join(sorted({row["name"] for row in tracking.registered_models()})) if not rows else ""
        known = f"it has: {there}" if rows else f"registered are {others or 'no models'}"
        raise InputError(f"{name}: has no {wanted} in the registry; {known}")
    return found[0]


def version_of(what: str, row: Mapping[str, Any]) -> ShardSet:
    """The version of the store that a registered model was made from.

    Raises:
        InputError: it is not there.
    """
    made_as = row["tags"].get(VERSION_TAG, "")
    for path in lineage.version_paths():
        if made_as and path.rpartition("/")[2] == made_as:
            version = open_version(folder_of(path))
            if version.schema_name == MODEL_SCHEMA and version.digest == row["digest"]:
                return version
    raise InputError(
        f"{what}: {row['name']}:{row['version']} was registered from the version {made_as or '(not told)'} with digest {row['digest']}, "
        f"which is not in the store {settings().store}"
    )
