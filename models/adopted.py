"""Models of other makers as a Hugging Face folder of ours: a folder, a trained version, a name on the hub, or a GGUF file.

Safetensors are copied byte for byte, once it is known that transformers loads them whole; a pickle is refused, and no code that comes with
a model is run. The weights of a GGUF file are brought back to float32 (4 bytes a parameter), whatever they were quantised to. Added are a
chat template, where there is none (models/chat.py), and the ids that end an answer. Memory: the model in float32.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra import storage
from infra.dataset import file_entry
from infra.errors import InputError
from models import chat, given_model, given_tokeniser

if TYPE_CHECKING:
    import gguf  # noqa: F401 - transformers reads such files by it

KEY = "adopt.checkpoint"
GGUF = ".gguf"
TEMPLATE_FILE = "chat_template.jinja"


def digests(given: str) -> Mapping[str, str]:
    """{file: digest} of what a checkpoint is made of.

    Raises:
        InputError: there is no such checkpoint, or none in safetensors.
    """
    if given.endswith(GGUF):
        if not Path(given).is_file():
            raise InputError(f"{KEY}: {given}: no such file")
        return {"checkpoint.gguf": file_entry(str(Path(given).parent), Path(given).name).digest}
    with _named():
        place = given_model.files_of(given)
        words = [name for name in storage.list_folder(place) if name in given_model.TOKENISER]
        return {**given_model.digests(given), **{f"checkpoint/{name}": file_entry(place, name).digest for name in words}}


def adopt(given: str, folder: Path) -> dict[str, Any]:
    """Write the model's folder, and what is to be said of it.

    Raises:
        InputError: there is no such checkpoint, it is not whole or not in safetensors, it does not continue texts, or its tokeniser is none
            that texts can be encoded with.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _named():
        model = _from_gguf(given, folder) if given.endswith(GGUF) else _copied(given, folder)
    kind = _with_template(folder)
    words = given_tokeniser.loaded(str(folder), given)
    model.generation_config.eos_token_id = chat.stops(words, model.generation_config.eos_token_id)
    model.generation_config.save_pretrained(folder)
    rows = model.get_input_embeddings().num_embeddings
    if len(words) > rows:
        raise InputError(f"{KEY}: {given}: its tokeniser has {len(words):,} tokens, and the model has {rows:,} embeddings")
    return {
        "family": model.config.model_type,
        "objective": "causal",
        "num_parameters": sum(one.numel() for one in model.parameters()),
        "vocab_size": len(words),
        "chat_template": kind,
    }


def _copied(given: str, folder: Path) -> Any:
    """The files of a checkpoint as they are, once its model was loaded from them."""
    if given_model.is_masked(given):
        raise InputError(f"{KEY}: {given}: a masked model does not write texts; give one that does (…ForCausalLM)")
    model = given_model.load(given, None)
    given_tokeniser.adopt(given_model.files_of(given), str(folder))
    with given_model.local(given) as source:
        for name in storage.list_folder(source):
            if any(fnmatch(name, pattern) for pattern in given_model.MADE_OF):
                with storage.open_read(storage.join(source, name)) as read, (folder / name).open("wb") as written:
                    while block := read.read(1 << 22):
                        written.write(block)
    return model


def _from_gguf(given: str, folder: Path) -> Any:
    """The weights of a GGUF file in float32, and its tokeniser."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = Path(given)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            str(path.parent), gguf_file=path.name, dtype=torch.float32, trust_remote_code=False, local_files_only=True
        )
        words = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name, local_files_only=True)
    except Exception as error:  # of whatever the reader makes of the file
        why = " ".join(str(error).split())[:300]
        raise InputError(f"{KEY}: {given}: transformers does not read this GGUF file ({why})") from error
    # what was read counts as quantised, though its weights are not any more, and such a model is not saved
    del model.config.quantization_config
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(model.config, dtype=torch.float32, trust_remote_code=False)
    plain.save_pretrained(folder, state_dict=model.state_dict())
    words.save_pretrained(folder)
    return model


def _with_template(folder: Path) -> str:
    """Add a chat template where there is none; which one the model has."""
    config = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    if config.get("chat_template") or (folder / TEMPLATE_FILE).exists():
        return "own"
    words = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    names = {token["content"]: token["id"] for token in words.get("added_tokens", [])}
    kind, template = chat.template_for(names)
    (folder / TEMPLATE_FILE).write_text(template, "utf-8")
    return kind


@contextmanager
def _named() -> Iterator[None]:
    """Errors of what is read as for `pretrain.model.from_checkpoint` or `tokenise.tokeniser` name this step's key instead."""
    try:
        yield
    except InputError as error:
        told = str(error)
        for other in (given_model.KEY, given_tokeniser.KEY):
            told = told.replace(other, KEY)
        raise InputError(told) from error
