"""tokenise: learn a tokeniser from a sample of the training split, or take a given one; then make a token shard of every published one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from infra import dataset as versions
from infra import storage
from infra.dataset import Outcome, ShardRef, ShardSet
from infra.errors import InputError
from infra.steps import Output, step
from models import given_tokeniser, tokeniser
from models.tokeniser import TokeniserConfig
from tasks.learn import fertility, text_sample, tokens
from tasks.learn.config import TOKENISER

FERTILITY = "fertility.json"
"""Tokens per word and bytes per token of every language, source and split, and which strings do not come back."""
GROUPS = "groups"
"""Folder of the sums that they come from, one file per shard."""
TOLD_GROUPS = 20
"""Languages, and as many sources, whose figures are facts and so metrics: those with the most text. The table has all."""


def files_read(config: TokeniserConfig) -> Mapping[str, str]:
    """The files of a given tokeniser are part of the recipe."""
    return given_tokeniser.digests(config.tokeniser) if config.tokeniser else {}


def tokenise_shard(shard: ShardRef, tokeniser_folder: str, folder: str) -> Outcome:
    """Write the token stream of one shard; its documents' places are the shard's table."""
    stream, docs = tokens.encode_shard(shard.read(["doc_id", "source", "text"]), tokeniser_folder)
    return Outcome(docs, files=(tokens.write_stream(folder, shard.index, stream),))


def measure_shard(item: tuple[ShardRef, str], columns: Sequence[str], tokeniser_folder: str, folder: str) -> Outcome:
    """What the tokeniser made of the documents of a shard, by group."""
    shard, split = item
    table, made = shard.read(columns), tokens.read_shard(folder, shard.index)
    return Outcome(fertility.measure(table, made, tokeniser.shared(tokeniser_folder)[1], split))


@step(schema="token_documents", fingerprint=files_read)
def tokenise(dataset: ShardSet, config: TokeniserConfig, out: Output) -> None:
    """Train the tokeniser on the training split and write memory-mapped token shards that map back to documents."""
    shards = dataset.shards()
    # a folder of plain documents has no splits: all of it is for training
    splits = dataset.manifest().facts.get("splits", {"train": [shard.index for shard in shards], "test": []})
    folder = storage.join(out.folder, TOKENISER)
    sample = _tokeniser([shards[index] for index in splits["train"]], config, folder, out)
    out.map(partial(tokenise_shard, tokeniser_folder=folder, folder=out.folder), shards)
    opened = {name: [tokens.read_shard(out.folder, index) for index in indices] for name, indices in splits.items()}
    sizes = {name: sum(len(shard.tokens) for shard in many) for name, many in opened.items()}
    roles = tokeniser.roles(folder)
    out.facts = {
        "splits": splits,
        "vocab_size": roles.vocab_size,
        **_measured(dataset, shards, splits, folder, out),
        **sample,
        **{f"num_tokens.{name}": size for name, size in sizes.items()},
    }


def _tokeniser(train: list[ShardRef], config: TokeniserConfig, folder: str, out: Output) -> dict[str, int]:
    """Make the tokeniser, or copy the given one; what it was learnt from."""
    done = out.aside("tokeniser.json")
    if not storage.exists(done):
        storage.write_json(done, _given(config, folder) if config.tokeniser else _trained(train, config, folder, out))
    made = storage.read_json(done)
    for name in made["files"]:
        out.keep_file(f"{TOKENISER}/{name}")
    sample: dict[str, int] = made["sample"]
    return sample


def _given(config: TokeniserConfig, folder: str) -> dict[str, Any]:
    return {"files": given_tokeniser.adopt(config.tokeniser, folder), "sample": {}}


def _trained(train: list[ShardRef], config: TokeniserConfig, folder: str, out: Output) -> dict[str, Any]:
    """Draw the sample and learn from it."""
    draw = partial(text_sample.places_in_shard, seed=config.seed, max_bytes=config.sample_bytes)
    last = text_sample.last_place(out.map_aside("places", draw, train), config.sample_bytes)
    if last is None:
        raise InputError("tokeniser: there is no text to learn from; the training split is empty")
    drawn = out.map_aside("sample", partial(text_sample.texts_in_shard, seed=config.seed, last=last), train)
    sample = _Texts(drawn)
    files = tokeniser.save(tokeniser.train(sample, config), folder)
    num_bytes = sum(len(text.encode()) for text in sample)
    return {"files": files, "sample": {"sample_documents": sum(one.num_rows for one in drawn), "sample_bytes": num_bytes}}


class _Texts:
    """The texts of shards, read one by one, each time they are gone through."""

    def __init__(self, shards: list[ShardRef]) -> None:
        self._shards = shards

    def __iter__(self) -> Iterator[str]:
        for shard in self._shards:
            yield from shard.read(["text"])["text"].to_pylist()


def _measured(
    dataset: ShardSet, shards: list[ShardRef], splits: Mapping[str, Sequence[int]], folder: str, out: Output
) -> dict[str, Any]:
    """Write the table of groups; the facts of all there is."""
    rows = versions.dataset(dataset.folder)
    language = ["language"] if rows is not None and "language" in rows.schema.names else []
    split_of = {index: name for name, indices in splits.items() for index in indices}
    items = [(shard, split_of[shard.index]) for shard in shards]
    columns = ["doc_id", "source", "text", *language]
    sums = out.map_files(GROUPS, partial(measure_shard, columns=columns, tokeniser_folder=folder, folder=out.folder), items)
    words, roles = tokeniser.shared(folder)
    groups = fertility.summed((shard.read() for shard in sums), roles.vocab_size)
    lost = tokeniser.lost(words)
    storage.write_json(storage.join(out.folder, FERTILITY), {"groups": [one.as_json() for one in groups], "lost": lost})
    out.keep_file(FERTILITY)
    facts: dict[str, Any] = {"closing_token": words.id_to_token(roles.end), "strings_lost": len(lost)}
    told = [group for kind in ("language", "source") for group in [one for one in groups if one.kind == kind][:TOLD_GROUPS]]
    for group in [*(one for one in groups if one.kind == "all"), *(one for one in told if not one.small)]:
        of = "" if group.kind == "all" else f".{group.kind}.{group.name}"
        figures = {name: getattr(group, name) for name in ("fertility", "bytes_per_token", "unknown_rate", "vocab_used")}
        facts |= {f"{name}{of}": value for name, value in figures.items() if value is not None}
    return facts
