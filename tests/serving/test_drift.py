"""Drift of served traffic: counted as plain Python counts it, found where it is, and not where chance explains it."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows import drift as flow
from flows.__main__ import app
from infra.errors import InputError
from infra.settings import settings
from tasks.serving import drift
from tasks.serving.config import DriftConfig
from tasks.serving.drift import chance, judged
from tasks.serving.metrics import Metrics
from tasks.serving.traits import Traits, repeated_share

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
CONFIG = DriftConfig(min_requests=50)


def line(rng: random.Random, at: datetime, **changes: Any) -> dict[str, Any]:
    """A line of the log, with what the gateway writes and drift does not read, too."""
    row = {
        "at": at.isoformat(timespec="milliseconds"),
        "request": f"{rng.getrandbits(64):016x}",
        "route": "/v1/chat/completions",
        "model": "mine",
        "version": "mine:1",
        "status": 200,
        "prompt_tokens": 9,
        "asked": {"chars": rng.choice([0, 1, 3, 40, 80, 900]), "language": rng.choices(["en", "de"], [3, 1])[0]},
        "said": {
            "chars": rng.randrange(200, 400),
            "language": "en",
            "repeated": rng.choice([0.0, 0.1, 0.35, 1.0]),
            "ended": rng.choices(["stop", "length"], [4, 1])[0],
        },
    }
    if rng.random() < 0.2:
        fired = [
            {"rule": name, "kind": "pii", "spans": 1} for name in rng.choice([["email"], ["phone", "email"], ["email", "email"]])
        ]
        row["decisions"] = [{"side": side, "action": "change", "rules": fired} for side in ("before", "after")]
    return row | changes


def traffic(path: Path, num_before: int, num_now: int, seed: int = 0, **changes: Any) -> list[dict[str, Any]]:
    """A log of 29 days, whose last day has `changes`."""
    rng = random.Random(seed)
    rows = [line(rng, NOW - timedelta(days=1, seconds=rng.uniform(1, 28 * 86_400 - 1))) for _ in range(num_before)]
    rows += [line(rng, NOW - timedelta(seconds=rng.uniform(1, 86_400 - 1)), **changes) for _ in range(num_now)]
    rng.shuffle(rows)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


def plain(row: dict[str, Any]) -> dict[str, str]:
    def doubling(chars: int) -> str:
        low = 1 << (chars.bit_length() - 1) if chars else 0
        return f"{low}-{2 * low - 1}" if chars > 1 else str(chars)

    rules = sorted({fired["rule"] for decision in row.get("decisions", ()) for fired in decision["rules"]})
    return {
        "asked.chars": doubling(row["asked"]["chars"]),
        "asked.language": row["asked"]["language"],
        "said.chars": doubling(row["said"]["chars"]),
        "said.language": row["said"]["language"],
        "said.repeated": f"{min(int(row['said']['repeated'] * 10), 9) / 10:.1f}",
        "said.ended": row["said"]["ended"],
        "guard": ", ".join(rules) or "none",
        "status": str(row["status"]),
    }


def test_requests_are_counted_as_plain_python_counts_them(tmp_path: Path) -> None:
    log = tmp_path / "requests.jsonl"
    rows = traffic(log, 300, 100)
    far = [line(random.Random(1), NOW - timedelta(days=days)) for days in (30, -1)]  # outside both spans
    bare = {"at": NOW.isoformat(), "route": "/v1/models", "status": 200}  # asks no model
    log.write_text("".join(json.dumps(row) + "\n" for row in [*rows, *far, bare]) + '[1]\n{"at":"2026-11-2')
    found = judged(log, CONFIG, NOW)
    [model] = found.models
    assert (model.model, model.num_before, model.num_now, found.num_unreadable) == ("mine", 300, 100, 2)
    assert model.versions_before == model.versions_now == ["mine:1"]
    since = NOW - timedelta(days=1)
    for feature in model.features:
        for lately, counts in ((False, feature.before), (True, feature.now)):
            told = [plain(row)[feature.name] for row in rows if (datetime.fromisoformat(row["at"]) >= since) is lately]
            assert counts == Counter(told), feature.name
    assert not found.drifted


def test_what_moved_is_named_with_its_shares_and_nothing_else(tmp_path: Path) -> None:
    log = tmp_path / "requests.jsonl"
    traffic(log, 600, 200, asked={"chars": 3, "language": "fi"})
    found = judged(log, CONFIG, NOW)
    assert {feature.name for _, feature in found.drifted} == {"asked.chars", "asked.language"}
    language = next(feature for _, feature in found.drifted if feature.name == "asked.language")
    assert language.distance == 1 and language.p == pytest.approx(1 / 2000)
    assert language.moved[0].value == "fi" and (language.moved[0].before, language.moved[0].now) == (0, 1)


def test_of_few_requests_nothing_is_said(tmp_path: Path) -> None:
    log = tmp_path / "requests.jsonl"
    traffic(log, 600, 49, status=500)
    [model] = judged(log, CONFIG, NOW).models
    assert {(one.distance, one.p, one.drifted) for one in model.features} == {(None, None, False)}


def test_of_what_got_no_answer_only_the_end_is_counted(tmp_path: Path) -> None:
    log = tmp_path / "requests.jsonl"
    nothing = {"chars": 0, "language": "unknown", "repeated": 0.0, "ended": ""}
    traffic(log, 600, 200, status=503, said=nothing)
    found = judged(log, CONFIG, NOW)
    now = {feature.name: feature.now for feature in found.models[0].features}
    assert now["said.chars"] == now["said.language"] == now["said.repeated"] == {}
    assert now["said.ended"] == {"cut off": 200}
    assert {feature.name for _, feature in found.drifted} == {"said.ended", "status"}
    assert "cut off" in flow.page(found, log, CONFIG)


def test_a_log_that_is_none_is_told(tmp_path: Path) -> None:
    log = tmp_path / "requests.jsonl.gz"
    log.write_bytes(b"no gzip")
    with pytest.raises(InputError, match=r"requests\.jsonl\.gz: cannot be read"):
        judged(log, CONFIG, NOW)


def test_a_missing_log_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing\.jsonl: no such log"):
        judged(tmp_path / "nothing.jsonl", CONFIG, NOW)


def test_chance_gives_small_values_as_often_as_they_say() -> None:
    rng = random.Random(5)

    def drawn(num: int) -> dict[str, int]:
        return dict(Counter(rng.choices("abcdef", [30, 20, 10, 5, 2, 1], k=num)))

    found = [chance(drawn(400), drawn(100)) for _ in range(300)]
    assert 0.02 < sum(p <= 0.1 for p in found) / 300 < 0.17  # four standard deviations about 0.1
    assert 0.38 < sum(p <= 0.5 for p in found) / 300 < 0.62


def test_gauges_are_set_and_it_is_said_once_until_it_ends(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log, metrics = tmp_path / "requests.jsonl", Metrics()
    traffic(log, 600, 200, status=503)
    found = judged(log, CONFIG, NOW)
    with caplog.at_level(logging.WARNING, "gristmill"):
        known = drift.tell(found, metrics, set())
        assert drift.tell(found, metrics, known) == known == {("mine", "status")}
    assert [one.getMessage() for one in caplog.records] == [
        "traffic of mine has drifted: status (HTTP status), distance 1.00: 200 100.0% → 0.0%, 503 0.0% → 100.0%"
    ]
    told = metrics.page().decode()
    assert 'gristmill_traffic_drifted{feature="status",model="mine"} 1.0' in told
    assert 'gristmill_traffic_drifted{feature="asked.language",model="mine"} 0.0' in told
    assert 'gristmill_traffic_distance{feature="status",model="mine"} 1.0' in told
    assert drift.tell(judged(log, CONFIG, NOW + timedelta(days=3)), metrics, known) == set()
    assert "feature=" not in metrics.page().decode()  # nothing is left of what can no longer be judged


def test_a_gateway_looks_again_where_it_could_not_look(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log, metrics = tmp_path / "requests.jsonl", Metrics()

    async def followed() -> None:
        watch = asyncio.create_task(drift.follow(log, DriftConfig(every_s=0.01), metrics))
        while not caplog.records:
            await asyncio.sleep(0.01)
        rng = random.Random(1)
        rows = [line(rng, datetime.now(UTC) - timedelta(days=days)) for days in (0.1, 2) for _ in range(200)]
        log.write_text("".join(json.dumps(row) + "\n" for row in rows))
        while b'feature="status"' not in metrics.page():
            await asyncio.sleep(0.01)
        watch.cancel()

    asyncio.run(asyncio.wait_for(followed(), 60))
    assert "no such log of requests" in caplog.text


def test_the_command_says_it_and_writes_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "requests.jsonl"
    traffic(log, 600, 200, asked={"chars": 3, "language": "<fi>"})
    rng = random.Random(2)
    still = [line(rng, NOW - timedelta(hours=2)) for _ in range(100)]  # a third of the last day
    log.write_text(log.read_text() + "".join(json.dumps(row) + "\n" for row in still))
    monkeypatch.setattr("flows.drift.datetime", type("Then", (), {"now": staticmethod(lambda _: NOW)}))
    words = ["drift", "--log", str(log), "--set", "min_requests=50"]
    told = CliRunner().invoke(app, [*words, "--output", str(tmp_path / "drift.html"), "--format", "json"])
    assert told.exit_code == 3
    body, _, name = told.stdout.strip().rpartition("\n")
    features = {one["name"]: one for one in json.loads(body)["models"][0]["features"]}
    assert features["asked.language"]["drifted"] and not features["guard"]["drifted"]
    page = Path(name).read_text()
    assert "2 features have drifted" in page and "&lt;fi&gt;" in page and "<fi>" not in page
    assert CliRunner().invoke(app, [*words, "--set", "min_distance=0.9"]).exit_code == 0


def test_traits_are_numbers_and_never_words() -> None:
    asked, said = Traits(settings().language_model).of("Wo steht die alte Mühle am Bach?", "one two one two one two", "stop")
    assert asked == {"chars": 32, "language": "de"}
    assert said["chars"] == 23 and said["ended"] == "stop"
    assert said["repeated"] == 0.5  # of the four runs of three words two are new
    without, _ = Traits(Path("/no/model")).of("Wo?", "", "")
    assert without == {"chars": 3}


@pytest.mark.parametrize(("text", "share"), [("", 0), ("a b", 0), ("a b c", 0), ("a a a a a", 2 / 3), ("x " * 2000, 1 - 1 / 498)])
def test_repetition_is_the_share_of_runs_that_stood_there_before(text: str, share: float) -> None:
    assert repeated_share(text) == pytest.approx(share)
