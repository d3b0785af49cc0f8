"""Tuning on conversations: it learns what there is to learn, packed rows are alone, and a killed run is as an undisturbed one."""

from __future__ import annotations

import json
import os
import pickle
import random
import re
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer, BloomConfig, GPT2Config

from infra.errors import InputError
from tasks.learn import chats, packed, posttrain, posttraining, sft, tuning, watch
from tasks.learn.costs import CostConfig
from tasks.learn.job import TrainingDied
from tasks.learn.posttrain import PostJob
from tasks.learn.sft_config import SftConfig

from .test_job import pid_of
from .tuned import COLOURS, FAST, base_model, chat, colours, job, rows_of

RARELY = {"checkpoint_every_steps": 200, "log_every_steps": 20}
LONG = {"max_steps": 80, **RARELY}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return base_model(tmp_path_factory.mktemp("sft") / "model")


def done(one: PostJob) -> dict[str, Any]:
    lines: list[Any] = []
    result = sft.train(one, lines.append, lambda step, total: None)
    assert lines == result["history"]
    return result


def answers(folder: str, questions: list[list[dict[str, str]]]) -> list[str]:
    """What the model says, greedily, until it ends its turn by itself."""
    words, tuned = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    found = []
    for turns in questions:
        given = words.apply_chat_template(turns[:1], add_generation_prompt=True, return_dict=True, return_tensors="pt")
        made = tuned.generate(**given, max_new_tokens=8, do_sample=False)[0, given["input_ids"].shape[1] :]
        found.append(words.decode(made))
    return found


