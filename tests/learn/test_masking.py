"""Masked models: which tokens are chosen, what becomes of them, and that it is the same whenever a sample is asked for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import InputError
from models import tokeniser
from models.tokeniser import Roles, TokeniserConfig
from tasks.learn.data_config import DataConfig
from tasks.learn.masking import Masking
from tasks.learn.sampler import IGNORED, fixed

from .samples import END, MASK, PADDING, sampler, shards

UNKNOWN = 3
ROLES = Roles(vocab_size=1000, end=END, padding=PADDING, unknown=UNKNOWN, mask=MASK, continuing=tuple(range(500, 1000)))
ROWS, PLACES = 400, 256


def hidden(
    rows: np.ndarray, share: float = 0.15, *, seed: int = 5, first: int = 0, whole_words: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    inputs, labels = rows.astype(np.int64), np.full(rows.shape, IGNORED, np.int64)
    Masking(ROLES, share, seed, whole_words=whole_words).apply(first, inputs, labels)
    return inputs, labels


def rows(seed: int = 0) -> np.ndarray:
    """Random tokens, a tenth of them special ones."""
    chance = np.random.default_rng(seed)
    found = chance.integers(4, 1000, (ROWS, PLACES))
    special = chance.random((ROWS, PLACES)) < 0.1
    found[special] = chance.choice([END, PADDING, UNKNOWN, MASK], int(special.sum()))
    return found


def within(count: int, of: int, share: float) -> bool:
    """Whether a count is what chance gives: five standard deviations, which one in two million such tests would miss."""
    return abs(count - of * share) < 5 * np.sqrt(of * share * (1 - share))


@pytest.mark.parametrize("whole_words", [False, True])
def test_shares_are_those_of_bert(whole_words: bool) -> None:
    before = rows()
    inputs, labels = hidden(before, whole_words=whole_words)
    chosen = labels != IGNORED
    assert (labels[chosen] == before[chosen]).all() and (inputs[~chosen] == before[~chosen]).all()
    can = ~np.isin(before, [END, PADDING, UNKNOWN, MASK])
    assert not (chosen & ~can).any()
    # words of two parts on average are chosen together: fewer draws, so twice the spread
    of = int(can.sum()) // (4 if whole_words else 1)
    assert within(int(chosen.sum()) // (4 if whole_words else 1), of, 0.15)
    masked, stayed = inputs == MASK, inputs == before
    assert within(int((masked & chosen).sum()), int(chosen.sum()), 0.8)
    # one in 996 of the replaced ones is replaced by itself
    assert within(int((stayed & chosen).sum()), int(chosen.sum()), 0.1 + 0.1 / 996)
    replaced = inputs[chosen & ~masked & ~stayed]
    assert not np.isin(replaced, [END, PADDING, UNKNOWN, MASK]).any()
    assert len(set(replaced.tolist())) > 600 and within(int((replaced < 502).sum()), len(replaced), 0.5)


def test_choices_are_spread_evenly_and_do_not_go_together() -> None:
    chosen = hidden(np.full((4000, 64), 7))[1] != IGNORED
    assert all(within(int(count), 4000, 0.15) for count in chosen.sum(0))
    both = chosen[:, 1:] & chosen[:, :-1]
    assert within(int(both.sum()), both.size, 0.15**2)
    assert within(int((chosen[1:] & chosen[:-1]).sum()), 3999 * 64, 0.15**2)


def test_the_parts_of_a_word_are_chosen_together_but_not_across_special_tokens() -> None:
    before = rows(1)
    chosen = hidden(before, whole_words=True)[1] != IGNORED
    goes_on = (before[:, 1:] >= 500) & (before[:, :-1] > 3)
    assert (chosen[:, 1:][goes_on] == chosen[:, :-1][goes_on]).all() and goes_on.sum() > 10_000
    apart = hidden(before)[1] != IGNORED
    assert (apart[:, 1:][goes_on] != apart[:, :-1][goes_on]).any()
    behind_special = (before[:, 1:] >= 500) & (before[:, :-1] <= 3)
    assert within(int(chosen[:, 1:][behind_special].sum()), int(behind_special.sum()), 0.15)


@given(first=st.integers(0, 10**12), count=st.integers(1, 20), seed=st.integers(0, 2**64 - 1))
def test_masks_are_those_of_the_sample_however_it_is_asked_for(first: int, count: int, seed: int) -> None:
    before = np.arange(4, 4 + count * 16).reshape(count, 16)
    together = hidden(before, 0.3, seed=seed, first=first)
    alone = [hidden(before[number : number + 1], 0.3, seed=seed, first=first + number) for number in range(count)]
    for which in range(2):
        assert together[which].tolist() == np.concatenate([one[which] for one in alone]).tolist()


def test_masks_differ_by_seed_by_sample_and_by_epoch_but_not_between_two_looks() -> None:
    before = np.full((1, 256), 7)
    marks = [
        (hidden(before, seed=seed, first=first)[1] != IGNORED).tobytes() for seed, first in ((1, 0), (1, 1), (2, 0), (1, 2**40))
    ]
    assert len(set(marks)) == 4
    documents = [("a", 2000)]
    training = sampler(documents, 100, masked=True)
    first, second = (training.batch(20 * epoch, 20) for epoch in range(2))
    assert sorted((first.labels != IGNORED).sum(1).tolist()) != sorted((second.labels != IGNORED).sum(1).tolist())
    looks = [
        fixed(shards(documents), 100, DataConfig(), roles=ROLES._replace(vocab_size=60_000), masked=True, seed=1).batch(3, 9)
        for _ in range(2)
    ]
    assert looks[0].inputs.tolist() == looks[1].inputs.tolist() and looks[0].labels.tolist() == looks[1].labels.tolist()


def test_a_row_always_has_something_to_guess_unless_it_has_special_tokens_alone() -> None:
    inputs, labels = hidden(np.array([[7] + [END] * 3] * 50 + [[END, PADDING, MASK, UNKNOWN]]), 1e-6)
    assert ((labels != IGNORED).sum(1) == [1] * 50 + [0]).all() and (inputs[50] == [END, PADDING, MASK, UNKNOWN]).all()
    assert (hidden(np.full((9, 9), 7), 1.0)[1] == 7).all()


def test_a_masked_sampler_reads_each_token_in_its_own_place() -> None:
    made = fixed(
        shards([("a", 30), ("a", 9)]), 8, DataConfig(mask_share=0.4), roles=sampler([("a", 1)], 1)._roles, masked=True, seed=1
    )
    batch = made.batch(0, 5)
    whole = np.where(batch.labels == IGNORED, batch.inputs, batch.labels).ravel()
    assert whole.tolist() == [*range(3, 32), END, *range(32, 40), END, PADDING]
    assert batch.documents is not None and batch.documents[3].tolist() == [0] * 6 + [1] * 2


def test_what_a_masked_model_needs_is_asked_for() -> None:
    with pytest.raises(InputError, match=r"no mask token, which a masked model needs; use tokenise\.kind wordpiece"):
        Masking(ROLES._replace(mask=None), 0.15, 1, whole_words=False)
    with pytest.raises(InputError, match=r"data\.mask_whole_words: the tokeniser has no parts of words"):
        Masking(ROLES._replace(continuing=()), 0.15, 1, whole_words=True)
    with pytest.raises(InputError, match="token 1000 is beyond the tokeniser's 1000"):
        hidden(np.array([[1000]]))


def test_a_wordpiece_tokeniser_tells_its_mask_and_its_parts_of_words(
    tmp_path_factory: pytest.TempPathFactory, tokeniser_folder: str
) -> None:
    folder = str(tmp_path_factory.mktemp("wordpiece"))
    texts = ["the mill grinds the corn and the miller mills", "grinding corn, milling"] * 5
    tokeniser.save(tokeniser.train(texts, TokeniserConfig(kind="wordpiece", vocab_size=300)), folder)
    roles, words = tokeniser.roles(folder), tokeniser.load(folder)
    assert words.id_to_token(roles.mask) == "[MASK]"
    assert {words.id_to_token(one)[:2] for one in roles.continuing} == {"##"} and len(roles.continuing) > 10
    assert tokeniser.roles(tokeniser_folder).mask is None and tokeniser.roles(tokeniser_folder).continuing == ()
