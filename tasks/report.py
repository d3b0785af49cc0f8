"""report: one page that shows what a run did: the funnel with texts to read, the plots, the scores, the costs.

Everything comes from the versions' own files, so the page of any run can be made again at any time.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field

from expectations.page import for_report
from expectations.schemas import CERTIFICATE
from expectations.verdict import read_sections
from infra import dataset, leaderboard, ledger, plots, rejects, scores_page, storage, tracking
from infra.dataset import RUN, Counts, ShardSet
from infra.errors import InputError
from infra.ids import payload_digest
from infra.orchestration import flow_run_url
from infra.rejects import FORGOTTEN, Reject
from infra.report import (
    Audit,
    BeforeAfter,
    Classifier,
    ClassRow,
    Cluster,
    Clusters,
    Contamination,
    Copies,
    Crossing,
    Disparity,
    Drop,
    Duplicates,
    Evaluation,
    Generation,
    GroupRow,
    Histogram,
    Link,
    Pair,
    Rate,
    Removed,
    ReportFacts,
    Share,
    StepCost,
    StepCount,
    TokenGroup,
    Tokenisation,
    Tuned,
    Validation,
    render_report,
)
from infra.steps import BESIDE, Output, step
from infra.training_page import Skipped, Source, Training
from tasks.compare import COMPARISON
from tasks.dedup import place_of
from tasks.filter import meanings, passages
from tasks.forget import taken_down
from tasks.learn import dimensions, training_told, tuning_told
from tasks.learn.comparison import figures_of
from tasks.learn.config import HISTORY, SCORES, SKIPPED, SPEED
from tasks.learn.figures import Figure
from tasks.smoke import ANSWERS
from tasks.text.classifier import SCORES as CLASSIFIED
from tasks.text.classifier_card import LIMITS, told_few
from tasks.text.disparity import more_often, worst_first
from tasks.text.generations import FORGET, INDEX, Chain
from tasks.text.minhash import candidate_probability
from tasks.text.sketches import IndexConfig
from tasks.tokenise import FERTILITY

PAGE, DIMENSIONS = "report.html", "dimensions.json"
UNITS = {
    "crawl": "pages",
    "pretrain": "tokens",
    **dict.fromkeys(("instruct", "prefer", "rate", "pose"), "rows"),
    **{"sft": "conversations", "dpo": "pairs", "kto": "rated answers", "reward": "pairs", "reinforce": "problems"},
    **{"quantise": "models", "smoke": "requests"},
    "quality": "references",
    "toxicity": "references",
    "register": "models",
    "report": "versions",
}
# steps that every row passes, which would only repeat their neighbour in the funnel
UNCOUNTED = (
    *(
        "signals",
        "enrol",
        "score",
        "audit",
        "index",
        "forget",
        "augment",
        "validate",
        "publish",
        "tokenise",
        "pretrain",
        "evaluate",
        "benchmark",
        "probe",
        "adopt",
        "quantise",
        "smoke",
        "compare",
        "register",
    ),
    "report",
)
LENGTH_EDGES = [10.0 * 10 ** (exponent / 5) for exponent in range(0, 26)]  # 10 to 1,000,000 characters, five bins a decade


LEVELS = {
    "exact_duplicate": "copies: the same words as another document",
    "seen_before": "seen before: a document of an earlier crawl, met again",
    "same_url": "other texts of one URL",
    "near_duplicate": "near duplicates, verified",
    FORGOTTEN: "taken down",
}
"""Rules of `dedup`, in words."""
AROUND_CHARS, BEFORE_CHARS = 400, 60
"""Of a text beside another one: so many characters, of which some before the first difference."""
Hidden = Callable[[Any], bool]
"""Whether the text of a document, which has doc_id, url and source, is not to be shown."""


class ReportConfig(BaseModel):
    """How much the page shows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    samples_per_rule: int = Field(3, ge=0)
    """Dropped documents to read, per step and rule; drawn as `gristmill rejects` draws them."""
    biggest_clusters: int = Field(5, ge=0)
    """Duplicate clusters to read."""
    removed_pairs: int = Field(4, ge=0)
    """Near duplicates to read beside what stayed, from the least similar to the most."""
    audited_rows: int = Field(12, ge=0)
    """Rows of the bias audit, the worst first."""
    token_groups: int = Field(10, ge=0)
    """Languages, and as many sources, of which the tokeniser's figures are shown: those with the most text."""


