import random
from functools import lru_cache
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
from tasks.text.minhash import PRESETS, SketchConfig

# Words as they come, cases that change their UTF-8 length when lower-cased, characters that vanish or stand alone, digits of
# several scripts, decimal marks, and what decomposes into one, two or three characters that stay.
WORDS = [
    *("the", "Mill", "ÉTÉ", "Σ", "İ", "Ⱥ", "K", "don't", "x" * 50, "12,5", "漢字かな", "ไทย", "so\u00adft", "❤\ufe0f", "🏴", "𠀀a"),
    *("2024-11-26", "1.2.3", "٣٫٥", "๑๒", "v2"),
    *("e\u0301a\u0300", "한국어", "ೋ", "がぎ", "क्षि", "\U0002f800", "\U00030001", "👍🏽", "\u2028", "\t\t", "9."),
]  # fmt: skip
TEXT = st.one_of(
    st.text(),
    st.text(st.sampled_from("aZ09 .,-é\u0301漢")),
    st.lists(st.sampled_from(WORDS), max_size=60).map(" ".join),
    st.lists(st.sampled_from([*WORDS, " ", "  ", "abcdefgh", "X"]), max_size=60).map("".join),
)
# Every value of every option, and every one of `digits` with `separate` and `keep`
FORMS = [
    {"shingle_unit": unit, "lower_case": lower, "digits": digits, "punctuation": punctuation, "accents": accents}
    for unit, lower, digits, punctuation, accents in (
        *(("words", True, "number", "separate", "strip"), ("words", True, "keep", "separate", "keep")),
        *(("characters", False, "keep", "keep", "keep"), ("characters", True, "number", "keep", "strip")),
        *(("words", False, "zero", "keep", "strip"), ("characters", True, "zero", "separate", "keep")),
        *(("words", True, "drop", "keep", "keep"), ("characters", False, "drop", "separate", "strip")),
        *(("words", True, "keep", "drop_ascii", "keep"), ("characters", False, "number", "drop_ascii", "strip")),
        ("words", True, "number", "drop_ascii", "keep"),
    )
]
CONFIGS = st.builds(
    lambda form, **sizes: SketchConfig(**form, **sizes),
    st.sampled_from(FORMS),
    shingle_length=st.integers(1, 20),
    num_bands=st.integers(1, 4),
    rows_per_band=st.integers(1, 12),
    seed=st.integers(0, 2**32 - 1),
    scheme=st.sampled_from(["affine32", "affine64"]),
)


@lru_cache(maxsize=2)
def normal_form(text: str, config: SketchConfig) -> str:
    return minhash.normalise(text, config)


def plain_shingles(text: str, config: SketchConfig) -> list[bytes]:
    normal = normal_form(text, config)
    units, joint = (normal.split(), " ") if config.shingle_unit == "words" else (list(normal), "")
    span = min(config.shingle_length, len(units))
    return [joint.join(units[i : i + span]).encode() for i in range(len(units) - span + 1)] if units else []


def plain_content(text: str, config: SketchConfig) -> list[int]:
    normal = normal_form(text, config).encode()
    return [xxhash.xxh64_intdigest(normal, 0), xxhash.xxh64_intdigest(normal, 1)]


def plain_signature(text: str, config: SketchConfig) -> MinHash:
    element_hash = minhash.element_hash if config.scheme == "affine32" else minhash.element_hash64
    made = MinHash(config.num_hashes, seed=config.seed, scheme=config.scheme, hashfunc=element_hash)
    made.update_batch(plain_shingles(text, config))
    return made


def shingle_sets(texts: list[str], config: SketchConfig) -> list[list[int]]:
    values, offsets = minhash.shingle_hashes(pa.array(texts, pa.string()), config)
    return [values[first:end].tolist() for first, end in pairwise(offsets)]


def random_words(rng: random.Random, count: int) -> list[str]:
    return ["".join(rng.choices("abcdefghijklmnop", k=rng.randint(2, 9))) for _ in range(count)]


@lru_cache(maxsize=10)
def many(seed: int) -> frozenset[int]:
    return frozenset(random.Random(seed).sample(range(1000), 550))


