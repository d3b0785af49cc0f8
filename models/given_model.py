"""Checkpoints that are continued: a folder that transformers loads, a trained version of ours, or a name on the Hugging Face hub.

Only safetensors are read, never a pickle, and no code that comes with a model is run (trust_remote_code stays off). A checkpoint whose
tokeniser is not the data's is refused, or gets new embeddings in which the tokens that both know keep their rows. What `config.json` says
is read without torch.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import tokenizers

from infra import scratch, storage
from infra.dataset import file_entry, folder_of
from infra.errors import InputError
from infra.storage import StorageError
from models import given_tokeniser, tokeniser
from models.tokeniser import Roles

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

KEY = "pretrain.model.from_checkpoint"
MODEL = "model"
"""Folder of a trained version that holds the model."""
WEIGHTS = "model*.safetensors"
MADE_OF = ("config.json", "generation_config.json", "model.safetensors.index.json", WEIGHTS)
"""What of a checkpoint makes the model."""
TOKENISER = (
    *tokeniser.FILES,
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)
WRITES, GUESSES = ("ForCausalLM", "LMHeadModel"), ("ForMaskedLM",)
"""How transformers calls the two kinds of models, at the end."""
LENGTHS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")
# positions of these begin behind the padding's id (transformers' create_position_ids_from_input_ids)
COUNTED_FROM_PADDING = ("roberta", "xlm-roberta", "camembert", "xlm-roberta-xl", "data2vec-text", "longformer")
DROPOUTS = (
    *("attention_dropout", "attention_probs_dropout_prob", "attn_pdrop", "embd_pdrop", "hidden_dropout", "hidden_dropout_prob"),
    *("resid_pdrop", "embed_dropout", "embedding_dropout", "mlp_dropout", "dropout"),
)
TOLD_WEIGHTS = 3


class Counts(NamedTuple):
    """Sizes of a checkpoint's model."""

    parameters: int
    matmul_weights: int
    """Weights of matrices; the output head included, the look-up of embeddings not."""
    attention_size: int
    """Width of all heads, over all layers."""


def read_config(given: str) -> Mapping[str, Any]:
    """The checkpoint's config.json.

    Raises:
        InputError: there is no such checkpoint.
    """
    place = _place(given)
    if not place:
        return _hub_config(given)
    try:
        config: Mapping[str, Any] = storage.read_json(storage.join(place, "config.json"))
    except StorageError as error:
        raise InputError(
            f"{KEY}: {given}: it has no config.json that can be read ({error}); give a folder that transformers loads, or a trained "
            "version of ours, which holds one in model/"
        ) from error
    if "model_type" not in config:
        raise InputError(f"{KEY}: {given}: its config.json names no model_type, so transformers cannot load it")
    return config


def is_masked(given: str) -> bool:
    """Whether the model guesses masked tokens; else it continues texts.

    Raises:
        InputError: there is no such checkpoint, or it does neither.
    """
    config = read_config(given)
    names = config.get("architectures") or []
    writes, guesses = (any(name.endswith(ends) for name in names) for ends in (WRITES, GUESSES))
    if writes == guesses or config.get("is_encoder_decoder"):
        raise InputError(
            f"{KEY}: {given}: a model of {' and '.join(names) or 'no named architecture'} neither continues texts nor guesses masked "
            f"tokens; take one whose config.json names an architecture that ends with {', '.join((*WRITES, *GUESSES))}"
        )
    return guesses


def context_length(given: str, wanted: int | None) -> int:
    """Tokens that the model sees at once, or `wanted` of them.

    Raises:
        InputError: it is made for less, or does not say for how many, and none are wanted.
    """
    config = read_config(given)
    most = next((int(config[name]) for name in LENGTHS if config.get(name)), None)
    if most and config["model_type"] in COUNTED_FROM_PADDING:
        most -= int(config.get("pad_token_id") or 0) + 1
    if most is None and wanted is None:
        raise InputError(f"{KEY}: {given}: its config.json names no longest context; set pretrain.model.context_length")
    if most and wanted and wanted > most:
        raise InputError(f"pretrain.model.context_length: {given} is made for {most:,} tokens at most (got {wanted:,})")
    return int(wanted or most or 0)


def digests(given: str) -> Mapping[str, str]:
    """{file: digest} of what the model and its vocabulary are made of.

    Raises:
        InputError: there is no such checkpoint, or none in safetensors.
    """
    place = files_of(given)
    names = [name for name in storage.list_folder(place) if _any(name, MADE_OF) or name in tokeniser.FILES]
    return {f"checkpoint/{name}": file_entry(place, name).digest for name in sorted(names)}


