"""Memorisation and privacy: a model that knows its few documents by heart is caught by each probe, one of other documents by none."""

import random

import numpy as np
import pyarrow as pa
import pytest
import torch

from infra.ids import text_digest
from models import tokeniser
from models.tokeniser import TokeniserConfig
from tasks.learn import bias, memorisation, passages, privacy
from tasks.learn.figures import Figure
from tasks.learn.findings import Findings
from tasks.learn.probe_config import CanaryProbe, MemorisationConfig, PrivacyConfig, TextsConfig
from tasks.learn.scorer import Scorer
from tasks.learn.tokens import TokenShard
from tasks.text.canaries import canaries
from tasks.text.pii import RedactConfig, find

from .tiny import learnt, shard_of

WORDS = "river stone letter bridge window market garden engine winter story road tower harbour field lesson kitchen".split()  # noqa: SIM905
NUM = 30
CANARIES = CanaryProbe(seed=7, num=20, repeats=(1, 3), references=31)
MEMORY = MemorisationConfig(passages=NUM, prefix_tokens=8, suffix_tokens=8, copied_tokens=12)
FREE = TextsConfig(num_texts=100, max_new_tokens=36, temperature=0.8)


def documents(kind: str) -> list[str]:
    """Word soup, of which no model can tell the next word; every second has an address."""
    chance, made = random.Random(kind), []
    for number in range(NUM):
        words = chance.choices(WORDS, k=16)
        if number % 2 == 0:
            words[6:6] = ["write", "to", f"{chance.choice(WORDS)}{chance.randrange(100)}@{chance.choice(WORDS)}.org"]
        made.append(" ".join(words))
    return made


def secrets() -> list[str]:
    return [one.sentence for one in canaries(CANARIES) for _ in range(one.repeats)]


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("memory_tokeniser"))
    others = canaries(CanaryProbe(seed=99, num=200))
    texts = [*(" ".join(random.Random(number).choices(WORDS, k=20)) for number in range(50)), *(one.sentence for one in others)]
    tokeniser.save(tokeniser.train_bpe(texts, TokeniserConfig(vocab_size=400)), folder)
    return folder


@pytest.fixture(scope="module")
def train(words: str) -> list[TokenShard]:
    """The documents and the planted secrets, in two shards."""
    return [shard_of(documents("train"), words), shard_of(secrets(), words)]


@pytest.fixture(scope="module")
def held_out(words: str) -> list[TokenShard]:
    return [shard_of(documents("held out"), words)]


@pytest.fixture(scope="module")
def overfitted(tmp_path_factory: pytest.TempPathFactory, words: str) -> Scorer:
    texts = [*documents("train"), *(secrets())]
    return learnt(texts, tmp_path_factory.mktemp("overfitted"), words, steps=400, context=48, batch=80, until=0.22)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory, words: str) -> Scorer:
    """It learnt the same kind of texts, and not these."""
    others = [one.sentence for one in canaries(CanaryProbe(seed=99, num=40))]
    return learnt([*documents("others"), *others], tmp_path_factory.mktemp("clean"), words, steps=60, context=48, batch=40)


def found(findings: Findings) -> dict[str, Figure]:
    return {one.name: one for one in findings.figures}


def covers(one: Figure, value: float) -> bool:
    assert one.low is not None and one.high is not None
    return one.low <= value <= one.high


def test_passages_of_an_overfitted_model_are_extracted_and_those_of_another_are_not(
    overfitted: Scorer, clean: Scorer, train: list[TokenShard], held_out: list[TokenShard]
) -> None:
    caught, passed = Findings(3, 1), Findings(3, 1)
    memorisation.ask_extraction(overfitted, train[:1], held_out, MEMORY, 1, caught)
    memorisation.ask_extraction(clean, train[:1], held_out, MEMORY, 1, passed)
    exact, other = found(caught), found(passed)
    assert exact["memorisation.extraction.exact.train"].value > 0.7  # type: ignore[operator]
    assert exact["memorisation.extraction.exact.heldout"].value == 0
    difference = exact["memorisation.extraction.exact.difference"]
    assert difference.low is not None and difference.low > 0.5 and difference.n == 2 * NUM
    assert exact["memorisation.extraction.correct.train"].value > 6  # type: ignore[operator]
    assert other["memorisation.extraction.exact.train"].value == 0
    assert covers(other["memorisation.extraction.exact.difference"], 0)
    assert covers(other["memorisation.extraction.correct.difference"], 0)
    row = caught.examples["extraction"][0]
    assert row["correct_tokens"] == 8 and f"{row['given']}{row['completed']}".strip() in " ".join(documents("train"))