@lru_cache(maxsize=1)
def every_code_point() -> list[str]:
    """Each between letters and between digits, for what stands beside it matters; 32 a text."""
    points = [chr(point) for point in range(0x30200) if not 0xD800 <= point < 0xE000]
    points += [chr(point) for first in (0x3FF00, 0xE0000, 0x10FF00) for point in range(first, first + 0x100)]
    return ["".join(f"a{char}B1{char}2 {char}" for char in points[start : start + 32]) for start in range(0, len(points), 32)]


@settings(deadline=None)
@given(st.lists(TEXT, max_size=6), CONFIGS)
def test_signatures_equal_datasketch_value_for_value(texts: list[str], config: SketchConfig) -> None:
    ours = minhash.signatures(pa.array(texts, pa.string()), config)
    assert ours.shape == (len(texts), config.num_hashes)
    for row, text in zip(ours, texts, strict=True):
        theirs = plain_signature(text, config)
        assert row.dtype == theirs.hashvalues.dtype
        assert row.tolist() == theirs.hashvalues.tolist()


@settings(deadline=None)
@given(st.lists(TEXT, max_size=6), CONFIGS)
def test_a_sketch_is_the_normal_forms_hash_the_number_of_shingles_and_the_keys(texts: list[str], config: SketchConfig) -> None:
    array = pa.array(texts, pa.string())
    found = minhash.sketch(array, config)
    assert found.content.tolist() == [plain_content(text, config) for text in texts]
    assert found.num_shingles.dtype == np.int32
    assert found.num_shingles.tolist() == [len(plain_shingles(text, config)) for text in texts]
    assert found.keys.tolist() == minhash.band_keys(minhash.signatures(array, config), config).tolist()


@settings(deadline=None)
@given(st.lists(TEXT, max_size=6), CONFIGS)
def test_shingle_hashes_are_the_sorted_distinct_xxh64_of_the_plain_shingles(texts: list[str], config: SketchConfig) -> None:
    expected = [sorted(set(map(xxhash.xxh64_intdigest, plain_shingles(text, config)))) for text in texts]
    assert shingle_sets(texts, config) == expected


@settings(deadline=None, max_examples=300)
@given(*[st.text(st.sampled_from("aAé\u00ad12 .漢"), max_size=5)] * 2, st.sampled_from(FORMS))
def test_contents_are_equal_exactly_where_normal_forms_are(one: str, other: str, form: dict[str, str]) -> None:
    config = SketchConfig(**form)  # type: ignore[arg-type]
    content = minhash.sketch(pa.array([one, other]), config).content
    assert (content[0] == content[1]).all() == (minhash.normalise(one, config) == minhash.normalise(other, config))


@pytest.mark.parametrize(
    "form",
    [*FORMS[:3], *(pytest.param(form, marks=pytest.mark.soak) for form in FORMS[3:])],
    ids=["-".join(map(str, form.values())) for form in FORMS],
)
def test_every_code_point_is_read_by_the_kernel_as_by_the_plain_normal_form(form: dict[str, str]) -> None:
    config, texts = SketchConfig(**form), every_code_point()  # type: ignore[arg-type]
    expected = [plain_content(text, config) for text in texts]
    assert minhash.sketch(pa.array(texts), config).content.tolist() == expected


@pytest.mark.parametrize("form", [FORMS[3], FORMS[4]], ids=["characters", "words"])  # those that keep and decompose most
def test_a_normal_form_has_at_most_three_times_the_bytes_and_every_word_takes_two(form: dict[str, str]) -> None:
    config = SketchConfig(**form)  # type: ignore[arg-type]
    for point in [*range(0xD800), *range(0xE000, 0x20000), *range(0x2F800, 0x2FA20), 0x30000]:
        text = f"{chr(point) * 3}a{chr(point)}"
        normal, num_bytes = minhash.normalise(text, config), len(text.encode())
        assert len(normal.encode()) + 1 <= 3 * num_bytes, hex(point)
        if config.shingle_unit == "characters":
            assert len(normal) <= num_bytes, hex(point)
        else:
            assert len(normal.split()) <= (num_bytes + 1) // 2, hex(point)


