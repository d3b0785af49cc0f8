import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.learn.batches import Batches, TokenWindows, permuted
from tasks.learn.tokens import TokenShard


@given(size=st.integers(1, 3000), seed=st.integers(0, 2**32 - 1), epoch=st.integers(0, 1000))
def test_the_order_is_a_permutation_for_every_size_seed_and_epoch(size: int, seed: int, epoch: int) -> None:
    order = permuted(np.arange(size), size, seed, epoch)
    assert sorted(order.tolist()) == list(range(size))


@given(size=st.integers(1, 10**12), seed=st.integers(0, 2**32 - 1), index=st.integers(0, 10**12))
def test_one_place_of_a_huge_order_is_computed_alone(size: int, seed: int, index: int) -> None:
    places = permuted(np.array([index % size, 0]), size, seed, 0)
    assert 0 <= places[0] < size and places[0] == permuted(np.array([index % size]), size, seed, 0)[0]


def test_the_order_looks_shuffled_and_differs_by_seed_and_epoch() -> None:
    size = 10_000
    order = permuted(np.arange(size), size, 1, 0)
    # the correlations of a random order have a standard deviation of 0.01 at this size
    assert abs(np.corrcoef(order, np.arange(size))[0, 1]) < 0.05
    assert abs(np.corrcoef(order[1:], order[:-1])[0, 1]) < 0.05
    for other in (permuted(np.arange(size), size, 2, 0), permuted(np.arange(size), size, 1, 1)):
        assert (order == other).mean() < 0.01 and abs(np.corrcoef(order, other)[0, 1]) < 0.05


@pytest.mark.parametrize("context_length", [1, 7, 64, 1000])
def test_windows_are_the_stream_cut_with_one_token_shared(shards: list[TokenShard], context_length: int) -> None:
    windows = TokenWindows(shards, context_length)
    stream = np.concatenate([shard.tokens for shard in shards])
    assert len(windows) == (len(stream) - 1) // context_length
    for window in range(len(windows)):
        begin = window * context_length
        assert windows[window].tolist() == stream[begin : begin + context_length + 1].tolist()
    with pytest.raises(IndexError):
        windows[len(windows)]


def test_a_windows_documents_are_those_whose_tokens_it_holds(shards: list[TokenShard]) -> None:
    windows = TokenWindows(shards, 50)
    owners = np.concatenate([np.repeat(shard.docs["doc_id"].to_numpy(), shard.lengths) for shard in shards])
    for window in range(len(windows)):
        held = owners[window * 50 : window * 50 + 51]
        assert windows.doc_ids(window) == list(dict.fromkeys(held.tolist()))


def test_an_epoch_reads_every_window_once_and_the_next_in_another_order(shards: list[TokenShard]) -> None:
    windows = TokenWindows(shards, 32)
    batches = Batches(windows, 8, seed=5)
    size = len(windows)
    first, second = batches.samples(0, size), batches.samples(size, size)
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(size))
    assert first.tolist() != second.tolist()


@given(rank_sizes=st.lists(st.integers(0, 40), min_size=1, max_size=6), first=st.integers(0, 10**6))
def test_samples_are_the_same_however_they_are_divided(shards: list[TokenShard], rank_sizes: list[int], first: int) -> None:
    batches = Batches(TokenWindows(shards, 32), 8, seed=5)
    together = batches.samples(first, sum(rank_sizes)).tolist()
    starts = [first + sum(rank_sizes[:rank]) for rank in range(len(rank_sizes))]
    parts = [batches.samples(start, size).tolist() for start, size in zip(starts, rank_sizes, strict=True)]
    assert together == [window for part in parts for window in part]


def test_a_step_can_be_asked_for_alone_with_its_documents(shards: list[TokenShard]) -> None:
    windows = TokenWindows(shards, 32)
    batches = Batches(windows, 4, seed=5)
    chosen = batches.samples(8, 4).tolist()
    assert batches.batch(3).tolist() == [windows[window].tolist() for window in chosen]
    assert batches.documents_of(3) == list(dict.fromkeys(doc for window in chosen for doc in windows.doc_ids(window)))
    with pytest.raises(ValueError, match="count from 1"):
        batches.batch(0)


def test_too_little_text_for_one_window_is_an_error(shards: list[TokenShard]) -> None:
    with pytest.raises(ValueError, match="do not fill one window"):
        Batches(TokenWindows(shards[1:2], 32), 4, seed=5)
