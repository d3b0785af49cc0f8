"""The report page of a run: one HTML file that needs no network, no script and no other file, from plain facts.

`ReportFacts` is what a run tells; every part of it may be absent (a run without training has no curves) and its section is then
left out. Nothing is computed here but shares and bar lengths. `page_environment` and `style.html` are shared with the validation page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from infra import plots, scores_page, training_page
from infra.scores_page import Scores
from infra.training_page import Training

FOLDER = Path(__file__).resolve().parent
MAX_LANGUAGES = 10
MAX_CLUSTER_SIZES = 12


@dataclass(frozen=True)
class Link:
    """A place to go on from here; shown as a link and in letters, for viewers in which links do nothing."""

    label: str
    url: str


@dataclass(frozen=True)
class StepCount:
    """One step of the funnel: `total` = `kept` + the sum of `dropped` (rule → count), in `unit`."""

    step: str
    total: int
    kept: int
    dropped: Mapping[str, int] = field(default_factory=dict)
    unit: str = "documents"


@dataclass(frozen=True)
class Drop:
    """A dropped document to read: the rule, what was measured, and the beginning of its text."""

    step: str
    rule: str
    url: str
    excerpt: str
    value: float | None = None
    threshold: float | None = None
    detail: str = ""
    meaning: str = ""
    """What the rule asks, in words."""


@dataclass(frozen=True)
class Histogram:
    """Counts between edges: `len(edges)` = `len(counts)` + 1; edges that grow by a factor are drawn on a logarithmic axis."""

    edges: Sequence[float]
    counts: Sequence[int]


@dataclass(frozen=True)
class Removed:
    """A duplicate that was removed, and its similarity (0 to 1) to the one kept."""

    url: str
    similarity: float


@dataclass(frozen=True)
class Cluster:
    """Documents found to be the same: the one kept, how many there are with it, and some of those removed."""

    kept_url: str
    size: int
    removed: Sequence[Removed]


@dataclass(frozen=True)
class Clusters:
    """What dedup found: cluster size → number of such clusters (sizes from 2), and the biggest to look at."""

    sizes: Mapping[int, int]
    biggest: Sequence[Cluster] = ()


@dataclass(frozen=True)
class Pair:
    """A near duplicate that was removed, beside the document that stayed: both from a little before their first difference on."""

    similarity: float
    removed_url: str
    removed_text: str
    kept_url: str
    kept_text: str


@dataclass(frozen=True)
class Crossing:
    """Documents of crawl `removed` that went on account of one of crawl `kept`; crawls are counted from 1 in the order of their adding."""

    removed: int
    kept: int
    documents: int


@dataclass(frozen=True)
class Duplicates:
    """How duplicates were looked for, and what was found."""

    how: str
    """Shingles, bands and threshold, in words."""
    min_similarity: float | None = None
    """From which near duplicates go; None: they stay, or go by another measure than Jaccard."""
    curve: Sequence[tuple[float, float]] = ()
    """Points (Jaccard similarity, chance that such a pair is proposed), both 0 to 1."""
    similarities: Mapping[float, int] = field(default_factory=dict)
    """Candidate pairs by similarity: lower end of equal bins from 0 to 1 → pairs."""
    removed: Mapping[str, int] = field(default_factory=dict)
    """What went, in words → documents or pieces."""
    buckets: Mapping[int, int] = field(default_factory=dict)
    """Least number of documents → buckets of so many and fewer than the next."""
    held_back: float = 0.0
    """Share of pairs that full buckets held back, 0 to 1."""
    pairs: Sequence[Pair] = ()
    crossings: Sequence[Crossing] = ()
    """Empty for one crawl."""

    @property
    def crawls(self) -> range:
        """All crawls that a document went or stayed of."""
        return range(1, 1 + max((max(one.removed, one.kept) for one in self.crossings), default=0))

    def crossed(self, removed: int, kept: int) -> int:
        """Documents of one crawl that went on account of another one."""
        return sum(one.documents for one in self.crossings if (one.removed, one.kept) == (removed, kept))


@dataclass(frozen=True)
class Evaluation:
    """One measure of the model on `split`, beside the same measure of a named baseline."""

    measure: str
    value: float
    split: str = "held out"
    baseline: float | None = None
    baseline_name: str = ""
    better: Literal["lower", "higher"] = "lower"


@dataclass(frozen=True)
class Generation:
    """What the model wrote after a prompt; `settings` says how it was sampled."""

    prompt: str
    text: str
    settings: str = ""


@dataclass(frozen=True)
class StepCost:
    """What a step took: wall seconds, estimated energy in watt hours, and whether it ran or its output was loaded."""

    step: str
    seconds: float
    energy_wh: float | None = None
    state: Literal["ran", "loaded"] = "ran"


@dataclass(frozen=True)
class ValidationRow:
    """One expectation as the report shows it; `outcome` tells a failure from what could not be evaluated or has no meaning here."""

    expectation: str
    column: str
    outcome: Literal["passed", "failed", "not evaluated", "not applicable"]
    severity: Literal["critical", "warning"]
    observed: str
    threshold: str
    unexpected_percent: float | None = None


@dataclass(frozen=True)
class Validation:
    """What the gate said."""

    suite: str
    verdict: Literal["passed", "warning", "failed"]
    rows: Sequence[ValidationRow]


@dataclass(frozen=True)
class Disparity:
    """How often one rule dropped the documents of a group and of all others; the ratio with its interval is what `Audit.by_length` says."""

    kind: str
    group: str
    rule: str
    documents: int
    removed: int
    other_documents: int
    other_removed: int
    ratio: float
    ratio_low: float
    ratio_high: float
    flagged: bool


@dataclass(frozen=True)
class Audit:
    """What the audit of the filter found: its worst rows, and how many were tested and flagged, by kind."""

    worst: Sequence[Disparity]
    tested: Mapping[str, int]
    flagged: Mapping[str, int]
    max_ratio: float
    min_difference: float
    """Above both, and beyond chance, a row is flagged; the second is of rates, 0 to 1."""
    confidence: float
    by_length: bool = True
    """Whether the ratios are of documents of like length."""


@dataclass(frozen=True)
class Share:
    """What a sample did to one source, language or group: what there is of it before and after, and its shares of all (0 to 1)."""

    kind: str
    name: str
    before: int
    after: int
    share_before: float
    share_after: float
    unit: str = "documents"
    """Or characters."""


@dataclass(frozen=True)
class Copies:
    """Changed copies of training documents of one kind: documents tried, copies made, words changed in them."""

    kind: str
    tried: int
    made: int
    words: int


@dataclass(frozen=True)
class Contamination:
    """An evaluation set and the documents: its items, those long enough to look for, those found, and in how many documents."""

    name: str
    items: int
    tested: int
    contaminated: int
    documents: int


@dataclass(frozen=True)
class TokenGroup:
    """What a tokeniser makes of a language, source or split, or of all: rates are None where there is nothing to divide by."""

    kind: str
    name: str
    documents: int
    words: int
    fertility: float | None
    """Tokens per word."""
    fertility_low: float | None
    """Its 95 % interval; None where there are too few documents for one."""
    fertility_high: float | None
    bytes_per_token: float | None
    unknown_rate: float | None
    """Unknown tokens ÷ tokens."""
    vocab_used: float
    """Share of the vocabulary that occurs."""
    small: bool


@dataclass(frozen=True)
class Tokenisation:
    """The tokeniser, and how it fits the documents."""

    how: str
    """What it is and what it was learnt from, in words."""
    groups: Sequence[TokenGroup]
    """All there is, then splits, languages and sources."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Kind → groups that are not among them, those with the least text."""
    lost: Sequence[str] = ()
    """Strings that do not come back as they were, by what is lost."""