@pytest.mark.parametrize(
    ("options", "examples"),
    [
        (
            {"digits": "keep", "accents": "keep"},
            {
                "  The MILL's\twheel—turns…\n": "the mill s wheel turns",
                "ÀÉ ΣΑΣ İ Ⱥ": "àé σασ i ⱥ",
                "3.14 x² ½": "3 14 x² ½",
                "so\u00adft zero\u200dwidth": "soft zerowidth",
                "a漢字b かな 🎉❤\ufe0f!": "a 漢 字 b か な",
                "e\u0301 + = $": "e\u0301",
                "\ue000\u0007": "",
            },
        ),
        ({"digits": "zero", "accents": "keep"}, {"3.14 x2 ٣๑": "0 00 x0 00", "ก๑": "ก 0"}),
        ({"digits": "drop", "accents": "keep"}, {"3.14 x2y 2024": "xy", "a 1 b": "a b"}),
        ({"digits": "number", "accents": "keep"}, {"3.14 1.2.3 1,234,567 x12y 5. ٣٫٥": "0 0 0 0 0 x0y 0 0"}),
        ({"accents": "strip"}, {"Ünï e\u0301 ça": "uni e ca", "한 ೋ": "\u1112\u1161\u11ab \u0cc2\u0cd5", "が": "か"}),
        ({"punctuation": "keep", "digits": "keep"}, {"Don't — stop!\n\n 3.5 €👍🏽": "don't — stop! 3.5 €👍🏽"}),
        ({"punctuation": "drop_ascii"}, {"Don't — s-t.o_p! a,b [~] 3.5 «€»": "dont — stop ab 35 «€»", "!?'\"": ""}),
        ({"lower_case": False, "accents": "strip"}, {"The MILL ÉTÉ": "The MILL ETE"}),
        ({"shingle_unit": "characters"}, {" a漢字b  かな! ": "a漢字b かな"}),
    ],
)
def test_the_normal_form_is_what_the_options_say(options: dict[str, str], examples: dict[str, str]) -> None:
    config = SketchConfig(**options)  # type: ignore[arg-type]
    assert {text: minhash.normalise(text, config) for text in examples} == examples


def test_fineweb_normalises_as_datatrove_does() -> None:
    # what datatrove 0.10.1's simplify_text gives; it knows a final sigma, and leaves symbols that it does not list (№, €)
    examples = {
        "Café: 3.14 m², 1,234,567 Stück (¾)": "cafe 0 m² 0 0 stuck ¾",
        "“Don’t—STOP…” he said; e\u0301te\u0301 2024-11-26": "don t stop he said ete 0 0 0",
        "ΈΝΑ Ünïcödé İstanbul": "ενα unicode istanbul",
        "١٢٫٥ هدف v2.0.1 x1y22z": "0 هدف v0 0 x0y0z",
        "한국어 텍스트 a.5 5. 5.a": "\u1112\u1161\u11ab\u1100\u116e\u11a8\u110b\u1165 \u1110\u1166\u11a8\u1109\u1173\u1110\u1173 a 0 0 0 a",
        "naïve   coöperation\n\tSMØRREBRØD œuvre ﬁne": "naive cooperation smørrebrød œuvre ﬁne",
    }
    assert {text: minhash.normalise(text, SketchConfig(preset="fineweb")) for text in examples} == examples


def test_shingles_of_every_length_hash_as_the_xxhash_package_does() -> None:
    words = ["".join(chr(97 + i % 26) for i in range(length)) for length in range(1, 200)]
    assert shingle_sets(words, SketchConfig()) == [[xxhash.xxh64_intdigest(word.encode())] for word in words]
    assert minhash.sketch(pa.array(words), SketchConfig()).content.tolist() == [
        plain_content(word, SketchConfig()) for word in words
    ]


