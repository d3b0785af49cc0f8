"""How good a guard's rules are on labelled texts, and whom they hit without cause: rows in, figures out.

Every rule is asked of every text, whatever the others say of it. A rule's positives are the texts labelled with its name or kind, its
negatives those labelled HARMLESS; texts with another label say nothing about it. Over-blocking is the share of harmless texts that a rule
fires on, of all and of those that name a group of people. Annotated spans are found where a match overlaps one of their kind.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from infra.errors import InputError
from tasks.learn.figures import Figure, figure
from tasks.learn.findings import Findings
from tasks.serving.guardrails import Fired, Guard
from tasks.serving.policy import LeakRule, LengthRule, PiiRule, Policy, Rule, kind_of, name_of
from tasks.text.classifier import members_of

HARMLESS = "harmless"
TEMPLATES = "templates"
"""Source of sentences that are made of templates."""
EXCERPT_CHARS = 200
PRESIDIO = {
    "EMAIL_ADDRESS": "email",
    "IP_ADDRESS": "ip",
    "CREDIT_CARD": "credit_card",
    "IBAN_CODE": "iban",
    "US_SSN": "us_ssn",
    "PHONE_NUMBER": "phone",
    "US_DRIVER_LICENSE": "driver_license",
    "DOMAIN_NAME": "url",
    "DATE_TIME": "date",
    "AGE": "age",
    "ZIP_CODE": "zip_code",
}
"""Types of presidio-research's annotations → kinds of tasks/serving/rules/pii.yaml; those of other types no rule looks for."""

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


class Annotated(NamedTuple):
    """A span that somebody marked in a text."""

    type: str
    start: int
    end: int


class Row(NamedTuple):
    """A labelled text."""

    name: str
    text: str
    source: str
    label: str | None
    group: str
    spans: tuple[Annotated, ...] | None


class Judged(NamedTuple):
    """Rows with what fired on each, and how long that took."""

    rows: list[Row]
    fired: list[tuple[Fired, ...]]
    seconds: Floats


def spans_of(raw: Any, where: str) -> tuple[Annotated, ...] | None:
    """The annotations of a row: {type, start, end}, or as presidio-research writes them.

    Raises:
        InputError: they are of another form.
    """
    if raw is None:
        return None
    try:
        return tuple(
            Annotated(
                str(one.get("type", one.get("entity_type"))),
                int(one.get("start", one.get("start_position"))),
                int(one.get("end", one.get("end_position"))),
            )
            for one in raw
        )
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(f"{where}: spans are a list of {{type, start, end}} (got {raw!r:.80})") from error


def judge(policy: Policy, rows: Sequence[Row], side: str) -> Judged:
    """Ask every rule of one side about every text, alone: none refuses before another one has looked."""
    asked = [rule.model_copy(update={"action": "log", "side": "both"}) for rule in policy.rules if side in rule.sides]
    guard = Guard(
        policy.model_copy(update={"rules": tuple(rule for rule in asked if not isinstance(rule, LeakRule | LengthRule))})
    )
    fired, seconds = [], []
    for row in rows:
        started = time.thread_time()
        fired.append(guard.after(row.text).rules)
        seconds.append(time.thread_time() - started)
    return Judged(list(rows), fired, np.array(seconds))


def milliseconds(judged: Judged) -> dict[str, float]:
    """Processor time of a text, and of a kilobyte of all of them."""
    kilobytes = sum(len(row.text.encode("utf-8", "replace")) for row in judged.rows) / 1000
    each = judged.seconds * 1000
    told = {"text.median": np.median(each), "text.p99": np.quantile(each, 0.99), "kilobyte.mean": each.sum() / kilobytes}
    return {name: round(float(value), 4) for name, value in told.items()}


def measure(
    judged: Judged, policy: Policy, side: str, term_lists: Iterable[str], kinds: Mapping[str, str], findings: Findings
) -> None:
    """Add the figures of every rule, of all rules together, and of annotated spans."""
    rows = judged.rows
    members = members_of([row.text.lower() for row in rows], term_lists) if rows else {}
    groups = {name.partition("/")[2]: mask for name, mask in members.items()}
    for name in sorted({row.group for row in rows} - {""}):
        groups[_key(name)] = groups.get(_key(name), np.zeros(len(rows), bool)) | np.array([row.group == name for row in rows])
    sources = {_key(name): np.array([row.source == name for row in rows]) for name in sorted({row.source for row in rows})}
    parts = {f"group.{name}": mask for name, mask in groups.items()}
    parts |= {f"source.{name}": mask for name, mask in sources.items()} if len(sources) > 1 else {}
    rules = [rule for rule in policy.rules if side in rule.sides and not isinstance(rule, LeakRule | LengthRule)]
    for rule in rules:
        _of_rule(rule, judged, parts, findings)
    acting = {name_of(rule) for rule in rules if rule.action != "log"}
    _over_blocking(
        "any", judged, np.array([any(one.rule in acting for one in some) for some in judged.fired], np.bool_), parts, findings
    )
    for rule in rules:
        if isinstance(rule, PiiRule) and any(row.spans is not None for row in rows):
            _of_spans(rule, judged, kinds, findings)


