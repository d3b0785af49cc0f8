import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import tokeniser
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


def test_equal_texts_give_equal_bytes_in_another_process_with_other_threads(folder: str, tmp_path: Path) -> None:
    script = (
        "import json, sys; from models import tokeniser as t\n"
        "t.save(t.train_bpe(json.load(sys.stdin), t.TokeniserConfig(vocab_size=400)), sys.argv[1])"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7", "TOKENIZERS_PARALLELISM": "true", "RAYON_NUM_THREADS": "3"}
    command = [sys.executable, "-c", script, str(tmp_path)]
    subprocess.run(command, input=json.dumps(TEXTS), text=True, cwd=ROOT, env=environment, check=True, timeout=60)
    for path in Path(folder).iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes(), path.name


@pytest.mark.parametrize("text", NASTY)
def test_a_nasty_text_survives_encode_and_decode(folder: str, text: str) -> None:
    loaded = tokeniser.load(folder)
    assert loaded.decode(loaded.encode(text).ids, skip_special_tokens=False) == text


@given(text=st.text())
def test_any_text_survives_encode_and_decode(folder: str, text: str) -> None:
    loaded = tokeniser.load(folder)
    assert loaded.decode(loaded.encode(text).ids, skip_special_tokens=False) == text


def test_a_text_that_prints_a_special_token_cannot_forge_one(folder: str) -> None:
    loaded = tokeniser.load(folder)
    assert min(loaded.encode("".join(tokeniser.SPECIAL_TOKENS)).ids) >= len(tokeniser.SPECIAL_TOKENS)
    assert tokeniser.end_id(loaded) == 0


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


def test_training_stops_reading_once_the_sample_is_full() -> None:
    taken = []

    def texts() -> Iterator[str]:
        for text in TEXTS:
            taken.append(text)
            yield text

    tokeniser.train_bpe(texts(), TokeniserConfig(vocab_size=400, sample_bytes=1000))
    size = sum(len(text.encode()) for text in taken)
    assert 1000 <= size < 1000 + len(taken[-1].encode())


def test_nothing_to_learn_from_is_an_error() -> None:
    with pytest.raises(ValueError, match="no text to learn from"):
        tokeniser.train_bpe(["", ""], SMALL)


def test_a_file_that_is_no_tokeniser_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer\.json: not a tokeniser"):
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
