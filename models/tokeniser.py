"""Byte-level BPE tokenisers, kept as a Hugging Face folder that `AutoTokenizer.from_pretrained` loads offline.

Training is deterministic: the same texts in the same order give the same bytes of tokenizer.json, whatever the number of
threads. Every string survives encode and decode unchanged: all 256 bytes are in the alphabet and nothing is normalised.
Costs on 2 cores: about 2 s to train 4096 tokens on 10 MB. Imports neither torch nor transformers, so a Dask worker
that encodes pays nothing for them. Set TOKENIZERS_PARALLELISM before a process forks (infra/settings.py does), or `tokenizers` warns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import tokenizers
from pydantic import BaseModel, ConfigDict, Field
from tokenizers import decoders, models, pre_tokenizers, trainers

from infra import storage
from infra.errors import InputError

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


class TokeniserConfig(BaseModel):
    """How the tokeniser is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vocab_size: int = Field(4096, ge=256 + len(SPECIAL_TOKENS), le=1_000_000)
    """Tokens, special ones and the 256 bytes included. A small corpus may yield fewer. Above 65535 shards take 4 bytes a token."""
    sample_bytes: int = Field(20_000_000, ge=1)
    """UTF-8 bytes of text to learn from: documents are taken from the front until this is reached. Memory grows with it."""
    min_frequency: int = Field(2, ge=1)
    """Times that a pair must occur to become a token."""


def train_bpe(texts: Iterable[str], config: TokeniserConfig) -> tokenizers.Tokenizer:
    """Learn a byte-level BPE from the first `config.sample_bytes` of `texts`, whole documents.

    Raises:
        ValueError: `texts` holds no text.
    """
    tokeniser = tokenizers.Tokenizer(models.BPE())
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
    sample = _Sample(texts, config.sample_bytes)
    tokeniser.train_from_iterator(sample, trainer)
    if not sample.num_bytes:
        raise InputError("tokeniser: there is no text to learn from; the training split is empty")
    return tokeniser


class _Sample:
    """The front of a stream of texts, with a count of the bytes taken."""

    def __init__(self, texts: Iterable[str], max_bytes: int) -> None:
        self._texts = texts
        self._max_bytes = max_bytes
        self.num_bytes = 0

    def __iter__(self) -> Iterator[str]:
        for text in self._texts:
            self.num_bytes += len(text.encode())
            yield text
            if self.num_bytes >= self._max_bytes:
                return


def save(tokeniser: tokenizers.Tokenizer, folder: str) -> list[str]:
    """Write the Hugging Face folder; returns its file names. Equal tokenisers give equal bytes."""
    storage.write_bytes(storage.join(folder, "tokenizer.json"), tokeniser.to_str(pretty=True).encode())
    storage.write_json(
        storage.join(folder, "tokenizer_config.json"),
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": END_OF_TEXT,
            "eos_token": END_OF_TEXT,
            "pad_token": PADDING,
            "additional_special_tokens": [TURN_START, TURN_END],
            "chat_template": CHAT_TEMPLATE,
            "clean_up_tokenization_spaces": False,
        },
    )
    storage.write_json(
        storage.join(folder, "special_tokens_map.json"),
        {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT, "pad_token": PADDING},
    )
    return ["special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"]


def load(folder: str) -> tokenizers.Tokenizer:
    """Read a tokeniser for encoding corpora: a special token's name inside a text is encoded as plain text.

    Raises:
        StorageError: no tokenizer.json there.
        ValueError: it is not a tokeniser, or has no end-of-text token.
    """
    path = storage.join(folder, "tokenizer.json")
    data = storage.read_bytes(path)
    try:
        tokeniser = tokenizers.Tokenizer.from_str(data.decode())
    except Exception as error:
        raise ValueError(f"{path}: not a tokeniser ({error})") from error
    end_id(tokeniser)
    # a crawled page that prints "<|endoftext|>" must not forge the end of a document
    tokeniser.encode_special_tokens = True
    return tokeniser


def end_id(tokeniser: tokenizers.Tokenizer) -> int:
    """Id of the token that closes a document.

    Raises:
        ValueError: this tokeniser has none.
    """
    found = tokeniser.token_to_id(END_OF_TEXT)
    if found is None:
        raise ValueError(f"tokeniser: it has no {END_OF_TEXT} token, so documents cannot be told apart")
    return int(found)
