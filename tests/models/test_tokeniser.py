import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from infra.errors import InputError
from models import tokeniser, wordpiece
from models.tokeniser import TokeniserConfig

ROOT = Path(__file__).resolve().parents[2]
TEXTS = [f"The function read_{n} returns {n * 37} bytes of the file.\nIt raises an error if n < {n}." for n in range(400)]
SMALL = TokeniserConfig(vocab_size=400)
NASTY = [
    "",
    " ",
    "\x00\x01\x7f",
    "a\r\n\r\n\tb  \n ",
    "naïve café Ａ ﬁ ½ Ⅷ",
    "日本語の文書、ไทยไม่มีช่องว่าง العربية עברית हिन्दी",
    "👩‍👩‍👧‍👦🏳️‍🌈 e\u0301 \u200b\ufeff\u202e",
    "\U0010ffff\ue000\ufffd",
    "<|endoftext|><|pad|><|im_start|>user<|im_end|>",
    "1234567890 0x1F 3.14e-10",
    "ĠĊ\u0120\u010a",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("tokeniser"))
    tokeniser.save(tokeniser.train_bpe(TEXTS, SMALL), path)
    return path


@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
def test_equal_texts_give_equal_bytes_in_another_process_with_other_threads(
    kind: str, folder: str, pieces: str, tmp_path: Path
) -> None:
    script = (
        "import json, sys; from models import tokeniser as t\n"
        f"t.save(t.train(json.load(sys.stdin), t.TokeniserConfig(vocab_size=400, kind={kind!r})), sys.argv[1])"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7", "TOKENIZERS_PARALLELISM": "true", "RAYON_NUM_THREADS": "3"}
    command = [sys.executable, "-c", script, str(tmp_path)]
    subprocess.run(command, input=json.dumps(TEXTS), text=True, cwd=ROOT, env=environment, check=True, timeout=60)
    for path in Path(folder if kind == "bpe" else pieces).iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes(), path.name


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("pieces"))
    tokeniser.save(tokeniser.train(TEXTS, TokeniserConfig(vocab_size=400, kind="wordpiece")), path)
    return path


@pytest.mark.parametrize("text", NASTY)
def test_a_nasty_text_survives_encode_and_decode(folder: str, text: str) -> None:
    loaded = tokeniser.load(folder)
    assert loaded.decode(loaded.encode(text).ids, skip_special_tokens=False) == text


# what st.text() seldom draws: line ends, marks on marks, both directions, joiners, surrogate pairs' characters, special tokens' names
RARE = [
    "\r\n",
    "\x00",
    "e\u0301\u0323",
    "\u202eab\u202c",
    "שָׁלוֹם",
    "ٱلسَّلَامُ",
    "👩\u200d🔬",
    "🏳️\u200d🌈",
    "\u200b\ufeff",
    "\U0010ffff",
]
PARTS = st.one_of(
    st.text(), st.sampled_from([*RARE, *tokeniser.SPECIAL_TOKENS, *wordpiece.SPECIAL_TOKENS, "  ", "don't", "1234"])
)


@settings(deadline=None)
@given(text=st.lists(PARTS, max_size=12).map("".join))
def test_any_text_survives_encode_and_decode_and_forges_nothing(folder: str, text: str) -> None:
    loaded = tokeniser.load(folder)
    ids = loaded.encode(text).ids
    assert loaded.decode(ids, skip_special_tokens=False) == text
    assert min(ids, default=len(tokeniser.SPECIAL_TOKENS)) >= len(tokeniser.SPECIAL_TOKENS)


