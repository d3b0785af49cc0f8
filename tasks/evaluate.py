"""evaluate: score a model on the documents of the test split, beside baselines it must beat, and let it write."""

from __future__ import annotations

import dataclasses

from infra import storage, tracking
from infra.dataset import Counts, ShardSet
from infra.steps import Output, step
from tasks.learn.config import MODEL, EvaluateConfig

SCORES = "scores.json"


@step(schema="scores")
def evaluate(model: ShardSet, tokens: ShardSet, config: EvaluateConfig, out: Output) -> None:
    """Perplexity, bits per byte and accuracy on held-out documents, by source, and sample texts."""
    from tasks.learn import metrics
    from tasks.learn.tokens import read_shard, token_counts

    facts = tokens.manifest().facts
    shards = {name: [read_shard(tokens.folder, index) for index in indices] for name, indices in facts["splits"].items()}
    counts = token_counts(shards["train"], facts["vocab_size"])
    prompts = config.samples
    with storage.local_folder(model.file(MODEL)) as folder:
        result = metrics.evaluate(folder, shards["test"], config, train_counts=counts)
        texts = metrics.sample_texts(
            folder, prompts.prompts, prompts.max_new_tokens, prompts.seed, prompts.temperature, device_name=config.device
        )
    rows = {
        "model": dataclasses.asdict(result.model),
        "baselines": [dataclasses.asdict(one) for one in result.baselines],
        "sources": [dataclasses.asdict(one) for one in result.sources],
        "samples": texts,
    }
    storage.write_json(storage.join(out.folder, SCORES), rows)
    out.keep_file(SCORES)
    out.counts = Counts(total=result.model.num_documents, kept=result.model.num_documents)
    out.facts = {
        "perplexity": result.model.perplexity,
        "bits_per_byte": result.model.bits_per_byte,
        "accuracy": result.model.accuracy,
        **{f"perplexity.{one.name}": one.perplexity for one in result.baselines},
        "num_tokens": result.model.num_tokens,
    }
    out.volatile = {"device": result.device, "device_reason": result.device_reason}
    if (track := tracking.current()) is not None:
        track.dataset(tokens, "evaluation")