def page_sources(config: ReportConfig) -> dict[str, str]:
    """The page's own code and templates decide its bytes, though they lie in `infra`."""
    folder = Path(plots.__file__).parent
    return {
        name: payload_digest((folder / name).read_bytes())
        for name in (
            *("report.py", "rejects.py", "plots.py", "report.html", "style.html"),
            *("scores_page.py", "leaderboard.py", "scores.html", "training_page.py", "training.html"),
        )
    }


@step(schema="page", fingerprint=page_sources)
def report(versions: list[ShardSet], config: ReportConfig, out: Output) -> None:
    """Write the report page of the run so far."""
    storage.write_bytes(storage.join(out.folder, PAGE), render_run(ledger.current_run(), versions, config).encode())
    out.keep_file(PAGE)
    if scored := _scored(versions):
        storage.write_json(storage.join(out.folder, DIMENSIONS), [row.as_json() for row in dimensions.of_versions(scored)])
        out.keep_file(DIMENSIONS)
    out.counts = Counts(total=len(versions), kept=len(versions))


def render_run(run_name: str, versions: Sequence[ShardSet], config: ReportConfig | None = None) -> str:
    """The report page of a run made of these versions; parts that the run does not have are left out."""
    config = config or ReportConfig()
    made = {version.step: version for version in versions}
    entries = ledger.entries(run_name) if run_name else []
    facts = {name: version.manifest().facts for name, version in made.items()}
    hidden = taken_down().covers
    return render_report(
        ReportFacts(
            run_name=run_name or "a single step",
            title=made["publish"].manifest().recipe["config"]["title"] if "publish" in made else "",
            started=min((_run(version).get("started", "") for version in versions), default=""),
            summary=_summary(made),
            failure=ledger.failure(run_name) if run_name else "",
            headline=_headline(made, facts),
            config=_config(made),
            digests={name: version.digest for name, version in made.items()},
            links=_links(run_name),
            funnel=[_count(version) for version in versions if version.step not in UNCOUNTED and version.counts.total],
            drops=[drop for version in versions for drop in _drops(version, config.samples_per_rule, hidden)],
            text_chars=_lengths(made.get("publish")),
            languages=_languages(made.get("signals")),
            classifiers=[_classifier(version) for version in _judges(made)],
            duplicates=_duplicates(made, config.removed_pairs, hidden),
            clusters=_clusters(made.get("dedup"), config.biggest_clusters),
            tokenisation=_tokenisation(made.get("tokenise"), config.token_groups),
            training=_training(made.get("pretrain")),
            tuned=_tuned(versions),
            evaluation=_evaluation(made.get("evaluate"), made.get("publish")),
            generations=[*_generations(made.get("evaluate")), *_served(made.get("smoke"))],
            scores=_scores(versions, made),
            costs=[_cost(version, entries) for version in versions if version.step != "report"],
            validation=_validation(made.get("validate")),
            audit=_audit(made.get("audit"), config.audited_rows),
            shares=_shares(made.get("rebalance")),
            copies=_copies(made.get("augment")),
            contamination=_contamination(made.get("decontaminate")),
        )
    )


def _summary(made: Mapping[str, ShardSet]) -> str:
    published = made.get("publish")
    if published is None:
        return ""
    given = sum(made[name].counts.kept for name in ("extract", "ingest") if name in made)
    copies = _num_copies(made)
    beside = f", with {copies:,} changed copies beside them" if copies else ""
    return f"{given:,} documents taken in, {published.counts.kept - copies:,} published{beside}."


def _num_copies(made: Mapping[str, ShardSet]) -> int:
    """Rows of what was published that are no documents of their own."""
    return int(made["augment"].manifest().facts["num_augmented"]) if "augment" in made else 0