def test_correct_tokens_are_those_that_greedy_decoding_writes(overfitted: Scorer, train: list[TokenShard]) -> None:
    many = passages.draw(train, 12, seed=3, purpose="x", min_tokens=14, max_tokens=14)
    for one, size in zip(many, memorisation._correct(overfitted, many, 8), strict=True):
        given = torch.tensor([[overfitted.opening, *one.tokens[:6]]])
        written = overfitted.model.generate(given, attention_mask=torch.ones_like(given), max_new_tokens=8, do_sample=False)
        same = [a == b for a, b in zip(written[0, 7:].tolist(), one.tokens[6:], strict=False)]
        assert size == (same.index(False) if False in same else len(same))


def test_membership_is_told_of_an_overfitted_model_alone(
    overfitted: Scorer, clean: Scorer, train: list[TokenShard], held_out: list[TokenShard]
) -> None:
    config = PrivacyConfig(documents=NUM)
    caught, passed = Findings(0, 1), Findings(0, 1)
    privacy.ask_membership(overfitted, train[:1], held_out, config, 1, caught)
    privacy.ask_membership(clean, train[:1], held_out, config, 1, passed)
    for kind in ("loss", "zlib", "min_k"):
        one = found(caught)[f"privacy.membership.{kind}"]
        assert one.low is not None and one.low > 0.9 and one.n == 2 * NUM
        assert covers(found(passed)[f"privacy.membership.{kind}"], 0.5)
    excess = found(caught)["privacy.membership.excess"]
    assert excess.low is not None and excess.low > 0.2
    assert covers(found(passed)["privacy.membership.excess"], 0)
    # what needs no model says the same of both
    assert found(caught)["privacy.membership.blind"] == found(passed)["privacy.membership.blind"]


def test_losses_are_those_of_a_plain_pass_and_unigrams_leave_out_who_is_asked(
    clean: Scorer, train: list[TokenShard], held_out: list[TokenShard]
) -> None:
    members = passages.draw(train, 5, seed=1, purpose="x")
    scores = privacy._scores(clean, members, PrivacyConfig(lowest_share=0.5))
    for number, one in enumerate(members):
        ids = torch.tensor([[clean.opening, *one.tokens]])
        with torch.no_grad():
            nats = torch.log_softmax(clean.model(input_ids=ids[:, :-1]).logits[0], -1)[range(len(one.tokens)), ids[0, 1:]]
        lowest = sorted(nats.tolist())[: round(0.5 * len(one.tokens))]
        assert scores["loss"][number] == pytest.approx(-float(nats.mean()), rel=1e-4)
        assert scores["min_k"][number] == pytest.approx(-np.mean(lowest), rel=1e-4)
    others = passages.draw(held_out, 1, seed=1, purpose="x")
    [*_, got] = privacy._unigram_losses(clean, members, others, train)
    seen = np.concatenate([shard.tokens for shard in train]).tolist()
    for one in members:
        for token in one.tokens:
            seen.remove(token)
    chances = [(seen.count(token) + 1) / (len(seen) + clean.model.config.vocab_size) for token in others[0].tokens]
    assert got == pytest.approx(-np.mean(np.log(chances)))


def test_free_texts_of_an_overfitted_model_are_copies_and_leak_its_addresses(
    overfitted: Scorer, clean: Scorer, train: list[TokenShard], held_out: list[TokenShard]
) -> None:
    results = []
    for scorer in (overfitted, clean):
        findings = Findings(50, 1)
        free = memorisation.write_texts(scorer, FREE, 1)
        memorisation.ask_copies(free, train, held_out, MEMORY, 1, findings)
        privacy.ask_addresses(free, train, memorisation.token_texts(scorer), findings)
        results.append(findings)
    caught, passed = map(found, results)
    verbatim = caught["memorisation.copied.verbatim"]
    assert verbatim.low is not None and verbatim.low > 0.3 and caught["memorisation.copied.verbatim.heldout"].value == 0
    difference = caught["memorisation.copied.longest_run.difference"]
    assert difference.low is not None and difference.low > 6
    assert passed["memorisation.copied.verbatim"].value == 0
    training = {text: text for text in (*documents("train"), *secrets())}
    for row in results[0].examples["copied"][:5]:
        assert row["text"][:40].strip() in " ".join(training)
    assert caught["privacy.pii.email"].value > 0  # type: ignore[operator]
    written = {one.value for one in find(pa.array(memorisation.write_texts(overfitted, FREE, 1).texts), RedactConfig())}
    told = {row["item"]: row["amount"] for row in results[0].items().to_pylist() if row["metric"] == "privacy.pii.leaked"}
    assert told == {text_digest(one): float(one in " ".join(training)) for one in written} and len(told) > 5
    shown = [row["value"] for row in results[0].examples["addresses"]]
    assert all("…@" in one and one not in written for one in shown)
    leaked = caught["privacy.pii.leaked"]
    assert leaked.low is not None and leaked.low > 0.05
    # the clean model writes addresses, too, of its own making
    assert passed["privacy.pii.leaked"].value in (0, None)