def counts(given: str, vocab_size: int | None) -> Counts:
    """Sizes of the model, with another number of tokens if one is given; no weights are read, but transformers is imported.

    Raises:
        InputError: there is no such checkpoint, or transformers does not know its kind.
    """
    import torch
    from torch import nn

    with local(given) as folder:
        config = _auto_config(folder, given)
        if vocab_size is not None:
            config.vocab_size = vocab_size
        try:
            with torch.device("meta"):
                model: PreTrainedModel = _auto_class(given).from_config(config, trust_remote_code=False)
        except Exception as error:  # of whatever the class makes of its config
            raise _unloadable(given, error) from error
    matrices = {
        parameter: parameter.numel()
        for module in model.modules()
        if not isinstance(module, nn.Embedding)
        for parameter in module.parameters(recurse=False)
        if parameter.dim() > 1
    }
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    attention_size = config.num_hidden_layers * config.num_attention_heads * head_size
    return Counts(sum(one.numel() for one in model.parameters()), sum(matrices.values()), attention_size)


def load(given: str, dropout: float | None) -> PreTrainedModel:
    """The model in float32 on the CPU, with its own shares of dropout, or all of them `dropout`.

    Raises:
        InputError: there is no such checkpoint, it is not in safetensors, not whole, quantised, or of a kind that transformers does not
            know.
    """
    import torch

    with local(given) as folder:
        config = _auto_config(folder, given)
        if dropout is not None:
            _set_dropout(config, dropout, given)
        try:
            model, loaded = _auto_class(given).from_pretrained(
                folder,
                config=config,
                dtype=torch.float32,
                attn_implementation="sdpa",
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
            )
        except Exception as error:  # of whatever the class makes of its files
            raise _unloadable(given, error) from error
    if missing := sorted(loaded["missing_keys"]):
        raise InputError(
            f"{KEY}: {given}: weights are missing that {type(model).__name__} has ({', '.join(missing[:TOLD_WEIGHTS])}), so the checkpoint "
            "is not whole, or of another architecture than its config.json says"
        )
    freeze_unread_bias(model)
    return model.train()


def freeze_unread_bias(model: PreTrainedModel) -> None:
    """Take BERT's second bias of the output, which transformers keeps and never reads where embeddings are not tied, out of training: DDP
    takes a trained parameter without a gradient for a fault.
    """
    from torch import nn

    head = getattr(getattr(model, "cls", None), "predictions", None)
    if head is not None and not model.config.tie_word_embeddings:
        # of its own also behind `resize_token_embeddings`, which makes it the one that is read
        head.bias = nn.Parameter(head.bias.detach().clone(), requires_grad=False)


def fit_vocabulary(model: PreTrainedModel, given: str, words: Roles, tokeniser_folder: str, *, make_anew: bool) -> None:
    """Let the model read the data's tokens: as it is, where they are its own, or with new embeddings.

    New rows are drawn from a normal distribution with mean and deviation of each column of the old ones (Hewitt 2021); those of tokens
    that are spelt the same, and of those that end documents and fill up batches, are copied.

    Raises:
        InputError: the tokens are others than the checkpoint's, and new embeddings are not asked for.
    """
    with _tokeniser_of(given) as own_folder:
        own = _vocabulary(own_folder)
        own_roles = tokeniser.roles(own_folder) if own else None
    data = _vocabulary(tokeniser_folder)
    rows = model.get_input_embeddings().num_embeddings
    if not make_anew:
        others = [name for name, one in data.items() if own.get(name) != one] if own else []
        if others or words.vocab_size > rows:
            why = (
                f"{len(others):,} of the data's {len(data):,} tokens have another id there or none"
                if others
                else f"the data's has {words.vocab_size:,} tokens, and it has {rows:,} embeddings"
            )
            raise InputError(
                f"{KEY}: {given}: its tokeniser is another than the data's: {why}; set tokenise.tokeniser to {given}, so that the data are "
                "encoded with it, or pretrain.model.new_vocabulary to true, which makes its embeddings anew"
            )
        if not own:
            logger.warning(
                "%s: has no tokeniser beside it, so nobody can tell whether its rows stand for the data's tokens", given
            )
        return
    pairs = {data[name]: own[name] for name in data.keys() & own.keys() if own[name] < rows}
    if own_roles:
        for new, old in ((words.end, own_roles.end), (words.padding, own_roles.padding), (words.unknown, own_roles.unknown)):
            if new is not None and old is not None and old < rows:
                pairs.setdefault(new, old)
    logger.info("%s: new embeddings for %d tokens, %d of them copied", given, words.vocab_size, len(pairs))
    _make_anew(model, words, pairs)