def _headline(made: Mapping[str, ShardSet], facts: Mapping[str, dict[str, Any]]) -> dict[str, str]:
    shown: dict[str, str] = {}
    if "publish" in made:
        shown["Documents published"] = f"{made['publish'].counts.kept - _num_copies(made):,}"
    if "tokenise" in facts:
        shown["Training tokens"] = f"{facts['tokenise']['num_tokens.train']:,}"
    if "pretrain" in facts:
        shown["Parameters"] = f"{facts['pretrain']['num_parameters']:,}"
        shown["Held-out loss, nats"] = f"{facts['pretrain']['valid_loss']:.3f}"
    if "evaluate" in facts:
        shown["Perplexity"] = f"{facts['evaluate']['perplexity']:.1f}"
        shown["Bits per byte"] = f"{facts['evaluate']['bits_per_byte']:.3f}"
    shown["Minutes of work"] = f"{sum(_run(version).get('seconds', 0.0) for version in made.values()) / 60:.1f}"
    return shown


def _config(made: Mapping[str, ShardSet]) -> dict[str, str]:
    return {
        f"{name}.{key}": str(value)
        for name, version in made.items()
        for key, value in version.manifest().recipe["config"].items()
        if value not in (None, [], "")
    }


def _links(run_name: str) -> list[Link]:
    links = [Link("Prefect run", flow_run_url(run_name))] if run_name and not run_name.startswith("local-") else []
    track = tracking.find_run(run_name) if run_name else None
    return [*links, *([Link("MLflow run", track.url)] if track else [])]


def _count(version: ShardSet) -> StepCount:
    counts = version.counts
    return StepCount(version.step, counts.total, counts.kept, counts.dropped, UNITS.get(version.step, "documents"))


def _drops(version: ShardSet, per_rule: int, hidden: Hidden) -> Iterator[Drop]:
    if not per_rule:
        return
    words = meanings(version)
    for dropped in rejects.draw(version, per_rule, read=passages, hidden=hidden):
        for one in dropped.samples:
            yield Drop(
                step=one.step,
                rule=one.rule,
                url=one.url,
                excerpt=one.text,
                value=one.value,
                threshold=one.threshold,
                detail=one.detail,
                meaning=words.get(one.rule, ""),
            )


def _lengths(published: ShardSet | None) -> Histogram | None:
    if published is None or not published.counts.kept:
        return None
    counts = np.zeros(len(LENGTH_EDGES) - 1, np.int64)
    for shard in published.shards():
        lengths = pc.utf8_length(shard.read(["text"])["text"]).to_numpy()
        counts += np.histogram(np.clip(lengths, LENGTH_EDGES[0], LENGTH_EDGES[-1]), LENGTH_EDGES)[0]
    used = np.flatnonzero(counts)
    if not len(used):
        return None
    first, last = used[0], used[-1]
    return Histogram(LENGTH_EDGES[first : last + 2], counts[first : last + 1].tolist())


def _languages(measured: ShardSet | None) -> dict[str, int]:
    total: Counter[str] = Counter()
    for shard in measured.shards() if measured else ():
        for entry in pc.value_counts(shard.read(["language"])["language"]).to_pylist():
            total[entry["values"]] += entry["counts"]
    return dict(total.most_common())


def _judges(made: Mapping[str, ShardSet]) -> list[ShardSet]:
    """The classifiers that gave the run its scores, also those that an earlier run trained; or that it trained and did not use."""
    if "score" not in made:
        return [made[name] for name in LIMITS if name in made]
    given = made["score"].manifest().recipe["inputs"]
    paths = [name.partition("@")[0] for kind in LIMITS for name in given[kind]]
    known = {f"{version.step}/{version.version}": version for version in made.values()}
    there = {path: storage.join(dataset.folder_of(path), dataset.MANIFEST) for path in paths if path not in known}
    known |= {path: dataset.open_version(dataset.folder_of(path)) for path, manifest in there.items() if storage.exists(manifest)}
    return [known[path] for path in paths if path in known]


