"""tokenise: learn a byte-level BPE from the training split, then turn every published shard into a token shard."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from infra import storage
from infra.dataset import Outcome, ShardRef, ShardSet
from infra.steps import Output, step
from models import tokeniser
from models.tokeniser import TokeniserConfig
from tasks.learn import tokens
from tasks.learn.config import TOKENISER


def tokenise_shard(shard: ShardRef, tokeniser_folder: str, folder: str) -> Outcome:
    """Write the token stream of one shard; its documents' places are the shard's table."""
    stream, docs = tokens.encode_shard(shard.read(["doc_id", "source", "text"]), tokeniser_folder)
    tokens.write_shard(folder, shard.index, stream, docs)
    return Outcome(docs)


@step(schema="token_documents")
def tokenise(dataset: ShardSet, config: TokeniserConfig, out: Output) -> None:
    """Train the tokeniser on the training split and write memory-mapped token shards that map back to documents."""
    shards = dataset.shards()
    # a folder of plain documents has no splits: all of it is for training
    splits = dataset.manifest().facts.get("splits", {"train": [shard.index for shard in shards], "test": []})
    folder = storage.join(out.folder, TOKENISER)
    done = out.aside("trained.json")
    if not storage.exists(done):
        names = tokeniser.save(tokeniser.train_bpe(_texts([shards[index] for index in splits["train"]]), config), folder)
        storage.write_json(done, names)
    for name in storage.read_json(done):
        out.keep_file(f"{TOKENISER}/{name}")
    receipts = out.map(partial(tokenise_shard, tokeniser_folder=folder, folder=out.folder), shards)
    for receipt in receipts:
        out.keep_file(tokens.bin_name(receipt.index))
    opened = {name: [tokens.read_shard(out.folder, index) for index in indices] for name, indices in splits.items()}
    sizes = {name: sum(len(shard.tokens) for shard in many) for name, many in opened.items()}
    num_bytes = sum(int(np.sum(shard.docs["num_bytes"].to_numpy())) for many in opened.values() for shard in many)
    out.facts = {
        "splits": splits,
        "vocab_size": tokeniser.load(folder).get_vocab_size(),
        "bytes_per_token": round(num_bytes / max(sum(sizes.values()), 1), 4),
        **{f"num_tokens.{name}": size for name, size in sizes.items()},
    }


def _texts(shards: list[ShardRef]) -> Iterator[str]:
    for shard in shards:
        yield from shard.read(["text"])["text"].to_pylist()
