"""`gristmill plan`: from hours, days or money to a model, its tokens, memory, time and cost, with everything that was assumed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from flows.config import RunConfig, find_file, load_or_default
from flows.keys import ConfigError
from flows.rejects import versions_of
from infra import storage
from infra.dataset import ShardSet, name_of
from infra.errors import InputError
from infra.settings import settings
from infra.storage import byte_words
from models import given_tokeniser
from models.presets import ModelConfig
from tasks.learn import accelerators, scaling
from tasks.learn.accelerators import GPUS, Accelerator
from tasks.learn.config import TrainConfig
from tasks.learn.costs import JOULES_PER_KWH, SECONDS_PER_HOUR, CostConfig, cost
from tasks.learn.footprint import Footprint, footprint
from tasks.learn.scaling import Fit, Schedule

BYTES_PER_TOKEN = 4.0
"""Of English web text with 32,000 to 128,000 tokens; a tokenised version tells its own."""
MEMORY_SHARE = 0.9
"""Of a device's memory that a plan may fill."""
SMALL_PARAMETERS = 100e6
MOST_TOKENS = {"cpu": 8192, "cuda": 65_536}
"""Of one forward pass of a device: more makes it no faster."""


class Budget(NamedTuple):
    """What may be spent; exactly one of the three is given."""

    gpu_hours: float | None = None
    days: float | None = None
    money: float | None = None


class Data(NamedTuple):
    """What there is to learn from."""

    name: str
    tokens: float | None
    """Of the training split, each once; None: nobody knows, so it limits nothing."""
    vocab_size: int
    measured: bool
    """Whether the tokens were counted; else they are told from the bytes of the texts."""


