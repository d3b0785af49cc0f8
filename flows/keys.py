"""Checked models from YAML and `dotted.key=value`, with errors that name the key. Knows no step, so that each starts without the others."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from infra.errors import GristmillError

TAGS = ("folder", "dataset", "site", "demo", "warc")
"""Kinds of sources."""
# where pydantic speaks of its own types
IN_PLAIN_WORDS = {
    "model_type": "must be a mapping of keys; leave it out to keep what is usual",
    "model_attributes_type": "must be a mapping of keys",
    "tuple_type": "must be a list, as in [a, b]",
    "union_tag_not_found": "needs the key `kind`",
}


class ConfigError(GristmillError, ValueError):
    """A configuration that cannot be used; one problem a line."""


def parse(model: type[Any], raw: dict[str, Any], where: str) -> Any:
    """Validate `raw` as `model`; one line of the error per problem, `file: dotted.key: problem (got value)`."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        lines = [_problem(model, problem, where) for problem in error.errors()]
        raise ConfigError("\n".join(dict.fromkeys(lines))) from error


def overrides_of(model: type[Any], overrides: Sequence[str]) -> Any:
    """A part of the configuration from overrides alone, as `gristmill step` takes it; an own part's name may lead the key."""
    raw: dict[str, Any] = {}
    for override in overrides:
        apply(raw, override)
    return parse(model, raw, "--set")


def apply(raw: dict[str, Any], override: str) -> None:
    """Set one `dotted.key=value` in `raw`.

    Raises:
        ConfigError: it is not of that form, or leads through something that has no keys.
    """
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise ConfigError(f"--set {override}: write dotted.key=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {key}: the value is not YAML (got {text!r})") from error
    *path, last = key.strip().split(".")
    here: Any = raw
    for number, name in enumerate([*path, last]):
        place: Any = name
        if isinstance(here, list):
            if not name.isdigit() or int(name) >= len(here):
                raise ConfigError(f"--set {key}: {'.'.join(path[:number])} is a list of {len(here)}; {name!r} is no place in it")
            place = int(name)
        elif not isinstance(here, dict):
            raise ConfigError(f"--set {key}: {'.'.join(path[:number])} is a value and has no keys (got {here!r})")
        if number == len(path):
            here[place] = value
        elif isinstance(here, list) or here.get(place) is not None:
            here = here[place]
        else:
            here[place] = {}
            here = here[place]


def _problem(model: type[Any], problem: Any, where: str) -> str:
    """One line for one of pydantic's problems."""
    loc = problem["loc"]
    # a tagged union puts its tag behind the number of the item, which is no key of the file
    place = [part for at, part in enumerate(loc) if not (at and isinstance(loc[at - 1], int) and part in TAGS)]
    if problem["type"] == "union_tag_invalid":
        known = problem["ctx"]["expected_tags"]
        return f"{where}: {'.'.join(map(str, place))}.kind: must be one of {known} (got {problem['ctx']['tag']!r})"
    key = ".".join(str(part) for part in place) or "(the whole)"
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(place[-1]), list(_keys_at(model, place[:-1])), n=1, cutoff=0.5)
        # a key of this very name elsewhere, as where it has moved, is nearer than one that is spelt alike here
        meant = [*_elsewhere(model, place), *(".".join([*map(str, place[:-1]), name]) for name in near)]
        hint = f"; did you mean {meant[0]}?" if meant else ""
        return f"{where}: {key}: no such key (got {problem['input']!r}){hint}"
    text = IN_PLAIN_WORDS.get(problem["type"], problem["msg"].removeprefix("Value error, "))
    return f"{where}: {key}: {text[:1].lower() + text[1:]} (got {problem['input']!r})"


def _keys_at(model: type[Any], place: Sequence[Any]) -> Iterator[str]:
    """Valid keys of the mapping at `place`."""
    current: list[Any] = [model]
    for part in place:
        current = [inner for one in current for inner in _inside(one, part)]
    for one in current:
        if isinstance(one, type) and issubclass(one, BaseModel):
            yield from (field.alias or name for name, field in one.model_fields.items())


def _elsewhere(model: type[Any], place: Sequence[Any], path: tuple[str, ...] = ()) -> Iterator[str]:
    """Dotted keys of the last name of `place` in other mappings of the same part of the whole; lists are not searched."""
    for name, field in model.model_fields.items():
        key = (*path, field.alias or name)
        if len(place) > 1 and key[0] != place[0]:
            continue
        if key[-1] == place[-1]:
            yield ".".join(key)
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _elsewhere(inner, place, key)


def _inside(annotation: Any, part: Any) -> list[Any]:
    """Types of what lies at `part` below a value of type `annotation`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        for name, field in annotation.model_fields.items():
            if part in (name, field.alias):
                return _plain(field.annotation)
        return [annotation]  # the number of an item: _plain has opened the list
    return [inner for one in get_args(annotation) for inner in _plain(one)] or [annotation]


def _plain(annotation: Any) -> list[Any]:
    if get_origin(annotation) is Annotated:
        return _plain(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [inner for one in get_args(annotation) for inner in _plain(one)]
    if get_origin(annotation) in (tuple, list):
        return [inner for one in get_args(annotation) for inner in _plain(one)]
    return [annotation]
