import random
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from datasketch import MinHash
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tasks.text import minhash
from tasks.text.minhash import SketchConfig

# Words as they come, cases that change their UTF-8 length when lower-cased, characters that vanish or stand alone.
WORDS = [
    "the",
    "Mill",
    "ÉTÉ",
    "Σ",
    "İ",
    "Ⱥ",
    "K",
    "don't",
    "x" * 50,
    "12,5",
    "漢字かな",
    "ไทย",
    "so\u00adft",
    "❤\ufe0f",
    "🏴",
    "𠀀a",
]
TEXT = st.one_of(st.text(), st.lists(st.sampled_from(WORDS), max_size=40).map(" ".join))
CONFIGS = st.builds(
    SketchConfig,
    ngram_words=st.integers(1, 6),
    num_bands=st.integers(1, 4),
    rows_per_band=st.integers(1, 4),
    seed=st.integers(0, 2**32 - 1),
)


def plain_shingles(text: str, ngram_words: int) -> set[bytes]:
    words = minhash.normalise(text).split()
    span = min(ngram_words, len(words))
    return {" ".join(words[i : i + span]).encode() for i in range(len(words) - span + 1)} if words else set()


def shingle_sets(texts: list[str], config: SketchConfig) -> list[list[int]]:
    values, offsets = minhash.shingle_hashes(pa.array(texts, pa.string()), config)
    return [values[first:end].tolist() for first, end in pairwise(offsets)]


def random_words(rng: random.Random, count: int) -> list[str]:
    return ["".join(rng.choices("abcdefghijklmnop", k=rng.randint(2, 9))) for _ in range(count)]


@settings(deadline=None)
@given(st.lists(TEXT, max_size=6), CONFIGS)
def test_signatures_equal_datasketch_value_for_value(texts: list[str], config: SketchConfig) -> None:
    ours = minhash.signatures(pa.array(texts, pa.string()), config)
    assert ours.shape == (len(texts), config.num_hashes)
    for row, text in zip(ours, texts, strict=True):
        theirs = MinHash(config.num_hashes, seed=config.seed, scheme="affine32", hashfunc=minhash.element_hash)
        theirs.update_batch(sorted(plain_shingles(text, config.ngram_words)))
        assert row.dtype == theirs.hashvalues.dtype
        assert row.tolist() == theirs.hashvalues.tolist()


@settings(deadline=None)
@given(st.lists(TEXT, max_size=6), st.integers(1, 6))
def test_shingle_hashes_are_the_sorted_distinct_xxh64_of_the_plain_shingles(texts: list[str], ngram: int) -> None:
    expected = [sorted(map(xxhash.xxh64_intdigest, plain_shingles(text, ngram))) for text in texts]
    assert shingle_sets(texts, SketchConfig(ngram_words=ngram)) == expected


def test_shingles_of_every_length_hash_as_the_xxhash_package_does() -> None:
    words = ["".join(chr(97 + i % 26) for i in range(length)) for length in range(1, 100)]
    assert shingle_sets(words, SketchConfig()) == [[xxhash.xxh64_intdigest(word.encode())] for word in words]


def test_the_normal_form_keeps_letters_marks_and_numbers_and_separates_by_everything_else() -> None:
    examples = {
        "  The MILL's\twheel—turns…\n": "the mill s wheel turns",
        "ÀÉ ΣΑΣ İ Ⱥ": "àé σασ i ⱥ",
        "3.14 x² ½": "3 14 x² ½",
        "so\u00adft zero\u200dwidth": "soft zerowidth",
        "a漢字b かな 🎉❤\ufe0f!": "a 漢 字 b か な",
        "e\u0301 + = $": "e\u0301",
        "\ue000\u0007": "",
    }
    assert {text: minhash.normalise(text) for text in examples} == examples


def test_every_code_point_is_read_by_the_kernel_as_by_the_plain_normal_form() -> None:
    points = [chr(point) for point in range(0x30000) if not 0xD800 <= point < 0xE000] + list(map(chr, range(0xE0000, 0xE0200)))
    chunks = ["".join(f"a{char}b" for char in points[start : start + 64]) for start in range(0, len(points), 64)]
    expected = [sorted({xxhash.xxh64_intdigest(word) for word in plain_shingles(chunk, 1)}) for chunk in chunks]
    assert shingle_sets(chunks, SketchConfig(ngram_words=1)) == expected