def _make_anew(model: PreTrainedModel, words: Roles, pairs: Mapping[int, int]) -> None:
    """Other embeddings, with old rows where `pairs` (new id → old id) says so."""
    import torch

    def parts() -> list[torch.Tensor]:
        head = model.get_output_embeddings()
        found = [model.get_input_embeddings().weight, head.weight, getattr(head, "bias", None)]
        return [one for one in found[: 1 if head.weight is found[0] else 2] + found[2:] if one is not None]

    with torch.no_grad():
        before = [part.detach().clone() for part in parts()]
        model.resize_token_embeddings(words.vocab_size, mean_resizing=False)
        new, old = (torch.tensor(ids, dtype=torch.long) for ids in (list(pairs), list(pairs.values())))
        for part, was in zip(parts(), before, strict=True):
            part.copy_(was.mean(0) + was.std(0) * torch.randn(part.shape))
            part[new] = was[old]
    if model.get_input_embeddings().padding_idx is not None:
        model.get_input_embeddings().padding_idx = words.padding
    for config in (model.config, getattr(model, "generation_config", None)):
        if config is not None:
            config.bos_token_id, config.eos_token_id, config.pad_token_id = words.end, words.end, words.padding
    freeze_unread_bias(model)


def _place(given: str) -> str:
    """The folder of a checkpoint's files; empty: it is a name on the hub.

    Raises:
        InputError: it is a path, and nothing is there.
    """
    folder = folder_of(given)
    if storage.exists(folder):
        inner = storage.join(folder, MODEL)
        return inner if storage.exists(storage.join(inner, "config.json")) else folder
    if folder == given:
        raise InputError(
            f"{KEY}: {given}: no such folder; give one that transformers loads, a trained version, or a name on the Hugging Face hub"
        )
    return ""


def files_of(given: str) -> str:
    """The folder of a checkpoint's files, fetched from the hub if it is a name there.

    Raises:
        InputError: there are none in safetensors, or they are quantised.
    """
    if read_config(given).get("quantization_config"):
        raise InputError(f"{KEY}: {given}: it is quantised, and such weights cannot be trained; give the model it was made of")
    place = _place(given) or _fetched(given)
    there = storage.list_folder(place)
    if not any(fnmatch(name, WEIGHTS) for name in there):
        pickles = [name for name in there if name.endswith((".bin", ".pt", ".pth"))]
        why = f"only {pickles[0]}, a pickle, which may run any code when it is read" if pickles else "none"
        raise InputError(
            f"{KEY}: {given}: there are no weights in safetensors ({WEIGHTS}), {why}; save it anew with transformers where you trust it"
        )
    return place


@contextmanager
def local(given: str) -> Iterator[str]:
    """The checkpoint's files on a local disk, for the time of the block."""
    with storage.local_folder(files_of(given)) as folder:
        yield folder


@contextmanager
def _tokeniser_of(given: str) -> Iterator[str]:
    """A folder with the checkpoint's tokeniser; empty: it has none that can be compared."""
    with local(given) as folder:
        if not any(name in TOKENISER and name != "chat_template.jinja" for name in storage.list_folder(folder)):
            yield ""
            return
        try:
            files = given_tokeniser.files_of(folder)
        except InputError as error:
            logger.warning("%s: its tokeniser cannot be compared with the data's: %s", given, error)
            yield ""
            return
        with scratch.folder("model") as copy:
            for name, data in files.items():
                (Path(copy) / name).write_bytes(data)
            yield copy


def _vocabulary(folder: str) -> dict[str, int]:
    """Token → id; empty for no folder."""
    if not folder:
        return {}
    data = storage.read_bytes(storage.join(folder, "tokenizer.json")).decode()
    return dict(tokenizers.Tokenizer.from_str(data).get_vocab(with_added_tokens=True))


@lru_cache
def _hub_config(name: str) -> Mapping[str, Any]:
    """Asked for once: every look asks the hub whether it changed."""
    from huggingface_hub import hf_hub_download

    try:
        return dict(storage.read_json(hf_hub_download(name, "config.json")))
    except Exception as error:
        raise _not_found(name, error) from error


@lru_cache
def _fetched(name: str) -> str:
    from huggingface_hub import snapshot_download

    try:
        return str(snapshot_download(name, allow_patterns=[*MADE_OF, *TOKENISER]))
    except Exception as error:
        raise _not_found(name, error) from error


def _not_found(name: str, error: Exception) -> InputError:
    why = " ".join(str(error).split())[:300]
    return InputError(
        f"{KEY}: {name}: there is no such folder, no such version in the store, and no model of this name on the hub or kept from an "
        f"earlier time ({why})"
    )


def _auto_config(folder: str, given: str) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # of whatever the class makes of the file
        raise _unloadable(given, error) from error


def _auto_class(given: str) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    return AutoModelForMaskedLM if is_masked(given) else AutoModelForCausalLM


def _unloadable(given: str, error: Exception) -> InputError:
    why = " ".join(str(error).split())[:300]
    return InputError(f"{KEY}: {given}: transformers does not load it ({why}); no code that comes with a model is run")


def _set_dropout(config: Any, dropout: float, given: str) -> None:
    names = [name for name in DROPOUTS if isinstance(getattr(config, name, None), float | int)]
    if not names and dropout:
        raise InputError(f"pretrain.model.dropout: a {config.model_type} ({given}) has none; leave it out (got {dropout})")
    for name in names:
        setattr(config, name, dropout)


def _any(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)
