"""guard: measure a policy of the guardrails on labelled texts: precision and recall of its rules, and whom it over-blocks.

The figures are `guard.*` (docs/guardrails.md); how long judging took is in `run.json`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from expectations.figures import judged as judged_by
from expectations.figures import suite_file
from infra.errors import InputError
from infra.ids import payload_digest
from infra.steps import Output, step
from tasks.learn.findings import Findings
from tasks.serving import policy as policies
from tasks.serving.measuring import HARMLESS, PRESIDIO, TEMPLATES, Row, judge, measure, milliseconds, spans_of
from tasks.text.readers import FolderSource, IngestConfig, fingerprint, plan, read_rows
from tasks.text.references import LabelledFields
from tasks.text.terms import ListNames, list_files

BIAS_LISTS = Path(__file__).parent / "learn" / "bias_data" / "en.yaml"


class GuardFields(LabelledFields):
    """Names of the fields of a labelled text."""

    group: str = "group"
    """Field with the group of people that it is about, where it says so."""
    spans: str = "spans"
    """Field with marked personal data: a list of {type, start, end}, in characters."""


class GuardSource(FolderSource):
    """A folder source whose texts say what a guard should find in them."""

    kind: Literal["folder"] = "folder"
    fields: GuardFields = GuardFields()
    """Which fields of a row are used."""
    label: str | None = None
    """The label of all its texts; null where every row says its own, or has spans."""
    names: dict[str, str] = Field(default_factory=dict)
    """Labels as the rows write them → name or kind of a rule, or `harmless`; a label that is not among them is itself one."""


class GuardConfig(BaseModel):
    """A policy, and texts that say what it should find in them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    policy: str = "default"
    """A policy that ships (default, strict, off), or the path of one's own file."""
    side: Literal["before", "after"] = "before"
    """Judge by the rules for what goes to a model, or for its answers."""
    sources: tuple[GuardSource, ...] = ()
    """Labelled texts: a label is the name or kind of a rule, or `harmless`."""
    templates: bool = True
    """Add harmless sentences about groups of people ("The Muslim teacher is kind"; tasks/learn/bias_data), one of each phrase and trait."""
    term_lists: ListNames = ("en",)
    """Word lists of the groups that over-blocking is told for."""
    span_kinds: dict[str, str] = Field(default_factory=lambda: dict(PRESIDIO))
    """Types of marked spans → kinds of personal data that rules find; by default presidio-research's."""
    examples: int = Field(8, ge=0)
    """Texts to read beside the figures, of each kind of error."""
    seed: int = Field(1, ge=0, lt=2**32)
    """Of the resampling of intervals."""
    suite: str | None = "scores"
    """Expectation suite that the figures are held against, null: none."""

    @field_validator("policy")
    @classmethod
    def _there(cls, policy: str) -> str:
        try:
            path = policies.policy_path(policy)
        except InputError as error:
            raise ValueError(str(error)) from error
        return policy if policy in policies.presets() else str(path.absolute())


def files_read(config: GuardConfig) -> Mapping[str, str]:
    """The policy with all it names, the texts, the word lists and the suite are part of the recipe."""
    lists = list_files(config.term_lists)
    templates = {"bias en": payload_digest(BIAS_LISTS.read_bytes())} if config.templates else {}
    texts = fingerprint(_as_ingested(config))
    return {**policies.policy_files(config.policy), **texts, **lists, **templates, **suite_file(config.suite)}


@step(schema="scores", fingerprint=files_read)
def guard(config: GuardConfig, out: Output) -> None:
    """Measure a guard's policy on labelled texts.

    Raises:
        InputError: the policy or its classifier is not there or wrong, or there is no text.
        GateFailed: the figures are not what the suite asks for.
    """
    policy = policies.load_policy(config.policy)
    rows, rejected = _rows(config)
    if not rows:
        raise InputError("guard: no labelled text; give files by --input or in guard.sources, or templates=true")
    judged, findings = judge(policy, rows, config.side), Findings(config.examples, config.seed)
    measure(judged, policy, config.side, config.term_lists, config.span_kinds, findings)
    findings.notes |= {f"not read: {reason}": str(count) for reason, count in rejected.items()}
    table = findings.keep(out)
    out.facts |= judged_by("guard", table, out.facts, config.suite)
    out.facts |= {"policy": policy.name, "num_texts": len(rows), "num_rejected": sum(rejected.values())}
    out.volatile = {"milliseconds": milliseconds(judged)}


def _as_ingested(config: GuardConfig) -> IngestConfig:
    return IngestConfig(sources=config.sources)


def _rows(config: GuardConfig) -> tuple[list[Row], Counter[str]]:
    """The texts of all sources, and how many rows were not usable, by reason."""
    ingested, rows, rejected = _as_ingested(config), list[Row](), Counter[str]()
    known = {policies.name_of(rule) for rule in policies.load_policy(config.policy).rules} | set(policies.KINDS) | {HARMLESS}
    for pieces in plan(ingested):
        for piece in pieces:
            for raw, made in read_rows(piece, ingested):
                if "rule" in made:
                    rejected[made["rule"]] += 1
                    continue
                row = _row(raw, made, config.sources[piece.source])
                if row.label is None and row.spans is None:
                    rejected["no_label"] += 1
                elif row.label is not None and row.label not in known:
                    rejected["unknown_label"] += 1
                else:
                    rows.append(row)
    return [*rows, *(_templates() if config.templates else ())], rejected


def _row(raw: Mapping[str, Any], made: Mapping[str, Any], source: GuardSource) -> Row:
    given = source.label if source.label is not None else raw.get("label")
    label = None if given is None else source.names.get(str(given), str(given))
    group = raw.get("group")
    spans = spans_of(raw.get("spans"), source.path)
    return Row(made["doc_id"], made["text"], made["source"], label, "" if group is None else str(group), spans)


def _templates() -> list[Row]:
    """Harmless sentences about groups; the good trait of each pair alone, for the bad one is no praise."""
    from tasks.learn.bias import load, sentence

    lists, rows = load(), []
    for axis in lists.axes:
        for group, phrases in axis.groups.items():
            for phrase in phrases:
                for number, (good, _) in enumerate(lists.traits):
                    text = sentence(lists.trait_sentences[number % len(lists.trait_sentences)], who=phrase, trait=good)
                    rows.append(Row(f"{TEMPLATES}:{group}:{phrase}:{good}", text, TEMPLATES, HARMLESS, group, None))
    return rows
