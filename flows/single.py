"""One step on local files, with no server: `gristmill step`.

Plain files become documents first (below `input` in the output folder), and a step that wants signals or pages has them made from these.
Where a step takes a model, any version of one serves, and one of another maker is adopted first: a folder that transformers loads, a GGUF
file, a name on the hub. Everything else is what a flow does: same versions, same shards, same resume.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, get_origin

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from flows.keys import keys_of, overrides_of
from infra import dataset, storage
from infra.cluster import DaskConfig, pool
from infra.dataset import ShardSet, open_version
from infra.errors import InputError
from infra.ids import digest_of
from infra.progress import watched
from infra.steps import INPUT_PREFIX, Step
from tasks import STEP_NAMES
from tasks.dedup import documents_of
from tasks.index import EARLIER
from tasks.text.conversations import guessed
from tasks.text.rules import FilterConfig
from tasks.text.signals import DEFAULT_GROUPS
from tasks.web import warc

# parameters of steps that no plain files can stand for, with the step that makes them
MAKERS = {
    "model": "pretrain",
    "teacher": "pretrain",
    "reward_model": "reward",
    "conversations": "instruct",
    "preferences": "prefer",
    "ratings": "rate",
    "problems": "pose",
    "tokens": "tokenise",
    "scores": "evaluate",
    "signals": "signals",
    "quality": "quality",
    "toxicity": "toxicity",
    "index": "index",
    "base": "index",
}
MADE_BY = {
    **{"signals": "signals", "forgotten": "index", "scores": "evaluate"},
    **{"conversations": "instruct", "preferences": "prefer", "ratings": "rate", "problems": "pose"},
}
"""The step that stands for whatever writes a schema."""
MODELS = ("model", "teacher")
"""Parameters that any model serves as: pre-trained, adopted, tuned, made smaller."""
ROWS = ("conversations", "preferences", "ratings", "problems")
"""Parameters that are rows of a shape of their own, which no plain file is taken for."""
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
# parameters that may have none
OPTIONAL = ("corpus", "quality", "toxicity", "base", "reward_model")
SEVERAL = ("documents", "scores")
"""Of these a step may take several; it takes one of them only."""
# what only a flow knows
NOT_GIVEN = ("history", "previous")


def find_step(name: str) -> Step:
    """The step of that name.

    Raises:
        InputError: there is none.
    """
    if name not in STEP_NAMES:
        raise InputError(f"step {name!r}: there is none of that name; these are: {', '.join(STEP_NAMES)}")
    found: Step = getattr(importlib.import_module(f"tasks.{name}"), name)
    return found


def show_keys(name: str, console: Console) -> None:
    """The keys of a step's configuration with their defaults, and the first sentence of what they mean."""
    table = Table(title=f"Keys of {name}", title_justify="left", box=None)
    for heading in ("key", "default", "meaning"):
        table.add_column(heading, overflow="fold")
    for key in keys_of(find_step(name).config_type):
        choices = f"One of {', '.join(map(str, key.choices))}. " if key.choices else ""
        table.add_row(escape(key.name), escape(key.default), escape(f"{choices}{key.short}"))
    console.print(table)


def run_step(name: str, inputs: Sequence[str], output: Path, overrides: Sequence[str], workers: int, console: Console) -> None:
    """Run a step on `inputs` into `output` and print its counts.

    Raises:
        InputError: the inputs are not what the step takes.
        ConfigError: an override is wrong.
    """
    step = find_step(name)
    folder = str(output.expanduser().resolve())
    keys = [_own_key(name, override) for override in overrides]
    if name == "validate" and not any(key.startswith("suite=") for key in keys):
        keys.append("suite=documents")  # plain files have not been through the steps whose work the other suite asks for
    config = overrides_of(step.config_type, keys)
    kind = "none" if workers == 1 else "local"
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}"))
    bars = Progress(TextColumn("{task.description}"), *columns, console=console)
    try:
        with pool(DaskConfig(kind=kind, workers=workers)), watched(_bar(bars, name)):
            if not step.input_names:
                config = _with_sources(step, config, inputs)
                result = step.run([], config, folder)
            else:
                versions = [_version(path, step, config, folder, console) for path in inputs]
                versions = _with_index(step, config, _with_signals(step, versions, folder), folder)
                result = step.run(_bind(step, versions), config, folder)
    finally:
        if bars.tasks:  # else nothing was drawn, and stopping would print an empty line
            bars.stop()
    _tell(result.shards, result.loaded, result.seconds, result.resumed_shards, console)


def _own_key(name: str, override: str) -> str:
    """`filter.profile=…` means the same as `profile=…` for the step `filter`."""
    return override.removeprefix(f"{name}.")


def _bar(bars: Progress, name: str) -> Any:
    known: dict[str, Any] = {}

    def watcher(done: int, total: int, what: str, note: str) -> None:
        if what not in known:
            bars.start()
            known[what] = bars.add_task(f"{name}: {what}", total=total, note="")
        bars.update(known[what], completed=done, total=total, note=note)

    return watcher


