"""`gristmill read-by`: what a training step learned from, token by token, and in which steps a document, source or domain was read."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from operator import or_
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from expectations.schemas import AUGMENTED
from flows.lineage import spellings
from flows.trained import LATER, LEARNED, OUTLIER, Documents, Training
from infra.dataset import EXCERPT_CHARS
from infra.errors import InputError
from infra.whereabouts import LOOKED_UP
from models import tokeniser
from tasks.learn import readings, tokens
from tasks.learn.config import TOKENISER
from tasks.learn.packing import Flags, Ints

EFFECTS = (LEARNED, OUTLIER, LATER)
COPIED_FROM = AUGMENTED.names[1]

Answer = dict[str, Any]
"""As JSON has it: what `Training.as_json` says, and what was asked."""


def of_step(training: Training, step: int, *, text: bool = False) -> Answer:
    """Which tokens of which documents a step learned from.

    Args:
        text: whether each span is told with its text.

    Raises:
        InputError: the training made no such step.
    """
    if not 1 <= step <= training.steps:
        early = f", of {training.config.max_steps:,} that were planned" if training.steps < training.config.max_steps else ""
        raise InputError(
            f"--step {step}: {training.name} was trained in {training.steps:,} steps{early}; give one from 1 to that"
        )
    per_step = training.config.samples_per_step
    spans = training.sampler.spans_of((step - 1) * per_step, per_step)
    outlier = {name: value for name, value in training.skipped.get(step, {}).items() if name in ("loss", "norm")}
    asked = {"step": step, "effect": training.effect(step), "outlier": outlier or None}
    return {**training.as_json(), **asked, "spans": _told(training, spans, text=text)}


def of_document(training: Training, what: str, *, text: bool = False) -> Answer:
    """In which steps the documents that `what` (URL, doc_id, content_id) names were learned from, and which of their tokens.

    Args:
        text: whether each span is told with its text.

    Raises:
        InputError: the model was trained and tested on none of that name.
    """
    ids = _named(training, what)
    spans = _told(training, _spans(training, ids), text=text)
    return {**training.as_json(), "document": what, "documents": list(_summaries(training, ids, spans)), "spans": spans}


def of_groups(training: Training, sources: Sequence[str], domains: Sequence[str]) -> Answer:
    """How much of each source, and of each domain with all hosts below it, the model has learned from.

    Raises:
        InputError: there is no source of that name, or a domain is none.
    """
    groups = [
        *(_group(training, "source", name, *_of_source(training, name)) for name in sources),
        *(_group(training, "domain", name, *_of_domain(training, name)) for name in domains),
    ]
    return {**training.as_json(), "groups": groups}


def in_words(training: Training, doc: str) -> str:
    """What a training did with one document, for its passport; empty: it had nothing to do with it."""
    for split, documents in training.held_out.items():
        if _among(documents, [doc]):
            return _held_out_words(split)
    if not _among(training.train, [doc]):
        return ""
    [told] = _summaries(training, [doc], _told(training, _spans(training, [doc]), text=False))
    return _summary_words(told) + (" (by the order that today's code gives)" if training.doubts else "")


def show(answer: Answer, console: Console, num: int) -> None:
    """An answer in lines and a table.

    Args:
        num: spans to show; the others are only counted.
    """
    steps = f"{answer['steps']:,} steps of {answer['samples_per_step']:,} samples"
    kept = "" if answer["kept_step"] == answer["steps"] else f", weights of step {answer['kept_step']:,}"
    _print(console, f"{answer['model']}: {steps}{kept}; tokens {answer['tokens']}")
    if answer["goes_on_from"]:
        _print(console, f"it goes on from {answer['goes_on_from']}; what that had learned before is not told here")
    if "groups" in answer:
        console.print(_group_table(answer["groups"]))
        return
    if "step" in answer:
        _print(console, _step_words(answer))
    for one in answer.get("documents", ()):
        _print(
            console, f"document {one['doc_id']}: {one['source']}, {one['url'] or 'URL not known'}, {one['num_tokens']:,} tokens"
        )
        copy = f"; a copy of {one['augmented_from']}" if one["augmented_from"] else ""
        _print(console, f"  {_summary_words(one)}{copy}")
    spans = answer["spans"]
    if any("text" in one for one in spans):
        for one in spans[:num]:
            _print(console, _span_words(one))
    elif spans:
        console.print(_span_table(spans[:num]))
    if len(spans) > num:
        _print(console, f"… and {len(spans) - num:,} more; --num shows more, --format json all")


def _named(training: Training, what: str) -> list[str]:
    """The doc_ids of what is meant, and of the copies that `augment` made of it."""
    wanted, ids, rows = pa.array(spellings(what), pa.string()), {what}, training.published
    if rows is not None:
        named = reduce(or_, (pc.field(column).isin(wanted) for column in LOOKED_UP if column in rows.schema.names))
        ids |= set(rows.to_table(["doc_id"], filter=named)["doc_id"].to_pylist())
        if COPIED_FROM in rows.schema.names:
            copies = pc.field(COPIED_FROM).isin(pa.array(sorted(ids), pa.string()))
            ids |= set(rows.to_table(["doc_id"], filter=copies)["doc_id"].to_pylist())
    if there := [one for split in training.splits.values() for one in _among(split, sorted(ids))]:
        return there
    gone = "" if rows is not None else "; the documents behind the tokens are gone from the store, so only a doc_id is found"
    raise InputError(
        f"{what}: is not among the documents of {training.tokens.step}/{training.tokens.version}, which {training.name} was trained on"
        f"{gone}. `gristmill trace` says which step dropped it, and which document was kept instead of a duplicate"
    )


def _spans(training: Training, ids: Sequence[str]) -> pa.Table:
    wanted = pc.is_in(training.train.ids, pa.array(ids, pa.string())).to_numpy(zero_copy_only=False)
    return readings.spans_among(training.sampler, wanted, training.num_samples)


def _texts(training: Training, spans: pa.Table, urls: Mapping[str, str]) -> list[str]:
    """The text of each span, by the model's tokeniser; of a document that was taken down, and of its copies, a word that says so."""
    from tasks.forget import taken_down

    places = pc.index_in(spans["doc_id"], training.train.ids).to_numpy()
    needed = sorted(set(training.train.shard[places].tolist()))
    opened = dict(zip(needed, tokens.open_shards(training.tokens, needed), strict=True))
    words, hidden = tokeniser.load(training.tokens.file(TOKENISER)), taken_down()
    originals = _looked_up(training, pc.unique(spans["doc_id"]), COPIED_FROM)
    found = []
    for place, row in zip(places.tolist(), spans.to_pylist(), strict=True):
        doc = row["doc_id"]
        if any(hidden.covers(_Named(one, urls.get(doc, ""), row["source"])) for one in (doc, originals.get(doc, doc))):
            found.append("(taken down)")
            continue
        first = training.train.offset[place] + row["first_token"]
        part = opened[int(training.train.shard[place])].tokens[first : first + row["num_tokens"]]
        found.append(words.decode(part.tolist(), skip_special_tokens=False))
    return found


