"""The order of samples is a permutation, looks shuffled, and any place of it is computed alone."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tasks.learn.order import in_epochs, mixed, permuted, shuffled


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


def test_the_order_is_that_of_every_version_before() -> None:
    """A resumed training goes on with the samples that it had not read: values of the first release."""
    assert permuted(np.arange(10), 10, 1, 0).tolist() == [3, 5, 1, 6, 2, 4, 7, 0, 8, 9]
    assert permuted(np.array([0, 999_999]), 10**6, 2**32 - 1, 7).tolist() == [27105, 177398]


def test_mixed_is_splitmix64() -> None:
    # the first outputs for seed 0 of the generator's public reference (prng.di.unimi.it/splitmix64.c)
    assert [hex(mixed(number)) for number in range(3)] == [
        "0xe220a8397b1dcdaf", "0x6e789e6aa1b965f4", "0x6c45d188009454f",
    ]  # fmt: skip


@given(first=st.integers(0, 10**9), count=st.integers(0, 50), size=st.integers(1, 20), seed=st.integers(0, 2**32 - 1))
def test_places_run_through_epochs_each_shuffled_anew(first: int, count: int, size: int, seed: int) -> None:
    places = np.arange(first, first + count)
    plain = [int(permuted(np.array([place % size]), size, seed, place // size)[0]) for place in places.tolist()]
    assert shuffled(first, count, size, seed).tolist() == plain
    assert in_epochs(places[::-1], size, seed).tolist() == plain[::-1]
