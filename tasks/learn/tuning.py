"""What every adapter of a TRL trainer shares: its arguments, adapters, and the model at the end.

Promises: training that is killed at any moment and started again on the same folder goes on at its newest whole checkpoint and gives the
same bits at equal threads and machine (watch.py). Nothing is unpickled: weights are safetensors, and what transformers 5.23 keeps by
torch.save (optimiser, schedule, random numbers) it loads with weights_only=True.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from peft import LoraConfig as PeftConfig
from peft import PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
)

from infra import storage
from infra.dataset import guards
from infra.errors import InputError
from models import chat
from models.tokeniser import FILES
from tasks.learn import device
from tasks.learn.posttrain import PostJob
from tasks.learn.tuning_config import LoraConfig, TuningConfig
from tasks.learn.watch import Finished, Watch, line_of
from tasks.learn.watch import OnLog as OnLog
from tasks.learn.watch import OnStep as OnStep

if TYPE_CHECKING:
    # transformers' Trainer works by the one and writes by the other, so what is trained follows from them, too
    import accelerate  # noqa: F401
    import safetensors  # noqa: F401

logger = logging.getLogger(__name__)

USUAL_LENGTH = 1024
"""Tokens in a row where nobody says how many: memory grows with it, and models are made for more and more."""
KEPT = 2
"""Checkpoints on disk: the last whole one stays while the next is written."""


def arguments(config: TuningConfig, folder: Path) -> dict[str, Any]:
    """Values for any class like transformers' TrainingArguments; no default that matters is left to it.

    Sets the threads of this process, too.

    Raises:
        NoDevice: CUDA was asked for and does not work here.
    """
    device.use_threads(config.num_threads)
    name, _ = device.resolve(config.device)
    precision, _ = device.resolve_precision(config.precision, name)
    return {
        "output_dir": str(folder),
        "use_cpu": name == "cpu",
        "bf16": precision == "bf16",
        "fp16": False,
        "num_train_epochs": config.epochs,
        "max_steps": config.max_steps or -1,
        "per_device_train_batch_size": config.batch_size,
        "gradient_accumulation_steps": config.gradient_accumulation,
        "optim": "adamw_torch",
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": config.schedule if config.schedule != "constant" else "constant_with_warmup",
        "warmup_steps": config.warmup_share,  # below 1 it is a share of all steps
        "weight_decay": config.weight_decay,
        "adam_beta1": config.betas[0],
        "adam_beta2": config.betas[1],
        "adam_epsilon": 1e-8,
        "max_grad_norm": config.grad_clip,
        "seed": config.seed,
        "data_seed": config.seed,
        "gradient_checkpointing": config.activation_checkpointing,
        "logging_strategy": "steps",
        "logging_steps": config.log_every_steps,
        "logging_nan_inf_filter": False,
        "save_strategy": "steps",
        "save_steps": config.checkpoint_every_steps,
        "save_total_limit": KEPT,
        "eval_strategy": "no",
        "report_to": "none",
        "push_to_hub": False,
        "disable_tqdm": True,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": name == "cuda",
        "torch_compile": False,
    }


def adapters(config: LoraConfig | None, task: str = "CAUSAL_LM") -> PeftConfig | None:
    """What TRL's `peft_config` takes; None: all weights are trained."""
    if config is None:
        return None
    return PeftConfig(
        task_type=task,
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=list(config.target_modules) or "all-linear",
        bias="none",
    )


def causal(folder: str, config: TuningConfig | None = None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model in float32, or as `config.lora.base` says, and its tokeniser, from a Hugging Face folder of a version.

    Raises:
        InputError: four bits are asked for and bitsandbytes is not here.
    """
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.float32,
        **(_four_bits(config) if config is not None and is_quantised(config) else {}),
        attn_implementation="sdpa",
        use_safetensors=True,
        trust_remote_code=False,
        local_files_only=True,
    )
    for layer in model.modules():
        # bitsandbytes packs a layer anew when it is first used without gradients, for sizes that divide by 32, and computes otherwise then
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False
    return model, tokeniser_of(folder)


def is_quantised(config: TuningConfig) -> bool:
    """Whether the weights under the adapters are held in four bits."""
    return config.lora is not None and config.lora.base == "nf4"


def _four_bits(config: TuningConfig) -> dict[str, Any]:
    """Arguments of from_pretrained. The output head stays whole, as transformers has it."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise InputError("lora.base: nf4 needs bitsandbytes, which is not installed: pip install 'gristmill[qlora]'")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it tells of kernels that it would fetch from the hub
    name, _ = device.resolve(config.device)
    precision, _ = device.resolve_precision(config.precision, name)
    scheme = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if precision == "bf16" else torch.float32,
    )
    return {"quantization_config": scheme, "device_map": {"": name}}