@pytest.mark.parametrize("part", ["a", "abcdefgh", "é", "我", "1", "!", "\u0301", "👩\u200d🔬", " "])
def test_a_megabyte_without_a_space_survives(folder: str, part: str) -> None:
    text = part * (1_000_000 // len(part.encode()))
    assert tokeniser.decoded(tokeniser.load(folder), text) == text


def test_a_lone_surrogate_is_no_text_and_never_comes_so_far(folder: str) -> None:
    with pytest.raises(UnicodeEncodeError):
        pa.array(["\ud800"])
    with pytest.raises((UnicodeEncodeError, TypeError)):
        tokeniser.load(folder).encode("a\ud800")


def test_nothing_is_lost_with_bpe_and_it_is_told_what_is_with_wordpiece(folder: str, pieces: str) -> None:
    assert tokeniser.lost(tokeniser.load(folder)) == []
    lost = tokeniser.lost(tokeniser.load(pieces))
    assert {"capitals", "accents", "line ends and runs of spaces", "rare letters", "words over 100 characters"} <= set(lost)


def test_wordpiece_cuts_words_as_bert_does_and_says_what_it_does_not_know(pieces: str) -> None:
    loaded, ids = tokeniser.load(pieces), tokeniser.roles(pieces)
    assert [loaded.id_to_token(number) for number in range(5)] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert (ids.end, ids.padding, ids.unknown) == (3, 0, 1) and ids.vocab_size == loaded.get_vocab_size() <= 400
    assert loaded.decode(loaded.encode("The FUNCTION. réad file.", add_special_tokens=False).ids) == "the function. read file."
    assert loaded.encode("error ᚠ error", add_special_tokens=False).tokens == ["error", "[UNK]", "error"]
    assert loaded.encode("a" * 101, add_special_tokens=False).tokens == ["[UNK]"]
    # a longest piece first, by hand: no piece of the rest is longer
    word = loaded.encode("bytesread", add_special_tokens=False).tokens
    vocab, left = loaded.get_vocab(), "bytesread"
    for place, piece in enumerate(word):
        body = piece.removeprefix("##")
        longer = [left[:size] for size in range(len(body) + 1, len(left) + 1)]
        assert not [one for one in longer if ("##" if place else "") + one in vocab]
        left = left[len(body) :]
    assert left == ""


def test_wordpiece_keeps_case_and_accents_where_it_is_told_to() -> None:
    config = TokeniserConfig(vocab_size=400, kind="wordpiece", lower_case=False)
    learned = tokeniser.train(["Réad the File Réad"] * 4, config)
    assert tokeniser.decoded(learned, "Réad the File") == "Réad the File"


def test_the_rarest_characters_are_not_in_a_small_alphabet() -> None:
    config = TokeniserConfig(vocab_size=400, kind="wordpiece", alphabet_size=3)
    vocab = tokeniser.train(["aaab aab ab c", "bc!"], config).get_vocab()
    # a 6 times, b 4 times, c twice, ! once; b and c stand inside words, and so does a
    assert {"a", "b", "c", "##a", "##b", "##c"} <= set(vocab) and not {"!", "##!"} & set(vocab)


@settings(deadline=None)
@given(text=st.lists(PARTS, max_size=12).map("".join))
def test_no_text_forges_a_special_token_of_wordpiece_but_the_unknown_one(pieces: str, text: str) -> None:
    found = set(tokeniser.load(pieces).encode(text, add_special_tokens=False).ids)
    assert not found & {0, 2, 3, 4}


def test_transformers_loads_the_wordpiece_folder_and_frames_pairs_as_bert(pieces: str) -> None:
    from transformers import AutoTokenizer

    ours, theirs = tokeniser.load(pieces), AutoTokenizer.from_pretrained(pieces, local_files_only=True)
    for text in TEXTS[:5]:
        assert theirs(text, add_special_tokens=False)["input_ids"] == ours.encode(text, add_special_tokens=False).ids
    both = theirs("the file", "an error")
    assert theirs.decode(both["input_ids"]) == "[CLS] the file [SEP] an error [SEP]"
    assert both["token_type_ids"] == [0] * 4 + [1] * (len(both["input_ids"]) - 4)
    assert (theirs.pad_token_id, theirs.unk_token_id, theirs.mask_token_id) == (0, 1, 4)


def test_wordpiece_has_the_tokens_that_the_library_itself_learns_where_nothing_is_a_tie() -> None:
    words = {
        f"{stem}{end}": 3 ** (number + 2) + other
        for number, stem in enumerate(("mill", "corn", "wed"))
        for other, end in enumerate(("", "er"))
    }
    texts = [" ".join([word] * times) for word, times in words.items()]
    config = TokeniserConfig(vocab_size=260, kind="wordpiece")
    theirs = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
    theirs.normalizer, theirs.pre_tokenizer = (
        tokenizers.normalizers.BertNormalizer(),
        tokenizers.pre_tokenizers.BertPreTokenizer(),
    )
    learner = tokenizers.trainers.WordPieceTrainer(
        vocab_size=260, min_frequency=2, special_tokens=list(wordpiece.SPECIAL_TOKENS), show_progress=False
    )
    theirs.train_from_iterator(texts, learner)
    ours = tokeniser.train(texts, config)
    assert {"mill", "corn", "wed"} <= set(ours.get_vocab())
    for word in words:
        assert ours.encode(word, add_special_tokens=False).tokens == theirs.encode(word).tokens


def test_a_text_that_prints_a_special_token_cannot_forge_one(folder: str) -> None:
    loaded = tokeniser.load(folder)
    assert min(loaded.encode("".join(tokeniser.SPECIAL_TOKENS)).ids) >= len(tokeniser.SPECIAL_TOKENS)
    assert tokeniser.roles(folder).end == 0


def test_transformers_loads_the_folder_and_agrees(folder: str) -> None:
    from transformers import AutoTokenizer

    ours, theirs = tokeniser.load(folder), AutoTokenizer.from_pretrained(folder, local_files_only=True)
    for text in [*TEXTS[:5], *(text for text in NASTY if "<|" not in text)]:
        assert theirs(text)["input_ids"] == ours.encode(text).ids
        assert theirs.decode(theirs(text)["input_ids"]) == text
    assert (theirs.eos_token, theirs.bos_token, theirs.pad_token) == ("<|endoftext|>", "<|endoftext|>", "<|pad|>")
    assert (theirs.eos_token_id, theirs.pad_token_id) == (0, 1)


def test_the_chat_template_marks_the_turns(folder: str) -> None:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]
    text = theirs.apply_chat_template(turns, tokenize=False)
    assert text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYes<|im_end|>\n"
    prompt = theirs.apply_chat_template(turns[:1], tokenize=False, add_generation_prompt=True)
    assert prompt.endswith("<|im_end|>\n<|im_start|>assistant\n")
    encoded = theirs.apply_chat_template(turns, return_dict=True, return_assistant_tokens_mask=True)
    answered = [token for token, mine in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True) if mine]
    assert theirs.decode(answered) == "Yes<|im_end|>"


