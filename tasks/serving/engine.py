"""A model, its tokeniser, and transformers' continuous batching around it: prompts in, tokens out as each step makes them.

The cache of keys and values is as large as `slots` full contexts, so that a request that was taken always has room to end. Blocks are not
shared between requests: how fast one prompt is read must not tell what others have asked. Costs 6 s to start, most of it imports.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jinja2
import tokenizers
from transformers import GenerationConfig, PreTrainedTokenizerBase
from transformers.generation.configuration_utils import ContinuousBatchingConfig

from infra.errors import InputError
from models.loading import load_causal
from models.tokeniser import TURN_END
from tasks.learn import device
from tasks.serving import sampling
from tasks.serving.delivery import Delivery
from tasks.serving.wire import Job

PAGE_TOKENS = 16
"""Granularity of the cache; what is wasted by an answer is less than this."""
MARK = "\ue000{}\ue001"
"""Stands for a message in a template, from Unicode's private use."""


class Unfit(Exception):
    """A request that this model cannot answer."""

    def __init__(self, code: str, words: str) -> None:
        super().__init__(words)
        self.code = code


@dataclass(frozen=True)
class Prompt:
    """What the model reads, and how much it may write."""

    ids: list[int]
    new_tokens: int


class Engine:
    """Ready to answer once it is made."""

    def __init__(self, job: Job) -> None:
        device.use_threads(job.threads)
        name, _ = device.resolve(job.device)  # type: ignore[arg-type]
        model, self._tokeniser = load_causal(job.folder)
        self._words: tokenizers.Tokenizer = self._tokeniser.backend_tokenizer  # ten times as fast as what is around it
        self._context = min(job.context_length or 1 << 30, _longest(model.config))
        config = ContinuousBatchingConfig(
            page_size=PAGE_TOKENS,
            num_blocks=job.slots * math.ceil(self._context / PAGE_TOKENS),
            max_batch_tokens=max(job.prefill_tokens, job.slots),
            max_requests_per_batch=job.slots,
            safety_margin=0.0,  # there is room for all of them
            allow_block_sharing=False,
            use_async_batching=False,
            use_cuda_graph=False,
            per_request_processors=True,
        )
        self.ends = _ends(model.generation_config, self._tokeniser)
        plain = GenerationConfig(do_sample=False, eos_token_id=sorted(self.ends) or -1)
        self._manager = model.to(name).init_continuous_batching(plain, config)
        self._manager.logit_processor = sampling.Processors()
        self._manager.output_router = self._delivery = Delivery()
        self._manager.start()
        self._warm_up()
        self.facts = {"context_length": self._context, "device": name, "chat": self._tokeniser.chat_template is not None}

    def prompt(self, asked: dict[str, Any]) -> Prompt:
        """The tokens of a request.

        Raises:
            Unfit: the model has no chat template, or the context no room.
        """
        ids = self._text_ids(asked["prompt"]) if asked["messages"] is None else self._chat_ids(asked["messages"])
        if not ids:
            raise Unfit("empty_prompt", "the prompt has no tokens")
        room = self._context - len(ids)
        wanted = asked["new_tokens"] or min(asked["default_new_tokens"], max(room, 1))
        if wanted > room:
            raise Unfit(
                "context_length_exceeded",
                f"This model's maximum context length is {self._context} tokens; the prompt has {len(ids)} and {wanted} were asked for",
            )
        return Prompt(ids, wanted)

    def start(self, request: str, prompt: Prompt, asked: dict[str, Any], every: int, written: Callable[[Any], None]) -> None:
        """Begin an answer, or go on with one; `written` is called in this loop with every so many tokens and all before them."""
        resumed: list[int] = asked["resume"]
        self._delivery.expect(request, every)
        self._manager.register_result_handler(request, written)
        self._manager.add_request(
            [*prompt.ids, *resumed],
            request_id=request,
            max_new_tokens=prompt.new_tokens - len(resumed),
            streaming=True,
            temperature=float(asked["temperature"]),
            top_p=float(asked["top_p"]),
            seed=asked["seed"],
            prompt_tokens=len(prompt.ids),
        )

    def cancel(self, request: str) -> None:
        """Nobody waits for it any more."""
        self._manager.cancel_request(request)
        self._delivery.forget(request)

    def fault(self) -> str:
        """Why the engine writes no more; empty while it does."""
        if self._manager.is_running():
            return ""
        return f"the engine ended: {self._manager.background_thread_status.fatal_error!r}"

    def decode(self, ids: list[int]) -> str:
        """The text of tokens."""
        return self._words.decode(ids, skip_special_tokens=True)

    def _text_ids(self, text: str) -> list[int]:
        return list(self._tokeniser(text, split_special_tokens=True)["input_ids"])

    def _chat_ids(self, messages: list[dict[str, str]]) -> list[int]:
        """A conversation's tokens. Who writes `<|im_end|>` into a message must not end it: such a message is encoded by itself, as text."""
        if self._tokeniser.chat_template is None:
            raise Unfit("no_chat_template", "this model has no chat template: it continues texts, which /v1/completions asks for")
        names = [one for one in self._tokeniser.get_added_vocab() if one]
        if not any(name in one["content"] for one in messages for name in names):
            return list(self._tokeniser.encode(self._rendered(messages), add_special_tokens=False))
        marked = [{**one, "content": MARK.format(place)} for place, one in enumerate(messages)]
        rest, ids = self._rendered(marked), list[int]()
        for place, one in enumerate(messages):
            before, _, rest = rest.partition(MARK.format(place))
            ids += self._tokeniser.encode(before, add_special_tokens=False)
            ids += self._tokeniser.encode(one["content"], add_special_tokens=False, split_special_tokens=True)
        return [*ids, *self._tokeniser.encode(rest, add_special_tokens=False)]

    def _rendered(self, messages: list[dict[str, str]]) -> str:
        try:
            return str(self._tokeniser.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        except (jinja2.TemplateError, TypeError, ValueError) as error:  # of the model's own: roles that it does not take
            raise Unfit("chat_template", f"this model's chat template does not take these messages: {error}") from error

    def _warm_up(self) -> None:
        """The first step allocates and compiles what all others use."""
        given = {"temperature": 1.0, "top_p": 0.9, "seed": 0, "prompt_tokens": 4}
        self._delivery.expect("warm-up", 1)
        self._manager.add_request([0] * min(4, self._context - 2), request_id="warm-up", max_new_tokens=2, **given)
        if self._manager.get_result(timeout=120.0) is None:
            raise InputError(f"the engine wrote nothing in its first two minutes: {self.fault() or 'it is still at it'}")


def _longest(config: Any) -> int:
    """Tokens that the model was made for."""
    return int(getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", 0) or 2048)


def _ends(config: GenerationConfig, tokeniser: PreTrainedTokenizerBase) -> frozenset[int]:
    """Tokens that end an answer: the model's own, the tokeniser's, and the end of a turn in our chat template."""
    own = config.eos_token_id
    ends = {own} if isinstance(own, int) else set(own or ())
    turn = tokeniser.get_added_vocab().get(TURN_END)
    return frozenset(one for one in (*ends, tokeniser.eos_token_id, turn) if one is not None)