@pytest.fixture(scope="module")
def learnt(model: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("learnt")
    return done(job(folder, model, rows_of(colours(60), test_every=5), config=LONG))


def test_a_mapping_is_learnt_and_said_until_the_end_of_the_turn(learnt: dict[str, Any]) -> None:
    facts, history = learnt["facts"], learnt["history"]
    assert history[-1]["train_loss"] < 0.2 < 2 < history[0]["train_loss"]
    assert facts["after.token_accuracy"] > 0.95 and facts["before.token_accuracy"] < 0.5
    assert facts["after.loss"] < 0.2 < facts["before.loss"] and facts["rows"] == 48 and facts["rows_heldout"] == 12
    said = answers(learnt["model_folder"], colours(24))
    assert said == [f"{COLOURS[thing]}<|im_end|>" for thing in list(COLOURS) * 4]


@pytest.mark.soak
def test_shuffled_answers_teach_nothing_that_holds_for_other_questions(model: str, tmp_path: Path) -> None:
    said = [COLOURS[thing] for thing in list(COLOURS) * 10]
    random.Random(3).shuffle(said)
    rows = rows_of(colours(60, said), test_every=5)
    facts = done(job(tmp_path, model, rows, config=LONG))["facts"]
    words = AutoTokenizer.from_pretrained(model)
    held = [row["messages"] for row in rows if row["split"] == "test"]
    # the most that one answer to everything gets right, place by place
    tokens = [words(turns[1]["content"] + "<|im_end|>")["input_ids"] for turns in held]
    best = max(sum(a == b for one in tokens for a, b in zip(one, guess, strict=False)) for guess in tokens)
    assert facts["after.token_accuracy"] <= best / sum(map(len, tokens)) + 0.1
    assert facts["after.loss"] > 0.5


@pytest.mark.parametrize(
    ("shape", "apart"),
    [
        (GPT2Config(vocab_size=60, n_embd=32, n_layer=1, n_head=2, n_positions=32, bos_token_id=0, eos_token_id=0), True),
        (BloomConfig(vocab_size=60, hidden_size=32, n_layer=1, n_head=2), False),
    ],
)
def test_a_model_that_reads_on_into_the_next_conversation_is_not_packed(shape: Any, apart: bool) -> None:
    made = AutoModelForCausalLM.from_config(shape)
    if apart:
        packed.check(made)
    else:
        with pytest.raises(InputError, match=r"sft.packing: a bloom model .* set packing to false"):
            packed.check(made)


def packing(model: str, folder: Path, rows: list[Any]) -> tuple[Any, Any, list[chats.Chat]]:
    """A trainer whose batches are packed, its first batch, and the conversations."""
    config = SftConfig(**{**FAST, "batch_size": 2})
    args = tuning.arguments(config, folder)
    loaded, words = tuning.causal(model)
    encoded = list(chats.chats(rows_of(rows), words, 64, "drop")[0].values())
    trainer = sft.trainer_of(loaded, words, encoded, config, args, 64)
    return trainer, next(iter(trainer.get_train_dataloader())), encoded


def test_conversations_in_one_row_do_not_see_one_another(model: str, tmp_path: Path) -> None:
    trainer, batch, encoded = packing(model, tmp_path, [*colours(3), *colours(5)[3:], chat("what", "none")])
    trainer.model.eval()
    ids, positions = batch["input_ids"], batch["position_ids"]
    rows = []
    for row, places in zip(ids, positions, strict=True):
        starts = [*torch.nonzero(places == 0).flatten().tolist(), len(row)]
        rows.append([row[a:b].tolist() for a, b in pairwise(starts)])
    texts = [part for row in rows for part in row if set(part) != {trainer.processing_class.pad_token_id}]
    assert len(rows) == 2 and len(rows[0]) >= 3 and sorted(texts) == sorted(one.ids for one in encoded)
    with torch.no_grad():
        together = trainer.model(input_ids=ids, position_ids=positions, use_cache=False).logits
        alone = [[trainer.model(input_ids=torch.tensor([part]), use_cache=False).logits[0] for part in row] for row in rows]
        apart = torch.stack([torch.cat(row) for row in alone])
        leaking = trainer.model(input_ids=ids, use_cache=False).logits
        assert torch.allclose(together, apart, atol=1e-5)
        assert (leaking - apart).abs().max() > 0.01
        # and the loss that trains is the mean over the learnt tokens of each alone
        nats, tokens = 0.0, 0
        for part in texts:
            labels = torch.tensor(next(one.labels for one in encoded if one.ids == part))
            logits = trainer.model(input_ids=torch.tensor([part]), use_cache=False).logits[0]
            nats += float(functional.cross_entropy(logits[:-1], labels[1:], ignore_index=-100, reduction="sum"))
            tokens += int((labels[1:] != -100).sum())
        assert float(trainer.compute_loss(trainer.model, dict(batch))) == pytest.approx(nats / tokens, rel=1e-5)


def test_rows_side_by_side_are_as_each_of_their_texts_alone(model: str) -> None:
    drawn = random.Random(4)
    rows = []
    for lengths in ([5, 9, 3], [4], [1, 6], [17]):
        ids = [drawn.randrange(60) for _ in range(sum(lengths))]
        labels = [one if drawn.random() < 0.5 else chats.IGNORED for one in ids]
        rows.append({"input_ids": ids, "labels": labels, "seq_lengths": lengths})
    batch = packed.SideBySide(padding=7)(rows)
    assert {name: tuple(one.shape) for name, one in batch.items()} == dict.fromkeys(
        ("input_ids", "labels", "position_ids"), (4, 17)
    )
    loaded, _ = tuning.causal(model)
    loaded.eval()
    with torch.no_grad():
        together = loaded(**{name: batch[name] for name in ("input_ids", "position_ids")}, use_cache=False).logits
    for number, row in enumerate(rows):
        at, filled = 0, 17 - len(row["input_ids"])
        for length in [*row["seq_lengths"], *([filled] if filled else [])]:
            text = [*row["input_ids"], *[7] * filled][at : at + length]
            with torch.no_grad():
                alone = loaded(input_ids=torch.tensor([text]), use_cache=False).logits[0]
            assert torch.allclose(together[number, at : at + length], alone, atol=1e-5)
            assert batch["position_ids"][number, at : at + length].tolist() == list(range(length))
            at += length
        assert batch["input_ids"][number].tolist() == [*row["input_ids"], *[7] * filled]
        assert batch["labels"][number].tolist() == [*row["labels"], *[-100] * filled]


@pytest.mark.parametrize("base", ["fp32", "nf4"])
def test_adapters_are_merged_and_nothing_else_has_changed(model: str, base: str, tmp_path: Path) -> None:
    lora = {"rank": 4, "alpha": 8, "target_modules": ["q_proj", "v_proj"], "base": base}
    result = done(job(tmp_path, model, rows_of(colours(24), test_every=4), config={"max_steps": 20, "lora": lora, **RARELY}))
    before, after = load_file(Path(model, "model.safetensors")), load_file(Path(result["model_folder"], "model.safetensors"))
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.endswith(("q_proj.weight", "v_proj.weight"))}
    assert result["trained_parameters"] < result["num_parameters"] / 5
    assert result["facts"]["after.loss"] < result["facts"]["before.loss"] - 0.3
    # what was measured is what the model gives as it came, and as it was merged
    rows = [row for row in rows_of(colours(24), test_every=4) if row["split"] == "test"]
    for folder, name in ((model, "before.loss"), (result["model_folder"], "after.loss")):
        whole, words = tuning.causal(folder)
        held = list(chats.chats(rows, words, 64, "drop")[0].values())
        assert sft.heldout_chats.score(whole, held)["loss"] == pytest.approx(result["facts"][name], rel=1e-4)


