"""pretrain: train a LLaMA-style model from scratch on the token shards; a kill costs at most the steps since the last checkpoint."""

from __future__ import annotations

import logging
from pathlib import Path

from infra import storage, tracking
from infra.dataset import Counts, ShardSet
from infra.errors import InputError
from infra.progress import report
from infra.settings import settings
from infra.steps import Output, step
from models.presets import context_length, flops_per_token, num_parameters
from tasks.learn.config import MODEL, TOKENISER, TrainConfig

log = logging.getLogger("gristmill")

HISTORY = "history.json"
# what the clock decides is no part of a version
VOLATILE = ("seconds", "tokens_per_s")


@step(schema="model")
def pretrain(tokens: ShardSet, config: TrainConfig, out: Output) -> None:
    """Train on the training split, watching the loss on the test split; resumes at its newest checkpoint."""
    from tasks.learn.batches import TokenWindows
    from tasks.learn.tokens import read_shard
    from tasks.learn.trainer import train

    facts = tokens.manifest().facts
    context = context_length(config.model)
    windows = {
        name: TokenWindows([read_shard(tokens.folder, index) for index in indices], context)
        for name, indices in facts["splits"].items()
    }
    for name, view in windows.items():
        if not len(view):
            raise InputError(
                f"pretrain: the {name} split has {view.num_tokens:,} tokens, which do not fill one context of {context}; "
                "give more documents, hold out another share (split.test_share) or lower pretrain.model.context_length"
            )
    track = tracking.current()

    def on_log(line: dict[str, float | None]) -> None:
        at = int(line["step"] or 0)
        report(at, config.max_steps, "training steps")
        if track is not None:
            track.metrics({name: value for name, value in line.items() if value is not None and name != "step"}, step=at)

    work = _work_folder(out)
    with tracking.system_metrics():
        result = train(windows["train"], windows["test"], config, work, tokeniser_folder=tokens.file(TOKENISER), on_log=on_log)
    log.info("pretrain: device %s (%s)", result.device, result.device_reason)
    _keep_model(result.model_folder, out)
    rows = [{name: value for name, value in line.items() if name not in VOLATILE} for line in result.history]
    storage.write_json(storage.join(out.folder, HISTORY), rows)
    out.keep_file(HISTORY)
    size = num_parameters(config.model, facts["vocab_size"])
    flops = flops_per_token(config.model, facts["vocab_size"])
    out.counts = Counts(total=facts["num_tokens.train"], kept=facts["num_tokens.train"])
    out.facts = {
        "num_parameters": size,
        "train_loss": result.train_loss,
        "valid_loss": result.valid_loss,
        "steps": result.steps,
        "tokens": result.tokens,
        "epochs": round(result.tokens / max(facts["num_tokens.train"], 1), 3),
        "training_flops": flops * result.tokens,
    }
    out.volatile = {
        "device": result.device,
        "device_reason": result.device_reason,
        "training_seconds": round(result.seconds, 2),
        "tokens_per_s": round(result.tokens_per_s, 1),
    }


def _work_folder(out: Output) -> Path:
    """A local folder for checkpoints that the next try finds again: beside the version, or as the settings say when storage is remote."""
    if storage.is_local(out.folder):
        folder = Path(out.aside("checkpoints"))
    else:
        folder = settings().checkpoints / out.version
        out.scratch.append(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _keep_model(trained: Path, out: Output) -> None:
    for file in sorted(trained.iterdir()):
        name = f"{MODEL}/{file.name}"
        storage.write_bytes(storage.join(out.folder, name), file.read_bytes())
        out.keep_file(name)