@dataclass(frozen=True)
class Plan:
    """A training that the budget pays for."""

    config_file: str
    accelerator: Accelerator
    devices: int
    data: Data
    budget_hours: float
    """Of one device, on all of them together."""
    budget_flops: float
    """Of training: what is computed a second time is taken off."""
    fit: Fit
    schedule: Schedule
    tokens: int
    """That all steps learn from."""
    memory: Footprint
    settings: dict[str, Any]
    """Keys of a configuration."""
    seconds: float
    energy_kwh: float | None
    cost: dict[str, Any]
    expected_loss: float | None
    notes: tuple[str, ...]
    """What limits, and what to think of before it is begun."""
    assumptions: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether it fits the memory of its devices."""
        return self.memory.total <= MEMORY_SHARE * self.accelerator.memory_bytes

    @property
    def epochs_words(self) -> str:
        """How often the data are read."""
        return f"{self.tokens / self.data.tokens:.2g} times all there are" if self.data.tokens else "each new"

    @property
    def sets(self) -> list[str]:
        """The settings as `--set` takes them."""
        return [f"{name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in self.settings.items()]

    @property
    def command(self) -> str:
        """What trains it, once a dataset is published."""
        return " \\\n  ".join(
            [f"gristmill run train --config {self.config_file or 'small'}", *(f"--set {one}" for one in self.sets)]
        )

    def as_json(self) -> dict[str, Any]:
        """All of it by name."""
        nested = ("accelerator", "data", "fit", "schedule", "memory")
        return {
            **{name: value for name, value in vars(self).items() if name not in nested},
            "accelerator": self.accelerator._asdict(),
            "data": self.data._asdict(),
            "model": {"family": self.fit.model.family, **self.fit.model.shape._asdict()},
            "parameters": self.fit.parameters,
            "flops_per_token": self.fit.flops_per_token,
            "limited_by": "data" if self.fit.limited_by_data else "budget",
            "schedule": self.schedule._asdict(),
            "memory": {**asdict(self.memory), "total": self.memory.total},
            "fits": self.fits,
            "sets": self.sets,
        }


def plan(
    given: str,
    budget: Budget,
    accelerator: str,
    devices: int,
    config_file: str,
    overrides: Sequence[str],
    mfu: float | None = None,
    tokens_per_parameter: float = scaling.TOKENS_PER_PARAMETER,
) -> Plan:
    """What a budget is best spent on.

    Args:
        given: a version of tokens or documents, a run (`latest` too), a configuration file or the name of one, or nothing.
        accelerator: a key of GPUS, or `here`.
        config_file: the configuration with family, context, vocabulary and prices; empty: `given` if that is one, else the defaults.
        mfu: share of the peak that training reaches; None: what is usual on such a device.

    Raises:
        InputError: the budget is no budget, too small for any model, or of money without a price.
    """
    is_config = not config_file and _is_config(given)
    file = given if is_config else config_file
    config = load_or_default(file, overrides)
    wanted = config.pretrain.model
    if wanted.from_checkpoint:
        raise InputError(
            "plan: pretrain.model.from_checkpoint has its size already, and a plan chooses one; leave it out (got "
            f"{wanted.from_checkpoint})"
        )
    device = _accelerator(accelerator, config.pretrain)
    device = device if mfu is None else device._replace(mfu=mfu)
    data = _data("" if is_config else given, config)
    hours = _hours(budget, device, devices, config.pretrain.costs)
    documents = config.pretrain.data.packing != "stream"
    for recompute in (False, True):
        # computed again, activations cost one forward pass of three
        slower = 4 / 3 if recompute else 1
        flops = hours * SECONDS_PER_HOUR * device.peak_flops * device.mfu / slower
        found = _affordable(flops, hours, device, data, wanted, tokens_per_parameter)
        made, memory, sharded = _in_memory(found, device, devices, data.vocab_size, documents=documents, recompute=recompute)
        if memory.total <= MEMORY_SHARE * device.memory_bytes:
            break
    tokens = made.steps * made.samples_per_pass * made.accumulation * found.model.shape.context_length
    seconds = slower * tokens * found.flops_per_token / (device.peak_flops * device.mfu * devices)
    joules = device.watts * seconds * devices if device.watts else None
    result = Plan(
        config_file=file,
        accelerator=device,
        devices=devices,
        data=data,
        budget_hours=hours,
        budget_flops=flops,
        fit=found,
        schedule=made,
        tokens=tokens,
        memory=memory,
        settings={
            **_model_keys(found, config, data),
            **_training_keys(made, device, devices, sharded=sharded, recompute=recompute),
        },
        seconds=seconds,
        energy_kwh=joules / JOULES_PER_KWH if joules else None,
        cost=cost(seconds, joules, config.pretrain.costs, devices),
        expected_loss=None if wanted.family == "bert" else scaling.expected_loss(found.parameters, tokens),
        notes=(),
        assumptions=_assumptions(device, data, wanted, tokens_per_parameter),
    )
    return replace(result, notes=tuple(_notes(result, tokens_per_parameter)))


def show(made: Plan, console: Console) -> None:
    """Print the plan, what it assumes, and the keys that begin it."""
    shape, family = made.fit.model.shape, made.fit.model.family
    device = made.accelerator
    table = Table(title=f"plan for {made.budget_hours:,.4g} device-hours on {made.devices} x {device.name}", title_justify="left")
    table.add_column("what")
    table.add_column("how much", justify="right")
    table.add_column("from", overflow="fold")
    heads = f"{shape.num_heads} heads" + (f" ({shape.num_kv_heads} of keys)" if shape.num_kv_heads != shape.num_heads else "")
    batch = made.schedule.samples_per_pass * made.schedule.accumulation
    memory = made.memory
    rows = [
        ("computation", f"{made.budget_flops:.3g} FLOPs", f"hours x {device.peak_flops:.4g} FLOP/s x {device.mfu:.0%}"),
        ("model", f"{made.fit.parameters:,} parameters", f"{family}, {shape.num_layers} layers of {shape.hidden_size}, {heads}"),
        ("tokens", f"{made.tokens:,}", f"{made.tokens / made.fit.parameters:.1f} per parameter, {made.epochs_words}"),
        (
            "steps",
            f"{made.schedule.steps:,}",
            f"of {batch * shape.context_length:,} tokens: {batch:,} x {shape.context_length:,}",
        ),
        ("learning rate", f"{made.schedule.learning_rate:g}", f"at most, behind {made.schedule.warmup_steps:,} steps of warm-up"),
        (
            "memory of a device",
            byte_words(memory.total),
            f"weights {byte_words(memory.weights)}, gradients {byte_words(memory.gradients)}, moments {byte_words(memory.moments)}, "
            f"activations {byte_words(memory.activations)}, loss {byte_words(memory.loss)}, slack {byte_words(memory.slack)}; "
            f"of {byte_words(device.memory_bytes)}",
        ),
        (
            "time",
            _time_words(made.seconds),
            f"{made.fit.flops_per_token:,} FLOPs a token; {made.tokens / made.seconds:,.0f} tokens/s",
        ),
    ]
    if made.energy_kwh is not None:
        rows.append(("electricity", f"{made.energy_kwh:,.3g} kWh", f"{device.watts:g} W a device, without the machine around it"))
    if made.cost:
        rows.append(("cost", f"{made.cost['cost']:,.2f} {made.cost['currency']}", made.cost["cost_basis"]))
    if made.expected_loss is not None:
        rows.append(
            (
                "loss, perhaps",
                f"{made.expected_loss:.2f} nats/token",
                "Chinchilla's curve, of its texts and tokens, not of yours",
            )
        )
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for line in made.notes:
        console.print(line, style="yellow" if made.fits else "red", highlight=False, markup=False, soft_wrap=True)
    console.print("It assumes:", highlight=False)
    for line in made.assumptions:
        console.print(f"- {line}", highlight=False, markup=False, soft_wrap=True)
    console.print("To begin it:", highlight=False)
    console.print(made.command, highlight=False, markup=False, soft_wrap=True)


def _is_config(given: str) -> bool:
    try:
        return find_file(given).is_file()
    except ConfigError:
        return Path(given).suffix in (".yaml", ".yml")


def _accelerator(name: str, config: TrainConfig) -> Accelerator:
    if name == "here":
        return accelerators.here(config.device, config.precision, config.num_threads, settings().machine)
    if name not in GPUS:
        raise InputError(f"--gpu {name}: its peak is not known here; these are: {', '.join(GPUS)}; --here measures this machine")
    if config.precision == "fp32":
        raise InputError(
            "plan: pretrain.precision fp32: the published peaks are of bfloat16; leave it out, or measure with --here"
        )
    return GPUS[name]


def _hours(budget: Budget, device: Accelerator, devices: int, prices: CostConfig) -> float:
    """Hours of one device that the budget pays for, on all of them together."""
    given = {name: value for name, value in budget._asdict().items() if value is not None}
    if len(given) != 1:
        raise InputError("plan: say how much may be spent, by one of --gpu-hours, --days and --money")
    (name, value) = next(iter(given.items()))
    if value <= 0:
        raise InputError(f"--{name.replace('_', '-')}: a budget is above 0 (got {value:g})")
    if name == "gpu_hours":
        return value
    if name == "days":
        return value * 24 * devices
    joules = device.watts * SECONDS_PER_HOUR if device.watts else None
    an_hour = cost(SECONDS_PER_HOUR, joules, prices).get("cost", 0.0)
    if not an_hour:
        raise InputError(
            "--money: nobody knows what an hour costs; set pretrain.costs.price_per_hour, or pretrain.costs.price_per_kwh for a GPU whose "
            "power is published"
        )
    return value / float(an_hour)


def _data(given: str, config: RunConfig) -> Data:
    """What a version or run has to learn from.

    Raises:
        InputError: it has neither tokens nor texts.
    """
    words = config.tokenise
    vocab_size = given_tokeniser.vocab_size(words.tokeniser) if words.tokeniser else words.vocab_size
    if not given:
        return Data("", None, vocab_size, measured=False)
    by_step = {one.step: one for one in versions_of(given)}
    if tokens := by_step.get("tokenise"):
        facts = tokens.manifest().facts
        return Data(name_of(tokens), facts["num_tokens.train"], facts["vocab_size"], measured=True)
    documents = by_step.get("publish") or next(reversed(by_step.values()))
    num_bytes = _text_bytes(documents)
    if not num_bytes:
        raise InputError(f"{given}: {documents.step} has no texts to learn from; name a version of `publish` or `tokenise`")
    return Data(name_of(documents), num_bytes / BYTES_PER_TOKEN, vocab_size, measured=False)


def _text_bytes(documents: ShardSet) -> int:
    """UTF-8 bytes of the texts of the training split, as the shards' footers have them."""
    splits = documents.manifest().facts.get("splits", {})
    total = 0
    for shard in documents.shards():
        if splits and shard.index not in splits["train"]:
            continue
        with storage.open_read(shard.path) as file:
            footer = pq.read_metadata(file)
        for group in range(footer.num_row_groups):
            columns = [footer.row_group(group).column(number) for number in range(footer.num_columns)]
            total += sum(column.total_uncompressed_size for column in columns if column.path_in_schema == "text")
    return total


