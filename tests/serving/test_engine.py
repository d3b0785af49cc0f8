"""The engine beside transformers' own `generate`; and answers that go on where another replica stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from models.loading import load_causal
from tasks.serving.engine import Engine, Unfit
from tasks.serving.pieces import Pieces
from tasks.serving.replica import Answer
from tasks.serving.wire import Job

from .made_server import CONTEXT, make_model

GIVEN: dict[str, Any] = {
    **{"messages": None, "prompt": "read the file", "new_tokens": 30, "default_new_tokens": 30},
    **{"temperature": 1.0, "top_p": 0.9, "seed": 1, "stop": [], "resume": []},
}


@pytest.fixture(scope="module", params=["llama", pytest.param("gpt2", marks=pytest.mark.soak)])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engine, str]]:
    folder = make_model(tmp_path_factory.mktemp(request.param), family=request.param)
    job = Job(socket=0, folder=folder, slots=8, threads=1, device="cpu", context_length=0, prefill_tokens=16, code_version="")
    made = Engine(job)
    yield made, folder
    made._manager.stop(block=True, timeout=10)


def written(engine: Engine, asked: list[dict[str, Any]]) -> list[tuple[list[int], list[str], str]]:
    """Tokens, pieces of text and the end of so many answers at a time."""

    async def work() -> list[tuple[list[int], list[str], str]]:
        made = []
        for number, one in enumerate(asked):
            over = asyncio.get_running_loop().create_future()
            answer = Answer(f"r{number}", Pieces(engine.decode, one["stop"]), engine.ends, one["resume"])
            tokens, texts = list[int](), list[str]()

            def hear(output: Any, answer: Any = answer, tokens: Any = tokens, texts: Any = texts, over: Any = over) -> None:
                told = answer.more(output.generated_tokens, over=output.is_finished())
                tokens.extend(told[1])
                texts.append(told[2])
                if told[3]:
                    over.set_result((tokens, texts, told[3]))

            engine.start(f"r{number}", engine.prompt(one), one, 1, hear)
            made.append(over)
        return list(await asyncio.wait_for(asyncio.gather(*made), 60))

    return asyncio.run(work())


def test_greedy_answers_side_by_side_are_those_of_transformers(engine: tuple[Engine, str]) -> None:
    """Prompts are read in parts of 16 tokens, while others are written."""
    prompts = ["read the file", "open", "what is in the folder? " * 3, "return the key of the list, the list of keys " * 2]
    model, words = load_causal(engine[1])
    found = written(engine[0], [{**GIVEN, "prompt": one, "temperature": 0.0} for one in prompts])
    for prompt, (tokens, texts, _) in zip(prompts, found, strict=True):
        ids = words(prompt)["input_ids"]
        made = model.generate(torch.tensor([ids]), max_new_tokens=30, do_sample=False, pad_token_id=0)
        assert tokens == made[0, len(ids) :].tolist()
        assert "".join(texts) == words.decode(tokens, skip_special_tokens=True)
    assert len({tuple(tokens) for tokens, _, _ in found}) == len(prompts)


def test_an_answer_goes_on_where_another_replica_stopped(engine: tuple[Engine, str]) -> None:
    whole = written(engine[0], [{**GIVEN, "seed": seed} for seed in range(6)])
    for cut in (1, 7, 20):
        begun = [(seed, one) for seed, one in enumerate(whole) if len(one[0]) > cut]
        assert len(begun) > 2
        rest = written(engine[0], [{**GIVEN, "seed": seed, "resume": one[0][:cut]} for seed, one in begun])
        for (_, (tokens, texts, ended)), (more, more_texts, more_ended) in zip(begun, rest, strict=True):
            assert tokens[:cut] + more == tokens and more_ended == ended
            assert "".join(texts[:cut] + more_texts) == "".join(texts)


def test_only_what_somebody_waits_for_wakes_the_event_loop(engine: tuple[Engine, str]) -> None:
    """Of an answer that is wanted as a whole: its first token, then each 16th, and its end; of a stream each one."""

    async def told(every: int) -> tuple[list[int], list[int]]:
        over, numbers, loop = asyncio.get_running_loop().create_future(), list[int](), asyncio.get_running_loop()
        wakes = list[int]()
        wake = loop.call_soon_threadsafe

        def counted(*args: Any, **kwargs: Any) -> Any:
            wakes.append(1)
            return wake(*args, **kwargs)

        def hear(output: Any) -> None:
            numbers.append(len(output.generated_tokens))
            if output.is_finished():
                over.set_result(None)

        loop.call_soon_threadsafe = counted  # type: ignore[method-assign]
        asked = {**GIVEN, "temperature": 0.0, "new_tokens": 30}
        engine[0].start(f"every {every}", engine[0].prompt(asked), asked, every, hear)
        await asyncio.wait_for(over, 60)
        return numbers, wakes

    for every in (1, 16):
        numbers, wakes = asyncio.run(told(every))
        num = numbers[-1]
        assert numbers == [one for one in range(1, num + 1) if one in (1, num) or one % every == 0]
        assert num > 16 and len(wakes) == len(numbers)
    assert engine[0]._delivery._every == {}


def test_of_a_cancelled_answer_nothing_is_kept(engine: tuple[Engine, str]) -> None:
    async def work() -> None:
        first = asyncio.get_running_loop().create_future()
        asked = {**GIVEN, "new_tokens": 100}
        engine[0].start("gone", engine[0].prompt(asked), asked, 1, lambda output: first.done() or first.set_result(None))
        await asyncio.wait_for(first, 60)
        engine[0].cancel("gone")

    asyncio.run(work())
    written(engine[0], [GIVEN])  # its steps are later
    assert engine[0]._delivery._every == {} and engine[0]._delivery.output_queue.empty()


def test_what_does_not_fit_is_told(engine: tuple[Engine, str]) -> None:
    with pytest.raises(Unfit, match=f"maximum context length is {CONTEXT} tokens"):
        engine[0].prompt({**GIVEN, "new_tokens": CONTEXT})
    assert engine[0].prompt({**GIVEN, "new_tokens": None, "default_new_tokens": 10**6}).new_tokens < CONTEXT
    with pytest.raises(Unfit, match="no tokens"):
        engine[0].prompt({**GIVEN, "prompt": ""})
