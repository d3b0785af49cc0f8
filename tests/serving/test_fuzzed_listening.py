"""The routes of a gateway that listens, asked with what their own description allows and with what it does not: no fault, no surprise."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, status_code_conformance

from tasks.serving.votes import VoteStore

from . import tiny_gateway
from .tiny_gateway import TinyGateway, talker

pytestmark = [pytest.mark.soak, pytest.mark.timeout(300)]


def test_no_request_makes_a_fault_or_an_answer_that_is_not_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny_gateway, "MAX_NEW_TOKENS", 3)
    models = {name: talker({"q": f"{name} answer"}, tmp_path / name, steps=5) for name in ("old", "new")}
    store = VoteStore(tmp_path / "votes")
    schema = schemathesis.openapi.from_asgi("/openapi.json", TinyGateway(models, store).app)
    seen: Counter[tuple[str, int]] = Counter()
    operations = [one.ok() for one in schema.include(path_regex="^/(feedback|ab/)").get_all_operations()]
    assert len(operations) == 6

    @st.composite
    def cases(draw: st.DrawFn) -> schemathesis.Case:
        return draw(draw(st.sampled_from(operations)).as_strategy())

    def fuzz(case: schemathesis.Case) -> None:
        answer = case.call()
        seen[case.path, answer.status_code] += 1
        case.validate_response(answer, checks=[not_a_server_error, status_code_conformance, content_type_conformance])

    settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck), database=None)(given(cases())(fuzz))()
    assert {path for path, _ in seen} == {"/feedback", "/feedback/forget", "/ab/answer", "/ab/again", "/ab/vote"}
    assert seen["/ab/answer", 200] and seen["/feedback", 422] and seen["/ab/vote", 410], seen