@pytest.mark.parametrize("num_words", [4, 5, 6, 12, 259, 260, 261, 516, 517, 3000])
@pytest.mark.parametrize("scheme", ["affine32", "affine64"])
def test_a_text_has_the_same_values_however_many_shingles_it_has(num_words: int, scheme: str) -> None:
    text, config = " ".join(random_words(random.Random(num_words), num_words)), SketchConfig(scheme=scheme)  # type: ignore[arg-type]
    assert minhash.signatures(pa.array([text]), config)[0].tolist() == plain_signature(text, config).hashvalues.tolist()
    assert shingle_sets([text], config)[0] == sorted(set(map(xxhash.xxh64_intdigest, plain_shingles(text, config))))


@pytest.mark.parametrize("form", FORMS[:3], ids=["fineweb", "plain", "characters"])
@pytest.mark.parametrize(
    "text", ["x" * 2**20, "ab, " * 2**18, "漢" * 2**18, "é" * 2**19, "7" * 2**20, " " * 2**20], ids=lambda text: text[:4]
)
def test_a_line_of_a_megabyte_is_read_like_any_other(text: str, form: dict[str, str]) -> None:
    config = SketchConfig(**form)  # type: ignore[arg-type]
    found = minhash.sketch(pa.array([text]), config)
    shingles = plain_shingles(text, config)
    assert found.content.tolist() == [plain_content(text, config)]
    assert found.num_shingles.tolist() == [len(shingles)]
    assert shingle_sets([text], config) == [sorted(map(xxhash.xxh64_intdigest, set(shingles)))]


def test_a_short_document_is_one_shingle_and_an_empty_one_has_the_empty_signature() -> None:
    config = SketchConfig()
    texts = ["two words", "", "!?", "a b c d e", "a b c d e f"]
    assert [len(values) for values in shingle_sets(texts, config)] == [1, 0, 0, 1, 2]
    assert minhash.sketch(pa.array(texts), config).num_shingles.tolist() == [1, 0, 0, 1, 2]
    values = minhash.signatures(pa.array(["two words", "Two, words!", "", "!?", None]), config)
    assert (values[0] == values[1]).all()
    assert (values[2:] == 2**32 - 1).all()
    wide = minhash.signatures(pa.array([""]), SketchConfig(scheme="affine64"))
    assert (wide == 2**64 - 1).all()


@settings(deadline=None)
@given(st.lists(TEXT, min_size=1, max_size=6), st.data())
def test_a_document_has_the_same_values_in_any_shard_slice_and_string_type(texts: list[str], data: st.DataObject) -> None:
    config, whole = SketchConfig(num_bands=2), pa.array(texts, pa.string())
    cut = data.draw(st.integers(0, len(texts)))
    parts = [minhash.sketch(part, config) for part in (whole.slice(0, cut), whole.slice(cut).cast(pa.large_string()))]
    for of_whole, *of_parts in zip(minhash.sketch(whole, config), *parts, strict=True):
        assert np.array_equal(np.concatenate(of_parts), of_whole)


def test_band_keys_are_the_xxh64_of_each_bands_rows() -> None:
    for config in (SketchConfig(num_bands=3, rows_per_band=5), SketchConfig(num_bands=3, rows_per_band=5, scheme="affine64")):
        values = minhash.signatures(pa.array(["one mill turns", "another mill turns"]), config)
        keys = minhash.band_keys(values, config)
        assert keys.tolist() == [[xxhash.xxh64_intdigest(row[5 * b : 5 * b + 5].tobytes()) for b in range(3)] for row in values]
        with pytest.raises(ValueError, match="15 hashes in uint"):
            minhash.band_keys(values[:, :-1], config)
    with pytest.raises(ValueError, match="in uint64 expected, got uint32"):
        minhash.band_keys(values.astype(np.uint32), config)


@settings(deadline=None)
@given(
    st.lists(st.one_of(st.frozensets(st.integers(0, 30)), st.builds(many, st.integers(0, 9))), min_size=1, max_size=6),
    st.data(),
)
def test_shared_counts_and_jaccard_of_pairs_equal_those_of_plain_sets(sets: list[frozenset[int]], data: st.DataObject) -> None:
    values = np.array([value for members in sets for value in sorted(members)], np.uint64)
    offsets = np.cumsum([0, *map(len, sets)])
    pairs = data.draw(st.lists(st.tuples(*[st.integers(0, len(sets) - 1)] * 2), max_size=10))
    left, right = np.array(pairs, np.int64).reshape(-1, 2).T
    shared = minhash.shared_counts(values, offsets, left, right)
    assert shared.dtype == np.int64
    assert shared.tolist() == [len(sets[i] & sets[j]) for i, j in pairs]
    expected = [len(sets[i] & sets[j]) / max(1, len(sets[i] | sets[j])) for i, j in pairs]
    assert minhash.jaccard_pairs(values, offsets, left, right).tolist() == expected


