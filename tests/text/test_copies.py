import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.text import copies
from tasks.text.copies import longest_runs, occurrences

PIECES = ["a", "ab", "b", "ba", "é", "c"]
STREAMS = st.lists(st.lists(st.integers(0, 3), max_size=16), max_size=3)


def arrays(streams: list[list[int]]) -> list[npt.NDArray[np.uint16]]:
    return [np.array(one, np.uint16) for one in streams]


def plain_longest(text: list[int], streams: list[list[int]]) -> int:
    """The slow way: every run of the text, looked for at every place."""
    runs = [text[start:end] for start in range(len(text)) for end in range(start + 1, len(text) + 1)]
    return max(
        (len(run) for run in runs for one in streams if any(one[k : k + len(run)] == run for k in range(len(one)))), default=0
    )


@settings(max_examples=150)
@given(texts=st.lists(st.lists(st.integers(0, 2), max_size=9), max_size=4), streams=STREAMS)
def test_the_longest_run_is_that_of_a_slow_search_and_stands_where_it_says(
    texts: list[list[int]], streams: list[list[int]]
) -> None:
    found = longest_runs(texts, arrays(streams))
    for number, text in enumerate(texts):
        size = int(found.lengths[number])
        assert size == plain_longest(text, streams)
        if size:
            end, place = int(found.ends[number]), int(found.places[number])
            assert text[end - size : end] == streams[int(found.streams[number])][place : place + size]


@settings(max_examples=100)
@given(strings=st.lists(st.text("ab", min_size=1, max_size=4), max_size=5), streams=STREAMS)
def test_strings_are_counted_as_often_as_a_slow_search_finds_them(strings: list[str], streams: list[list[int]]) -> None:
    texts = ["".join(PIECES[token] for token in one) for one in streams]
    wanted = [sum(text.startswith(string, at) for text in texts for at in range(len(text))) for string in strings]
    assert occurrences(strings, arrays(streams), PIECES).tolist() == wanted


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = np.random.default_rng(3)
    streams = [chance.integers(0, 4, size).tolist() for size in (40, 0, 57)]
    texts = [chance.integers(0, 4, 12).tolist() for _ in range(5)]
    runs, counts = longest_runs(texts, arrays(streams)), occurrences(["abba", "b"], arrays(streams), PIECES)
    monkeypatch.setattr(copies, "BLOCK_TOKENS", 7)
    again = longest_runs(texts, arrays(streams))
    assert all(np.array_equal(one, other) for one, other in zip(runs, again, strict=True))
    assert np.array_equal(counts, occurrences(["abba", "b"], arrays(streams), PIECES))