def _classifier(version: ShardSet) -> Classifier:
    found = storage.read_json(version.file(CLASSIFIED))
    ranking = found["ranking"]
    measures = {
        "average precision": (ranking["average_precision"], f"chance: {ranking['positive_share']:.3f}, the share of positives"),
        "ROC AUC": (ranking["roc_auc"], "chance: 0.5"),
        "Brier score": (ranking["brier"], f"before calibration: {ranking['brier_raw']:.4f}"),
        "calibration error": (ranking["calibration_error"], f"before calibration: {ranking['calibration_error_raw']:.4f}"),
    }
    classes = [
        ClassRow(row["label"], row["texts"], _rate(row["precision"]), _rate(row["recall"]), row["f1"]) for row in found["classes"]
    ]
    groups = [
        GroupRow(
            row["group"],
            row["texts"],
            row["positives"],
            *(_rate(row[name]) for name in ("precision", "recall", "false_positive_rate")),
        )
        for row in found["groups"]
        if row["enough"]
    ]
    raw, calibrated = (
        [(row["mean_score"], row["positive_share"]) for row in ranking[name]] for name in ("reliability_raw", "reliability")
    )
    return Classifier(
        name=version.step,
        version=version.version,
        positive=" or ".join(found["positive"]),
        measures=measures,
        classes=classes,
        groups=groups,
        too_few=told_few({row["group"]: row["texts"] for row in found["groups"] if not row["enough"]}),
        raw=raw,
        calibrated=calibrated,
        limits=LIMITS[version.step],
    )


def _rate(found: Mapping[str, float | None] | None) -> Rate | None:
    if found is None or found["value"] is None or found["low"] is None or found["high"] is None:
        return None
    return Rate(found["value"], found["low"], found["high"])


def _duplicates(made: Mapping[str, ShardSet], how_many: int, hidden: Hidden) -> Duplicates | None:
    if "index" not in made or "dedup" not in made:
        return None
    manifest, deduped = made["index"].manifest(), made["dedup"]
    config, decided = IndexConfig.model_validate(manifest.recipe["config"]), deduped.manifest().recipe["config"]
    at = np.linspace(0, 1, 101)
    points = list(zip(at.tolist(), candidate_probability(at, config).tolist(), strict=True))
    measure = {"jaccard": "Jaccard similarity", "containment": "containment"}[decided["measure"]]
    by_jaccard = decided["near"] and decided["measure"] == "jaccard"
    near = f"near duplicates from {measure} {decided['min_similarity']} on" if decided["near"] else "no near duplicates"
    return Duplicates(
        how=f"Sets of {config.shingle_length} {config.shingle_unit} in a row, {config.num_bands} bands of {config.rows_per_band} rows; "
        f"{manifest.facts['candidate_pairs']:,} pairs were proposed and verified by exact overlap. Copies went, and {near}.",
        min_similarity=decided["min_similarity"] if by_jaccard else None,
        curve=points,
        similarities={float(low): count for low, count in manifest.facts["similarity"].items()},
        removed=_levels(made),
        buckets={int(least): count for least, count in manifest.facts["buckets"].items()},
        held_back=manifest.facts["skipped_pair_share"],
        pairs=_pairs(deduped, how_many, hidden),
        crossings=_crossings(deduped, made.get("forget", made["index"])),
    )


def _levels(made: Mapping[str, ShardSet]) -> dict[str, int]:
    """What went at each level, the smallest pieces first."""
    pieces = made["trim"].manifest().facts if "trim" in made else {}
    removed = {
        f"{name.removeprefix('units_removed.').replace('_', ' ')} that other documents have": int(count)
        for name, count in pieces.items()
        if name.startswith("units_removed.")
    }
    dropped = made["dedup"].counts.dropped
    return removed | {words: dropped[rule] for rule, words in LEVELS.items() if rule in dropped}


def _pairs(deduped: ShardSet, how_many: int, hidden: Hidden) -> list[Pair]:
    """Near duplicates beside their keepers, evenly spread over the similarities."""
    rows = dataset.dataset(deduped.folder, rejects=True)
    if rows is None or not how_many:
        return []
    columns = ["doc_id", "url", "source", "value", "detail"]
    near = rows.to_table(columns, filter=pc.field("rule") == "near_duplicate").sort_by(
        [("value", "ascending"), ("doc_id", "ascending")]
    )
    chosen = near.take(
        pa.array(np.unique(np.linspace(0, near.num_rows - 1, how_many).round().astype(int)) if near.num_rows else [], pa.int64())
    )
    shown = [row for row in chosen.to_pylist() if not hidden(_named(**row))]
    kept = _named_by(deduped, [row["detail"] for row in shown])
    ids = {row[name] for row in shown for name in ("doc_id", "detail")}
    texts = dict(rejects.texts_of(ids, _compared(deduped)))
    pairs = []
    for row in shown:
        keeper = kept.get(row["detail"])
        if keeper is None or hidden(keeper) or not ids & texts.keys() >= {row["doc_id"], row["detail"]}:
            continue
        removed, stays = texts[row["doc_id"]], texts[row["detail"]]
        differ = (place for place, (one, other) in enumerate(zip(removed, stays, strict=False)) if one != other)
        start = max(0, next(differ, min(len(removed), len(stays))) - BEFORE_CHARS)
        start = removed.find(" ", start) + 1 if start else 0
        pairs.append(Pair(row["value"], row["url"], _around(removed, start), keeper.url, _around(stays, start)))
    return pairs