def test_a_short_document_is_one_shingle_and_an_empty_one_has_the_empty_signature() -> None:
    config = SketchConfig()
    assert [len(values) for values in shingle_sets(["two words", "", "!?", "a b c d e", "a b c d e f"], config)] == [
        1,
        0,
        0,
        1,
        2,
    ]
    values = minhash.signatures(pa.array(["two words", "Two, words!", "", "!?"]), config)
    assert (values[0] == values[1]).all()
    assert (values[2:] == 2**32 - 1).all()


@settings(deadline=None)
@given(st.lists(TEXT, min_size=1, max_size=6), st.data())
def test_a_document_has_the_same_values_in_any_shard_slice_and_string_type(texts: list[str], data: st.DataObject) -> None:
    config, whole = SketchConfig(num_bands=2), pa.array(texts, pa.string())
    cut = data.draw(st.integers(0, len(texts)))
    expected = minhash.signatures(whole, config)
    parts = [minhash.signatures(part, config) for part in (whole.slice(0, cut), whole.slice(cut).cast(pa.large_string()))]
    assert np.array_equal(np.concatenate(parts), expected)


def test_band_keys_are_the_xxh64_of_each_bands_rows() -> None:
    config = SketchConfig(num_bands=3, rows_per_band=5)
    values = minhash.signatures(pa.array(["one mill turns", "another mill turns"]), config)
    keys = minhash.band_keys(values, config)
    assert keys.tolist() == [[xxhash.xxh64_intdigest(row[5 * b : 5 * b + 5].tobytes()) for b in range(3)] for row in values]
    with pytest.raises(ValueError, match="15 hashes expected"):
        minhash.band_keys(values[:, :-1], config)


@settings(deadline=None)
@given(st.lists(st.sets(st.integers(0, 30)), min_size=1, max_size=8), st.data())
def test_jaccard_of_pairs_equals_the_ratio_of_plain_sets(sets: list[set[int]], data: st.DataObject) -> None:
    values = np.array([value for members in sets for value in sorted(members)], np.uint64)
    offsets = np.cumsum([0, *map(len, sets)])
    pairs = data.draw(st.lists(st.tuples(*[st.integers(0, len(sets) - 1)] * 2), max_size=10))
    left, right = np.array(pairs, np.int64).reshape(-1, 2).T
    expected = [len(sets[i] & sets[j]) / max(1, len(sets[i] | sets[j])) for i, j in pairs]
    assert minhash.jaccard_pairs(values, offsets, left, right).tolist() == expected


def test_a_pair_of_unknown_documents_is_refused() -> None:
    values, offsets = minhash.shingle_hashes(pa.array(["a", "b"]), SketchConfig())
    with pytest.raises(IndexError, match="there are 2"):
        minhash.jaccard_pairs(values, offsets, np.array([0]), np.array([2]))
    with pytest.raises(ValueError, match="do not make pairs"):
        minhash.jaccard_pairs(values, offsets, np.array([0, 1]), np.array([1]))


def test_planted_pairs_are_proposed_as_often_as_the_curve_says() -> None:
    rng, config, texts = random.Random(7), SketchConfig(ngram_words=1), []
    for _ in range(400):  # 90 words of 110 shared, and 10 own on each side: Jaccard near 0.8
        shared, own = random_words(rng, 90), random_words(rng, 20)
        texts += [" ".join(shared + own[:10]), " ".join(shared + own[10:])]
    array, left = pa.array(texts), np.arange(0, 800, 2)
    exact = minhash.jaccard_pairs(*minhash.shingle_hashes(array, config), left, left + 1)
    values = minhash.signatures(array, config)
    keys = minhash.band_keys(values, config)
    assert abs((values[0::2] == values[1::2]).mean() - exact.mean()) < 0.01
    proposed = (keys[0::2] == keys[1::2]).any(axis=1).mean()
    assert abs(proposed - minhash.candidate_probability(exact, config).mean()) < 0.05


def test_the_candidate_curve_of_fineweb_is_the_published_one() -> None:
    # FineWeb (arXiv 2406.17557) names 56 %, 77 %, 92 % and 98.8 % at similarities 0.7, 0.75, 0.8 and 0.85
    curve = minhash.candidate_probability([0.7, 0.75, 0.8, 0.85], SketchConfig())
    assert curve.round(3).tolist() == [0.565, 0.772, 0.924, 0.988]
    assert minhash.candidate_probability([0.0, 1.0], SketchConfig()).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("wrong", [{"ngram_words": 0}, {"num_bands": 0}, {"min_jaccard": 0.0}, {"bands": 14}])
def test_impossible_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        SketchConfig(**wrong)  # type: ignore[arg-type]
