"""Tokenisers of other makers: their own bytes, the token that closes documents, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers

from infra.errors import InputError
from models import given_tokeniser, tokeniser

ROOT = Path(__file__).resolve().parents[2]
TEXTS = ["the mill grinds corn", "a river turns the mill", "corn and rye"] * 20


def write(folder: Path, words: tokenizers.Tokenizer, **config: object) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    words.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **config}))
    return str(folder)


def unigram() -> tokenizers.Tokenizer:
    """As T5 and XLM-R are made: special tokens are pieces of the model, too."""
    words = tokenizers.Tokenizer(models.Unigram())
    words.normalizer, words.pre_tokenizer, words.decoder = normalizers.NFKC(), pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=60, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    words.train_from_iterator([*TEXTS, "< / s > p d u n k"], trainer)
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return words


def bpe(end: AddedToken) -> tokenizers.Tokenizer:
    words = tokenizers.Tokenizer(models.BPE())
    words.pre_tokenizer, words.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    words.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False))
    words.add_tokens([end])
    return words


def test_a_folders_files_are_copied_byte_by_byte_and_digested(tmp_path: Path) -> None:
    given = write(tmp_path / "given", bpe(AddedToken("<end>", special=True)), eos_token="<end>", chat_template="{{ messages }}")
    (tmp_path / "given" / "model.safetensors").write_bytes(b"heavy")
    before = given_tokeniser.digests(given)
    assert set(before) == {"tokeniser/tokenizer.json", "tokeniser/tokenizer_config.json"}
    names = given_tokeniser.adopt(given, str(tmp_path / "copy"))
    assert names == ["tokenizer.json", "tokenizer_config.json"] == sorted(path.name for path in (tmp_path / "copy").iterdir())
    for name in names:
        assert (tmp_path / "copy" / name).read_bytes() == (tmp_path / "given" / name).read_bytes()
    assert given_tokeniser.digests(str(tmp_path / "copy")) == before
    (tmp_path / "given" / "tokenizer_config.json").write_text('{"eos_token": "a"}')
    assert given_tokeniser.digests(given)["tokeniser/tokenizer_config.json"] != before["tokeniser/tokenizer_config.json"]


@pytest.mark.parametrize("special", [True, False])
def test_the_name_of_the_closing_token_in_a_text_is_text(special: bool, tmp_path: Path) -> None:
    folder = write(tmp_path, bpe(AddedToken("<end>", special=special, normalized=False)), eos_token="<end>")
    end, words = tokeniser.roles(folder).end, tokeniser.load(folder)
    assert end == words.get_vocab_size() - 1 and words.id_to_token(end) == "<end>"
    assert end in tokenizers.Tokenizer.from_file(f"{folder}/tokenizer.json").encode("a<end>b").ids  # so it would be, unguarded
    for text in ("<end>", "a<end>b", "the mill <end><end> corn"):
        assert end not in words.encode(text).ids
        assert tokeniser.decoded(words, text) == text


def test_pieces_of_the_model_that_are_special_are_not_found_in_a_text(tmp_path: Path) -> None:
    folder = write(tmp_path, unigram(), eos_token="</s>", pad_token="<pad>", unk_token="<unk>")
    words, ids = tokeniser.load(folder), tokeniser.roles(folder)
    assert (ids.end, ids.padding, ids.unknown) == (1, 0, 2)
    unguarded = tokenizers.Tokenizer.from_file(f"{folder}/tokenizer.json")
    unguarded.encode_special_tokens = True
    assert 1 in unguarded.encode("the</s>mill", add_special_tokens=False).ids
    for text in ("</s>", "the</s>mill", "corn </s></s> <pad> rye", "＜/s＞"):  # the last one is </s> once it is normalised
        found = words.encode(text, add_special_tokens=False).ids
        assert not {0, 1} & set(found)
    assert tokeniser.decoded(words, "the</s>mill <pad>") == "the</s>mill <pad>"
    # all else is as it was
    for text in TEXTS[:3]:
        assert words.encode(text, add_special_tokens=False).ids == unguarded.encode(text, add_special_tokens=False).ids
    assert words.encode("the Q mill", add_special_tokens=False).ids.count(2) == 1


def test_what_cuts_and_fills_up_texts_is_switched_off(tmp_path: Path) -> None:
    words = bpe(AddedToken("<end>", special=True))
    words.enable_truncation(max_length=4)
    words.enable_padding(pad_id=0, length=8)
    folder = write(tmp_path, words, eos_token="<end>")
    loaded = tokeniser.load(folder)
    long, short = loaded.encode_batch_fast(["the mill grinds corn and rye " * 10, "a"], add_special_tokens=False)
    assert len(long.ids) > 40 and len(short.ids) == 1


def test_sep_token_closes_documents_where_there_is_no_eos_token_and_defaults_of_the_class_are_written_down(
    tmp_path: Path,
) -> None:
    """A folder of BERT's own kind: a vocabulary, and little else."""
    given = tmp_path / "given"
    given.mkdir()
    (given / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "mi", "##ll"]))
    (given / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    assert given_tokeniser.digests(str(given)) == given_tokeniser.digests(str(given))
    names = given_tokeniser.adopt(str(given), str(tmp_path / "copy"))
    assert names == ["tokenizer.json", "tokenizer_config.json"]
    ids = tokeniser.roles(str(tmp_path / "copy"))
    assert (ids.vocab_size, ids.end, ids.padding, ids.unknown) == (8, 3, 0, 1)
    assert tokeniser.load(str(tmp_path / "copy")).encode("The mill", add_special_tokens=False).tokens == ["the", "mi", "##ll"]
    assert tokeniser.token_names(str(tmp_path / "copy"))["sep_token"] == "[SEP]"
    assert str(tmp_path) not in (tmp_path / "copy" / "tokenizer_config.json").read_text()


def test_ids_above_the_vocabulary_count(tmp_path: Path) -> None:
    words = bpe(AddedToken("<end>", special=True))
    raw = json.loads(words.to_str())
    raw["model"]["vocab"]["far"] = 70_000
    folder = write(tmp_path, tokenizers.Tokenizer.from_str(json.dumps(raw)), eos_token="<end>")
    assert tokeniser.roles(folder).vocab_size >= 70_001


def test_what_cannot_be_used_is_refused_with_what_to_do(tmp_path: Path) -> None:
    from transformers import ByT5Tokenizer

    ByT5Tokenizer().save_pretrained(tmp_path / "slow")
    (tmp_path / "empty").mkdir()
    nameless = write(tmp_path / "nameless", bpe(AddedToken("<end>", special=True)))
    copy = str(tmp_path / "copy")
    for given, said in (
        (str(tmp_path / "none"), "tokenise.tokeniser: .*none: no such folder; give a folder with a tokenizer.json"),
        (str(tmp_path / "slow"), "slow: ByT5Tokenizer is a slow tokeniser, written in Python alone"),
        (str(tmp_path / "empty"), "empty: transformers loads no tokeniser in this folder"),
        (nameless, "tokenise.tokeniser: .*nameless: the tokeniser names neither an eos_token nor a sep_token"),
    ):
        with pytest.raises(InputError, match=said):
            given_tokeniser.adopt(given, copy)
    assert not Path(copy).exists()


@pytest.mark.soak
def test_a_name_of_the_hub_is_taken_from_what_is_kept_of_it_and_one_that_is_not_is_told(tmp_path: Path) -> None:
    """The hub's own cache, as its client lays it out; no network is asked."""
    repo, commit = tmp_path / "hub" / "models--mill--words", "0" * 40
    write(repo / "snapshots" / commit, bpe(AddedToken("<end>", special=True)), eos_token="<end>")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    # it notes which files there are none of
    (repo / ".no_exist" / commit).mkdir(parents=True)
    (repo / ".no_exist" / commit / "config.json").touch()
    script = (
        "import sys; from models import given_tokeniser as g, tokeniser as t\n"
        "print(*g.adopt('mill/words', sys.argv[1])); print(t.load(sys.argv[1]).id_to_token(t.roles(sys.argv[1]).end))\n"
        "try: g.adopt('mill/none', sys.argv[1])\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path / "hub")}
    command = [sys.executable, "-c", script, str(tmp_path / "copy")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    lines = done.stdout.splitlines()
    assert lines[:2] == ["tokenizer.json tokenizer_config.json", "<end>"], done.stderr
    assert lines[2].startswith("InputError tokenise.tokeniser: mill/none: transformers loads no tokeniser of this name")
    shutil.rmtree(tmp_path / "copy")
