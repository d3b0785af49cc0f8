"""The step smoke, which serves a model for a moment by the gateway and a replica of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra import storage
from infra.settings import settings
from infra.steps import BESIDE
from tasks.serving.config import ServeConfig
from tasks.serving.keys import Keys
from tasks.serving.policy import policy_files
from tasks.serving.server import keys_file, log_file
from tasks.smoke import ANSWERS, SmokeConfig, smoke
from tests.learn import chatty


@pytest.mark.soak
def test_all_prompts_are_answered_whoever_has_keys_and_nobody_finds_them_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRISTMILL_HOME", str(tmp_path / "home"))
    Keys(keys_file(ServeConfig())).add("somebody", 1, 1)
    model = chatty.model_version(tmp_path / "version", chatty.made_model(tmp_path / "chatty", steps=100))
    config = SmokeConfig(prompts=tuple(chatty.ASKED[:3]), max_new_tokens=4)
    version = smoke.run([model], config, str(tmp_path / "out")).shards
    answers = storage.read_json(version.file(f"{BESIDE}/{ANSWERS}"))
    assert [one["prompt"] for one in answers] == chatty.ASKED[:3]
    assert all(one["text"] in (*chatty.GOOD, *chatty.BAD) and 0 < one["num_tokens"] <= 4 for one in answers)
    assert version.manifest().facts["num_requests"] == 3 and settings().home == tmp_path / "home"
    assert not log_file(ServeConfig()).exists()


def test_the_policy_of_the_guard_is_part_of_what_is_asked_of_a_model() -> None:
    read = smoke.fingerprint(SmokeConfig())
    assert read == policy_files(ServeConfig().guard) and {"policy default", "rules pii"} <= read.keys()
