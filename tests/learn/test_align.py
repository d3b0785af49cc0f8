"""DPO, reward models and reinforcement learn what pairs and checks say, nothing where labels are shuffled, and go on bit for bit.

The adapters are called in this process; the slow proofs start the process that the steps start, and kill it.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.nn import functional

from expectations.schemas import PREFERENCES, PROBLEMS, RATINGS
from infra.dataset import write_table
from infra.errors import InputError
from infra.settings import child_environment
from infra.versions import code_version
from models.chat import stops
from tasks.dpo import dpo as dpo_step
from tasks.learn import aligning, answers, dpo, kto, posttrain, posttraining, reinforce, reward, rewarded, tuning, tuning_told
from tasks.learn.align_config import AlignConfig, DpoConfig, KtoConfig, ReinforceConfig, RewardConfig
from tasks.learn.answers import Answer
from tasks.learn.comparison import measured
from tasks.learn.config import HISTORY, ITEMS, LEFT_OUT, SCORES
from tasks.learn.figures import Figure
from tasks.learn.posttrain import PostJob

from . import chatty

SCHEMAS = {"preferences": PREFERENCES, "ratings": RATINGS, "problems": PROBLEMS}
ROWS = {"reinforce": "problems", "kto": "ratings"}
COMMON: Mapping[str, Any] = {"device": "cpu", "num_threads": 1, "precision": "fp32", "learning_rate": 1e-3}
WRITE = {"prompts": 40, "num_samples": 4, "max_new_tokens": 4}
FAST_DPO = DpoConfig(**COMMON, max_steps=16, write={"prompts": 4, "num_samples": 1, "max_new_tokens": 6})
FAST_KTO = KtoConfig(**COMMON, max_steps=12, batch_size=16, write={"prompts": 0})
FAST_REWARD = RewardConfig(**COMMON, max_steps=16)
FAST_GRPO = ReinforceConfig(**COMMON, max_steps=12, batch_size=32, num_generations=4, max_new_tokens=4, write=WRITE, beta=0.02)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return chatty.made_model(tmp_path_factory.mktemp("chatty"))


def job_of(
    folder: Path, model: Path, method: str, config: AlignConfig, rows: Sequence[dict[str, Any]], **models: Path
) -> PostJob:
    name = ROWS.get(method, "preferences")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "rows.parquet"
    write_table(str(path), pa.Table.from_pylist(list(rows), schema=SCHEMAS[name]))
    return PostJob(
        folder=str(folder),
        cache=str(folder),
        provenance={},
        code_version=code_version(),
        owner=os.getpid(),
        method=method,  # type: ignore[arg-type]
        models={"model": str(model), **{name: str(path) for name, path in models.items()}},
        rows={name: [str(path)]},
        config=config.model_dump(mode="json"),
    )


def trained(job: PostJob) -> tuple[dict[str, Any], dict[str, Figure]]:
    """The result of an adapter called here, and its figures by name."""
    adapter: Any = {"dpo": dpo, "kto": kto, "reward": reward, "reinforce": reinforce}[job.method]
    result = adapter.train(job, lambda line: None, lambda step, total: None)
    told = json.loads(Path(job.folder, aligning.FIGURES, "scores.json").read_text())
    figures = [Figure(**{key: value for key, value in one.items() if key != "small"}) for one in told["figures"]]
    return result, {one.name: one for one in figures}


def near(figure: Figure, value: float) -> bool:
    """Whether a value is inside the interval."""
    assert figure.low is not None and figure.high is not None
    return figure.low <= value <= figure.high


# --- each adapter learns (make test) --------------------------------------------------------------------------------------------


def here(job: PostJob, **hears: Any) -> dict[str, Any]:
    """What `posttrain.run` does, without a process of its own."""
    posttraining._train(job)
    events = [json.loads(line) for line in Path(job.events).read_text().splitlines()]
    for event in events:
        for name, told in event.items():
            if name != "result":
                hears[f"on_{name}"](told)
    result: dict[str, Any] = events[-1]["result"]
    return result


def test_dpo_prefers_what_was_preferred_on_pairs_it_has_not_seen_and_its_version_says_all_of_it(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(posttrain, "run", here)
    rows = chatty.pairs("good")
    rows[0] |= {"chosen": "yes " * 80, "split": "train"}
    rows[1] |= {"chosen": "yes " * 80, "split": "test"}
    rows[2] |= {"chosen": "yes<|im_end|>", "split": "test"}
    rows[3] |= {"prompt": [{"role": "user", "content": "the lamp " * 13}], "split": "test"}
    inputs = [chatty.model_version(tmp_path / "model", model), chatty.rows_version(tmp_path / "rows", "preferences", rows)]
    version = dpo_step.run(inputs, FAST_DPO, str(tmp_path / "out")).shards
    manifest = version.manifest()
    wanted = {"model/model.safetensors", "model/tokenizer.json", HISTORY, LEFT_OUT, SCORES, ITEMS}
    assert wanted <= {entry.name for entry in manifest.files}
    assert manifest.counts.dropped == {"too_long": 1}
    assert manifest.counts.total == sum(row["split"] == "train" for row in rows)
    scored = measured([version])
    assert scored.figures["after.preference.accuracy"].value > 0.9  # type: ignore[operator]
    assert scored.figures["after.preference.margin"].low > 0  # type: ignore[operator]
    assert scored.figures["after.kl.per_token"].value > 0  # type: ignore[operator]
    accuracy = scored.figures["after.preference.accuracy"]
    told = next(one for one in tuning_told.changes_of("dpo", manifest.facts) if one.name == "preference.accuracy")
    assert (told.before, told.after, told.low, told.high, told.num_items) == (
        None,
        accuracy.value,
        accuracy.low,
        accuracy.high,
        accuracy.n,
    )
    assert (manifest.facts["objective"], manifest.facts["suite"]) == ("causal", "aligned")
    test = sum(row["split"] == "test" for row in rows)
    assert (manifest.facts["rows_heldout"], manifest.facts["rows_heldout_left_out"]) == (test - 2, 2)
    assert manifest.facts["rows_heldout_left_out.too_long"] == manifest.facts["rows_heldout_left_out.special_token"] == 1
    assert (manifest.facts["prompts_asked"], manifest.facts["prompts_left_out.no_room"]) == (4, 1)
    history = json.loads(version.read_file(HISTORY))
    assert history[-1]["rewards/accuracies"] > 0.9  # TRL's own, of its last batches
    assert "seconds" not in history[0]
    assert dpo_step.run(inputs, FAST_DPO, str(tmp_path / "out")).loaded


def test_kto_learns_from_single_answers_and_says_what_has_no_counterpart(model: Path, tmp_path: Path) -> None:
    rows = chatty.ratings("good")
    rows[0] |= {"answer": "yes " * 80, "split": "train"}
    result, found = trained(job_of(tmp_path, model, "kto", FAST_KTO, rows))
    assert found["after.preference.accuracy"].value > 0.9  # type: ignore[operator]
    assert found["after.preference.margin"].low > 0  # type: ignore[operator]
    facts = result["facts"]
    held = [row["good"] for row in rows if row["split"] == "test"]
    assert facts["rows_heldout"] == 2 * min(sum(held), len(held) - sum(held)) == 2 * found["after.preference.margin"].n
    assert facts["rows_heldout_left_out.no_counterpart"] == len(held) - facts["rows_heldout"] > 0
    assert facts["rows.good"] + facts["rows.bad"] == facts["rows"] and [one["rule"] for one in result["left_out"]] == ["too_long"]
    assert facts["rows.good"] * facts["weight.good"] == pytest.approx(facts["rows.bad"] * facts["weight.bad"])
    assert (result["steps"], result["objective"]) == (12, "causal")


def test_kto_takes_answers_of_both_kinds() -> None:
    with pytest.raises(InputError, match=r"2 good and 0 bad answers .* step sft"):
        kto.balanced([{"good": True}, {"good": True}])


def test_a_reward_model_judges_pairs_it_has_not_seen_and_is_one_number_wide(model: Path, tmp_path: Path) -> None:
    result, found = trained(job_of(tmp_path, model, "reward", FAST_REWARD, chatty.pairs("good")))
    assert found["after.preference.accuracy"].value > 0.9  # type: ignore[operator]
    judge = reward.judge(result["model_folder"])
    assert judge.config.num_labels == 1
    assert result["objective"] == "reward"
    assert not list(Path(result["model_folder"]).glob("*.bin"))


def test_grpo_raises_a_reward_that_can_be_checked(model: Path, tmp_path: Path) -> None:
    result, found = trained(job_of(tmp_path, model, "reinforce", FAST_GRPO, chatty.problems("good")))
    assert 0.3 < found["before.reward.verified"].value < 0.7  # type: ignore[operator]
    assert found["change.reward.verified"].low > 0.1  # type: ignore[operator]
    assert found["after.kl.per_answer"].value > 0  # type: ignore[operator]
    assert result["history"][-1]["reward"] == pytest.approx(result["history"][-1]["reward.mean"], abs=1e-6)


# --- measuring ------------------------------------------------------------------------------------------------------------------


def test_likelihoods_and_judgements_do_not_depend_on_the_neighbours_in_a_batch(model: Path) -> None:
    causal, words = tuning.causal(str(model))
    chance = random.Random(1)
    pairs = [
        answers.answered(words, [{"role": "user", "content": ask}], " ".join(chance.choices(chatty.GOOD, k=chance.randint(1, 4))))
        for ask in chatty.ASKED[:9]
    ]
    together = answers.log_likelihoods(causal, pairs)
    for one, nats in zip(pairs, together, strict=True):
        ids = torch.tensor([[*one.prompt, *one.ids]])
        with torch.no_grad():
            logits = causal(input_ids=ids).logits[0, len(one.prompt) - 1 : -1]
        assert nats == pytest.approx(
            -functional.cross_entropy(logits, ids[0, len(one.prompt) :], reduction="sum").item(), abs=1e-4
        )
    judge = reward.judge(str(model))
    judge.config.pad_token_id = words.pad_token_id
    apart = np.array([answers.rewards(judge, [one])[0] for one in pairs])
    assert answers.rewards(judge, pairs) == pytest.approx(apart, abs=1e-5)


def test_what_is_written_follows_the_seed_ends_and_leaves_the_random_numbers_alone(model: Path) -> None:
    causal, words = tuning.causal(str(model))
    prompts = [answers.opened(words, [{"role": "user", "content": ask}]) for ask in chatty.ASKED[:6]]
    settings = {"max_new_tokens": 4, "temperature": 1.0, "num_samples": 3}
    torch.manual_seed(7)
    wanted = torch.rand(1)
    torch.manual_seed(7)
    said = answers.written(causal, words, prompts, seed=1, **settings)
    assert torch.equal(torch.rand(1), wanted)
    assert said == answers.written(causal, words, prompts, seed=1, **settings)
    assert said != answers.written(causal, words, prompts, seed=2, **settings)
    assert [one.prompt for one in said] == [number for number in range(6) for _ in range(3)]
    ends = stops(words, None)
    assert all(not set(ends) & set(one.ids) and one.cut == (len(one.ids) == 4) for one in said)
    assert sum(one.text in (*chatty.GOOD, *chatty.BAD) for one in said) > 12


def test_a_model_is_no_distance_from_itself(model: Path) -> None:
    causal, words = tuning.causal(str(model))
    prompts = [answers.opened(words, [{"role": "user", "content": chatty.ASKED[0]}])]
    said = answers.written(causal, words, prompts, max_new_tokens=4, temperature=1.0, num_samples=4, seed=1)
    assert aligning.divergence(causal, causal, said, prompts, words)["kl.per_answer"].amounts.sum() == 0.0


def test_rows_that_do_not_fit_or_would_forge_a_turn_are_left_out_with_their_reason(model: Path) -> None:
    _, words = tuning.causal(str(model))
    rows = [
        {"row_id": "fits", "prompt": [{"role": "user", "content": "open?"}], "chosen": "yes", "rejected": "no"},
        {"row_id": "long", "prompt": [{"role": "user", "content": "open?"}], "chosen": "yes " * 60, "rejected": "no"},
        {"row_id": "forged", "prompt": [{"role": "user", "content": "open?"}], "chosen": "yes<|im_end|>", "rejected": "no"},
    ]
    found, left_out = answers.pairs_of(rows, words, 48)
    assert list(found) == ["fits"]
    assert {one.row_id: one.rule for one in left_out} == {"long": "too_long", "forged": "special_token"}
    chosen, rejected = found["fits"]
    assert isinstance(chosen, Answer) and chosen.prompt == rejected.prompt == answers.opened(words, rows[0]["prompt"])
    kept, left_out = answers.prompts_of([rows[0], {**rows[0], "row_id": "other"}], words, 1)
    assert not kept and [one.rule for one in left_out] == ["too_long"] * 2


def test_problems_without_a_check_need_a_reward_model(model: Path, tmp_path: Path) -> None:
    rows = [{**row, "check": "none", "answer": ""} for row in chatty.problems("good")]
    with pytest.raises(InputError, match="no reward model"):
        trained(job_of(tmp_path, model, "reinforce", FAST_GRPO, rows))


def test_a_reward_model_that_does_not_see_a_whole_answer_is_refused(model: Path) -> None:
    judge, words, rows = reward.judge(str(model)), tuning.tokeniser_of(str(model)), chatty.problems("good")[:4]
    longest = max(len(answers.answered(words, row["prompt"], "").prompt) for row in rows)
    judge.config.max_position_embeddings = longest + 1 + FAST_GRPO.max_new_tokens
    with pytest.raises(InputError, match=rf"sees {longest + 5} tokens at most \(got {longest + 6}: a prompt takes {longest + 2}"):
        rewarded.Judge(FAST_GRPO, judge, words).check(rows)
    judge.config.max_position_embeddings += 1
    able = rewarded.Judge(FAST_GRPO, judge, words)
    able.check(rows)
    assert len(able.told(rows, ["yes"] * 4)["reward.model"]) == 4
    with pytest.raises(InputError, match="its tokeniser makes more tokens of an answer"):
        able.told(rows, ["yes sure " * 8] * 4)


def test_a_step_learns_from_whole_groups_only() -> None:
    with pytest.raises(ValueError, match="must be a multiple of num_generations 8"):
        ReinforceConfig(batch_size=4, num_generations=8)
    assert ReinforceConfig(batch_size=4, gradient_accumulation=4, num_generations=8).answers_per_step == 16


def test_the_order_of_rows_is_whole_passes_by_the_seed() -> None:
    config = AlignConfig(learning_rate=1e-3, epochs=2.5, seed=3)
    order = aligning.order(11, 2, config)
    assert len(order) == 26  # 13 whole steps of 2 rows
    assert sorted(order[:11]) == sorted(order[11:22]) == list(range(11))
    assert order[:11] != order[11:22]
    assert order == aligning.order(11, 2, config) != aligning.order(11, 2, config.model_copy(update={"seed": 4}))


def test_a_prompt_is_written_to_once_however_many_rows_it_has() -> None:
    rows = [{"row_id": n, "prompt": [{"role": "user", "content": said}]} for n, said in enumerate("abacb")]
    assert [row["row_id"] for row in aligning.of_each_prompt(rows)] == [0, 1, 3]


# --- slow proofs ----------------------------------------------------------------------------------------------------------------

LORA = {"rank": 8, "alpha": 16.0}
SLOW: Mapping[str, AlignConfig] = {
    "dpo": DpoConfig(**COMMON, epochs=3, write=WRITE),
    "dpo sigmoid_norm": DpoConfig(**COMMON, epochs=3, write=WRITE, loss="sigmoid_norm"),
    "dpo ipo": DpoConfig(**COMMON, epochs=3, write=WRITE, loss="ipo"),
    "dpo lora": DpoConfig(**{**COMMON, "learning_rate": 1e-2}, epochs=3, write=WRITE, lora=LORA),
    "dpo qlora": DpoConfig(**{**COMMON, "learning_rate": 1e-2}, epochs=3, write=WRITE, lora={**LORA, "base": "nf4"}),
    "kto": KtoConfig(**COMMON, epochs=6, batch_size=16, write=WRITE),
    "kto lora": KtoConfig(**{**COMMON, "learning_rate": 1e-2}, epochs=6, batch_size=16, write=WRITE, lora=LORA),
    "reward": RewardConfig(**COMMON, epochs=3),
    "reward lora": RewardConfig(**{**COMMON, "learning_rate": 1e-2}, epochs=3, lora=LORA),
    "grpo": FAST_GRPO.model_copy(update={"max_steps": 60}),
    "grpo lora": ReinforceConfig(
        **{**COMMON, "learning_rate": 1e-2},
        max_steps=60,
        batch_size=32,
        num_generations=4,
        max_new_tokens=4,
        write=WRITE,
        lora=LORA,
    ),
    "grpo qlora": ReinforceConfig(
        **{**COMMON, "learning_rate": 1e-2},
        max_steps=60,
        batch_size=32,
        num_generations=4,
        max_new_tokens=4,
        write=WRITE,
        lora={**LORA, "base": "nf4"},
    ),
    "rloo": FAST_GRPO.model_copy(update={"max_steps": 60, "method": "rloo"}),
}


def method_of(name: str) -> str:
    word = name.split()[0]
    return "reinforce" if word in ("grpo", "rloo") else word


def rows_for(name: str, labels: str) -> list[dict[str, Any]]:
    makers = {"reinforce": chatty.problems, "kto": chatty.ratings}
    return makers.get(method_of(name), chatty.pairs)(labels)


@pytest.mark.soak
@pytest.mark.parametrize("name", SLOW)
def test_what_can_be_learnt_is_and_shuffled_labels_teach_nothing(name: str, model: Path, tmp_path: Path) -> None:
    for labels in ("good", "shuffled"):
        _, found = trained(job_of(tmp_path / labels, model, method_of(name), SLOW[name], rows_for(name, labels)))
        told = found["change.reward.verified" if method_of(name) == "reinforce" else "after.preference.accuracy"]
        print(f"{name}, {labels}: {told}")
        if method_of(name) == "reinforce":
            assert (told.low > 0.3) if labels == "good" else near(told, 0.0)  # type: ignore[operator]
        else:
            assert (told.value > 0.9) if labels == "good" else near(told, 0.5)  # type: ignore[operator]
            margin = found["after.preference.margin"]
            assert (margin.low > 0) == (labels == "good")  # type: ignore[operator]


@pytest.mark.soak
def test_a_reward_model_trains_a_model_as_a_check_does_and_agrees_with_it(model: Path, tmp_path: Path) -> None:
    judged, _ = trained(job_of(tmp_path / "reward", model, "reward", SLOW["reward"], chatty.pairs("good")))
    config = SLOW["rloo"].model_copy(update={"verified_weight": 0.0})
    job = job_of(
        tmp_path / "rloo", model, "reinforce", config, chatty.problems("good"), reward_model=Path(judged["model_folder"])
    )
    _, found = trained(job)
    assert found["change.reward.model"].low > 0  # type: ignore[operator]
    assert found["change.reward.verified"].low > 0.2  # type: ignore[operator]
    assert found["before.reward.agreement"].value > 0.9  # type: ignore[operator]


KILLED: Mapping[str, AlignConfig] = {
    "dpo": SLOW["dpo"].model_copy(update={"checkpoint_every_steps": 5, "batch_size": 4, "gradient_accumulation": 2}),
    "dpo qlora": SLOW["dpo qlora"].model_copy(update={"checkpoint_every_steps": 5}),
    "kto": SLOW["kto"].model_copy(update={"checkpoint_every_steps": 5, "batch_size": 8, "gradient_accumulation": 2}),
    "kto lora": SLOW["kto lora"].model_copy(update={"checkpoint_every_steps": 5}),
    "reward": SLOW["reward"].model_copy(update={"checkpoint_every_steps": 5, "lora": None}),
    "grpo": SLOW["grpo"].model_copy(
        update={"checkpoint_every_steps": 5, "max_steps": 40, "batch_size": 8, "gradient_accumulation": 2}
    ),
    "rloo": SLOW["rloo"].model_copy(update={"checkpoint_every_steps": 5, "max_steps": 40}),
    "grpo lora": SLOW["grpo lora"].model_copy(update={"checkpoint_every_steps": 5, "max_steps": 40}),
    "grpo qlora": SLOW["grpo qlora"].model_copy(update={"checkpoint_every_steps": 5, "max_steps": 40}),
}


def process_of(job: PostJob) -> subprocess.Popen[bytes]:
    path = Path(job.folder, "job.json")
    path.write_text(job.model_dump_json())
    with Path(job.folder, "log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", posttraining.__name__, str(path)], env=child_environment(), stdout=log, stderr=log
        )


def finished(job: PostJob) -> dict[str, Any]:
    process = process_of(job)
    assert process.wait() == 0, Path(job.folder, "log").read_text()[-3000:]
    events = [json.loads(line) for line in Path(job.events).read_text().splitlines()]
    return next(event["result"] for event in reversed(events) if "result" in event)


def digest(folder: str) -> str:
    return hashlib.sha256(Path(folder, "model.safetensors").read_bytes()).hexdigest()


def steady(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    volatile = ("seconds", "peak_bytes", "step_time")
    return [{key: value for key, value in line.items() if not key.startswith(volatile)} for line in history]


@pytest.mark.soak
@pytest.mark.parametrize("name", KILLED)
def test_a_training_killed_at_any_step_ends_as_one_that_was_left_alone(name: str, model: Path, tmp_path: Path) -> None:
    rows = rows_for(name, "good")
    whole = finished(job_of(tmp_path / "whole", model, method_of(name), KILLED[name], rows))
    job = job_of(tmp_path / "killed", model, method_of(name), KILLED[name], rows)
    chance = random.Random(name)
    total = whole["steps"]
    for low, high in ((6, total // 2), (total // 2, total - 1)):  # twice, the second time in a later pass over the rows
        after = chance.randint(low, high)
        process = process_of(job)
        while process.poll() is None:
            lines = Path(job.events).read_text().splitlines() if Path(job.events).exists() else []
            if any(json.loads(line).get("step", 0) >= after for line in lines if line.endswith("}")):
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.02)
        process.wait()
        assert list(Path(job.folder).glob("checkpoint-*"))
        Path(job.events).unlink()
    again = finished(job)
    assert digest(again["model_folder"]) == digest(whole["model_folder"])
    assert steady(again["history"]) == steady(whole["history"])
    assert again["facts"] == whole["facts"]
