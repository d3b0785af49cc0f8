"""Checked models from YAML and `dotted.key=value`, with errors that name the key; and which keys there are. Knows no step, so that each
starts without the others."""

from __future__ import annotations

import ast
import difflib
import inspect
import re
import textwrap
from collections.abc import Iterator, Sequence
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

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


_CHOICE = re.compile(r"'([^']*)'")
_NEXT_SENTENCE = re.compile(r"(?<=\.)\s(?=[A-Z])")
PLACE = "N"
"""In keys, the number of an item of a list."""


class Key(NamedTuple):
    """A key that can be set."""

    name: str
    """Dotted."""
    default: str
    """As YAML has it, in one line; `needed` where there is none."""
    words: str
    """What stands below its field."""
    choices: tuple[Any, ...]
    """All values that it may have; empty where they are not counted."""

    @property
    def short(self) -> str:
        """The first sentence of its words."""
        return _NEXT_SENTENCE.split(" ".join(self.words.split()), maxsplit=1)[0].rstrip(".")


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
        known, tag = problem["ctx"]["expected_tags"], problem["ctx"]["tag"]
        return f"{where}: {'.'.join(map(str, place))}.kind: must be one of {known} (got {tag!r}){_meant(tag, known)}"
    key = ".".join(str(part) for part in place) or "(the whole)"
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(place[-1]), list(_keys_at(model, place[:-1])), n=1, cutoff=0.5)
        # a key of this very name elsewhere, as where it has moved, is nearer than one that is spelt alike here
        meant = [*_elsewhere(model, place), *(".".join([*map(str, place[:-1]), name]) for name in near)]
        hint = f"; did you mean {meant[0]}?" if meant else ""
        return f"{where}: {key}: no such key (got {problem['input']!r}){hint}"
    text = IN_PLAIN_WORDS.get(problem["type"], problem["msg"].removeprefix("Value error, "))
    hint = _meant(problem["input"], problem["ctx"]["expected"]) if problem["type"] == "literal_error" else ""
    return f"{where}: {key}: {text[:1].lower() + text[1:]} (got {problem['input']!r}){hint}"


def _meant(given: Any, known: str) -> str:
    """A hint at the nearest of the values that pydantic names, where one is near."""
    near = difflib.get_close_matches(str(given), _CHOICE.findall(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def keys_of(model: type[BaseModel], prefix: str = "") -> Iterator[Key]:
    """All keys of a configuration in the order of its fields, those of its parts and of items of its lists too."""
    words = _words_below(model)
    for name, field in model.model_fields.items():
        key = f"{prefix}{field.alias or name}"
        kinds = _plain(field.annotation)
        parts = [one for one in kinds if isinstance(one, type) and issubclass(one, BaseModel)]
        several = any(get_origin(one) in (tuple, list) for one in (field.annotation, *get_args(field.annotation)))
        if several or type(None) in kinds or not parts:
            choices = tuple(value for one in kinds if get_origin(one) is Literal for value in get_args(one))
            yield Key(key, _default(field, of_parts=bool(parts)), words.get(name, ""), choices)
        for part in parts:
            yield from keys_of(part, f"{key}.{PLACE}." if several else f"{key}.")


def _default(field: FieldInfo, *, of_parts: bool) -> str:
    """As YAML in one line; of a part that is there by default the values are those of its keys."""
    if field.is_required():
        return "needed"
    value = field.get_default(call_default_factory=True)
    if of_parts and isinstance(value, BaseModel):
        return "{…}"
    plain = [*value] if isinstance(value, tuple | set | frozenset) else value
    return yaml.safe_dump(plain, default_flow_style=True, width=10_000, allow_unicode=True).removesuffix("\n...\n").strip()


def _words_below(model: type[BaseModel]) -> dict[str, str]:
    """What stands below each field, in the class and in those that it is made of."""
    found: dict[str, str] = {}
    for one in reversed([one for one in model.__mro__ if issubclass(one, BaseModel) and one is not BaseModel]):
        [made] = ast.parse(textwrap.dedent(inspect.getsource(one))).body
        assert isinstance(made, ast.ClassDef)
        for field, below in zip(made.body, made.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
                found |= {field.target.id: str(below.value.value)} if isinstance(below.value, ast.Constant) else {}
    return found


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
