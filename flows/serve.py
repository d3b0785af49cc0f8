"""`gristmill serve`: which models are meant, asked again and again while they are served.

A folder is served as it is. A version is one of the store whose schema is `model`. Any other name is looked for in the MLflow registry,
with its alias or version; its tags say which version of the store has its weights. While serving only the registry is asked, each `poll_s`;
the store is read when the answer has changed. A system prompt is asked for in the same way.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

from flows import prompting, registered
from infra import storage
from infra.dataset import MANIFEST, ShardSet, folder_of, open_version
from infra.errors import InputError
from infra.ids import digest_of
from infra.settings import settings
from infra.storage import StorageError
from tasks.learn.config import MODEL
from tasks.serving.config import Resolve, ServeConfig, Served
from tasks.serving.preface import PromptNow
from tasks.serving.prompts import reference
from tasks.serving.server import Server, serve


def run(models: Sequence[str], config: ServeConfig, tell: Callable[[str], None]) -> None:
    """Serve models until asked to stop.

    Args:
        models: each a name of the registry (`name`, `name@alias`, `name:version`), a version, or a folder; `LABEL=` before it is the name
            that requests give.

    Raises:
        InputError: one of them means nothing, or cannot be served.
    """
    with contextlib.ExitStack() as copies:
        resolves = {name: _resolver(name, what, copies) for name, what in _named(models).items()}

        def announce(url: str, _: Server) -> None:
            tell(f"serving {', '.join(resolves)} on {url}; try:")
            tell(example(url, next(iter(resolves))))

        asyncio.run(serve(resolves, config, announce, _prompter(config.system_prompt)))


def example(url: str, model: str) -> str:
    """A request to paste."""
    body = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello"}}], "max_tokens": 32}}'
    return f"  curl {url}/v1/chat/completions -H 'Content-Type: application/json' -H \"Authorization: Bearer $KEY\" -d '{body}'"


def _named(models: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for one in models:
        label, equals, what = one.partition("=")
        if not equals:
            label, what = (Path(one).resolve().name if Path(one).is_dir() else one), one
        if label in found:
            raise InputError(f"{one}: two models are called {label}; give one another name, as in `mine={what}`")
        found[label] = what
    return found


def _resolver(name: str, what: str, copies: contextlib.ExitStack) -> Resolve:
    """What says what a word means now; what it meant the last time is not looked up again."""
    last: list[Served] = []

    def resolve() -> Served:
        if Path(what).is_dir():
            return last[0] if last else _keep(last, _of_folder(name, Path(what)))
        if (found := _version(what)) is not None:
            return last[0] if last else _keep(last, _of_version(name, found, copies))
        row = registered.row_of(what)
        if not last or last[0].digest != row["digest"]:
            _keep(last, _of_version(name, registered.version_of(what, row), copies, f"{row['name']}:{row['version']}"))
        return last[0]

    return resolve


def _prompter(given: str) -> PromptNow | None:
    """What says what the system prompt is now; only the registry is asked more than once."""
    if not given:
        return None
    if reference(given) is not None:
        return lambda: prompting.resolve(given)
    try:
        prompt = prompting.resolve(given)
    except InputError as error:
        raise InputError(f"system_prompt: {error}") from error
    return lambda: prompt


def _keep(last: list[Served], served: Served) -> Served:
    last[:] = [served]
    return served


def _of_folder(name: str, folder: Path) -> Served:
    """A folder of a version, or of Hugging Face files."""
    if (folder / MANIFEST).exists():
        version = open_version(str(folder.resolve()))
        return _of_version(name, version, contextlib.ExitStack())
    if not (folder / "config.json").exists():
        raise InputError(f"{folder}: is neither a model of transformers (no config.json) nor a version (no {MANIFEST})")
    told = sorted(f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in folder.iterdir())
    return Served(name, folder.resolve().name, str(folder.resolve()), digest_of(*told))


def _of_version(name: str, version: ShardSet, copies: contextlib.ExitStack, called: str = "") -> Served:
    if version.schema_name != registered.MODEL_SCHEMA:
        raise InputError(
            f"{version.step}/{version.version}: has {version.schema_name} and no model; give a version that holds one"
        )
    told = f"{version.step}/{version.version}"
    folder = copies.enter_context(storage.local_folder(storage.join(version.folder, MODEL)))
    return Served(name, f"{called} ({told})" if called else told, folder, version.digest)


def _version(what: str) -> ShardSet | None:
    """A version of the store by its path, as in pretrain/0123456789abcdef."""
    if what.count("/") != 1 or ":" in what or "@" in what or registered.is_path(what):
        return None
    try:
        return open_version(folder_of(what))
    except StorageError as error:
        raise InputError(f"{what}: no such version in {settings().store} ({error})") from error
