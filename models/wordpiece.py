"""WordPiece tokenisers as BERT has them: words of lower-case letters, cut into pieces; what no piece covers is [UNK].

What goes in does not come out: case and accents (unless `lower_case` is off), control characters and the kind of white space are gone,
characters beyond the alphabet and words over 100 characters become [UNK]. `tokeniser.lost` says which strings those are.
Training is deterministic, which that of `tokenizers` is not: it numbers the letters inside words in the order in which a hash table of a
random seed gives them, and breaks ties by these numbers. Here they are given to it in order, as if they were special tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

PADDING, UNKNOWN, START, SEPARATOR, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
# ids 0..4 in this order
SPECIAL_TOKENS = (PADDING, UNKNOWN, START, SEPARATOR, MASK)
PREFIX = "##"
MAX_ALPHABET = 1000
"""Characters, as `BertWordPieceTokenizer` of `tokenizers` has it (limit_alphabet)."""

_NUM_POINTS, _BLOCK_CHARS = 0x110000, 1 << 20
_WORD, _PUNCTUATION = 1, 3  # pieces that BERT's word split makes of "a", the character and "a"

Counts = npt.NDArray[np.int64]


def train(
    texts: Iterable[str], vocab_size: int, min_frequency: int, alphabet_size: int, *, lower_case: bool
) -> tokenizers.Tokenizer:
    """Learn a WordPiece vocabulary from `texts`, which are gone through twice.

    Args:
        alphabet_size: characters that words may have; the rarer ones are [UNK].
    """
    texts = list(texts) if isinstance(texts, Iterator) else texts
    normalizer = normalizers.BertNormalizer(lowercase=lower_case)
    alphabet, inside = _alphabet(texts, normalizer, alphabet_size)
    learner = tokenizers.Tokenizer(models.WordPiece(unk_token=UNKNOWN))
    learner.normalizer, learner.pre_tokenizer = normalizer, pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=[*SPECIAL_TOKENS, *(PREFIX + char for char in inside)],
        # with as many as there are to be, no other character is let in
        limit_alphabet=len(alphabet),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    learner.train_from_iterator(texts, trainer)
    return _finished(learner.get_vocab(with_added_tokens=False), normalizer)


def _finished(vocab: dict[str, int], normalizer: normalizers.Normalizer) -> tokenizers.Tokenizer:
    tokeniser = tokenizers.Tokenizer(models.WordPiece(vocab=vocab, unk_token=UNKNOWN))
    tokeniser.normalizer, tokeniser.pre_tokenizer = normalizer, pre_tokenizers.BertPreTokenizer()
    tokeniser.decoder = decoders.WordPiece(prefix=PREFIX)
    tokeniser.add_special_tokens(list(SPECIAL_TOKENS))
    tokeniser.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {SEPARATOR}",
        pair=f"{START} $A {SEPARATOR} $B:1 {SEPARATOR}:1",
        special_tokens=[(name, vocab[name]) for name in (START, SEPARATOR)],
    )
    return tokeniser


def _alphabet(texts: Iterable[str], normalizer: normalizers.Normalizer, alphabet_size: int) -> tuple[list[str], list[str]]:
    """The most frequent characters, and those of them that words hold behind their first one; both by code point."""
    kinds = np.zeros(_NUM_POINTS, np.uint8)
    counts, inside = np.zeros(_NUM_POINTS, np.int64), np.zeros(_NUM_POINTS, bool)
    for points in _blocks(texts, normalizer):
        _learn_kinds(kinds, np.unique(points))
        counts += np.bincount(points, minlength=_NUM_POINTS)
        in_word = kinds[points] == _WORD
        inside[points[1:][in_word[1:] & in_word[:-1]]] = True
    counts[(kinds != _WORD) & (kinds != _PUNCTUATION)] = 0
    # a stable sort: of equal ones the smaller code point
    ranked = np.argsort(-counts, kind="stable")[: min(alphabet_size, np.count_nonzero(counts))]
    chosen = np.sort(ranked)
    return [chr(point) for point in chosen], [chr(point) for point in chosen[inside[chosen]]]


def _blocks(texts: Iterable[str], normalizer: normalizers.Normalizer) -> Iterator[npt.NDArray[np.uint32]]:
    """Code points of the normalised texts, a space between two, about a million at a time."""
    parts: list[str] = []
    num_chars = 0
    for text in texts:
        parts.append(normalizer.normalize_str(text))
        num_chars += len(parts[-1])
        if num_chars >= _BLOCK_CHARS:
            yield np.frombuffer(" ".join(parts).encode("utf-32-le"), np.uint32)
            parts, num_chars = [], 0
    yield np.frombuffer(" ".join([*parts, ""]).encode("utf-32-le"), np.uint32)


def _learn_kinds(kinds: npt.NDArray[np.uint8], points: npt.NDArray[np.uint32]) -> None:
    """Note for new characters what BERT's word split does with them: into one word with its neighbours, between them, or away."""
    split = pre_tokenizers.BertPreTokenizer()
    for point in points[kinds[points] == 0].tolist():
        kinds[point] = len(split.pre_tokenize_str(f"a{chr(point)}a"))