@dataclass(frozen=True)
class Rate:
    """A share with its 95 % interval, 0 to 1."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ClassRow:
    """How well a classifier finds one of its classes among `texts` of it; a rate is None where it has no denominator."""

    label: str
    texts: int
    precision: Rate | None
    recall: Rate | None
    f1: float | None


@dataclass(frozen=True)
class GroupRow:
    """How a classifier's flag falls on the texts that name a group: `positives` of `texts` are labelled so."""

    group: str
    texts: int
    positives: int
    precision: Rate | None
    recall: Rate | None
    false_positives: Rate | None


@dataclass(frozen=True)
class Classifier:
    """A trained classifier that judged documents, on references that it has not seen."""

    name: str
    version: str
    positive: str
    """What its score is the probability of."""
    measures: Mapping[str, tuple[float, str]]
    """Measure → value, and what it is to be compared with, in words."""
    classes: Sequence[ClassRow] = ()
    groups: Sequence[GroupRow] = ()
    too_few: str = ""
    """Groups of which no rates are given, with their texts."""
    raw: Sequence[tuple[float, float]] = ()
    """Reliability before calibration: points (mean score, share of positives)."""
    calibrated: Sequence[tuple[float, float]] = ()
    """And after it."""
    limits: str = ""
    """What the figures do not show."""


