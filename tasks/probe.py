"""probe: ask a trained model for bias, toxic texts, training passages known by heart, and who was in its training split.

Every figure has its number of items, its 95 % interval and its control; docs/probes.md says what each can and cannot show.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from expectations.figures import judged, suite_file
from infra import scratch, storage, tracking
from infra.dataset import ShardSet
from infra.errors import InputError
from infra.ids import payload_digest
from infra.steps import Output, step
from tasks.learn.config import MODEL
from tasks.learn.probe_config import ProbeConfig

if TYPE_CHECKING:
    from tasks.learn.findings import Findings
    from tasks.learn.scorer import Scorer
    from tasks.learn.tokens import TokenShard
    from tasks.text.classifier import Classifier

BIAS_LISTS = Path(__file__).parent / "learn" / "bias_data" / "en.yaml"
Splits = Mapping[str, list["TokenShard"]]


def files_read(config: ProbeConfig) -> Mapping[str, str]:
    """The word lists and public sets that are asked, and the suite."""
    from tasks.text import augmenting, bad_words, terms

    paths = {}
    if config.bias is not None:
        given = {"bias.crows_pairs": config.bias.crows_pairs, "bias.winogender": config.bias.winogender}
        paths = {key: Path(path) for key, path in given.items() if path is not None}
        paths |= {"bias en": BIAS_LISTS, "swaps en": augmenting.SWAPS / "en.yaml", "terms en": terms.lists_path("en")}
    if config.toxicity is not None:
        paths |= {"bias en": BIAS_LISTS, "bad words en": bad_words.LISTS / "en.txt"}
    for key, path in paths.items():
        if not path.is_file():
            raise InputError(f"probe.{key}: no such file; give the path of the set, or null (got {path})")
    return {**{key: payload_digest(path.read_bytes()) for key, path in paths.items()}, **suite_file(config.suite)}


@step(schema="scores", fingerprint=files_read)
def probe(model: ShardSet, tokens: ShardSet, toxicity: list[ShardSet], config: ProbeConfig, out: Output) -> None:
    """Bias, toxicity, memorisation and privacy of a model, with the token shards it was trained on and, if given, a toxicity classifier.

    Raises:
        InputError: a public set is missing or of another form, or the tokens are not those that the model was trained on.
        GateFailed: the figures are not what the suite asks for.
    """
    from tasks.learn.findings import Findings
    from tasks.learn.scorer import Scorer
    from tasks.learn.tokens import check_tokeniser, check_trained_on, open_shards

    check_tokeniser("probe", model, tokens)
    check_trained_on("probe", model, tokens)
    facts = tokens.manifest().facts
    shards = {name: open_shards(tokens, facts["splits"][name]) for name in ("train", "test")}
    with storage.local_folder(model.file(MODEL)) as folder:
        scorer = Scorer(folder, config)
    findings = Findings(config.examples, config.seed)
    _bias(scorer, shards, config, findings)
    if scorer.masked:
        for part in ("toxicity", "texts", "memorisation", "privacy", "canaries"):
            if getattr(config, part) is not None:
                findings.notes[part] = "not probed: a masked model does not write"
    else:
        _toxicity(scorer, toxicity, config, findings)
        _memory(scorer, shards, config, findings)
    table = findings.keep(out)
    out.facts |= judged("probe", table, out.facts, config.suite)
    out.volatile = {"device": scorer.device, "device_reason": scorer.device_reason}
    if (track := tracking.current()) is not None:
        track.dataset(tokens, "evaluation")


def _bias(scorer: Scorer, shards: Splits, config: ProbeConfig, findings: Findings) -> None:
    from tasks.learn import bias, passages

    if config.bias is None:
        return
    if config.bias.templates:
        bias.ask_templates(scorer, findings)
    if config.bias.swaps:
        held_out = passages.draw(shards["test"], config.max_documents, seed=config.seed, purpose="swaps")
        bias.ask_swaps(scorer, held_out, config.bias.swaps, findings)
    if config.bias.crows_pairs is not None:
        bias.ask_crows_pairs(scorer, config.bias.crows_pairs, findings)
    if config.bias.winogender is not None:
        bias.ask_winogender(scorer, config.bias.winogender, findings)


def _toxicity(scorer: Scorer, given: list[ShardSet], config: ProbeConfig, findings: Findings) -> None:
    from tasks.learn.continuations import ask_continuations

    if config.toxicity is not None:
        classifier = _classifier(given[0]) if given else None
        ask_continuations(scorer, config.toxicity, config.seed, classifier, findings)


def _memory(scorer: Scorer, shards: Splits, config: ProbeConfig, findings: Findings) -> None:
    from tasks.learn import memorisation, privacy

    train, held_out, seed = shards["train"], shards["test"], config.seed
    if config.memorisation is not None:
        memorisation.ask_extraction(scorer, train, held_out, config.memorisation, seed, findings)
    if config.privacy is not None:
        privacy.ask_membership(scorer, train, held_out, config.privacy, seed, findings)
    pieces = memorisation.token_texts(scorer) if config.privacy is not None or config.canaries is not None else []
    if config.texts is not None:
        free = memorisation.write_texts(scorer, config.texts, seed)
        if config.memorisation is not None:
            memorisation.ask_copies(free, train, held_out, config.memorisation, seed, findings)
        if config.privacy is not None:
            privacy.ask_addresses(free, train, pieces, findings)
    if config.canaries is not None:
        memorisation.ask_canaries(scorer, train, pieces, config.canaries, findings)


def _classifier(version: ShardSet) -> Classifier:
    from tasks.text.classifier import NEEDED, load

    with scratch.folder("classifier") as local:
        for name in NEEDED:
            Path(local, name).write_bytes(version.read_file(name))
        return load(local)