def test_what_is_left_is_a_plain_folder_that_stops_at_the_end_of_a_turn(learnt: dict[str, Any], model: str) -> None:
    folder = Path(learnt["model_folder"])
    assert {file.name for file in folder.iterdir()} == {
        *("config.json", "generation_config.json", "model.safetensors"),
        *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    }
    assert (folder / "tokenizer.json").read_bytes() == Path(model, "tokenizer.json").read_bytes()
    words = AutoTokenizer.from_pretrained(folder)
    ends = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    assert ends == [words.convert_tokens_to_ids("<|im_end|>"), words.eos_token_id]


class Cut(Exception):
    """The power went."""


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"lora": {"rank": 2}, "packing": False, "gradient_accumulation": 2},
        pytest.param({"lora": {"rank": 2, "base": "nf4"}}, marks=pytest.mark.soak),
    ],
)
def test_a_run_that_was_cut_goes_on_at_its_newest_whole_checkpoint_and_gives_the_same_bits(
    model: str, tmp_path: Path, changes: Mapping[str, Any]
) -> None:
    config = {"max_steps": 14, "batch_size": 2, "schedule": "constant", **changes}
    rows = rows_of(colours(20))
    undisturbed = done(job(tmp_path / "whole", model, rows, config=config))
    one = job(tmp_path / "cut", model, rows, config=config)

    def cut(step: int, total: int) -> None:
        assert total == 14
        if step == 11:
            raise Cut

    with pytest.raises(Cut):
        sft.train(one, lambda line: None, cut)
    folder = Path(one.folder)
    # as a kill in the middle of writing the next one leaves it: files there, one of them cut off, no mark
    shutil.copytree(folder / "checkpoint-8", folder / "checkpoint-12", ignore=shutil.ignore_patterns(watch.MARK))
    (folder / "checkpoint-12" / "optimizer.pt").write_bytes(b"half")
    # and one that lost bytes after it was marked
    shutil.copytree(folder / "checkpoint-8", folder / "checkpoint-10")
    (folder / "checkpoint-10" / "optimizer.pt").write_bytes(b"half")
    lines: list[Any] = []
    resumed = sft.train(one, lines.append, lambda step, total: None)
    assert [line["step"] for line in lines] == [10, 12, 14]
    clockless = [
        [{name: value for name, value in line.items() if name not in ("seconds", "peak_bytes")} for line in each["history"]]
        for each in (undisturbed, resumed)
    ]
    assert clockless[0] == clockless[1] and len(clockless[0]) == 7
    files = [Path(each["model_folder"], "model.safetensors").read_bytes() for each in (undisturbed, resumed)]
    assert files[0] == files[1]
    # finished, though within a pass over the rows, it is found whole, and no step more is made; other settings are refused in its folder
    again = sft.train(one, lines.append, lambda step, total: None)
    assert again["history"] == resumed["history"] and len(lines) == 3 and again["steps"] == 14
    assert Path(again["model_folder"], "model.safetensors").read_bytes() == files[0]
    assert (again["facts"], again["trained_parameters"]) == (undisturbed["facts"], undisturbed["trained_parameters"])
    with pytest.raises(InputError, match="was made with another learning_rate"):
        sft.train(one.model_copy(update={"config": {**one.config, "learning_rate": 0.1}}), lambda line: None, lambda *_: None)


