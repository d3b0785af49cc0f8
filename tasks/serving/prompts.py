"""Prompt templates: text with {{variables}}, checked before a request is answered with them, and known by their digest.

A template comes from MLflow's prompt registry by name and alias or version, from a file, or as it stands (flows/prompting.py asks).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from infra.errors import InputError
from infra.ids import payload_digest

_VARIABLE = re.compile(r"\{\{\s*([A-Za-z_][A-Za-z0-9_]*)\s*\}\}")
_REFERENCE = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]{0,127})(?:@([A-Za-z][A-Za-z0-9_-]*)|:([1-9][0-9]*))")
SUFFIXES = (".txt", ".md")
"""Of files that hold a template."""


class Reference(NamedTuple):
    """A prompt of the registry."""

    name: str
    which: str
    """A version's number, or an alias."""


@dataclass(frozen=True)
class Prompt:
    """A template and where it came from: what the log of a request names."""

    template: str
    name: str = "text"
    """In the registry, or the file's."""
    version: str = ""
    """In the registry; "" for one that is not from there."""

    def __post_init__(self) -> None:
        variables(self.template)

    @property
    def digest(self) -> str:
        """Of the template: equal for equal ones wherever they are kept."""
        return payload_digest(self.template.encode("utf-8", "surrogatepass"))

    def as_json(self) -> dict[str, str]:
        """What is logged with a request."""
        return {"prompt": self.name, "prompt_version": self.version, "prompt_digest": self.digest}


def variables(template: str) -> tuple[str, ...]:
    """The variables of a template, each once, in order.

    Raises:
        InputError: braces that are no variable.
    """
    left = _VARIABLE.sub(lambda match: " " * len(match.group()), template)
    if (at := left.find("{{")) >= 0:
        line = template.count("\n", 0, at) + 1
        raise InputError(
            f"line {line}: {template[at : at + 30]!r} is no variable; write {{{{name}}}} in letters, digits and _ (one brace is a brace)"
        )
    return tuple(dict.fromkeys(_VARIABLE.findall(template)))


def render(template: str, values: Mapping[str, str]) -> str:
    """The template with its variables filled in; a value is text, braces in it too.

    Raises:
        InputError: a variable has no value, or a value no variable.
    """
    known = variables(template)
    if missing := [name for name in known if name not in values]:
        raise InputError(f"no value for {', '.join(f'{{{{{name}}}}}' for name in missing)}")
    if unknown := sorted(set(values) - set(known)):
        has = f"it has {', '.join(known)}" if known else "it has none"
        raise InputError(f"{', '.join(unknown)}: no variable of this template; {has}")
    return _VARIABLE.sub(lambda match: values[match[1]], template)


def reference(given: str) -> Reference | None:
    """`name@alias` or `name:version`, if it is written so."""
    match = _REFERENCE.fullmatch(given.strip())
    return Reference(match[1], match[2] or match[3]) if match else None


def from_file(path: Path) -> Prompt:
    """The template of a file, without the line break at its end.

    Raises:
        InputError: there is none, it is no text, or its braces are no variables.
    """
    try:
        return Prompt(path.read_text(encoding="utf-8").removesuffix("\n"), path.stem)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 ({error})") from error
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