def _compared(deduped: ShardSet) -> list[ShardSet]:
    """The versions whose documents were compared, as far as they are still there."""
    return [one for one in dataset.inputs_there(deduped) if one.step not in (INDEX, FORGET)]


def _around(text: str, start: int) -> str:
    """A passage of a text, with signs where it is cut."""
    end = start + AROUND_CHARS
    return f"{'… ' if start else ''}{text[start:end]}{' …' if end < len(text) else ''}"


def _named(doc_id: str, url: str, source: str, **_: Any) -> Reject:
    return Reject("dedup", "", doc_id, url or "", source or "", None, None, "")


def _named_by(deduped: ShardSet, ids: Sequence[str]) -> dict[str, Reject]:
    """doc_id → these documents as the versions that were compared name them."""
    found: dict[str, Reject] = {}
    for version in _compared(deduped) if ids else ():
        rows = dataset.dataset(version.folder)
        if rows is not None:
            wanted = pc.field("doc_id").isin(pa.array(list(ids), pa.string()))
            found |= {
                row["doc_id"]: _named(**row) for row in rows.to_table(["doc_id", "url", "source"], filter=wanted).to_pylist()
            }
    return found


def _crossings(deduped: ShardSet, index: ShardSet) -> list[Crossing]:
    """Which crawl the document stays of, on whose account others went; empty for one crawl."""
    try:
        chain = Chain.of(index)
    except InputError:  # an earlier crawl was removed since
        return []
    if len(chain.generations) < 2:
        return []
    files: dict[int, list[str]] = {}
    first = 0
    for version in _compared(deduped):
        names = [dataset.part_name(first + at) for at in range(version.num_shards)]
        paths = [storage.join(deduped.folder, dataset.REJECTS, name) for name in names]
        files.setdefault(place_of(chain, version)[0], []).extend(path for path in paths if storage.exists(path))
        first += version.num_shards
    crossings = []
    for generation, paths in sorted(files.items()):
        rows = dataset.of_files(paths)
        if rows is None:
            continue
        with chain.relations(gone=rows) as sql:
            counted = sql.sql(f"""WITH firsts AS (SELECT doc_id, min(generation) AS generation FROM indexed GROUP BY doc_id)
                SELECT generation, count(*) FROM gone JOIN firsts ON firsts.doc_id = coalesce(gone.detail, gone.doc_id)
                WHERE rule <> '{FORGOTTEN}' GROUP BY generation ORDER BY generation""").fetchall()
        crossings += [Crossing(generation + 1, kept + 1, count) for kept, count in counted]
    return crossings


def _clusters(deduped: ShardSet | None, how_many: int) -> Clusters | None:
    rows = dataset.dataset(deduped.folder, rejects=True) if deduped else None
    if deduped is None or rows is None:
        return None
    removed = rows.to_table(["detail", "url", "value"], filter=pc.field("rule").isin(["exact_duplicate", "near_duplicate"]))
    grouped = removed.group_by("detail").aggregate([("url", "count")])
    sizes = Counter(count + 1 for count in grouped["url_count"].to_pylist())
    order = pc.sort_indices(grouped, [("url_count", "descending"), ("detail", "ascending")])[:how_many]
    biggest = grouped.take(order).to_pylist()
    kept = _named_by(deduped, [row["detail"] for row in biggest])
    return Clusters(dict(sorted(sizes.items())), [_cluster(row, removed, kept) for row in biggest])