def test_a_gradient_that_is_not_finite_stops_before_it_reaches_the_weights(model: str, tmp_path: Path) -> None:
    one = job(tmp_path, model, rows_of(colours(20)), config={"max_steps": 8, "batch_size": 2})

    def spoil(step: int, total: int) -> None:
        if step == 5:
            spoilt[0].model.get_input_embeddings().weight.data[7] = float("nan")

    spoilt: list[Any] = []
    made = sft.trainer_of

    def kept(*args: Any) -> Any:
        spoilt.append(made(*args))
        return spoilt[0]

    with pytest.MonkeyPatch.context() as patch, pytest.raises(watch.LossNotFinite, match=r"gradient of step 6 is not finite"):
        patch.setattr(sft, "trainer_of", kept)
        sft.train(one, lambda line: None, spoil)
    assert [path.name for path in Path(one.folder).glob("checkpoint-*")] == ["checkpoint-4"]


def test_nothing_to_learn_from_is_said_with_the_reasons(model: str, tmp_path: Path) -> None:
    rows = rows_of([chat("what", "red " * 80), chat("<|pad|>", "red")])
    with pytest.raises(InputError, match=r"can be learnt from \(too_long 1, special_token 1\)"):
        done(job(tmp_path / "none", model, rows))
    with pytest.raises(InputError, match="max_length: the model sees 64 tokens at most"):
        done(job(tmp_path / "long", model, rows, config={"max_length": 65}))
    more = [{**row, "split": "test"} for row in rows_of([*colours(3), chat("what", "red " * 80)])]
    result = done(job(tmp_path / "some", model, [*rows, *rows_of(colours(4)), *more], config={"max_steps": 1, "heldout_rows": 2}))
    assert Counter(one["rule"] for one in result["left_out"]) == {"too_long": 1, "special_token": 1}
    assert (result["facts"]["rows_heldout"], result["facts"]["rows_heldout_left_out"]) == (2, 1)


def events(one: PostJob, **changes: Any) -> tuple[int, list[dict[str, Any]]]:
    """What the process tells of a job, done here instead of in one of its own."""
    path = Path(one.folder, "job.json")
    path.write_text(one.model_copy(update=changes).model_dump_json())
    Path(one.events).unlink(missing_ok=True)
    code = posttraining.main(str(path))
    return code, [json.loads(line) for line in Path(one.events).read_text().splitlines()]