def test_a_pair_of_unknown_documents_is_refused() -> None:
    values, offsets = minhash.shingle_hashes(pa.array(["a", "b"]), SketchConfig())
    with pytest.raises(IndexError, match="there are 2"):
        minhash.jaccard_pairs(values, offsets, np.array([0]), np.array([2]))
    with pytest.raises(ValueError, match="do not make pairs"):
        minhash.shared_counts(values, offsets, np.array([0, 1]), np.array([1]))


@pytest.mark.parametrize("scheme", ["affine32", "affine64"])
def test_planted_pairs_are_proposed_as_often_as_the_curve_says(scheme: str) -> None:
    rng, config, texts = random.Random(7), SketchConfig(shingle_length=1, scheme=scheme), []  # type: ignore[arg-type]
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


@pytest.mark.parametrize(
    ("preset", "unit", "length", "bands", "rows", "num_hashes"),
    [
        ("careful", "words", 5, 14, 8, 112),
        ("fineweb", "words", 5, 14, 8, 112),
        ("nemo", "characters", 24, 20, 13, 260),
        ("redpajama", "words", 13, 9, 13, 117),
        ("lee2022", "words", 5, 450, 20, 9000),
    ],
)
def test_presets_have_the_published_numbers(preset: str, unit: str, length: int, bands: int, rows: int, num_hashes: int) -> None:
    config = SketchConfig(preset=preset)  # type: ignore[arg-type]
    assert (config.shingle_unit, config.shingle_length, config.num_bands, config.rows_per_band) == (unit, length, bands, rows)
    assert config.num_hashes == num_hashes
    text = "The Mill's wheel turned 24 times a day, café-like, as its miller had said it would."
    assert minhash.signatures(pa.array([text]), config)[0].tolist() == plain_signature(text, config).hashvalues.tolist()


def test_texts_as_they_are_but_for_white_space_are_what_nemo_and_lee_hash() -> None:
    text = "The  Café's 2nd\nMill"
    assert minhash.normalise(text, SketchConfig(preset="nemo")) == "The Café's 2nd Mill"
    assert minhash.normalise(text, SketchConfig(preset="lee2022")) == "The Café's 2nd Mill"


GIVEN = st.fixed_dictionaries(
    {},
    optional={
        "preset": st.sampled_from(list(PRESETS)),
        "shingle_length": st.integers(1, 30),
        "num_bands": st.integers(1, 30),
        "digits": st.sampled_from(["keep", "zero", "number", "drop"]),
        "lower_case": st.booleans(),
    },
)


@given(GIVEN)
def test_what_is_given_overrides_the_preset_and_a_dump_reads_as_the_same(given: dict[str, object]) -> None:
    config = SketchConfig.model_validate(given)
    assert {name: getattr(config, name) for name in given} == given
    values = PRESETS[config.preset]
    assert {name: getattr(config, name) for name in values if name not in given} == {
        name: value for name, value in values.items() if name not in given
    }
    dump = config.model_dump()
    assert set(dump) == set(SketchConfig.model_fields)
    assert SketchConfig.model_validate(dump) == config
    assert SketchConfig.model_validate_json(config.model_dump_json()) == config
    assert SketchConfig.model_validate(config) == config


@pytest.mark.parametrize(
    "wrong",
    [
        *(
            {"shingle_length": 0},
            {"num_bands": 0},
            {"min_jaccard": 0.0},
            {"bands": 14},
            {"preset": "gopher"},
            {"preset": ["nemo"]},
        ),
        *({"scheme": "legacy"}, {"digits": "some"}, {"ngram_words": 5}),
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        SketchConfig.model_validate(wrong)
