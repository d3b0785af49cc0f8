"""Our rolling log-likelihood against lm-evaluation-harness's own, on its own task over WikiText-2's test pages."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from models import tokeniser
from models.tokeniser import TokeniserConfig
from tasks.learn import metrics, tokens
from tasks.learn.config import EvalConfig
from tasks.learn.scorer import Scorer
from tasks.learn.tokens import TokenShard

lm_eval = pytest.importorskip("lm_eval")
WIKITEXT = Path(__file__).parents[2].parent / "shared" / "data" / "text" / "wikitext2_test.txt"
TASK = """
task: wikitext_here
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}, cache_dir: {cache}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: !function preprocess_wikitext.wikitext_detokenizer
process_results: !function preprocess_wikitext.process_results
metric_list:
  - metric: word_perplexity
  - metric: byte_perplexity
  - metric: bits_per_byte
"""


def pages() -> list[str]:
    """The articles, each from its title on."""
    if not WIKITEXT.exists():
        pytest.skip(f"{WIKITEXT.name} is not beside the project: see shared/data/README.md")
    found = re.split(r"(?m)^(?= = [^=\n]+ = $)", WIKITEXT.read_text("utf-8"))
    return [page for page in found if page.strip()]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model far from the flat start, so that a wrong window would show."""
    folder = tmp_path / "model"
    words = tokeniser.train_bpe(pages()[:6], TokeniserConfig(vocab_size=2000))
    shape: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
    with torch.random.fork_rng():
        torch.manual_seed(4)
        built = LlamaForCausalLM(LlamaConfig(vocab_size=words.get_vocab_size(), max_position_embeddings=128, **shape))
    for parameter in built.parameters():
        parameter.data.mul_(3.0)
    built.save_pretrained(folder)
    tokeniser.save(words, str(folder))
    return folder


@pytest.mark.soak
def test_wikitext_perplexity_is_that_of_lm_eval_by_word_and_by_byte(model: Path, tmp_path: Path) -> None:
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    articles, given = pages(), tmp_path / "pages.jsonl"
    given.write_text("".join(json.dumps({"page": page}) + "\n" for page in articles), "utf-8")
    own = Path(lm_eval.__file__).parent / "tasks" / "wikitext" / "preprocess_wikitext.py"
    shutil.copy(own, tmp_path / own.name)
    (tmp_path / "wikitext_here.yaml").write_text(TASK.format(file=given, cache=tmp_path / "cache"))
    theirs = lm_eval.simple_evaluate(
        model=HFLM(pretrained=str(model), device="cpu", dtype="float32", batch_size=16),
        tasks=["wikitext_here"],
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
        bootstrap_iters=0,
    )["results"]["wikitext_here"]

    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("preprocess_wikitext", own)
    assert spec is not None and spec.loader is not None
    preprocess = module_from_spec(spec)
    spec.loader.exec_module(preprocess)
    texts = [preprocess.wikitext_detokenizer({"page": page}) for page in articles]
    table = pa.table({"doc_id": [f"{n:04d}" for n in range(len(texts))], "source": ["wikitext"] * len(texts), "text": texts})
    config = EvalConfig(num_threads=1, device="cpu")
    shard = TokenShard(*tokens.encode_shard(table, str(model)))
    nats = metrics.evaluate(Scorer(model, config), [shard], config).told.nats.sum()
    num_words = sum(len(re.split(r"\s+", page)) for page in articles)
    num_bytes = sum(len(page.encode()) for page in articles)
    assert len(articles) > 50 and num_words > 200_000
    assert math.exp(nats / num_words) == pytest.approx(theirs["word_perplexity,none"], rel=1e-4)
    assert math.exp(nats / num_bytes) == pytest.approx(theirs["byte_perplexity,none"], rel=1e-4)
    assert nats / math.log(2) / num_bytes == pytest.approx(theirs["bits_per_byte,none"], rel=1e-4)