def test_the_process_tells_its_steps_its_lines_and_how_it_ended(model: str, tmp_path: Path) -> None:
    one = job(tmp_path, model, rows_of(colours(20), test_every=5), config={"epochs": 2, "batch_size": 8, "packing": False})
    code, told = events(one)
    assert code == 0 and told[0] == {"total": 4} and {"step": 4} in told
    assert [event["log"]["step"] for event in told if "log" in event] == [2, 4]
    result = told[-1]["result"]
    assert result["steps"] == 4 and result["energy_joules_estimated"] > 0 and result["facts"]["rows"] == 16
    taken = posttrain.used(SftConfig(**FAST, costs=CostConfig(price_per_hour=2.0)), result)
    assert taken["cost"] == pytest.approx(result["seconds"] / 1800) and taken["device"] == "cpu"
    assert posttrain.facts(result)["after.tokens"] == result["facts"]["before.tokens"]
    code, [event] = events(one, code_version="old")
    assert code == 1 and re.match("training: this process runs the code [0-9a-f]{16} and was started by old", event["error"])
    code, [event] = events(one, config={**one.config, "device": "cuda"})
    assert code == 1 and "cuda does not work here" in event["error"]


def test_the_process_sees_one_gpu() -> None:
    seen = [
        posttrain.one_gpu(given).get("CUDA_VISIBLE_DEVICES")
        for given in ({}, {"CUDA_VISIBLE_DEVICES": "2,3"}, {"CUDA_VISIBLE_DEVICES": ""})
    ]
    assert seen == ["0", "2", ""]


@pytest.mark.soak
def test_killed_at_a_random_moment_and_resumed_gives_the_same_bits(model: str, tmp_path: Path) -> None:
    config = {"max_steps": 60, "batch_size": 2, "lora": None, "checkpoint_every_steps": 6}
    rows = rows_of(colours(40), test_every=8)
    undisturbed = done(job(tmp_path / "undisturbed", model, rows, config=config))
    one = job(tmp_path / "killed", model, rows, config=config)
    fatal_step, delay_s = random.randrange(4, 50, 2), random.random() * 0.1
    moment = f"step {fatal_step} and {delay_s:.3f} s"

    def kill(line: Mapping[str, Any]) -> None:
        if line["step"] == fatal_step:
            pid = pid_of(Path(one.folder), "tasks.learn.posttraining")
            assert pid is not None
            threading.Timer(delay_s, os.kill, (pid, signal.SIGKILL)).start()

    with pytest.raises(TrainingDied, match="ended with code -9"):
        posttrain.run(one, on_log=kill, on_step=lambda step: None)
    lines: list[Any] = []
    resumed = posttrain.run(one, on_log=lines.append, on_step=lambda step: None)
    assert lines[0]["step"] > (fatal_step // 6 - 1) * 6, moment
    told = [[(line["step"], line["train_loss"], line["grad_norm"]) for line in one["history"]] for one in (undisturbed, resumed)]
    assert told[0] == told[1], moment
    files = [Path(each["model_folder"], "model.safetensors").read_bytes() for each in (undisturbed, resumed)]
    assert files[0] == files[1], moment
    assert resumed["facts"] == undisturbed["facts"], moment


def test_a_checkpoint_that_is_a_pickle_of_somebody_runs_nothing(model: str, tmp_path: Path) -> None:
    one = job(tmp_path / "job", model, rows_of(colours(8)), config={"max_steps": 6})

    def cut(step: int, total: int) -> None:
        if step == 5:
            raise Cut

    with pytest.raises(Cut):
        sft.train(one, lambda line: None, cut)
    kept = Path(one.folder, "checkpoint-4")
    mark = json.loads((kept / watch.MARK).read_text())
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        before = (kept / name).read_bytes()
        (kept / name).write_bytes(pickle.dumps(Ran(tmp_path / "ran")))
        mark["sizes"][name] = (kept / name).stat().st_size
        (kept / watch.MARK).write_text(json.dumps(mark))
        with pytest.raises(pickle.UnpicklingError, match=r"[Ww]eights"):
            done(one)
        (kept / name).write_bytes(before)
        mark["sizes"][name] = len(before)
    assert not (tmp_path / "ran").exists()
    assert pickle.loads(pickle.dumps(Ran(tmp_path / "ran"))) is None and (tmp_path / "ran").exists()


class Ran:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)
