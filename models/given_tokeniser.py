"""Tokenisers of other makers: a folder that `AutoTokenizer` loads, or a name on the Hugging Face hub, copied into the version.

A folder's own files are copied as they are where it has a tokenizer.json; else transformers makes one of what is there, which takes some
seconds. No code that comes with a tokeniser is run (trust_remote_code stays off). Importing transformers costs 2 to 6 s, and only here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers

from infra import scratch, storage
from infra.dataset import bytes_digest
from infra.errors import InputError
from models import tokeniser
from models.tokeniser import FILES

KEY = "tokenise.tokeniser"
ROLES = ("bos_token", "eos_token", "sep_token", "pad_token", "unk_token", "cls_token", "mask_token")
# transformers notes from where it loaded
_VOLATILE = ("is_local", "local_files_only", "name_or_path")


def digests(given: str) -> Mapping[str, str]:
    """{file: digest} of the tokeniser's files, for a recipe.

    Raises:
        InputError: as `files_of`.
    """
    return {f"tokeniser/{name}": bytes_digest(data) for name, data in files_of(given).items()}


def adopt(given: str, folder: str) -> list[str]:
    """Copy a tokeniser into `folder`, once it is known to be one that corpora can be encoded with; returns its file names.

    Raises:
        InputError: as `files_of`, or it has no token that closes a document.
    """
    files = files_of(given)
    with scratch.folder("tokeniser") as copy:
        for name, data in files.items():
            (Path(copy) / name).write_bytes(data)
        words = loaded(copy, given)
        # defaults of its class that the files do not name
        known = tokeniser.token_names(copy)
        unnamed = {role: getattr(words, role) for role in ROLES if role not in known and getattr(words, role, None)}
        if unnamed:
            config = json.loads(files.get("tokenizer_config.json", b"{}"))
            files["tokenizer_config.json"] = _as_json({**config, **unnamed})
            (Path(copy) / "tokenizer_config.json").write_bytes(files["tokenizer_config.json"])
        try:
            tokeniser.load(copy)
        except InputError as error:
            raise InputError(f"{KEY}: {str(error).replace(copy, given)}") from error
    for name, data in files.items():
        storage.write_bytes(storage.join(folder, name), data)
    return sorted(files)


def vocab_size(given: str) -> int:
    """One more than the highest id.

    Raises:
        InputError: as `files_of`.
    """
    words = tokenizers.Tokenizer.from_str(files_of(given)["tokenizer.json"].decode())
    return int(max(words.get_vocab(with_added_tokens=True).values())) + 1


def files_of(given: str) -> dict[str, bytes]:
    """The files of the tokeniser in a folder, or of that name on the hub.

    Raises:
        InputError: there is none, or only a slow one, which is written in Python alone.
    """
    if not _is_path(given):
        return _converted(given, given)
    if not storage.exists(given):
        raise InputError(
            f"{KEY}: {given}: no such folder; give a folder with a tokenizer.json, or a name on the Hugging Face hub"
        )
    there = storage.list_folder(given)
    if "tokenizer.json" in there:
        return {name: storage.read_bytes(storage.join(given, name)) for name in FILES if name in there}
    with storage.local_folder(given) as local:
        return _converted(local, given)


def _is_path(given: str) -> bool:
    return given.startswith("/") or "://" in given


def _converted(name: str, given: str) -> dict[str, bytes]:
    """What transformers makes of a tokeniser whose own files may be of any kind."""
    words = loaded(name, given)
    with scratch.folder("tokeniser") as folder:
        words.save_pretrained(folder)
        files = {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir()) if path.name in FILES}
    config = json.loads(files["tokenizer_config.json"])
    files["tokenizer_config.json"] = _as_json({key: value for key, value in config.items() if key not in _VOLATILE})
    return files


def loaded(name: str, given: str) -> Any:
    """The tokeniser as transformers loads it.

    Raises:
        InputError: it does not, or it is a slow one.
    """
    from transformers import AutoTokenizer

    try:
        words = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # of whatever the class of the tokeniser makes of its files
        where = "in this folder" if _is_path(given) else "of this name, neither on the hub nor kept from an earlier time"
        why = " ".join(str(error).split())[:300]
        raise InputError(f"{KEY}: {given}: transformers loads no tokeniser {where} ({why})") from error
    if not words.is_fast:
        raise InputError(
            f"{KEY}: {given}: {type(words).__name__} is a slow tokeniser, written in Python alone, which corpora cannot be encoded with; "
            "use one that has a tokenizer.json"
        )
    return words


def _as_json(value: Any) -> bytes:
    return (json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False) + "\n").encode()
