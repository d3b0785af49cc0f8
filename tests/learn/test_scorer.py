from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from models import int8, presets, tokeniser
from models.presets import ModelConfig
from models.tokeniser import TokeniserConfig
from tasks.learn.config import EvalConfig
from tasks.learn.scorer import Scorer, ScorerError

CONFIG = EvalConfig(device="cpu", num_threads=1, batch_tokens=128)
TEXTS = ["read the file", "write a list of the values to the folder", "returns", "open error key"]


@pytest.fixture(scope="module")
def causal(tmp_path_factory: pytest.TempPathFactory, tokeniser_folder: str) -> Scorer:
    folder = tmp_path_factory.mktemp("causal")
    shape = ModelConfig(hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2, intermediate_size=64, context_length=32)
    presets.build(shape, tokeniser.roles(tokeniser_folder), seed=3).save_pretrained(folder)
    for file in Path(tokeniser_folder).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return Scorer(folder, CONFIG)


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    folder = tmp_path_factory.mktemp("masked")
    trained = tokeniser.train(TEXTS * 20, TokeniserConfig(kind="wordpiece", vocab_size=300, alphabet_size=60))
    tokeniser.save(trained, str(folder))
    size = tokeniser.roles(str(folder)).vocab_size
    torch.manual_seed(5)
    shape: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    BertForMaskedLM(BertConfig(vocab_size=size, max_position_embeddings=32, **shape)).save_pretrained(folder)
    return Scorer(folder, CONFIG)


@torch.no_grad()
def plain(scorer: Scorer, context: str, continuation: str) -> tuple[float, bool]:
    """One request, one forward pass a token, nothing batched."""
    head, tail = scorer.encode([context])[0], scorer.encode([continuation])[0]
    ids = [scorer.opening, *head, *tail]
    total, greedy = 0.0, True
    for place in range(len(ids) - len(tail), len(ids)):
        seen = list(ids) if scorer.masked else ids[:place]
        if scorer.masked:
            seen[place] = scorer.words.mask_token_id
        logits = scorer.model(input_ids=torch.tensor([seen])).logits[0, place if scorer.masked else -1]
        total += float(torch.log_softmax(logits, -1)[ids[place]])
        greedy &= int(logits.argmax()) == ids[place]
    return total, greedy


@pytest.mark.parametrize("kind", ["causal", "masked"])
def test_a_batch_of_requests_gives_what_each_gives_alone(kind: str, request: pytest.FixtureRequest) -> None:
    scorer: Scorer = request.getfixturevalue(kind)
    contexts, tails = ["", "read", "write a", "open the file"], [" read", " the file", " list of values", " key"]
    nats, lengths, greedy = scorer.log_likelihoods(contexts, tails)
    for number, (context, tail) in enumerate(zip(contexts, tails, strict=True)):
        assert (nats[number], greedy[number]) == (
            pytest.approx(plain(scorer, context, tail)[0], rel=1e-4),
            plain(scorer, context, tail)[1],
        )
        assert lengths[number] == len(scorer.encode([tail])[0])


def test_a_long_context_keeps_its_end_and_a_long_continuation_is_refused(causal: Scorer) -> None:
    long = "read the file " * 30
    # 31 tokens of context and one to score fill the model's 32 inputs
    kept = causal.words.decode(causal.encode([long])[0][-32:])
    tail = causal.words.decode([causal.encode([" key"])[0][0]])
    [cut], _, _ = causal.log_likelihoods([long], [tail])
    head = causal.encode([long])[0]
    with torch.no_grad():
        logits = causal.model(input_ids=torch.tensor([head[-32:]])).logits[0, -1]
    assert len(causal.encode([kept])[0]) <= 33
    assert cut == pytest.approx(float(torch.log_softmax(logits, -1)[causal.encode([tail])[0][0]]), rel=1e-4)
    with pytest.raises(ScorerError, match="this model can score 1 to 31"):
        causal.log_likelihoods([""], [long])
    with pytest.raises(ScorerError, match="0 tokens"):
        causal.log_likelihoods(["read"], [""])


