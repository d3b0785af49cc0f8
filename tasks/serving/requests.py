"""What may be asked, as OpenAI's API has it; and its errors.

A field is either honoured or refused by its name: nothing that was asked for is silently left out. Fields that change nothing at one value
(`frequency_penalty` 0, `logprobs` false) are taken with that value alone.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict

from tasks.serving.config import ServeConfig

MIN_TEMPERATURE = 1e-4
"""Below it the likeliest token is taken: scores divided by less are no numbers any more."""


def _whole_characters(text: str) -> str:
    text.encode("utf-8")  # JSON can name half a surrogate pair, which no tokeniser reads and no answer can repeat
    return text


Text = Annotated[str, Strict(), AfterValidator(_whole_characters)]
Whole = Annotated[int, Field(strict=True)]
Stop = Annotated[Text, Field(min_length=1, max_length=1000)]
MAX_STOPS = 4
SHOWN_CHARS = 200
"""Of what a client said, in an error."""
SEEDS = 2**63
DEFAULT_COMPLETION_TOKENS = 16
"""Of OpenAI's API, where `max_tokens` is not given."""


class Refused(Exception):
    """A request that is not answered, in OpenAI's words."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str,
        *,
        param: str | None = None,
        kind: str = "",
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param, self.retry_after_s = status, message, code, param, retry_after_s
        self.kind = kind or {
            400: "invalid_request_error",
            401: "authentication_error",
            404: "invalid_request_error",
            413: "invalid_request_error",
            429: "rate_limit_error",
        }.get(status, "server_error" if status >= 500 else "invalid_request_error")

    @property
    def body(self) -> dict[str, Any]:
        """As it is sent."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TextPart(_Asked):
    """A part of a message; only texts are read."""

    type: Literal["text"]
    text: Text


class Message(_Asked):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Annotated[list[TextPart], Field(min_length=1)]

    def plain(self) -> dict[str, str]:
        """As chat templates take it; `developer` is today's name of `system`."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class TextFormat(_Asked):
    """The one form of answers that there is."""

    type: Literal["text"]


class StreamOptions(_Asked):
    """How a stream is sent."""

    include_usage: Annotated[bool, Field(strict=True)] = False


class _Sampling(_Asked):
    model: Text
    max_tokens: Annotated[Whole, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, strict=True)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, strict=True)] | None = None
    n: Annotated[Whole, Field(ge=1)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)] | None = None
    seed: Annotated[Whole, Field(ge=-SEEDS, lt=SEEDS)] | None = None
    stream: Annotated[bool, Field(strict=True)] | None = None
    stream_options: StreamOptions | None = None
    user: Text | None = None
    """Taken and kept nowhere: keys have names."""
    frequency_penalty: Literal[0] | None = None
    presence_penalty: Literal[0] | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """Where answers end."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with its numbers of tokens."""
        return self.stream_options is not None and self.stream_options.include_usage


class ChatRequest(_Sampling):
    """The body of /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[Whole, Field(ge=1)] | None = None
    logprobs: Literal[False] | None = None
    response_format: TextFormat | None = None
    store: Literal[False] | None = None


class CompletionRequest(_Sampling):
    """The body of /v1/completions."""

    prompt: Text | Annotated[list[Text], Field(min_length=1)]
    echo: Literal[False] | None = None


@dataclass(frozen=True)
class Wanted:
    """One answer that a replica is to write."""

    messages: tuple[dict[str, str], ...] | None
    """A conversation to answer; None: `prompt` is a text to go on with."""
    prompt: str
    new_tokens: int | None
    """Most tokens; None: the default, as far as the context has room."""
    default_new_tokens: int
    temperature: float
    """0: always the likeliest token."""
    top_p: float
    seed: int
    """Decides every draw: an answer that goes on elsewhere goes on as it would have."""
    stop: tuple[str, ...]

    @property
    def num_bytes(self) -> int:
        """Of all it says."""
        texts = [one["content"] for one in self.messages] if self.messages is not None else [self.prompt]
        return sum(len(one.encode("utf-8", "surrogatepass")) for one in texts)


def wanted(asked: ChatRequest | CompletionRequest, config: ServeConfig) -> list[Wanted]:
    """The answers that a request asks for, in the order of its choices.

    Raises:
        Refused: it asks for too much.
    """
    number, prompts = asked.n or 1, 1
    if isinstance(asked, CompletionRequest):
        prompts = 1 if isinstance(asked.prompt, str) else len(asked.prompt)
    if number * prompts > config.max_choices:
        what = f"{number} choices of {prompts} prompts" if prompts > 1 else f"n={number}"
        raise _bad(
            "n" if number > 1 else "prompt", f"{what} are too many: this server gives {config.max_choices} answers at most"
        )
    if asked.stream_options is not None and not asked.stream:
        raise _bad("stream_options", "stream_options is only for stream=true")
    seed = secrets.randbits(62) if asked.seed is None else asked.seed
    temperature = 1.0 if asked.temperature is None else float(asked.temperature)
    first = Wanted(
        messages=tuple(one.plain() for one in asked.messages) if isinstance(asked, ChatRequest) else None,
        prompt="",
        new_tokens=_new_tokens(asked, config),
        default_new_tokens=config.default_new_tokens,
        temperature=temperature if temperature >= MIN_TEMPERATURE else 0.0,
        top_p=1.0 if asked.top_p is None else asked.top_p,
        seed=seed,
        stop=asked.stops,
    )
    texts: Sequence[str] = [""]
    if isinstance(asked, CompletionRequest):
        texts = [asked.prompt] if isinstance(asked.prompt, str) else asked.prompt
    return [replace(first, prompt=text, seed=seed + place) for text in texts for place in range(number)]


def _new_tokens(asked: ChatRequest | CompletionRequest, config: ServeConfig) -> int | None:
    given, name = asked.max_tokens, "max_tokens"
    if isinstance(asked, ChatRequest):
        if asked.max_completion_tokens is not None and given is not None:
            raise _bad("max_tokens", "max_tokens is the old name of max_completion_tokens: give one of them")
        if given is None:
            given, name = asked.max_completion_tokens, "max_completion_tokens"
    elif given is None:
        given = min(DEFAULT_COMPLETION_TOKENS, config.max_new_tokens)
    if given is not None and given > config.max_new_tokens:
        raise _bad(name, f"{name} is {given}, and this server gives {config.max_new_tokens} tokens at most")
    return given


def misread(problems: Sequence[Mapping[str, Any]]) -> Refused:
    """What is wrong with a body, by the name of the field; of several problems the first."""
    first = next((one for one in problems if one["type"] == "extra_forbidden"), problems[0])
    # behind a field pydantic names the kind of value that it tried; no field of ours is called like one
    names = [str(one) for one in first["loc"] if isinstance(one, int) or (one.isidentifier() and one not in ("body", "str"))]
    param = ".".join(names) or None
    if first["type"] == "extra_forbidden":
        param = param or str(first["loc"][-1])[:SHOWN_CHARS]
        return Refused(400, f"{param}: this server does not support it; leave it out", "unsupported_parameter", param=param)
    if first["type"] == "missing":
        return Refused(400, f"{param or 'a JSON object'} is missing", "missing_required_parameter", param=param)
    if first["type"] == "json_invalid":
        return Refused(400, "the body is no JSON", "invalid_json")
    return Refused(400, f"{param or 'the body'}: {first['msg']}", "invalid_value", param=param)


def _bad(param: str, message: str) -> Refused:
    return Refused(400, message, "invalid_value", param=param)
