"""Keys: told once, kept as digests, gone when removed."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from infra.errors import InputError
from tasks.serving.keys import Keys
from tasks.serving.limits import Limit


def test_a_key_is_found_by_its_secret_alone(tmp_path: Path) -> None:
    keys = Keys(tmp_path / "own" / "keys.json")
    assert not keys and keys.find("") is None
    secret = keys.add("ann@example.org", 5, 1000)
    found = Keys(keys.path).find(secret)
    assert found is not None and (found.name, found.limit) == ("ann@example.org", Limit(5, 1000))
    assert keys and keys.find(secret + "x") is None and keys.find(found.digest) is None and keys.find("\ud800") is None


def test_the_file_holds_no_secret_and_is_its_owners(tmp_path: Path) -> None:
    keys = Keys(tmp_path / "keys.json")
    before = os.umask(0)
    try:
        secrets = [keys.add(name, 0, 0) for name in ("ann", "bob")]
    finally:
        os.umask(before)
    assert stat.S_IMODE(keys.path.stat().st_mode) == 0o600
    assert not [one for one in secrets if one in keys.path.read_text() or one.removeprefix("gm-") in keys.path.read_text()]
    assert len({*secrets}) == 2 and all(len(one) > 40 for one in secrets)


def test_a_removed_key_opens_nothing_for_who_has_read_the_file_before(tmp_path: Path) -> None:
    reader, writer = Keys(tmp_path / "keys.json"), Keys(tmp_path / "keys.json")
    secret = writer.add("ann", 0, 0)
    assert reader.find(secret) is not None
    writer.remove("ann")
    assert reader.find(secret) is None and not reader
    assert [one.name for one in reader.all()] == []


def test_what_cannot_be_is_told(tmp_path: Path) -> None:
    keys = Keys(tmp_path / "keys.json")
    keys.add("ann", 0, 0)
    with pytest.raises(InputError, match="has a key already"):
        keys.add("ann", 0, 0)
    with pytest.raises(InputError, match="no name for a key"):
        keys.add("a b", 0, 0)
    with pytest.raises(InputError, match=r"has no key in .*these have: ann"):
        keys.remove("bob")
    keys.path.write_text(json.dumps({"keys": [{"name": "x"}]}))
    with pytest.raises(InputError, match="is no file of keys"):
        Keys(keys.path).all()


@pytest.mark.parametrize("name", ["ann\n", "", "a b", "-a", "a" * 65])
def test_what_is_no_name_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no name for a key"):
        Keys(tmp_path / "keys.json").add(name, 0, 0)
