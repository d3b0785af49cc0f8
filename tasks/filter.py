"""filter: compare stored signals with the thresholds of a profile; verdicts only, no text is read."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from infra import dataset
from infra.dataset import EXCERPT_CHARS, REJECTS_SCHEMA, Outcome, ShardRef, ShardSet
from infra.rejects import Reject, texts_behind, texts_of
from infra.steps import Output, step
from tasks.text import bad_words
from tasks.text.rules import MEASURED, FilterConfig, decide

BAD_WORDS = frozenset(signal.name for signal in bad_words.SIGNALS)


def decide_shard(shard: ShardRef, config: FilterConfig) -> Outcome:
    """Verdicts of one shard: the rows that stay, and for every other the first rule it breaks."""
    table = shard.read(without=config.unasked())
    decision = decide(table, config)
    keep = pa.array(decision.keep)
    kept = table.filter(keep).select([name for name in table.column_names if name not in MEASURED])
    drop = pc.invert(keep)
    dropped, dropped_by = table.filter(drop), decision.rule.filter(drop)
    dropped_rows = pa.table(
        {
            "doc_id": dropped["doc_id"],
            "url": dropped["url"],
            "source": dropped["source"],
            "rule": dropped_by,
            "value": decision.value.filter(drop),
            "threshold": decision.threshold.filter(drop),
            "detail": decision.detail.filter(drop),
            "excerpt": _excerpts(dropped, dropped_by.to_pylist(), config)
            if "text" in table.column_names
            else pa.nulls(dropped.num_rows, pa.string()),
        },
        schema=REJECTS_SCHEMA,
    )
    return Outcome(kept, dropped_rows)


def _counting(config: FilterConfig) -> dict[str, str]:
    """The rules that count bad words, with their signals."""
    return {rule.name: rule.signal for rule in config.rules() if rule.signal in BAD_WORDS}


def _excerpts(dropped: pa.Table, rules: Sequence[str], config: FilterConfig) -> pa.Array:
    """What rejects carry of the texts that lie beside their signals: as `passages` reads them."""
    counting = _counting(config)
    begins = pc.utf8_slice_codeunits(dropped["text"], 0, EXCERPT_CHARS).combine_chunks()
    rows = np.flatnonzero(np.isin(np.array(rules, object), list(counting)))
    if not len(rows):
        return begins
    texts, languages = (pc.fill_null(dropped[name].take(pa.array(rows)), "").to_pylist() for name in ("text", "language"))
    around = [
        bad_words.passage(text, language, counting[rules[row]], EXCERPT_CHARS)
        for row, text, language in zip(rows.tolist(), texts, languages, strict=True)
    ]
    mask = np.zeros(len(begins), bool)
    mask[rows] = True
    return pc.replace_with_mask(begins, pa.array(mask), pa.array(around, begins.type))


def meanings(version: ShardSet) -> dict[str, str]:
    """What each rule of a filter's version asked, in words; empty for other steps, and where the profile is not what it was then."""
    config = _config_of(version)
    return config.meanings() if config else {}


def passages(version: ShardSet, drawn: Sequence[Reject]) -> dict[str, str]:
    """What to read of the texts of drawn rejects, by doc_id: around the first bad word for rules that count them, else how they begin.

    Bad words are those that the rule's signal counts, by the lists that ship: see `bad_words.passage`.
    """
    config = _config_of(version)
    counting = _counting(config) if config else {}
    counted = {one.doc_id: counting[one.rule] for one in drawn if one.rule in counting}
    languages = _languages(version, counted)
    return {
        doc: bad_words.passage(text, languages.get(doc, "en"), counted[doc], EXCERPT_CHARS)
        if doc in counted
        else text[:EXCERPT_CHARS]
        for doc, text in texts_of({one.doc_id for one in drawn}, texts_behind(version))
    }


def _languages(version: ShardSet, ids: Collection[str]) -> dict[str, str]:
    """doc_id → the language that was found, from the signals that the version was decided by."""
    found: dict[str, str] = {}
    for measured in dataset.inputs_there(version) if ids else ():
        rows = dataset.dataset(measured.folder)
        if rows is not None and "language" in rows.schema.names:
            table = rows.to_table(["doc_id", "language"], filter=pc.field("doc_id").isin(pa.array(list(ids), pa.string())))
            found |= zip(table["doc_id"].to_pylist(), table["language"].to_pylist(), strict=True)
    return found


def _config_of(version: ShardSet) -> FilterConfig | None:
    """What a version of this step was configured with, if its profile still says the same."""
    recipe = version.manifest().recipe
    if version.step != "filter":
        return None
    try:
        config = FilterConfig.model_validate(recipe["config"])
    except ValueError:  # pydantic's: as when a user's own profile is gone
        return None
    return config if dict(config.files()) == recipe["files"] else None


@step(schema="verdicts", fingerprint=FilterConfig.files)
def filter(signals: ShardSet, config: FilterConfig, out: Output) -> None:
    """Decide which documents stay, by language and by the rules of the configured profile."""
    out.map(partial(decide_shard, config=config), signals.shards())