def _affordable(flops: float, hours: float, device: Accelerator, data: Data, wanted: ModelConfig, ratio: float) -> Fit:
    """The model that these FLOPs are best spent on.

    Raises:
        InputError: they are too few for any.
    """
    fit = partial(scaling.fit, flops, wanted.family, data.vocab_size, context=wanted.context_length, tokens_per_parameter=ratio)
    found = fit(max_tokens=data.tokens * scaling.MAX_EPOCHS if data.tokens else None)
    if found is None and data.tokens and fit() is not None:
        raise InputError(
            f"plan: {data.name} has {data.tokens:,.0f} tokens, too few for even the smallest {wanted.family} with a vocabulary of "
            f"{data.vocab_size:,}; give more text, or lower tokenise.vocab_size or --tokens-per-parameter"
        )
    if found is None:
        raise InputError(
            f"plan: {hours:.3g} device-hours on {device.name} are {flops:.2g} FLOPs, too few for even the smallest {wanted.family} with a "
            f"vocabulary of {data.vocab_size:,}; give more, or lower tokenise.vocab_size"
        )
    return found


def _in_memory(
    found: Fit, device: Accelerator, devices: int, vocab_size: int, *, documents: bool, recompute: bool
) -> tuple[Schedule, Footprint, bool]:
    """The largest passes that fit, with whole models on each device or divided among them; the last that was tried, if none does."""
    context = found.model.shape.context_length
    kinds: tuple[Literal["ddp", "fsdp"], ...] = ("ddp", "fsdp") if devices > 1 else ("ddp",)
    for parallel in kinds:
        samples = max(1, MOST_TOKENS[device.kind] // context)
        while True:
            made = scaling.schedule(found, devices, samples)
            of_device = made.samples_per_pass // devices
            memory = footprint(
                found.model,
                vocab_size,
                of_device * context,
                device=device.kind,
                precision=device.precision,
                ranks=devices,
                parallel=parallel,
                recompute=recompute,
                documents=documents,
            )
            if memory.total <= MEMORY_SHARE * device.memory_bytes:
                return made, memory, parallel == "fsdp"
            if of_device == 1:
                break
            samples = of_device // 2
    return made, memory, parallel == "fsdp"


def _model_keys(found: Fit, config: RunConfig, data: Data) -> dict[str, Any]:
    words = {} if config.tokenise.tokeniser else {"tokenise.vocab_size": data.vocab_size}
    shape, family = found.model.shape._asdict(), found.model.family
    if family != "llama":
        del shape["num_kv_heads"]
    return words | {f"pretrain.model.{name}": value for name, value in {"family": family, **shape}.items()}


def _training_keys(made: Schedule, device: Accelerator, devices: int, *, sharded: bool, recompute: bool) -> dict[str, Any]:
    keys: dict[str, Any] = {
        "max_steps": made.steps,
        "batch_size": made.samples_per_pass,
        "gradient_accumulation": made.accumulation,
        "learning_rate": made.learning_rate,
        "warmup_steps": made.warmup_steps,
        "precision": device.precision,
    }
    if devices > 1:
        keys |= {"ranks": devices, "parallel": "fsdp" if sharded else "ddp"}
    if recompute:
        keys["activation_checkpointing"] = True
    return {f"pretrain.{name}": value for name, value in keys.items()}


def _notes(made: Plan, ratio: float) -> Iterator[str]:
    data, found = made.data, made.fit
    if found.limited_by_data and data.tokens:
        used = made.tokens * found.flops_per_token / made.budget_flops
        yield (
            f"The data limit: {data.name} has {data.tokens:,.0f} tokens, and more than {scaling.MAX_EPOCHS:g} times nothing new is learnt "
            f"from them, so {used:.0%} of the budget is of use. More text would use the rest, or a larger model on the same text "
            f"(--tokens-per-parameter below {ratio:g})."
        )
    elif data.tokens:
        yield f"The budget limits: {data.name} has {data.tokens / made.tokens:.3g} times the tokens that it pays for."
    else:
        yield f"The budget limits; {made.tokens:,} tokens must be there, or a quarter of them, each read four times."
    if not made.fits:
        yield (
            f"It does not fit: a device has {byte_words(made.accelerator.memory_bytes)}, of which {MEMORY_SHARE:.0%} may be filled. Take "
            "more devices (--gpus), larger ones, or a smaller pretrain.model.context_length."
        )
    shape = found.model.shape
    words = data.vocab_size * shape.hidden_size * (1 if shape.tie_embeddings else 2)
    if words > found.parameters / 2:
        yield (
            f"{words / found.parameters:.0%} of the parameters are embeddings of {data.vocab_size:,} tokens: a smaller vocabulary "
            "(tokenise.vocab_size) leaves more for the layers."
        )
    if made.accelerator.kind == "cuda" and found.parameters < SMALL_PARAMETERS:
        yield f"A model below {SMALL_PARAMETERS / 1e6:g}M parameters seldom keeps such a GPU busy: expect it to take longer, or give --mfu."


def _assumptions(device: Accelerator, data: Data, wanted: ModelConfig, ratio: float) -> tuple[str, ...]:
    told = (
        "counted by its version"
        if data.measured
        else f"{BYTES_PER_TOKEN:g} bytes of text a token; tokenise tells the true number"
        if data.tokens
        else "none were named"
    )
    return (
        f"peak {device.peak_flops / 1e12:.4g} TFLOP/s in {device.precision} ({device.source}), of which training reaches {device.mfu:.0%} "
        "(--mfu); all devices alike, and no time for evaluation, checkpoints and failures",
        f"{ratio:g} tokens per parameter, all parameters counted (Hoffmann et al. 2022)"
        + ("; fitted to models that write, not to masked ones" if wanted.family == "bert" else ""),
        f"tokens of the data: {told}; read at most {scaling.MAX_EPOCHS:g} times (Muennighoff et al. 2023)",
        f"vocabulary of {data.vocab_size:,}",
        "batch and learning rate by DeepSeek LLM (2024), section 3.1, for AdamW; below 1e17 FLOPs carried on beyond what was tried",
        "memory: AdamW in float32, activations counted without dropout (Korthikanti et al. 2022, section 4.1), a quarter and 0.1 GB beyond",
    )


def _time_words(seconds: float) -> str:
    for unit, size in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"
