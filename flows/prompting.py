"""Prompt templates at the command line and for a server: kept in MLflow's prompt registry, or read from a file where there is none."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from infra import tracking
from infra.errors import GristmillError, InputError
from infra.settings import settings
from tasks.serving.prompts import SUFFIXES, Prompt, Reference, from_file, reference, variables

LATEST = "latest"
"""Alias of a prompt's newest version; MLflow keeps it."""


def resolve(given: str) -> Prompt:
    """What a configuration names: `name@alias` or `name:version` of the registry, a .txt or .md file, or the template itself.

    Raises:
        InputError: the registry or the file does not have it, or its braces are no variables.
    """
    if (found := reference(given)) is not None:
        return load(found)
    if given.strip().endswith(SUFFIXES) and "\n" not in given.strip():
        return from_file(Path(given.strip()).expanduser())
    return Prompt(given)


def load(wanted: Reference) -> Prompt:
    """A prompt of the registry.

    Raises:
        GristmillError: there is no registry, it does not answer, or it does not have it.
    """
    if settings().mlflow_url.startswith("http") and not tracking.reachable():
        raise InputError(f"prompt {wanted.name!r}: the MLflow registry does not answer at {settings().mlflow_url}")
    try:
        found = tracking.prompt_version(wanted.name, wanted.which)
    except GristmillError:
        raise
    except tracking.failures() as error:
        raise InputError(f"prompt {wanted.name!r}: the MLflow registry has no answer: {error}") from error
    return Prompt(found.template, found.name, found.version)


def add(name: str, path: Path, message: str, alias: str) -> tracking.PromptVersion:
    """Register a file's template as the next version of a prompt; one that is its newest version already is not registered again."""
    prompt = from_file(path)
    if not prompt.template.strip():
        raise InputError(f"{path}: there is nothing in it")
    made = tracking.register_prompt(name, prompt.template, message=message, tags={"digest": prompt.digest})
    if alias:
        tracking.set_prompt_alias(name, alias, made.version)
    return made


def show(given: str, console: Console) -> None:
    """Print a prompt of the registry with what is known of it; a name alone means its newest version."""
    wanted = reference(given) or Reference(given, LATEST)
    found = tracking.prompt_version(wanted.name, wanted.which)
    names = ", ".join(variables(found.template)) or "none"
    console.print(f"{found.name} {found.version}, variables: {names}, digest {Prompt(found.template).digest}", highlight=False)
    if found.message:
        console.print(found.message, highlight=False, markup=False)
    console.print(found.template, highlight=False, markup=False, soft_wrap=True)


def show_list(name: str, console: Console) -> None:
    """Print the prompts of the registry, or the versions of one.

    Raises:
        InputError: there is no registry, or none of that name.
    """
    table = Table("prompt", "version", "aliases", "variables", "digest", "message")
    rows = tracking.prompt_versions(name)
    if name and not rows:
        raise InputError(f"prompt {name!r}: the registry has none of that name")
    for row in rows:
        prompt = Prompt(row.template, row.name, row.version)
        cells = (
            row.name,
            row.version,
            ", ".join(row.aliases),
            ", ".join(variables(row.template)),
            prompt.digest[:12],
            row.message,
        )
        table.add_row(*map(escape, cells))
    console.print(table)
