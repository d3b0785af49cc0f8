"""How models are served: where, by how many replicas, within which limits of time, size and number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tasks.serving.votes import VotesConfig

Engine = Literal["transformers", "vllm"]


@dataclass(frozen=True)
class Served:
    """A model as it is served now."""

    name: str
    """As requests name it."""
    version: str
    """Of what it is, for people and logs: a version of the store, or a folder's name."""
    folder: str
    """A Hugging Face folder on this machine."""
    digest: str
    """Equal for equal models: another one is loaded in its place."""


Resolve = Callable[[], Served]
"""What a name or an alias means now; asked again while serving."""


class DriftConfig(BaseModel):
    """When what is asked and answered counts as no longer what it was."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    window_hours: float = Field(24.0, gt=0)
    """The span that is judged: the last so many hours. Whole days or weeks, for nights and Sundays differ from other times."""
    reference_days: float = Field(28.0, gt=0)
    """The span before it that it is judged by."""
    min_requests: int = Field(200, ge=2)
    """Requests that both spans must have; of fewer nothing is said."""
    min_distance: float = Field(0.1, gt=0, le=1)
    """Share of requests that must have moved to another kind."""
    max_p: float = Field(0.001, ge=0.0005, lt=1)
    """How often chance alone may give as much, of one feature; at least 0.0005, for so many times is drawn."""
    every_s: float = Field(3600.0, ge=0)
    """Seconds between two looks of a gateway at its log, for its metrics; 0: it never looks."""


class ServeConfig(BaseModel):
    """How the gateway and its replicas work."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    """Address to listen on. Anything but loopback needs keys (`gristmill keys add NAME`)."""
    port: int = Field(8080, ge=0, le=65535)
    """Port to listen on; 0: any that is free, which is told."""
    engine: Engine = "transformers"
    """What answers: `transformers`, replicas of ours around its continuous batching; `vllm`, which must be installed and wants a GPU."""
    replicas: int = Field(1, ge=1, le=64)
    """Processes for each model. On a CPU more than its cores only cost memory: each has the whole model."""
    slots: int = Field(16, ge=1, le=1024)
    """Requests that one replica works on at a time. The cache of keys and values is made for so many full contexts."""
    threads: int = Field(0, ge=0)
    """CPU threads of one replica. 0: the CPUs but one, which the gateway needs, divided by the replicas of all models, at least 1. More
    threads than free CPUs are many times slower than fewer: they spin for one another."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where replicas compute; auto: a GPU if there is one that works."""
    context_length: int = Field(0, ge=0)
    """Tokens of prompt and answer together. 0: what the model was made for; less saves memory."""
    prefill_tokens: int = Field(512, ge=16)
    """Tokens of prompts read in one step. More: long prompts are read sooner, while running answers wait longer for their next token."""
    default_new_tokens: int = Field(256, ge=1)
    """Most tokens of an answer where the request does not say; cut to what the context has room for."""
    max_new_tokens: int = Field(4096, ge=1)
    """Most tokens that a request may ask for; more is an error 400."""
    max_choices: int = Field(4, ge=1)
    """Most answers to one request (`n` times the number of prompts)."""
    max_body_bytes: int = Field(1 << 20, ge=1024)
    """Size of a request's body; more is an error 413."""
    queue_size: int = Field(128, ge=0)
    """Requests that wait for a free place, per model; another one is an error 503 with Retry-After."""
    queue_timeout_s: float = Field(30.0, gt=0)
    """Seconds that a request waits for a place; then an error 503."""
    first_token_timeout_s: float = Field(60.0, gt=0)
    """Seconds from its place to its first token; then an error 504."""
    total_timeout_s: float = Field(300.0, gt=0)
    """Seconds for the whole request; then an error 504, or an error at the end of a stream."""
    max_tries: int = Field(3, ge=1)
    """Replicas that a request may lose before it is given up: one that ends every replica must not end them all."""
    start_timeout_s: float = Field(180.0, gt=0)
    """Seconds for a replica to load its model; then it is ended and started again."""
    silent_after_s: float = Field(5.0, gt=0)
    """Seconds without a sign of life after which a replica gets no new requests."""
    dead_after_s: float = Field(30.0, gt=0)
    """Seconds without a sign of life after which it is ended, started again, and its requests go to others."""
    restart_after_s: float = Field(1.0, gt=0)
    """Seconds until a replica that ended is started again; doubled at each failure in a row, at most 30."""
    poll_s: float = Field(5.0, gt=0)
    """Seconds between two looks at what the aliases mean; another version is loaded beside the old one, then takes its place."""
    stop_s: float = Field(30.0, gt=0)
    """Seconds that running requests have to end in when the gateway is asked to stop."""
    guard: str = "default"
    """Policy of the guardrails that judge what is asked and answered: default, strict, off, or a YAML file (docs/guardrails.md)."""
    system_prompt: str = ""
    """Put before conversations whose client gives no system message of its own: NAME@ALIAS or NAME:VERSION of MLflow's prompt registry, a
    .txt or .md file, or the text itself (docs/serving.md). Empty: nothing. An alias is followed; a file is read once, at the start."""
    system_prompt_values: dict[str, Annotated[str, Field(coerce_numbers_to_str=True)]] = {}
    """Of the variables in it, by their names: each of them, and no other."""
    keys_file: Path | None = None
    """File with the keys of those who may ask. None: `serving/keys.json` below GRISTMILL_HOME."""
    log_file: Path | None = None
    """File with a line for each request. None: `serving/requests.jsonl` below GRISTMILL_HOME."""
    log_texts: bool = False
    """Whether prompts and answers are written there, too. They are what people said: decide it with care."""

    drift: DriftConfig = DriftConfig()
    """When traffic counts as drifted, which `/metrics` tells (docs/serving.md)."""
    votes: VotesConfig = VotesConfig()
    """How much of what people say of answers is kept, and for how long."""

    @field_validator("guard", mode="before")
    @classmethod
    def _no_switch(cls, given: object) -> object:
        return "off" if given is False else given  # as YAML reads `off`

    @field_validator("keys_file", "log_file")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        return path.expanduser().absolute() if path else None

    @model_validator(mode="after")
    def _fits(self) -> ServeConfig:
        if self.silent_after_s >= self.dead_after_s:
            raise ValueError(f"dead_after_s: must be more than silent_after_s (got {self.dead_after_s}, {self.silent_after_s})")
        if self.system_prompt_values and not self.system_prompt:
            raise ValueError(f"system_prompt_values: there is no system_prompt with {', '.join(self.system_prompt_values)}")
        return self