@dataclass(frozen=True)
class BeforeAfter:
    """One figure on held-out rows before and after a step that changed the model; the interval (95 %) is of the one after it."""

    name: str
    before: float | None
    """None: there is no such thing before the step."""
    after: float
    interval: str = ""
    num_items: int | None = None


@dataclass(frozen=True)
class Tuned:
    """A step behind the training that changed the model: what it did, in words, and what was measured before and after."""

    step: str
    what: str
    figures: Sequence[BeforeAfter]


@dataclass(frozen=True)
class ReportFacts:
    """Everything a run tells about itself; what is empty or None is left out of the page."""

    run_name: str
    title: str = ""
    """What the run made, in words; the run's name stands above it then."""
    started: str = ""
    """When, as text with its time zone."""
    summary: str = ""
    """One sentence under the title."""
    failure: str = ""
    """Why the run failed; empty if it did not."""
    headline: Mapping[str, str] = field(default_factory=dict)
    """Label → figure with its unit, the few numbers to see first."""
    config: Mapping[str, str] = field(default_factory=dict)
    """Dotted key → value."""
    digests: Mapping[str, str] = field(default_factory=dict)
    """What → digest or version: config, code, dataset, tokeniser, model."""
    links: Sequence[Link] = ()
    funnel: Sequence[StepCount] = ()
    drops: Sequence[Drop] = ()
    text_chars: Histogram | None = None
    languages: Mapping[str, int] = field(default_factory=dict)
    classifiers: Sequence[Classifier] = ()
    duplicates: Duplicates | None = None
    clusters: Clusters | None = None
    tokenisation: Tokenisation | None = None
    training: Training | None = None
    tuned: Sequence[Tuned] = ()
    evaluation: Sequence[Evaluation] = ()
    generations: Sequence[Generation] = ()
    scores: Scores | None = None
    costs: Sequence[StepCost] = ()
    validation: Validation | None = None
    audit: Audit | None = None
    shares: Sequence[Share] = ()
    copies: Sequence[Copies] = ()
    contamination: Sequence[Contamination] = ()


