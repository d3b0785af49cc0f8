import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.learn.batches import Batches, TokenWindows
from tasks.learn.tokens import TokenShard


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
