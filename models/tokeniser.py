"""Tokenisers: byte-level BPE, WordPiece (`wordpiece.py`) or anybody's (`given_tokeniser.py`), as a folder for `AutoTokenizer`.

Training is deterministic: the same texts in any order give the same bytes of tokenizer.json, whatever the number of threads.
With BPE every string survives encode and decode unchanged: all 256 bytes are in the alphabet and nothing is normalised.
Costs on 2 cores: about 2 s to train 4096 tokens on 10 MB. Imports neither torch nor transformers, so a Dask worker
that encodes pays nothing for them. Set TOKENIZERS_PARALLELISM before a process forks (infra/settings.py does), or `tokenizers` warns.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import tokenizers
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from tokenizers import decoders, pre_tokenizers, trainers
from tokenizers.models import BPE, Unigram, WordPiece

from infra import storage
from infra.errors import InputError
from infra.ids import digest_of
from models import wordpiece

END_OF_TEXT = "<|endoftext|>"
PADDING = "<|pad|>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
# ids 0..3 in this order
SPECIAL_TOKENS = (END_OF_TEXT, PADDING, TURN_START, TURN_END)

# Llama 3's word split (its tokenizer.json; llama.cpp knows it as "llama-bpe"): digits in threes, line ends apart
WORD_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# ChatML; the generation marks let trainers compute the loss on the assistant's words only
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


FILES = ("chat_template.jinja", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json")
"""What a tokeniser's folder may hold; a vocabulary in files of its own is in tokenizer.json, too."""

# Strings of one kind each that a tokeniser may not give back; the names say what is then lost
PROBES = {
    "capitals": "A Mill In Delhi",
    "accents": "café, naïve, Łódź",
    "line ends and runs of spaces": "a\n\n  b\tc ",
    "spaces beside punctuation": "e.g. a ,b ( c )...",
    "Chinese without spaces": "我们在磨坊里",
    "right-to-left letters with marks": "שָׁלוֹם ٱلسَّلَامُ",
    "emoji of several parts": "👩‍👩‍👧‍👦🏳️‍🌈",
    "rare letters": "ᚠᚢᚦᚨᚱᚲ",
    "control characters": "a\x00b\x07c\u200bd",
    "words over 100 characters": "ab" * 60,
}


def from_anywhere(given: str) -> str:
    """A folder is made absolute where it is read, because a worker runs in another one; a name on the hub stays."""
    path = Path(given).expanduser()
    is_path = given and "://" not in given and (given.startswith((".", "~")) or path.exists())
    return str(path.absolute()) if is_path else given


class TokeniserConfig(BaseModel):
    """Which tokeniser, and how it is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["bpe", "wordpiece"] = "bpe"
    """bpe: byte-level, every text comes back as it was; for models that write. wordpiece: as BERT's, for models that only read; it loses
    case and rare characters."""
    tokeniser: str = ""
    """A tokeniser to be used instead of training one: a folder that `AutoTokenizer` loads, or, where there is none of that name, a
    name on the Hugging Face hub."""
    vocab_size: int = Field(4096, ge=256 + len(SPECIAL_TOKENS), le=1_000_000)
    """Tokens, special ones and the alphabet (256 bytes, or characters) included. A small corpus may yield fewer. Above 65535 shards take
    4 bytes a token."""
    sample_bytes: int = Field(20_000_000, ge=1)
    """UTF-8 bytes of text to learn from: documents of the training split are drawn until this is reached. Memory grows with it."""
    seed: int = Field(1, ge=0, lt=2**32)
    """Which documents are drawn: by a hash of it and of their doc_id, so in whatever shards and order they come."""
    min_frequency: int = Field(2, ge=1)
    """Times that a pair must occur to become a token."""
    lower_case: bool | None = None
    """wordpiece only: whether case and accents are taken away. null: they are."""
    alphabet_size: int | None = Field(None, ge=1)
    """wordpiece only: characters that words may have, the most frequent ones of the sample; others are [UNK]. null: 1000, or a quarter of
    `vocab_size` if that is less. Each costs up to two tokens."""

    @field_validator("tokeniser")
    @classmethod
    def _from_anywhere(cls, given: str) -> str:
        return from_anywhere(given)

    @model_validator(mode="after")
    def _belongs_together(self) -> TokeniserConfig:
        trained = {"kind": self.kind != "bpe", "lower_case": self.lower_case is not None, "alphabet_size": self.alphabet_size}
        if self.tokeniser and (wrong := [name for name, given in trained.items() if given]):
            raise ValueError(f"tokeniser: what is given is not trained, so leave out {' and '.join(wrong)}")
        if self.kind == "bpe" and (wrong := [name for name in ("lower_case", "alphabet_size") if trained[name]]):
            raise ValueError(f"{' and '.join(wrong)}: only for kind wordpiece; a byte-level BPE has every byte and keeps case")
        if self.alphabet_size and 2 * self.alphabet_size + len(wordpiece.SPECIAL_TOKENS) > self.vocab_size:
            raise ValueError(
                f"alphabet_size {self.alphabet_size} may take twice as many tokens, and vocab_size is {self.vocab_size}"
            )
        return self


class Roles(NamedTuple):
    """What a tokeniser's ids stand for."""

    vocab_size: int
    """One more than the highest id."""
    end: int
    """Closes a document."""
    padding: int | None
    """Fills up batches; None: it has no such token."""
    unknown: int | None
    """Stands for what has no token; None: there is no such text."""
    mask: int | None = None
    """Stands for what a masked model is to guess; None: it has no such token."""
    continuing: tuple[int, ...] = ()
    """Parts of words that go on with a word, WordPiece's "##"; none of other tokenisers."""