def page_environment(*folders: Path) -> Environment:
    """Jinja over `folders` and this one: everything is escaped, an undefined name is an error."""
    environment = Environment(
        loader=FileSystemLoader([*folders, FOLDER]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(rate=_rate, count=_count, share=_share, figure=_figure, duration=_duration)
    return environment


def render_report(facts: ReportFacts) -> str:
    """The page as text; equal facts give equal text."""
    return (
        page_environment()
        .get_template("report.html")
        .render(
            facts=facts,
            drops=_drops_by_rule(facts),
            lengths=_lengths(facts.text_chars),
            languages=_languages(facts.languages),
            reliability=[_reliability(one) for one in facts.classifiers],
            found=_found_candidates(facts.duplicates),
            similarities=_similarities(facts.duplicates),
            buckets=_bucket_sizes(facts.duplicates),
            cluster_sizes=_cluster_sizes(facts.clusters),
            fertility=_fertility(facts.tokenisation),
            loss=training_page.loss(facts.training),
            curves=list(training_page.others(facts.training)),
            reliability_plot=scores_page.reliability(facts.scores),
            leaderboard=scores_page.board(facts.scores),
            ratios=_ratios(facts.audit),
            seconds=_bars({cost.step: cost.seconds for cost in facts.costs}, "Seconds per step"),
            energy=_bars({c.step: c.energy_wh for c in facts.costs if c.energy_wh is not None}, "Estimated energy per step"),
        )
    )


@dataclass(frozen=True)
class _RuleDrops:
    """Dropped documents of one rule, and how many there were of `total`; both 0 where the funnel does not say."""

    step: str
    rule: str
    meaning: str
    count: int
    total: int
    samples: Sequence[Drop]


def _drops_by_rule(facts: ReportFacts) -> list[_RuleDrops]:
    grouped: dict[tuple[str, str], list[Drop]] = {}
    for drop in facts.drops:
        grouped.setdefault((drop.step, drop.rule), []).append(drop)
    steps = {step.step: step for step in facts.funnel}
    found = []
    for (name, rule), some in grouped.items():
        step = steps.get(name, StepCount(name, 0, 0))
        found.append(_RuleDrops(name, rule, some[0].meaning, step.dropped.get(rule, 0), step.total, some))
    return found


def _lengths(histogram: Histogram | None) -> str:
    if histogram is None or not any(histogram.counts):
        return ""
    return plots.histogram(
        histogram.edges[:-1], histogram.edges, "Text length of the published documents", "characters", histogram.counts
    )


def _bars(values: Mapping[str, float], title: str) -> str:
    return plots.bars(list(values), list(values.values()), title) if values else ""


def _languages(languages: Mapping[str, int]) -> str:
    ranked = sorted(languages.items(), key=lambda item: (-item[1], item[0]))
    shown = dict(ranked[:MAX_LANGUAGES])
    if rest := sum(count for _, count in ranked[MAX_LANGUAGES:]):
        shown[f"{len(ranked) - MAX_LANGUAGES} others"] = rest
    return _bars(shown, "Documents by language")


def _reliability(classifier: Classifier) -> str:
    """Share of positives by score; of a score that is a probability, the diagonal."""
    points = {"as fastText gives it": classifier.raw, "calibrated": classifier.calibrated, "ideal": ((0.0, 0.0), (1.0, 1.0))}
    series = {name: ([x for x, _ in some], [y for _, y in some]) for name, some in points.items() if some}
    if len(series) < 2:
        return ""
    return plots.lines(series, f"Reliability of the {classifier.name} classifier's score", "mean score", "share of positives")


def _found_candidates(duplicates: Duplicates | None) -> str:
    """The chance that a pair is proposed, by its similarity, with the threshold."""
    if duplicates is None or not duplicates.curve:
        return ""
    series = {"proposed": ([x for x, _ in duplicates.curve], [y for _, y in duplicates.curve])}
    if duplicates.min_similarity is not None:
        series["threshold"] = ([duplicates.min_similarity] * 2, [0.0, 1.0])
    return plots.lines(series, "Chance that a pair is proposed, by its similarity", "Jaccard similarity", "chance")


def _similarities(duplicates: Duplicates | None) -> str:
    if duplicates is None or not any(duplicates.similarities.values()):
        return ""
    bins = sorted(duplicates.similarities)
    counts = [duplicates.similarities[one] for one in bins]
    return plots.histogram(bins, [*bins, 1.0], "Candidate pairs by similarity", "Jaccard similarity", counts)


def _bucket_sizes(duplicates: Duplicates | None) -> str:
    if duplicates is None or not any(duplicates.buckets.values()):
        return ""
    least = sorted(duplicates.buckets)
    names = [f"{low:,} to {high - 1:,}" for low, high in pairwise(least)] + [f"{least[-1]:,} and more"]
    shown = {name: duplicates.buckets[low] for name, low in zip(names, least, strict=True)}
    last = max(place for place, count in enumerate(shown.values()) if count)
    return _bars(dict(list(shown.items())[: last + 1]), "Buckets by number of documents")


def _cluster_sizes(clusters: Clusters | None) -> str:
    if clusters is None:
        return ""
    sizes = sorted(clusters.sizes.items())
    shown = {f"{size} documents": count for size, count in sizes[:MAX_CLUSTER_SIZES]}
    if rest := sum(count for _, count in sizes[MAX_CLUSTER_SIZES:]):
        shown[f"{sizes[MAX_CLUSTER_SIZES][0]} and more"] = rest
    return _bars(shown, "Clusters by size")


def _ratios(audit: Audit | None) -> str:
    if audit is None or not audit.worst:
        return ""
    return plots.intervals(
        [f"{row.rule} · {row.group}" for row in audit.worst],
        [row.ratio for row in audit.worst],
        [(row.ratio_low, row.ratio_high) for row in audit.worst],
        "Removal of groups compared with all others",
        "times as often",
        [row.flagged for row in audit.worst],
    )


def _fertility(made: Tokenisation | None) -> str:
    """Tokens per word of each language and source with its interval, beside that of all."""
    everything = next((one.fertility for one in made.groups if one.kind == "all"), None) if made else None
    if made is None or not everything:
        return ""
    shown = [one for one in made.groups if one.kind != "all" and one.fertility]
    return plots.intervals(
        [f"{one.name} · {one.kind}" for one in shown],
        [one.fertility or 0.0 for one in shown],
        [(one.fertility_low or one.fertility or 0.0, one.fertility_high or one.fertility or 0.0) for one in shown],
        "Tokens per word by split, language and source",
        "tokens per word",
        [not one.small for one in shown],
        reference=everything,
    )


def _rate(value: Rate | None) -> str:
    """A share with its interval."""
    return "–" if value is None else f"{value.value:.3f} ({value.low:.3f}–{value.high:.3f})"


def _count(value: int) -> str:
    return f"{value:,}"


def _share(part: float, whole: float) -> str:
    if not whole:
        return "–"
    percent = 100.0 * part / whole
    return "< 0.1 %" if 0 < percent < 0.1 else f"{percent:.1f} %"


def _figure(value: float | None) -> str:
    """Four digits are enough to compare by eye; whole numbers stay whole."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 10_000 else f"{value:,.4g}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