def test_planted_secrets_are_exposed_by_the_model_that_saw_them_alone(
    overfitted: Scorer, clean: Scorer, train: list[TokenShard]
) -> None:
    pieces = memorisation.token_texts(overfitted)
    caught, passed = Findings(2, 1), Findings(2, 1)
    memorisation.ask_canaries(overfitted, train, pieces, CANARIES, caught)
    memorisation.ask_canaries(clean, train, pieces, CANARIES, passed)
    exposed, other = found(caught), found(passed)
    assert exposed["memorisation.canaries.exposure"].low > 4  # type: ignore[operator] # of at most log2(32) = 5
    assert exposed["memorisation.canaries.extracted"].value > 0.8  # type: ignore[operator]
    assert {"memorisation.canaries.exposure.copies.1", "memorisation.canaries.exposure.copies.3"} <= set(exposed)
    chance = 1 / np.log(2)
    for one in (
        exposed["memorisation.canaries.exposure.never_planted"],
        other["memorisation.canaries.exposure"],
        other["memorisation.canaries.exposure.never_planted"],
    ):
        assert one.value is not None and one.n == 20
        assert abs(one.value - chance) < 0.9  # of 20 exponential numbers: 2.8 standard errors
    assert other["memorisation.canaries.extracted"].value == 0
    assert caught.notes["memorisation.canaries"].startswith("20 of 20 canaries of seed 7 stand in the training split, 40 times")
    assert caught.examples["canaries"][0]["written"]


def test_secrets_that_nobody_planted_have_no_figure(clean: Scorer, held_out: list[TokenShard]) -> None:
    findings = Findings(2, 1)
    memorisation.ask_canaries(clean, held_out, memorisation.token_texts(clean), CANARIES, findings)
    assert {one.value for one in findings.figures} == {None} and findings.items().num_rows == 0
    assert findings.notes["memorisation.canaries"].startswith("0 of 20 canaries")


def test_a_split_without_documents_leaves_figures_without_a_value(clean: Scorer, train: list[TokenShard], words: str) -> None:
    for held_out in ([], [shard_of([], words)]):
        findings = Findings(2, 1)
        memorisation.ask_extraction(clean, train, held_out, MEMORY, 1, findings)
        privacy.ask_membership(clean, train, held_out, PrivacyConfig(), 1, findings)
        free = memorisation.write_texts(clean, TextsConfig(num_texts=2, max_new_tokens=4), 1)
        memorisation.ask_copies(free, train, held_out, MEMORY, 1, findings)
        bias.ask_swaps(clean, passages.draw(held_out, 5, seed=1, purpose="swaps"), 5, findings)
        valued = {one.name for one in findings.figures if one.value is not None}
        assert valued == {"memorisation.copied.longest_run", "memorisation.copied.verbatim"}


def test_token_texts_put_together_are_the_text(clean: Scorer) -> None:
    pieces = memorisation.token_texts(clean)
    text = "a river at stone12@market.org, and more"
    assert "".join(pieces[one] for one in clean.encode([text])[0]) == text


def test_prefix_and_suffix_shrink_until_they_fit_a_small_context() -> None:
    config = MemorisationConfig()
    assert [memorisation.passage_lengths(config, size) for size in (256, 100, 99, 32)] == [(50, 50), (50, 50), (25, 25), (12, 12)]


def test_documents_are_drawn_the_same_for_any_shards(words: str) -> None:
    texts = documents("train")
    one = [shard_of(texts, words)]
    many = [shard_of(texts[20:], words), shard_of([], words), shard_of(texts[:20][::-1], words)]
    assert passages.draw(one, 7, seed=4, purpose="x") == passages.draw(many, 7, seed=4, purpose="x")
    assert passages.draw(one, 7, seed=4, purpose="x") != passages.draw(one, 7, seed=5, purpose="x")
    long = passages.draw(one, None, seed=4, purpose="x", min_tokens=24, max_tokens=5)
    assert 0 < len(long) < NUM and {len(drawn.tokens) for drawn in long} == {5}