class _Named(NamedTuple):
    doc_id: str
    url: str
    source: str


def _told(training: Training, spans: pa.Table, *, text: bool) -> list[dict[str, Any]]:
    """The rows of SPANS with their step, what it did, where the document is from, and the text where it is asked for."""
    urls = _looked_up(training, pc.unique(spans["doc_id"]), "url")
    shown = _texts(training, spans, urls) if text else []
    rows = []
    for number, one in enumerate(spans.to_pylist()):
        step = one["sample"] // training.config.samples_per_step + 1
        row = {"step": step, "effect": training.effect(step), **one, "url": urls.get(one["doc_id"])}
        rows.append(row | {"text": shown[number]} if text else row)
    return rows


def _summaries(training: Training, ids: Sequence[str], spans: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """What was learned from each document, in numbers."""
    wanted = pa.array(ids, pa.string())
    urls, originals = (_looked_up(training, wanted, column) for column in ("url", COPIED_FROM))
    for split, documents in training.splits.items():
        for place in np.flatnonzero(pc.is_in(documents.ids, wanted).to_numpy(zero_copy_only=False)).tolist():
            doc, num_tokens = documents.ids[place].as_py(), int(documents.num_tokens[place])
            own = [one for one in spans if one["doc_id"] == doc]
            learned = [one for one in own if one["effect"] == LEARNED]
            times = _times(learned, num_tokens)
            yield {
                "doc_id": doc,
                "source": documents.source[place].as_py(),
                "url": urls.get(doc),
                "augmented_from": originals.get(doc),
                "split": split,
                "num_tokens": num_tokens,
                "tokens_read": int(times.sum()),
                "times": [int(times.min()), int(times.max())],
                **{f"samples_{effect}": len({one["sample"] for one in own if one["effect"] == effect}) for effect in EFFECTS},
                "first_step": learned[0]["step"] if learned else None,
                "last_step": learned[-1]["step"] if learned else None,
            }


def _times(spans: Sequence[Mapping[str, Any]], num_tokens: int) -> Ints:
    """(T,) how often each token of a document is in its spans."""
    changes = np.zeros(num_tokens + 1, np.int64)
    for one in spans:
        changes[one["first_token"]] += 1
        changes[one["first_token"] + one["num_tokens"]] -= 1
    return np.cumsum(changes[:-1])


def _looked_up(training: Training, ids: pa.Array, column: str) -> dict[str, str]:
    """doc_id → what the published documents say in a column, as far as they do."""
    rows = training.published
    if rows is None or column not in rows.schema.names:
        return {}
    found = rows.to_table(["doc_id", column], filter=pc.field("doc_id").isin(ids) & pc.field(column).is_valid())
    return dict(zip(found["doc_id"].to_pylist(), found[column].to_pylist(), strict=True))


def _among(split: Documents, ids: Sequence[str] | pa.Array) -> list[str]:
    return list(pc.filter(split.ids, pc.is_in(split.ids, pa.array(ids, pa.string()))).to_pylist())


def _of_source(training: Training, name: str) -> tuple[Flags, int]:
    """(which training documents, how many held-out ones) are of a source."""
    train = pc.equal(training.train.source, name)
    held_out = sum(pc.sum(pc.equal(split.source, name)).as_py() or 0 for split in training.held_out.values())
    if not (pc.any(train).as_py() or held_out):
        known = sorted({one or "" for split in training.splits.values() for one in pc.unique(split.source).to_pylist()})
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        there = f"nearest: {near[0]}" if near else f"there are: {', '.join(known)}"
        raise InputError(f"--source {name}: no document that {training.name} was trained or tested on is of it; {there}")
    return pc.fill_null(train, False).to_numpy(zero_copy_only=False), held_out


def _of_domain(training: Training, name: str) -> tuple[Flags, int]:
    if "/" in name:
        raise InputError(f"--domain {name}: a domain has no scheme and no path, as in example.org; --document takes single pages")
    rows = training.published
    if rows is None or "host" not in rows.schema.names:
        raise InputError(
            f"--domain {name}: the documents behind {training.tokens.step}/{training.tokens.version} are gone from the store or have no "
            "hosts, so which are of the domain cannot be told; --source and --document with a doc_id need only the tokens"
        )
    host = pc.utf8_lower(pc.field("host"))
    below = (host == name.lower()) | pc.ends_with(host, pattern=f".{name.lower()}")
    ids = rows.to_table(["doc_id"], filter=below)["doc_id"].combine_chunks()
    held_out = sum(len(_among(split, ids)) for split in training.held_out.values())
    return pc.is_in(training.train.ids, ids).to_numpy(zero_copy_only=False), held_out


def _group(training: Training, kind: str, name: str, wanted: Flags, held_out: int) -> dict[str, Any]:
    """How much of some documents the model has learned from."""
    per_step = training.config.samples_per_step
    skipped = np.array(sorted(training.skipped), np.int64)
    left_out = ((skipped[:, None] - 1) * per_step + np.arange(per_step)).ravel()
    found = readings.read_of(training.sampler, wanted, training.kept_step * per_step, left_out)
    return {
        kind: name,
        "documents": int(wanted.sum()),
        "documents_read": found.documents,
        "documents_held_out": held_out,
        "tokens": int(training.train.num_tokens[wanted].sum()),
        "different_tokens_read": found.different_tokens,
        "tokens_read": found.tokens,
        "samples": found.samples,
        "first_step": None if found.first_sample is None else found.first_sample // per_step + 1,
        "last_step": None if found.last_sample is None else found.last_sample // per_step + 1,
    }


def _step_words(answer: Answer) -> str:
    spans = answer["spans"]
    num_tokens, num_documents = sum(one["num_tokens"] for one in spans), len({one["doc_id"] for one in spans})
    what = f"step {answer['step']:,}: {num_tokens:,} tokens of {num_documents:,} documents"
    if answer["effect"] == OUTLIER:
        return f"{what}; it was an outlier (loss {answer['outlier']['loss']:.4g}, norm {answer['outlier']['norm']:.4g}) and changed nothing"
    return what + (
        f"; the model has the weights of an earlier step, {answer['kept_step']:,}" if answer["effect"] == LATER else ""
    )


def _held_out_words(split: str) -> str:
    return f"held out{' for validation' if split == 'validation' else ''}: not learned from"


def _summary_words(one: Mapping[str, Any]) -> str:
    """How often a document was learned from."""
    if one["split"] != "train":
        return _held_out_words(one["split"])
    low, high = one["times"]
    often = f"{low}" if low == high else f"{low} to {high}"
    first = f"learned from in {one['samples_learned']:,} samples, first in step {one['first_step']:,}, last in step {one['last_step']:,}"
    told = [f"{first}; each token {often} times" if one["samples_learned"] else "not learned from"]
    if one["samples_skipped"]:
        told.append(f"{one['samples_skipped']:,} samples were in steps that changed nothing")
    if one["samples_later"]:
        told.append(f"{one['samples_later']:,} came after the step whose weights the model has")
    return "; ".join(told)


def _span_table(spans: Sequence[Mapping[str, Any]]) -> Table:
    columns = {"step": "step", "sample": "sample", "first_token": "first token", "num_tokens": "tokens", "num_targets": "targets"}
    if all(one["num_targets"] == one["num_tokens"] for one in spans):
        del columns["num_targets"]
    table = Table()
    for heading in columns.values():
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("document", "source", "URL"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "document")
    for one in spans:
        numbers, words = [f"{one[name]:,}" for name in columns], [one[name] or "" for name in ("doc_id", "source", "url")]
        table.add_row(*numbers, *map(escape, words))
    return table


def _span_words(one: Mapping[str, Any]) -> str:
    """A span in two lines: what it is, and its text on one line."""
    head = f"sample {one['sample']:,} of step {one['step']:,}: {one['num_tokens']:,} tokens from {one['first_token']:,} on"
    return f"{head} of {one['doc_id']} ({one['url'] or one['source']})\n    {' '.join(one['text'].split())[:EXCERPT_CHARS]}"


def _group_table(groups: Sequence[Mapping[str, Any]]) -> Table:
    table = Table()
    for heading in ("", "documents read", "held out", "tokens read", "with repeats", "samples", "steps"):
        table.add_column(heading, justify="right" if heading else "left", overflow="fold")
    for one in groups:
        table.add_row(
            escape(next(f"{kind} {one[kind]}" for kind in ("source", "domain") if kind in one)),
            f"{one['documents_read']:,} of {one['documents']:,}",
            f"{one['documents_held_out']:,}",
            f"{one['different_tokens_read']:,} of {one['tokens']:,}",
            f"{one['tokens_read']:,}",
            f"{one['samples']:,}",
            f"{one['first_step']:,} to {one['last_step']:,}" if one["samples"] else "–",
        )
    return table


def _print(console: Console, words: str) -> None:
    console.print(words, highlight=False, markup=False, soft_wrap=True)
