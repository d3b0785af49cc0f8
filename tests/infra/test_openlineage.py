"""OpenLineage events as a real server receives them; one that does not answer costs one warning and no run."""

from __future__ import annotations

import logging
import socket
import uuid
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from openlineage.client import event_v2

from infra import dataset, openlineage_events
from infra.dataset import Outcome, ShardSet

STEP_RUN, ROOT = str(uuid.uuid4()), str(uuid.uuid4())


@pytest.fixture
def receiver(home: Path, lineage_server: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    lineage_server.events.clear()
    monkeypatch.setenv("GRISTMILL_OPENLINEAGE_URL", lineage_server.url)
    return lineage_server


@pytest.fixture(autouse=True)
def _nothing_failed_yet() -> None:
    openlineage_events._failed.clear()


def version(home: Path, step: str, *ids: str) -> ShardSet:
    folder = str(home / "store" / step / f"{step}-1")
    receipt = dataset.write_shard(folder, 0, Outcome(pa.table({"doc_id": list(ids)})))
    recipe = {"step": step, "inputs": {}}
    return dataset.shard_set(
        folder, dataset.seal(folder, step=step, schema_name="documents", recipe=recipe, receipts=[receipt], files=[], facts={})
    )


def test_a_step_is_told_with_its_versions_and_digests(home: Path, receiver: Any) -> None:
    given, result = version(home, "extract", "a", "b"), version(home, "filter", "a")
    with openlineage_events.told("filter", STEP_RUN, ROOT, [given]) as made:
        made.append(result)
    start, complete = receiver.events
    assert receiver.paths == {"/api/v1/lineage"}
    assert (start["eventType"], complete["eventType"]) == ("START", "COMPLETE") and start["outputs"] == []
    for event in receiver.events:
        assert event["run"]["runId"] == STEP_RUN and event["run"]["facets"]["parent"]["run"]["runId"] == ROOT
        assert event["job"] == {"namespace": "gristmill", "name": "filter", "facets": {}}
        [source] = event["inputs"]
        assert (source["namespace"], source["name"]) == ("file", str(home / "store" / "extract"))
        assert source["facets"]["version"]["datasetVersion"] == given.version
        assert {tag["key"]: tag["value"] for tag in source["facets"]["tags"]["tags"]}["digest"] == given.digest
    [output] = complete["outputs"]
    assert output["facets"]["version"]["datasetVersion"] == result.version
    statistics = output["outputFacets"]["outputStatistics"]
    assert (statistics["rowCount"], statistics["fileCount"]) == (1, 1) and statistics["size"] > 0


def test_the_events_have_what_the_standard_requires(home: Path, receiver: Any) -> None:
    with openlineage_events.told("filter", STEP_RUN, ROOT, [version(home, "extract", "a")]) as made:
        made.append(version(home, "filter", "a"))
    for event in receiver.events:  # the schema does not ship with the library; its classes check ids and times as they are made
        assert event["schemaURL"].endswith("OpenLineage.json#/$defs/RunEvent")
        assert datetime.fromisoformat(event["eventTime"]).tzinfo is not None and ":" in event["producer"]
        event_v2.RunEvent(
            eventTime=event["eventTime"],
            producer=event["producer"],
            run=event_v2.Run(runId=event["run"]["runId"]),
            job=event_v2.Job(namespace=event["job"]["namespace"], name=event["job"]["name"]),
            eventType=event_v2.RunState(event["eventType"]),
        )
        facets = [*event["run"]["facets"].values(), *(facet for one in event["inputs"] for facet in one["facets"].values())]
        assert facets and all({"_producer", "_schemaURL"} <= facet.keys() for facet in facets)


def test_a_step_that_fails_is_told_with_its_reason_and_fails_as_it_would(home: Path, receiver: Any) -> None:
    with pytest.raises(ValueError, match="no such luck"), openlineage_events.told("filter", STEP_RUN, ROOT, []):
        raise ValueError("no such luck")
    assert [event["eventType"] for event in receiver.events] == ["START", "FAIL"]
    assert receiver.events[1]["run"]["facets"]["errorMessage"]["message"] == "ValueError: no such luck"


def test_a_server_that_does_not_answer_costs_one_warning_and_no_run(
    home: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{probe.getsockname()[1]}"
    monkeypatch.setenv("GRISTMILL_OPENLINEAGE_URL", f"http://reader:secret@{nobody}")
    with caplog.at_level(logging.WARNING, logger="gristmill"):
        for _ in range(3):
            with openlineage_events.told("filter", STEP_RUN, ROOT, []) as made:
                made.append(version(home, "filter", "a"))
    assert [record.message.partition(" any more")[0] for record in caplog.records if record.name == "gristmill"] == [
        f"OpenLineage: nothing is sent to {nobody}"
    ]
    assert "secret" not in caplog.text


def test_nothing_is_sent_where_no_server_is_named(home: Path, receiver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRISTMILL_OPENLINEAGE_URL")
    with openlineage_events.told("filter", STEP_RUN, ROOT, []):
        pass
    assert receiver.events == []
