"""export: a model as files for other programs, a GGUF file or a Hugging Face folder, read back and compared before they are kept."""

from __future__ import annotations

from pathlib import Path

from infra import scratch, storage, trainings
from infra.dataset import Counts, ShardSet
from infra.errors import GristmillError, InputError
from infra.steps import Output, step
from tasks.learn.compress_config import ExportConfig
from tasks.learn.config import MODEL

EXPORT = "export"
"""Folder of the files."""
# Largest difference of a logit, as a part of the largest logit. A 4M Llama trained on WikiText-2 gave 0, 0.0004 and 0.010
TOLERANCE = {"f32": 0.0, "f16": 0.01, "q8_0": 0.1}
TEXTS = ("The mill's 12345 grains\n\n  turn,", "café 日本語 🌾", "<|im_start|>user\nhello<|im_end|>\n")


class ExportDiffers(GristmillError):
    """What was written is not read back as the model that it was written of."""


@step(schema="export")
def export(model: ShardSet, config: ExportConfig, out: Output) -> None:
    """Write the model for other programs; its version holds the files in `export/`.

    Raises:
        InputError: it cannot be written in this form.
        ExportDiffers: transformers reads back other logits or tokens.
    """
    from models import gguf_file, int8
    from models.loading import load_causal, read_config
    from tasks.learn import compression

    with storage.local_folder(model.file(MODEL)) as folder, scratch.folder("model") as temporary:
        work = Path(temporary)
        original, words = load_causal(folder)
        if int8.is_int8(read_config(folder)):
            raise InputError(
                "export: the model is int8 of ours, which no other program reads; export the one that it was made of"
            )
        if config.format == "gguf":
            file = f"{config.name}-{config.dtype}.gguf"
            gguf_file.write(folder, work / file, config.dtype, config.name)
            read, read_words = gguf_file.read(work / file)
        else:
            compression.write_plain(original, work, half=config.dtype == "f16")
            compression.carry_tokeniser(folder, work)
            read, read_words = load_causal(work)
        difference = compression.logit_difference(original, read)
        if any(words(text)["input_ids"] != read_words(text)["input_ids"] for text in TEXTS):
            raise ExportDiffers(f"export: {config.format} is read back with other tokens; please report the tokeniser")
        if difference[1] > TOLERANCE[config.dtype]:
            raise ExportDiffers(
                f"export: {config.format} in {config.dtype} is read back with logits that differ by {difference[1]:.2%} of the largest "
                f"(accepted: {TOLERANCE[config.dtype]:.0%}); take a wider dtype"
            )
        trainings.keep_model(work, EXPORT, out)
        num_bytes = sum(one.stat().st_size for one in work.iterdir())
    out.counts = Counts(total=1, kept=1)
    out.facts = {"format": config.format, "dtype": config.dtype, "num_bytes": num_bytes, "max_logit_difference": difference[0]}