def train(texts: Iterable[str], config: TokeniserConfig) -> tokenizers.Tokenizer:
    """Learn a tokeniser of `config.kind` from all of `texts`.

    Raises:
        InputError: `texts` holds no text.
    """
    if config.kind == "bpe":
        return train_bpe(texts, config)
    size = config.alphabet_size or min(wordpiece.MAX_ALPHABET, config.vocab_size // 4)
    learned = wordpiece.train(texts, config.vocab_size, config.min_frequency, size, lower_case=config.lower_case is not False)
    if learned.get_vocab_size() == len(wordpiece.SPECIAL_TOKENS):
        raise InputError("tokeniser: there is no text to learn from; the training split is empty")
    return learned


def train_bpe(texts: Iterable[str], config: TokeniserConfig) -> tokenizers.Tokenizer:
    """Learn a byte-level BPE from all of `texts`.

    Raises:
        InputError: `texts` holds no text.
    """
    tokeniser = tokenizers.Tokenizer(BPE())
    tokeniser.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(WORD_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokeniser.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    num_chars = 0

    def counted() -> Iterable[str]:
        nonlocal num_chars
        for text in texts:
            num_chars += len(text)
            yield text

    tokeniser.train_from_iterator(counted(), trainer)
    if not num_chars:
        raise InputError("tokeniser: there is no text to learn from; the training split is empty")
    return tokeniser


def save(tokeniser: tokenizers.Tokenizer, folder: str) -> list[str]:
    """Write the Hugging Face folder of a tokeniser that was trained here; returns its file names. Equal tokenisers give equal bytes."""
    if isinstance(tokeniser.model, WordPiece):
        kept = [wordpiece.UNKNOWN, wordpiece.START, wordpiece.SEPARATOR, wordpiece.PADDING, wordpiece.MASK]
        names = dict(zip(("unk_token", "cls_token", "sep_token", "pad_token", "mask_token"), kept, strict=True))
        more: dict[str, Any] = {"model_input_names": ["input_ids", "token_type_ids", "attention_mask"]}
    else:
        names = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT, "pad_token": PADDING}
        more = {"additional_special_tokens": [TURN_START, TURN_END], "chat_template": CHAT_TEMPLATE}
    common = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    storage.write_bytes(storage.join(folder, "tokenizer.json"), tokeniser.to_str(pretty=True).encode())
    storage.write_json(storage.join(folder, "tokenizer_config.json"), {**common, **names, **more})
    storage.write_json(storage.join(folder, "special_tokens_map.json"), names)
    return ["special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"]


def load(folder: str) -> tokenizers.Tokenizer:
    """Read a tokeniser for encoding corpora: a special token's name inside a text is encoded as plain text, nothing is cut or filled up.

    Raises:
        StorageError: no tokenizer.json there.
        InputError: it is not a tokeniser, has no token that closes a document, or takes that token's name in a text for the token.
    """
    return load_with_roles(folder)[0]


def shared(folder: str) -> tuple[tokenizers.Tokenizer, Roles]:
    """What `load` and `roles` give, parsed once in a process while the files stay the same: it costs as much as encoding 100 kB.

    Who gets it must not change it.
    """
    there = [name for name in FILES if storage.exists(storage.join(folder, name))]
    return _parsed_once(
        folder, digest_of(*(part for name in there for part in (name, storage.read_bytes(storage.join(folder, name)))))
    )


@lru_cache(maxsize=1)
def _parsed_once(folder: str, digest: str) -> tuple[tokenizers.Tokenizer, Roles]:
    return load_with_roles(folder)


def load_with_roles(folder: str) -> tuple[tokenizers.Tokenizer, Roles]:
    """What `load` and `roles` give."""
    tokeniser = _parsed(folder)
    ids = _roles(tokeniser, folder)
    end = tokeniser.id_to_token(ids.end) or ""
    if not tokeniser.get_added_tokens_decoder().get(ids.end, tokenizers.AddedToken("", special=True)).special:
        raw = json.loads(tokeniser.to_str())
        for token in raw["added_tokens"]:
            token["special"] |= token["id"] == ids.end
        tokeniser = tokenizers.Tokenizer.from_str(json.dumps(raw))
    tokeniser.no_truncation()
    tokeniser.no_padding()
    # a crawled page that prints "<|endoftext|>" must not forge the end of a document
    tokeniser.encode_special_tokens = True
    if forged := [name for name, one in _special(tokeniser, ids.end).items() if one in _ids_around(tokeniser, name)]:
        _part_names(tokeniser, forged)
        if ids.end in _ids_around(tokeniser, end):
            raise InputError(
                f"{folder}: a text that prints {end!r} would forge the end of a document, for this tokeniser takes it for the token; "
                "use another tokeniser (tokenise.tokeniser)"
            )
    return tokeniser, ids


def roles(folder: str) -> Roles:
    """The ids that training needs to know, by the names in the folder's configuration.

    Raises:
        StorageError: no tokenizer.json there.
        InputError: it is not a tokeniser, or has no token that closes a document: neither an eos_token nor a sep_token.
    """
    return _roles(_parsed(folder), folder)


def _roles(tokeniser: tokenizers.Tokenizer, folder: str) -> Roles:
    names = token_names(folder)
    vocab = tokeniser.get_vocab(with_added_tokens=True)
    end = names.get("eos_token") or names.get("sep_token")
    if end is None or end not in vocab:
        what = (
            "names neither an eos_token nor a sep_token"
            if end is None
            else f"closes documents with {end!r}, which is no token of it"
        )
        raise InputError(
            f"{folder}: the tokeniser {what}, so documents cannot be told apart; add one to its tokenizer_config.json, or use another"
        )
    # a Unigram model names its unknown piece by its id, and does not tell it but in its file
    by_id = json.loads(tokeniser.to_str())["model"].get("unk_id") if isinstance(tokeniser.model, Unigram) else None
    unknown = getattr(tokeniser.model, "unk_token", None)
    prefix = tokeniser.model.continuing_subword_prefix if isinstance(tokeniser.model, WordPiece) else None
    return Roles(
        vocab_size=max(vocab.values()) + 1,
        end=vocab[end],
        padding=vocab.get(names.get("pad_token", "")),
        unknown=vocab.get(unknown) if unknown else by_id,
        mask=vocab.get(names.get("mask_token", "")),
        continuing=tuple(sorted(one for piece, one in vocab.items() if piece.startswith(prefix))) if prefix else (),
    )


def token_names(folder: str) -> dict[str, str]:
    """The special tokens that the folder's configuration names, by their roles (`eos_token` …)."""
    found: dict[str, str] = {}
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        path = storage.join(folder, file)
        given = storage.read_json(path) if storage.exists(path) else {}
        for role, name in given.items():
            plain = name.get("content") if isinstance(name, dict) else name
            if role.endswith("_token") and isinstance(plain, str):
                found[role] = plain
    return found


def lost(tokeniser: tokenizers.Tokenizer) -> list[str]:
    """Which of PROBES do not come back as they were."""
    return [name for name, text in PROBES.items() if decoded(tokeniser, text) != text]


def decoded(tokeniser: tokenizers.Tokenizer, text: str) -> str:
    """What is left of a text that was encoded."""
    return tokeniser.decode(tokeniser.encode(text, add_special_tokens=False).ids, skip_special_tokens=False)


def _parsed(folder: str) -> tokenizers.Tokenizer:
    path = storage.join(folder, "tokenizer.json")
    data = storage.read_bytes(path)
    try:
        return tokenizers.Tokenizer.from_str(data.decode())
    except Exception as error:
        raise InputError(f"{path}: not a tokeniser ({error})") from error


def _special(tokeniser: tokenizers.Tokenizer, end: int) -> dict[str, int]:
    """Name → id of the special tokens, the end of a document among them."""
    added = {token.content: one for one, token in tokeniser.get_added_tokens_decoder().items() if token.special}
    return {tokeniser.id_to_token(end) or "": end, **added}


def _ids_around(tokeniser: tokenizers.Tokenizer, name: str) -> set[int]:
    """The ids of texts that print a name."""
    return {one for text in (name, f"a{name}a", f"a {name} a") for one in tokeniser.encode(text, add_special_tokens=False).ids}


def _part_names(tokeniser: tokenizers.Tokenizer, names: list[str]) -> None:
    """Split behind the first character of these names: Unigram and WordLevel models have them among their pieces, and would find them."""
    first = "|".join(f"{re.escape(name[0])}(?={re.escape(name[1:])})" for name in names if len(name) > 1)
    if first:
        split = pre_tokenizers.Split(tokenizers.Regex(first), behavior="isolated")
        before = [tokeniser.pre_tokenizer] if tokeniser.pre_tokenizer is not None else []
        tokeniser.pre_tokenizer = pre_tokenizers.Sequence([*before, split])