def test_continuations_follow_from_the_seed_and_greedy_ones_from_the_model(causal: Scorer) -> None:
    prompts = ["read", "write a list", "open"]
    first = causal.continuations(prompts, max_new_tokens=6, temperature=1.0, seed=4, num_samples=3)
    assert first == causal.continuations(prompts, max_new_tokens=6, temperature=1.0, seed=4, num_samples=3)
    assert first != causal.continuations(prompts, max_new_tokens=6, temperature=1.0, seed=5, num_samples=3)
    assert [len(one) for one in first] == [3, 3, 3]
    [[text]] = causal.continuations(["read"], max_new_tokens=1)
    logits = causal.model(input_ids=torch.tensor([[causal.opening, *causal.encode(["read"])[0]]])).logits[0, -1]
    assert text == causal.words.decode([int(logits.argmax())], skip_special_tokens=True)


def test_more_samples_of_a_prompt_than_a_batch_holds_are_written_in_turns(
    causal: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(causal, "batch_tokens", 30)
    [texts] = causal.continuations(["read"], max_new_tokens=6, temperature=1.0, num_samples=7)
    assert len(texts) == 7 and len(set(texts)) == 7
    assert causal.continuations(["read"], max_new_tokens=6, temperature=1.0, num_samples=7) == [texts]


def test_a_masked_model_does_not_write(masked: Scorer) -> None:
    with pytest.raises(ScorerError, match="does not write"):
        masked.continuations(["read"], max_new_tokens=4)


def test_a_context_too_long_for_a_masked_model_is_cut_to_its_places(masked: Scorer) -> None:
    [nats], _, _ = masked.log_likelihoods(["read the file " * 30], [" key"])
    assert nats < 0


def test_tokens_are_scored_one_by_one_as_greedy_decoding_would_write_them(causal: Scorer) -> None:
    rows = [causal.encode([text])[0] for text in TEXTS]
    scores = causal.token_scores([[causal.opening, *row] for row in rows])
    whole, _, _ = causal.log_likelihoods([""] * len(TEXTS), TEXTS)
    assert [one.sum() for one, _ in scores] == pytest.approx(whole.tolist(), rel=1e-4)
    given = torch.tensor([[causal.opening, *rows[1][:3]]])
    written = causal.model.generate(given, attention_mask=torch.ones_like(given), max_new_tokens=8, do_sample=False)[0].tolist()
    [(nats, hits)] = causal.token_scores([written])
    assert len(nats) == len(written) - 1 and hits[3:].all()
    wrong = [*written[:6], (written[6] + 1) % 300, *written[7:]]
    assert causal.token_scores([wrong])[0][1][3:6].tolist() == [True, True, False]


def test_rows_that_no_model_can_score_are_refused(causal: Scorer, masked: Scorer) -> None:
    with pytest.raises(ScorerError, match="a row of 40 tokens; this model can score 33"):
        causal.token_scores([[1] * 40])
    with pytest.raises(ScorerError, match="predicts no token from those before it"):
        masked.token_scores([[1, 2]])


def test_chosen_places_of_a_masked_row_are_the_sum_of_each(masked: Scorer) -> None:
    [row] = masked.encode(["write a list of the values"])
    whole, _ = masked.masked_scores([row], [(0, at) for at in range(len(row))])
    single = [masked.masked_scores([row], [(0, at)])[0][0] for at in range(len(row))]
    assert whole[0] == pytest.approx(sum(single), rel=1e-4)
    with torch.no_grad():
        hidden = [*row[:2], masked.words.mask_token_id, *row[3:]]
        logits = masked.model(input_ids=torch.tensor([hidden])).logits[0, 2]
    assert single[2] == pytest.approx(float(torch.log_softmax(logits, -1)[row[2]]), rel=1e-4)


def test_a_model_in_int8_is_asked_like_any_other_but_never_on_a_gpu(
    causal: Scorer, tokeniser_folder: str, tmp_path: Path
) -> None:
    int8.write(causal.model, tmp_path)
    for file in Path(tokeniser_folder).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    scorer = Scorer(tmp_path, CONFIG.model_copy(update={"device": "auto"}))
    assert (scorer.device, scorer.num_parameters) == ("cpu", causal.num_parameters)
    nats, _, _ = scorer.log_likelihoods(["read", "write a"], [" the file", " list"])
    assert nats == pytest.approx(causal.log_likelihoods(["read", "write a"], [" the file", " list"])[0], abs=0.05)
    assert scorer.continuations(["read"], max_new_tokens=4)[0][0] is not None
    with pytest.raises(ScorerError, match="in int8, which a CPU computes"):
        Scorer(tmp_path, CONFIG.model_copy(update={"device": "cuda"}))