@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
def test_the_order_of_the_texts_does_not_matter(kind: Literal["bpe", "wordpiece"]) -> None:
    config = TokeniserConfig(vocab_size=400, kind=kind)
    assert tokeniser.train(TEXTS, config).to_str() == tokeniser.train(iter(TEXTS[::-1]), config).to_str()


@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
def test_nothing_to_learn_from_is_an_error(kind: Literal["bpe", "wordpiece"]) -> None:
    with pytest.raises(InputError, match="no text to learn from"):
        tokeniser.train(["", ""], TokeniserConfig(vocab_size=400, kind=kind))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"lower_case": False}, "lower_case: only for kind wordpiece; a byte-level BPE has every byte"),
        ({"tokeniser": "/some", "kind": "wordpiece"}, "what is given is not trained, so leave out kind"),
        ({"kind": "wordpiece", "vocab_size": 400, "alphabet_size": 300}, "may take twice as many tokens, and vocab_size is 400"),
    ],
)
def test_settings_that_do_not_belong_together_are_told(given: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        TokeniserConfig.model_validate(given)


def test_a_folder_is_made_absolute_and_a_name_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    assert TokeniserConfig(tokeniser="mine").tokeniser == str(tmp_path / "mine")
    assert TokeniserConfig(tokeniser="./none").tokeniser == str(tmp_path / "none")
    assert TokeniserConfig(tokeniser="owner/name").tokeniser == "owner/name"


def test_a_file_that_is_no_tokeniser_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer\.json: not a tokeniser"):
        tokeniser.load(str(tmp_path))


def test_a_tokeniser_without_a_token_that_closes_documents_is_refused(folder: str, tmp_path: Path) -> None:
    for path in Path(folder).iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = tmp_path / "tokenizer_config.json"
    config.write_text(config.read_text().replace('"eos_token": "<|endoftext|>"', '"eos_token": "<|gone|>"'))
    with pytest.raises(InputError, match=r"closes documents with '<\|gone\|>', which is no token of it"):
        tokeniser.load(str(tmp_path))
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        (tmp_path / name).unlink()
    with pytest.raises(InputError, match="names neither an eos_token nor a sep_token, so documents cannot be told apart"):
        tokeniser.load(str(tmp_path))


def test_a_forked_child_encodes_without_a_warning_or_a_hang(folder: str) -> None:
    script = (
        "import os, sys; from models import tokeniser as t; w = t.load(sys.argv[1])\n"
        "w.encode_batch_fast(['some text'] * 64)\n"
        "pid = os.fork()\n"
        "if pid == 0: w.encode_batch_fast(['some text'] * 64); os._exit(0)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))"
    )
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-W", "ignore", "-c", script, folder]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