def tokeniser_of(folder: str) -> PreTrainedTokenizerBase:
    """The tokeniser of a model's folder, with a token that fills up batches."""
    words = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    if words.pad_token is None:
        words.pad_token = words.eos_token
    return words


def context_length(model: PreTrainedModel, wanted: int | None) -> int:
    """Tokens in a row: `wanted`, or as many as the model sees at once, USUAL_LENGTH at most.

    Raises:
        InputError: it sees less than wanted.
    """
    most: int | None = getattr(model.config, "max_position_embeddings", None)
    if most and wanted and wanted > most:
        raise InputError(f"max_length: the model sees {most:,} tokens at most (got {wanted:,})")
    return wanted or min(most or USUAL_LENGTH, USUAL_LENGTH)


def rows_of(job: PostJob, name: str, split: str | None = None) -> list[dict[str, Any]]:
    """The rows of a name, of one side of the split or of both, in their order."""
    tables = [pq.read_table(pa.BufferReader(storage.read_bytes(path))) for path in job.rows[name]]
    rows: list[dict[str, Any]] = pa.concat_tables(tables).to_pylist() if tables else []
    return [row for row in rows if split is None or row["split"] == split]


def trained(trainer: Trainer, job: PostJob, config: TuningConfig, on_log: OnLog, on_step: OnStep) -> dict[str, Any]:
    """Train to the end, from the newest whole checkpoint where there is one; what every method's result has.

    Raises:
        LossNotFinite: training diverged; names the step.
        InputError: the folder holds checkpoints of other data or settings.
    """
    folder = Path(job.folder)
    watch = Watch(folder, _identity(job, config), on_log, on_step)
    newest = watch.newest()
    trainer.add_callback(watch)
    if is_quantised(config):
        for one in trainer.model.parameters():
            if one.requires_grad:  # TRL makes them bf16, and a resumed training has them in float32
                one.data = one.data.float()
    if newest:
        logger.info("training goes on from %s", newest)
    with suppress(Finished):
        trainer.train(resume_from_checkpoint=str(newest) if newest else None)
    model = export(trainer.model, job.models["model"], folder / "model")
    name, reason = device.resolve(config.device)
    history = [line for line in map(line_of, trainer.state.log_history) if line]
    return {
        "steps": trainer.state.global_step,
        "history": [{**line, **watch.clock.get(int(line["step"] or 0), {})} for line in history],
        "train_loss": next((line["train_loss"] for line in reversed(history) if "train_loss" in line), None),
        "model_folder": str(folder / "model"),
        "seconds": watch.seconds,
        "peak_bytes": device.peak_memory_bytes(name),
        "device": name,
        "device_reason": reason,
        "precision": device.resolve_precision(config.precision, name)[0],
        "family": model.config.model_type,
        "objective": "causal",
        "num_parameters": sum(one.numel() for one in model.parameters()),
        "trained_parameters": watch.trained_parameters,
        "facts": {},
    }


def export(model: Any, source: str, folder: Path) -> PreTrainedModel:
    """Write the model, adapters merged, as a Hugging Face folder in safetensors with the tokeniser and chat template of `source`.

    Adapters over weights in four bits are merged into the weights of `source`, which lost nothing.
    """
    if isinstance(model, PeftModel) and getattr(model, "is_loaded_in_4bit", False):
        full = get_peft_model(causal(source)[0], model.peft_config["default"])
        set_peft_model_state_dict(full, get_peft_model_state_dict(model))
        model = full
    whole: PreTrainedModel = model.merge_and_unload() if isinstance(model, PeftModel) else model
    whole = whole.cpu()
    whole.config.use_cache = True
    if (ends := getattr(whole, "generation_config", None)) is not None:
        ends.eos_token_id = chat.stops(tokeniser_of(source), ends.eos_token_id)
    shutil.rmtree(folder, ignore_errors=True)
    whole.save_pretrained(folder)
    for name in FILES:
        if (file := Path(source, name)).exists():
            shutil.copyfile(file, folder / name)
    return whole


def _identity(job: PostJob, config: TuningConfig) -> dict[str, Any]:
    given = json.loads(config.model_dump_json(exclude=guards(type(config))))
    return {**given, "method": job.method, "provenance": job.provenance}