def _bind(step: Step, versions: list[ShardSet]) -> list[ShardSet | list[ShardSet]]:
    """The versions as the step's parameters, `history` and `previous` empty; what only one step makes finds its place in any order.

    Raises:
        InputError: too many, too few, or one that the step cannot use.
    """
    parameters = inspect.signature(step.function, eval_str=True).parameters
    lists = [name for name in step.input_names if get_origin(parameters[name].annotation)]
    if len(lists) == 1 and lists == step.input_names and (versions or set(lists) <= set(OPTIONAL)):
        return [versions]
    makers = {_maker(version) for version in versions}
    absent = {name for name in OPTIONAL if MAKERS.get(name) not in makers}
    wanted = [name for name in step.input_names if name not in (*NOT_GIVEN, *absent, "verdicts")]
    many = next((name for name in lists if name in SEVERAL and len(versions) > len(wanted)), None)
    if len(versions) != len(wanted) and many is None:
        raise InputError(
            f"step {step.name}: takes {len(wanted)} --input ({', '.join(map(_meaning, wanted))}; got {len(versions)})"
        )
    left, given = list(versions), {}
    for name in sorted(wanted, key=lambda name: name not in MAKERS):
        fit = [version for version in left if MAKERS.get(name, _maker(version)) == _maker(version)]
        if not fit:
            got = ", ".join(f"{version.folder}, by {version.step}" for version in left)
            raise InputError(f"step {step.name}: one --input must be {_meaning(name)} (got {got})")
        given[name] = fit if name == many else fit[0]
        left = [version for version in left if version not in (fit if name == many else fit[:1])]
    if left:
        got = ", ".join(f"{version.folder}, by {version.step}" for version in left)
        raise InputError(f"step {step.name}: has no use for the --input {got}; it takes {', '.join(map(_meaning, wanted))}")
    # without a filter's verdicts every document stays
    found: list[Any] = [
        [] if name in (*NOT_GIVEN, *absent) else versions[0] if name == "verdicts" else given[name] for name in step.input_names
    ]
    return [
        [one] if name in lists and isinstance(one, ShardSet) else one for name, one in zip(step.input_names, found, strict=True)
    ]


def _maker(version: ShardSet) -> str:
    """The step that stands for a version; signals with scores are signals, an index that forgot something is an index, and whatever
    measured a model gives scores as `evaluate` does. A model is a model, whoever trained it, unless it only judges."""
    if version.schema_name == "model" and version.step != MAKERS["reward_model"]:
        return MAKERS["model"]
    return MADE_BY.get(version.schema_name, version.step)


def _with_signals(step: Step, versions: list[ShardSet], folder: str) -> list[ShardSet]:
    """For `score` the signals of its documents, where none are given."""
    if step.name != "score" or "signals" in map(_maker, versions):
        return versions
    documents = [version for version in versions if version.step not in ("quality", "toxicity")]
    return [*versions, _signals_of(documents, folder)] if documents else versions


def _with_index(step: Step, config: Any, versions: list[ShardSet], folder: str) -> list[ShardSet]:
    """For `dedup` and `forget` the index of their documents, where none is given; for `dedup` the documents of an index given alone; for
    `index` its base."""
    if step.name == "index" and config.base:
        if any(_maker(version) == "index" for version in versions):
            raise InputError("step index: index.base and an --input name an earlier index; give it once")
        return [*versions, _base(config.base)]
    if step.name == "forget" and not config.wanted:
        raise InputError("step forget: nothing is named; give --set with doc_ids, urls, domains, sources or file")
    if step.name not in ("dedup", "forget") or not versions:
        return versions
    made = [version for version in versions if _maker(version) == "index"]
    if made:
        return [*documents_of(made[0], config), *made] if step.name == "dedup" and len(versions) == 1 else versions
    index = find_step("index")
    made = [index.run([versions, []], index.config_type(), storage.join(folder, f"{INPUT_PREFIX}-index")).shards]
    return [*(versions if step.name == "dedup" else []), *made]


def _base(given: str) -> ShardSet:
    """The earlier index that a single step names: a folder, or a path below the storage root.

    Raises:
        InputError: `earlier`, which asks for a corpus.
    """
    if given == EARLIER:
        raise InputError(
            "step index: index.base=earlier asks what a corpus published, which a flow knows; name the index's folder"
        )
    folder = Path(given).expanduser()
    return open_version(str(folder.resolve())) if folder.is_dir() else dataset.named(given)


def _signals_of(documents: list[ShardSet], folder: str, groups: Iterable[str] = ()) -> ShardSet:
    """The usual signals, and those of the groups that a profile asks for."""
    signals = find_step("signals")
    config = signals.config_type.model_validate({"keep_text": True, "groups": tuple(dict.fromkeys((*DEFAULT_GROUPS, *groups)))})
    return signals.run([documents], config, storage.join(folder, f"{INPUT_PREFIX}-signals")).shards


def _meaning(name: str) -> str:
    return f"{name}, which `gristmill step {MAKERS[name]}` writes" if name in MAKERS else name


