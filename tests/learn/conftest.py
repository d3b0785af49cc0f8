import random
from pathlib import Path

import pyarrow as pa
import pytest

from infra.ids import text_digest
from models import tokeniser
from models.tokeniser import TokeniserConfig
from tasks.learn import tokens
from tasks.learn.tokens import TokenShard

WORDS = ["read", "write", "open", "close", "file", "folder", "error", "value", "returns", "list", "of", "the", "a", "key"]


def make_table(num_documents: int, seed: int, longest: int = 120) -> pa.Table:
    """Random sentences; every fourth document is of the source `b`."""
    chance = random.Random(seed)
    texts = [" ".join(chance.choices(WORDS, k=chance.randrange(longest))) for _ in range(num_documents)]
    ids = [text_digest(f"{seed} {number}") for number in range(num_documents)]
    sources = ["b" if number % 4 == 0 else "a" for number in range(num_documents)]
    return pa.table({"doc_id": ids, "source": sources, "text": texts})


@pytest.fixture(scope="session")
def tokeniser_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("tokeniser"))
    texts = make_table(200, seed=0)["text"].to_pylist()
    tokeniser.save(tokeniser.train_bpe(texts, TokeniserConfig(vocab_size=300)), folder)
    return folder


@pytest.fixture(scope="session")
def shards(tokeniser_folder: str, tmp_path_factory: pytest.TempPathFactory) -> list[TokenShard]:
    """Three shards of 40, 0 and 60 documents, read back from disk."""
    folder = str(tmp_path_factory.mktemp("shards"))
    for index, size in enumerate((40, 0, 60)):
        tokens.write_shard(folder, index, *tokens.encode_shard(make_table(size, seed=index + 1), tokeniser_folder))
    return list(tokens.read_shards(folder))


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    return tmp_path / "training"