def _harmless(rows: Sequence[Row]) -> Bools:
    """The harmless texts that somebody gave; the templates, which are about groups alone, where there are no others."""
    harmless = np.array([row.label == HARMLESS for row in rows], np.bool_)
    given = harmless & np.array([row.source != TEMPLATES for row in rows], np.bool_)
    return given if given.any() else harmless


def _of_rule(rule: Rule, judged: Judged, parts: Mapping[str, Bools], findings: Findings) -> None:
    name, rows = name_of(rule), judged.rows
    fired = np.array([any(one.rule == name for one in some) for some in judged.fired], np.bool_)
    actual = np.array([row.label in (name, kind_of(rule)) for row in rows], np.bool_)
    harmless = _harmless(rows)
    ids = np.array([row.name for row in rows], object)

    def add(figure_name: str, mask: Bools, hit: Bools, better: str = "higher") -> None:
        if mask.any():
            findings.measure(figure_name, ids[mask].tolist(), hit[mask].astype(np.float64), form="rate", better=better)  # type: ignore[arg-type]

    if actual.any():
        prefix = f"guard.{_key(name)}"
        add(f"{prefix}.recall", actual, fired)
        add(f"{prefix}.precision", fired & (actual | harmless), actual)
        _f1(f"{prefix}.f1", ids, fired, actual, harmless, findings)
        for part, mask in parts.items():
            add(f"{prefix}.recall.{part}", actual & mask, fired)
        _show(f"missed by {name}", rows, actual & ~fired, judged.fired, findings)
    _over_blocking(_key(name), judged, fired, parts, findings)
    _show(f"harmless, but {name}", rows, harmless & fired, judged.fired, findings)


def _f1(name: str, ids: npt.NDArray[np.object_], fired: Bools, actual: Bools, harmless: Bools, findings: Findings) -> None:
    """2 × hits ÷ (positives + fired), as a ratio of sums over the texts that are either."""
    hits, weights = (
        2.0 * (fired & actual).astype(np.float64),
        actual.astype(np.float64) + (fired & (actual | harmless)).astype(np.float64),
    )
    told = weights > 0
    findings.measure(name, ids[told].tolist(), hits[told], weights[told], better="higher")


def _over_blocking(name: str, judged: Judged, fired: Bools, parts: Mapping[str, Bools], findings: Findings) -> None:
    all_harmless = np.array([row.label == HARMLESS for row in judged.rows], np.bool_)
    masks = {"": _harmless(judged.rows), **{f".{part}": all_harmless & mask for part, mask in parts.items()}}
    for part, mask in masks.items():
        if mask.any():
            ids = [judged.rows[at].name for at in np.flatnonzero(mask).tolist()]
            hits = fired[mask].astype(np.float64)
            findings.measure(f"guard.{name}.over_blocking{part}", ids, hits, form="rate", better="lower")


def _of_spans(rule: PiiRule, judged: Judged, kinds: Mapping[str, str], findings: Findings) -> None:
    """Recall by the type of the annotation, precision by the kind of the match; items are `text:place`."""
    recalls: dict[str, dict[str, float]] = {}
    precisions: dict[str, dict[str, float]] = {}
    for row, fired in zip(judged.rows, judged.fired, strict=True):
        if row.spans is None:
            continue
        own = [one for one in fired if one.rule == name_of(rule)]
        for mark in row.spans:
            hit = any(kinds.get(mark.type) == one.kind and _overlap(mark, one) for one in own)
            recalls.setdefault(mark.type, {})[f"{row.name}:{mark.start}"] = float(hit)
        for one in own:
            hit = any(kinds.get(mark.type) == one.kind and _overlap(mark, one) for mark in row.spans)
            precisions.setdefault(one.kind, {})[f"{row.name}:{one.start}"] = float(hit)
    prefix = f"guard.{_key(name_of(rule))}.spans"
    looked_for = {type_ for type_, kind in kinds.items() if rule.find is None or kind in rule.find}
    searched = {key: value for type_ in looked_for for key, value in recalls.get(type_, {}).items()}
    findings.figures += _total(f"{prefix}.recall", searched) + _total(
        f"{prefix}.precision", {k: v for one in precisions.values() for k, v in one.items()}
    )
    for what, by_name in (("recall", recalls), ("precision", precisions)):
        for type_, items in sorted(by_name.items()):
            hits = np.array(list(items.values()))
            findings.measure(f"{prefix}.{what}.type.{_key(type_)}", list(items), hits, form="rate", better="higher")
    missing = sorted(set(recalls) - looked_for)
    if missing:
        findings.notes["spans"] = f"annotated, but not looked for by this policy: {', '.join(missing)}"


def _total(name: str, items: Mapping[str, float]) -> list[Figure]:
    return [figure(name, np.array(list(items.values())), form="rate", better="higher")]


def _overlap(mark: Annotated, one: Fired) -> bool:
    return one.start is not None and one.end is not None and mark.start < one.end and one.start < mark.end


def _show(kind: str, rows: Sequence[Row], mask: Bools, fired: Sequence[tuple[Fired, ...]], findings: Findings) -> None:
    findings.show(
        kind,
        [
            {
                "text": rows[at].text[:EXCERPT_CHARS],
                "source": rows[at].source,
                "label": rows[at].label,
                "fired": sorted({f"{one.rule}: {one.kind}" for one in fired[at]}),
            }
            for at in np.flatnonzero(mask).tolist()
        ],
    )


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9_-]+", "_", name.lower()).strip("_") or "none"