def _with_sources(step: Step, config: Any, inputs: Sequence[str]) -> Any:
    """The configuration of a step that reads sources, with the files on the command line as sources."""
    if not inputs:
        return config
    if step.name == "adopt":
        if len(inputs) > 1 or config.checkpoint:
            raise InputError("step adopt: takes one model; give it once, as --input or as --set checkpoint=…")
        given = inputs[0] if not Path(inputs[0]).expanduser().exists() else _full(inputs[0])
        return config.model_copy(update={"checkpoint": given})
    if step.name == "instruct":
        added = [{"kind": "folder", "path": path, "format": guessed(path)} for path in map(_full, inputs)]
    elif step.name in ("ingest", "toxicity", "prefer", "rate", "pose", "guard"):
        added = [{"kind": "folder", "path": path} for path in map(_full, inputs)]
    else:
        added = [_crawl_source(path) for path in inputs]
    raw = config.model_dump(mode="json")
    return type(config).model_validate({**raw, "sources": [*raw["sources"], *added]})


def _full(path: str) -> str:
    return str(Path(path).expanduser().resolve())


def _crawl_source(path: str) -> dict[str, Any]:
    full = _full(path)
    return {"kind": "warc", "path": full} if _has_warc(Path(full)) else {"kind": "site", "url_file": full}


def _has_warc(path: Path) -> bool:
    files = [path] if path.is_file() else list(path.rglob("*"))
    return any(file.name.lower().endswith(warc.SUFFIXES) for file in files)


def _version(path: str, step: Step, step_config: Any, folder: str, console: Console) -> ShardSet:
    """A version's folder as it is; plain files through `ingest`, WARC files through `crawl`, models of other makers through `adopt`, and on
    to what the step takes."""
    given = path if "://" in path else _full(path)
    if storage.exists(storage.join(given, dataset.MANIFEST)):
        version = open_version(given)
    elif set(MODELS) & set(step.input_names) and _is_model(path, given):
        adopt = find_step("adopt")
        checkpoint = given if storage.exists(given) else path
        config = adopt.config_type.model_validate({"checkpoint": checkpoint})
        version = adopt.run([], config, storage.join(folder, f"{INPUT_PREFIX}-{digest_of('model', given)[:8]}")).shards
        _tell_counts(version, path, console)
    elif "://" not in given and not Path(given).exists():
        raise InputError(f"{path}: no such file or folder")
    elif rows := [name for name in step.input_names if name in ROWS]:
        raise InputError(
            f"{path}: is no version; step {step.name} takes {_meaning(rows[0])}: gristmill step {MAKERS[rows[0]]} --input {path} --output …"
        )
    elif step.name == "extract" or _has_warc(Path(given)):
        crawl = find_step("crawl")
        config = overrides_of(crawl.config_type, [f"sources=[{{kind: warc, path: {given!r}}}]"])
        version = crawl.run([], config, storage.join(folder, f"{INPUT_PREFIX}-pages")).shards
        _tell_counts(version, path, console)
    else:
        ingest = find_step("ingest")
        config = overrides_of(ingest.config_type, [f"sources=[{{kind: folder, path: {given!r}}}]"])
        version = ingest.run([], config, storage.join(folder, INPUT_PREFIX)).shards
        _tell_counts(version, path, console)
    return _as_wanted(version, step, step_config, folder)


def _is_model(path: str, given: str) -> bool:
    """Whether a path is a model of another maker: a GGUF file, a folder with a `config.json`, or no path but a name as on the hub."""
    there = storage.exists(given)
    return (
        given.endswith(".gguf")
        or storage.exists(storage.join(given, "config.json"))
        or (not there and bool(HUB_NAME.fullmatch(path)))
    )


def _as_wanted(version: ShardSet, step: Step, step_config: Any, folder: str) -> ShardSet:
    if version.schema_name == "captures" and step.name != "extract":
        extract = find_step("extract")
        version = extract.run([version], extract.config_type(), storage.join(folder, f"{INPUT_PREFIX}-text")).shards
    if isinstance(step_config, FilterConfig) and version.schema_name != "signals":
        version = _signals_of([version], folder, step_config.groups())
    return version


def _tell(shards: ShardSet, loaded: bool, seconds: float, resumed: int, console: Console) -> None:
    how = "found complete" if loaded else f"{seconds:.1f} s"
    if resumed:
        how += f", {resumed} shards from an earlier start"
    _tell_counts(shards, how, console)
    for name, value in shards.manifest().facts.items():
        if isinstance(value, int | float):
            console.print(f"  {name:<36} {value:>10,.{0 if value == int(value) else 3}f}", highlight=False)
        elif isinstance(value, str):
            console.print(f"  {name:<36} {value}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"version {shards.version}, digest {shards.digest}\n{shards.folder}", highlight=False, soft_wrap=True)


def _tell_counts(shards: ShardSet, of: str, console: Console) -> None:
    counts = shards.counts
    console.print(
        f"{shards.step}: {counts.total:,} in, {counts.kept:,} kept, {counts.total - counts.kept:,} dropped ({of})",
        highlight=False,
        soft_wrap=True,
    )
    for rule, count in sorted(counts.dropped.items(), key=lambda pair: -pair[1]):
        console.print(f"  {rule:<36} {count:>10,}  {count / max(counts.total, 1):.1%}", highlight=False)
