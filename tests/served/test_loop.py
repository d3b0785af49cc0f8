"""The whole loop with the real servers: people judge what the champion answers, a new model learns from that, and answers in its place.

Serve, votes, export, `improve` (DPO, evaluation, the gate's comparison, challenger), `promote`, reload. The model is so small that all it
writes is bad; what people want instead is one kind of answer, which can be learned.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zlib import crc32

import httpx
import pytest
import yaml
from served_mill import Mill, tiny_config, wait_until

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900, func_only=True)]

NAME = "loop"
NUM_QUESTIONS = 30
WANTED = "It is in the user guide of the service."
AGREED = {"training": True, "wording": "2026-11"}
RATERS = ("ada" * 8, "bob" * 8, "cleo" * 6)
DISSENTER, SILENT = "dora" * 6, "eve" * 8
"""One who likes what nobody else does, and one who agrees to nothing."""


@dataclass(frozen=True)
class Gateway:
    """What `gristmill serve` told, as its clients see it."""

    url: str

    def post(self, path: str, **body: Any) -> httpx.Response:
        """A request that must be answered."""
        answer = httpx.post(f"{self.url}{path}", json=body, timeout=120, trust_env=False)
        assert answer.status_code in (200, 201), answer.text
        return answer

    def ask(self, question: str) -> tuple[str, str]:
        """(answer, version of the model that gave it)."""
        body = {"model": NAME, "messages": turns(question), "max_tokens": 24, "temperature": 1, "seed": crc32(question.encode())}
        answer = self.post("/v1/chat/completions", **body)
        return answer.json()["choices"][0]["message"]["content"] or "", answer.headers["x-model-version"]

    @property
    def version(self) -> str:
        """Of the model as it is listed."""
        [model] = httpx.get(f"{self.url}/v1/models", timeout=60, trust_env=False).json()["data"]
        return str(model["version"])


def turns(question: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}]


def question(number: int) -> str:
    return f"How do I list key {number}?"


@pytest.fixture(scope="module")
def looped(mill: Mill, demo_port: int, tmp_path_factory: pytest.TempPathFactory) -> Mill:
    """The mill with a configuration whose model sees enough at once for a question and an answer, and is measured on enough to tell."""
    changes: dict[str, Any] = {
        "split": {"by": "cluster", "test_share": 0.75, "validation_share": 0},
        "evaluate": {"max_documents": None},
        "dpo": {"learning_rate": 1e-3, "epochs": 3, "batch_size": 4, "num_threads": 1, "precision": "fp32", "suite": None},
        "prefer": {"test_share": 0.3},
        "gate": {"tolerance": 0.2},
        "register": {"name": NAME},
    }
    changes["dpo"]["write"] = {"prompts": 4, "num_samples": 1, "max_new_tokens": 16}
    path = tiny_config(tmp_path_factory.mktemp("loop"), demo_port, **changes)
    raw = yaml.safe_load(path.read_text())
    raw["name"] = NAME
    raw["pretrain"]["model"]["context_length"] = 128
    path.write_text(yaml.safe_dump(raw))
    return replace(mill, config=path)


@contextmanager
def served(mill: Mill) -> Iterator[Gateway]:
    """A gateway before the champion, that looks at the alias twice a second."""
    command = [str(Path(sys.executable).with_name("gristmill")), "serve", NAME, "--port", "0", "--set", "poll_s=0.5"]
    log = mill.home.parent / "serve.log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            command, env=mill.env | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=errors, text=True
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith(f"serving {NAME} on http://"), line + log.read_text()
        yield Gateway(line.split()[3].rstrip(";"))
    finally:
        process.terminate()
        assert process.wait(60) == 0


def judged(gateway: Gateway, asked: str, answer: str, version: str) -> None:
    """What people say of one answer: three say what it should have been, one likes it, one agrees to nothing."""

    def say(rater: str, vote: str, **more: Any) -> None:
        said: dict[str, Any] = {"rater": rater, "model": NAME, "version": version, "vote": vote, "messages": turns(asked)}
        gateway.post("/feedback", **{"vote_id": uuid.uuid4().hex, "consent": AGREED, "answer": answer, **said, **more})

    for rater in RATERS:
        say(rater, "corrected", correction=WANTED)
    say(DISSENTER, "up")
    say(SILENT, "corrected", correction=WANTED, consent={"training": False})


def told(mill: Mill, *words: str, code: int = 0) -> str:
    done = mill.cli(*words)
    assert done.returncode == code, done.stdout + done.stderr + mill.logs()
    return done.stdout


def aliases(mill: Mill) -> Mapping[str, str]:
    return dict(mill.mlflow.get_registered_model(NAME).aliases)


def manifests(mill: Mill, run_id: str) -> dict[str, Any]:
    """{step: manifest} of what a run made."""
    entries = [json.loads(path.read_text()) for path in (mill.store / "runs" / run_id).glob("*.json") if path.stem != "about"]
    return {entry["step"]: mill.manifest(entry) for entry in entries}


@contextmanager
def kept_asking(gateway: Gateway) -> Iterator[list[str]]:
    """Somebody asks without end, and is always answered; gives the versions that did."""
    versions: list[str] = []
    end = threading.Event()

    def ask() -> None:
        while not end.is_set():
            versions.append(gateway.ask(question(0))[1])

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask)
        try:
            yield versions
        finally:
            end.set()
            asking.result()


def people_talk(gateway: Gateway, version: str) -> dict[int, str]:
    """Every question is asked and its answer judged; gives the answers."""
    answers = {}
    for number in range(NUM_QUESTIONS):
        answers[number], by = gateway.ask(question(number))
        assert by == version and answers[number] != WANTED
        judged(gateway, question(number), answers[number], by)
    return answers


def learned_and_compared(made: Mapping[str, Any]) -> None:
    """What people prefer is likelier than before where they were not asked, and the gate could tell that little else was lost."""
    given, learned = made["prefer"]["counts"], made["dpo"]["facts"]
    # so small a model also writes blanks and broken characters, which are no answers to learn from
    assert given["total"] == NUM_QUESTIONS and given["kept"] >= 20 and given["dropped"].keys() <= {"no_rejected", "broken_text"}
    assert learned["rows"] + learned["rows_heldout"] == given["kept"] and learned["rows_heldout"] >= 3
    assert learned["after.preference.accuracy"] > 0.9
    assert made["compare"]["facts"]["gate"] == "passed"


def comes_from_the_votes(mill: Mill, made: Mapping[str, Any], votes: Path) -> None:
    """The registry and the lineage say that this model was tuned on the exported votes, and from which model it came."""
    prefer = f"prefer/{made['prefer']['version']}"
    version = mill.mlflow.get_model_version(NAME, "2")
    assert (version.tags["tuned"], version.tags["model.version"]) == ("dpo", made["dpo"]["version"])
    assert prefer in version.description
    inputs = {
        one.dataset.digest: tag.value
        for run in mill.tracked(mill.newest_run())
        if run.info.run_name == "register"
        for one in run.inputs.dataset_inputs
        for tag in one.tags
    }
    assert inputs[made["prefer"]["digest"]] == "tuning"
    nodes = {
        one["id"]: one for one in json.loads(told(mill, "lineage", f"{NAME}@challenger", "--up", "--format", "json"))["nodes"]
    }
    [source] = [one for one in nodes.values() if one["kind"] == "source" and one["facts"].get("path") == str(votes)]
    assert source["facts"]["name"] == "votes" and prefer in nodes
    assert made["dpo"]["recipe"]["inputs"]["model"].partition("@")[0] in nodes


def test_what_people_say_of_the_champion_makes_the_next_one(looped: Mill, tmp_path: Path) -> None:
    mill, votes = looped, tmp_path / "votes.jsonl"
    said = mill.run()
    assert said.returncode == 0, said.stdout + said.stderr + mill.logs()
    assert aliases(mill) == {"champion": "1", "challenger": "1"}
    with served(mill) as gateway:
        first = gateway.version
        assert first.startswith(f"{NAME}:1 (pretrain/")
        answers = people_talk(gateway, first)
        shown = told(mill, "votes", "export", "--output", str(votes))
        assert f"{NUM_QUESTIONS} rows from {3 * NUM_QUESTIONS} of {5 * NUM_QUESTIONS} votes" in shown
        assert f"{NUM_QUESTIONS} dropped: no consent" in shown and f"{NUM_QUESTIONS} dropped: no counterpart" in shown

        said = mill.run(f"prefer.sources=[{{kind: folder, name: votes, path: {votes}}}]", flow="improve")
        assert said.returncode == 0, said.stdout + said.stderr + mill.logs()
        made = manifests(mill, mill.newest_run())
        learned_and_compared(made)
        assert aliases(mill) == {"champion": "1", "challenger": "2"} and gateway.version == first
        comes_from_the_votes(mill, made, votes)

        refused = told(mill, "promote", NAME, "--set", "tolerance=0", code=1)
        assert "heldout.bits_per_byte: worse" in refused and aliases(mill)["champion"] == "1"
        second = f"{NAME}:2 (dpo/{made['dpo']['version']})"
        with kept_asking(gateway) as versions:
            assert f"{NAME}:2 is the champion now, in place of {NAME}:1" in told(
                mill, "promote", NAME, "--config", str(mill.config)
            )
            wait_until(lambda: second in versions, 120, f"an answer of {second}; {mill.logs()}")
        assert aliases(mill) == {"champion": "2", "challenger": "2"} and gateway.version == second
        assert set(versions) == {first, second} and versions == sorted(versions)
        assert any(gateway.ask(question(number)) != (answer, first) for number, answer in answers.items())