def _cluster(group: dict[str, Any], removed: pa.Table, kept: Mapping[str, Reject]) -> Cluster:
    name = group["detail"]
    members = removed.filter(pc.equal(removed["detail"], name)).slice(0, 5).to_pylist()
    url = kept[name].url if name in kept else name
    return Cluster(url, group["url_count"] + 1, [Removed(one["url"], one["value"]) for one in members])


def _tokenisation(tokenised: ShardSet | None, how_many: int) -> Tokenisation | None:
    """What the tokeniser makes of the languages and sources with the most text."""
    path = tokenised.file(FERTILITY) if tokenised else ""
    if tokenised is None or not storage.exists(path):  # a version from before there were such figures
        return None
    told, facts = storage.read_json(path), tokenised.manifest().facts
    config = tokenised.manifest().recipe["config"]
    names = {field.name for field in dataclasses.fields(TokenGroup)}
    shown: list[TokenGroup] = []
    kinds: Counter[str] = Counter()
    for row in told["groups"]:
        kinds[row["kind"]] += 1
        if row["kind"] in ("all", "split") or kinds[row["kind"]] <= how_many:
            shown.append(TokenGroup(**{name: value for name, value in row.items() if name in names}))
    left = {kind: kinds[kind] - how_many for kind in ("language", "source") if kinds[kind] > how_many}
    kind = {"bpe": "A byte-level BPE", "wordpiece": "A WordPiece tokeniser"}[config["kind"]]
    made = f"The tokeniser {config['tokeniser']}" if config["tokeniser"] else kind
    learnt = (
        f", learnt from {facts['sample_documents']:,} documents of the training split ({storage.byte_words(facts['sample_bytes'])}), drawn "
        f"by seed {config['seed']}"
        if "sample_documents" in facts
        else ""
    )
    how = f"{made} of {facts['vocab_size']:,} tokens{learnt}. {facts['closing_token']} closes documents."
    return Tokenisation(how, shown, left, told["lost"])


def _training(trained: ShardSet | None) -> Training | None:
    """How a training went; of an older version, what it kept of itself."""
    if trained is None:
        return None
    manifest, run = trained.manifest(), _run(trained)
    facts, config = manifest.facts, manifest.recipe["config"]
    lines = _with_speed(trained, storage.read_json(trained.file(HISTORY)))
    if "data" not in facts:
        return Training(lines, machine=training_told.machine(run))
    skipped = storage.read_json(trained.file(SKIPPED))
    kind, origin = training_told.kind(facts), training_told.origin(manifest)
    return Training(
        lines=lines,
        what=f"A {kind} of {facts['num_parameters']:,} parameters, {origin}. {training_told.ending(facts, config)}",
        notes=[training_told.data(facts, config)],
        machine=training_told.machine(run),
        kept_step=facts["kept_step"],
        skipped=[Skipped(one["step"], one["loss"], one["norm"], one["documents"]) for one in skipped],
        sources=[_source(name, facts["data"], lines) for name in training_told.sources(facts["data"])],
    )


def _with_speed(trained: ShardSet, lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines of history with what the clock said at their steps, where that was kept."""
    name = f"{BESIDE}/{SPEED}"
    if not any(one["name"] == name for one in _run(trained).get(BESIDE, ())):
        return lines
    by_step = {row["step"]: row for row in storage.read_json(trained.file(name))}
    return [line | by_step.get(line["step"], {}) for line in lines]


def _source(name: str, data: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> Source:
    """A source with its last losses."""
    losses = [
        next((line[key] for line in reversed(lines) if line.get(key) is not None), None)
        for key in (f"train_loss.{name}", f"valid_loss.{name}")
    ]
    return Source(name, data[f"tokens.{name}"], data[f"share.{name}"], data[f"epochs.{name}"], *losses)


def _evaluation(scored: ShardSet | None, published: ShardSet | None) -> list[Evaluation]:
    if scored is None:
        return []
    scores = storage.read_json(scored.file(SCORES))
    baseline = next((one for one in scores["baselines"] if one["name"] == "unigram"), None)
    unit = published.manifest().facts.get("held_out_by", "") if published else ""
    split = f"held out by {unit}" if unit else "held out"
    rows = []
    for measure, key, better in (
        ("perplexity per token", "perplexity", "lower"),
        ("bits per byte", "bits_per_byte", "lower"),
        ("next-token accuracy", "accuracy", "higher"),
    ):
        against = baseline[key] if baseline else None
        rows.append(Evaluation(measure, scores["model"][key], split, against, "unigram", better))  # type: ignore[arg-type]
    return rows


def _generations(scored: ShardSet | None) -> list[Generation]:
    if scored is None:
        return []
    how = scored.manifest().recipe["config"]["samples"]
    words = f"temperature {how['temperature']}, seed {how['seed']}, at most {how['max_new_tokens']} tokens"
    return [Generation(one["prompt"], one["text"], words) for one in storage.read_json(scored.file(SCORES))["samples"]]


def _served(smoked: ShardSet | None) -> list[Generation]:
    """What the model answered over HTTP."""
    if smoked is None:
        return []
    words = f"asked over HTTP of {smoked.manifest().recipe['inputs']['model'].partition('@')[0]}, the likeliest tokens"
    answers = storage.read_json(smoked.file(f"{BESIDE}/{ANSWERS}"))
    return [Generation(f"{one['prompt']}\n", one["text"], words) for one in answers]


def _scored(versions: Sequence[ShardSet]) -> list[ShardSet]:
    """The versions that have figures, in the order in which they were made."""
    return [
        one
        for one in versions
        if any(entry.name == SCORES for entry in one.manifest().files) and "figures" in storage.read_json(one.file(SCORES))
    ]


def _tuned(versions: Sequence[ShardSet]) -> list[Tuned]:
    """What each step behind the training measured before and after, speeds included."""
    found = []
    for version in versions:
        manifest = version.manifest()
        rows = [
            BeforeAfter(one.name, one.before, one.after, one.interval, one.num_items)
            for one in tuning_told.changes_of(version.step, manifest.facts | _run(version))
        ]
        if rows:
            found.append(Tuned(version.step, tuning_told.story([manifest]).replace("`", ""), rows))
    return found


def _scores(versions: Sequence[ShardSet], made: Mapping[str, ShardSet]) -> scores_page.Scores | None:
    """What was measured of the model, beside the champion and the other versions of its name."""
    scored = _scored(versions)
    if not scored:
        return None
    told = storage.read_json(made["evaluate"].file(SCORES)) if made.get("evaluate") in scored else {}
    notes = [note for one in scored for note in _notes(storage.read_json(one.file(SCORES)))]
    trained = made["pretrain"].manifest() if "pretrain" in made else None
    chosen = training_told.chosen(trained.facts, trained.recipe["config"]) if trained else ""
    groups = [one for one in figures_of(scored) if "bits_per_byte." in one.name and one.name.startswith("heldout.")]
    return scores_page.Scores(
        dimensions=[
            scores_page.Dimension(row.name, [_shown(one) for one in row.figures]) for row in dimensions.of_versions(scored)
        ],
        groups=[_shown(one) for one in groups],
        reliability=[(point["confidence"], point["accuracy"]) for point in told.get("reliability", ())],
        notes=[*([chosen] if chosen else []), *notes],
        compared=_compared_with(made.get("compare")),
        board=_board(made.get("register")),
    )


def _shown(one: Figure) -> scores_page.Score:
    return scores_page.Score(one.name, one.value, one.low, one.high, one.n, one.better, one.unit, one.small)


def _notes(told: Mapping[str, Any]) -> list[str]:
    """What of the held-out documents the training split has, what a masked model's scores are, what was left out and how it was asked."""
    notes = []
    if told.get("kind") == "masked":
        notes.append(
            "A masked model: its scores are pseudo-likelihoods, each token predicted from what stands on both sides of it."
        )
    overlap = told.get("contamination", {}).get("overlap")
    if isinstance(overlap, Mapping):
        notes.append(
            f"{overlap['dirty']:,} of {overlap['dirty'] + overlap['clean']:,} held-out documents have {overlap['words']} words in a row "
            f"with the training split (the dirty half); {overlap['too_short']:,} are too short to say."
        )
    if certificate := told.get("contamination", {}).get("certificate"):
        notes.append(f"Evaluation sets in the training documents: {certificate}")
    # of a gap they name its two groups, which the figures of the groups show
    notes += [f"{part}: {words}" for part, words in told.get("notes", {}).items() if not part.endswith(".gap")]
    if left_out := told.get("settings", {}).get("left_out"):
        notes.append(f"Not asked: {left_out}")
    return notes


def _compared_with(compared: ShardSet | None) -> scores_page.Compared | None:
    if compared is None:
        return None
    told = storage.read_json(compared.file(COMPARISON))
    rows = [
        scores_page.Beside(
            row["name"], *(row[name] for name in ("challenger", "champion", "difference", "low", "high", "n", "verdict"))
        )
        for row in told["rows"]
    ]
    return scores_page.Compared(told["champion"], rows, told["refusals"], told["undecided"])


def _board(registered: ShardSet | None) -> list[leaderboard.Row]:
    """The versions of the model's name in the registry; none where it does not answer."""
    if registered is None or not tracking.reachable():
        return []
    return leaderboard.rows(tracking.registered_models(registered.manifest().recipe["config"]["name"]))


def _cost(version: ShardSet, entries: Sequence[ledger.Entry]) -> StepCost:
    run = _run(version)
    joules = run.get("energy_joules_estimated")
    loaded = any(entry.step == version.step and entry.loaded for entry in entries)
    return StepCost(
        version.step, run.get("seconds", 0.0), joules / 3600 if joules is not None else None, "loaded" if loaded else "ran"
    )


def _validation(validated: ShardSet | None) -> Validation | None:
    if validated is None:
        return None
    path = validated.file("validation.json")
    (_, corpus), *stages = read_sections(path)
    return for_report(storage.read_json(path)["suite"], corpus, stages)


def _audit(audited: ShardSet | None, how_many: int) -> Audit | None:
    """The worst rows of the audit, in the order of its own list: flagged ones first, people before hosts."""
    if audited is None:
        return None
    manifest = audited.manifest()
    table = pa.concat_tables([shard.read() for shard in audited.shards()])
    more = table.filter(pc.and_(table["tested"], more_often(table)))
    worst = [_disparity(row) for row in worst_first(more).slice(0, how_many).to_pylist()]
    config = manifest.recipe["config"]
    kinds, bounds = config["kinds"], config["bounds"]
    return Audit(
        worst,
        {kind: manifest.facts[f"num_tested.{kind}"] for kind in kinds},
        {kind: manifest.facts[f"num_flagged.{kind}"] for kind in kinds},
        bounds["max_ratio"],
        bounds["min_difference"],
        bounds["confidence"],
        config["by_length"],
    )


def _disparity(row: Mapping[str, Any]) -> Disparity:
    low, high = row["adjusted_ratio_low"], row["adjusted_ratio_high"]
    own = {
        name: row[name]
        for name in ("kind", "group", "rule", "documents", "removed", "other_documents", "other_removed", "flagged")
    }
    return Disparity(**own, ratio=(low * high) ** 0.5, ratio_low=low, ratio_high=high)


def _shares(sampled: ShardSet | None) -> list[Share]:
    if sampled is None:
        return []
    facts = sampled.manifest().facts
    unit = facts.get("shares_of", "documents")
    return [
        Share(
            kind=one["kind"],
            name=one["name"],
            before=one[f"{unit}_before"],
            after=one[f"{unit}_after"],
            share_before=one[f"{unit}_share_before"],
            share_after=one[f"{unit}_share_after"],
            unit=unit,
        )
        for one in facts["parts"]
    ]


def _copies(enlarged: ShardSet | None) -> list[Copies]:
    facts = enlarged.manifest().facts if enlarged else {}
    kinds = [name.removeprefix("num_tried.") for name in facts if name.startswith("num_tried.")]
    counted = ("num_tried", "num_augmented", "num_changed_words")
    return [Copies(kind, *(int(facts[f"{name}.{kind}"]) for name in counted)) for kind in kinds]


def _contamination(looked: ShardSet | None) -> list[Contamination]:
    sets = storage.read_json(looked.file(CERTIFICATE))["sets"] if looked else []
    counted = ("items", "tested", "contaminated_items", "contaminated_documents")
    return [Contamination(one["name"], *(one[name] for name in counted)) for one in sets]


def _run(version: ShardSet) -> dict[str, Any]:
    facts: dict[str, Any] = storage.read_json(version.file(RUN))
    return facts
