"""Requests made up from the app's own description."""

from __future__ import annotations

import os
from typing import Any

import httpx
import schemathesis
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance

from .made_server import Gateway

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
OF_PEOPLE = ("/feedback", "/feedback/forget", "/ab/answer", "/ab/again", "/ab/vote")
POSTS = {("/v1/chat/completions", "POST"), ("/v1/completions", "POST"), *((path, "POST") for path in OF_PEOPLE)}
GETS = {("/v1/models", "GET"), ("/v1/models/{name}", "GET"), ("/health", "GET"), ("/metrics", "GET"), ("/feedback", "GET")}


def fuzz(gateway: Gateway, examples: int) -> set[tuple[str, int]]:
    """So many valid and so many invalid requests to each operation: no fault, and no answer that the description does not know.

    Gives each path and status that was seen.
    """
    description = schemathesis.openapi.from_dict(httpx.get(f"{gateway.url}/openapi.json", trust_env=False).json())
    assert {(path, method.upper()) for path in description for method in description[path]} == POSTS | GETS
    seen: set[tuple[str, int]] = set()
    for path, method in sorted(POSTS | GETS):
        for mode in GenerationMode if method == "POST" else [GenerationMode.POSITIVE]:
            number = 3 if method == "GET" else examples if path.startswith("/v1/") else min(examples, 40)
            _fuzz(gateway, description[path][method], mode, number, seen)
    assert gateway.health()["status"] == "ok" and not [one for one in gateway.lines() if one["status"] == 500]
    return seen


def _fuzz(gateway: Gateway, operation: Any, mode: GenerationMode, examples: int, seen: set[tuple[str, int]]) -> None:
    """Half of those that have a body ask the model that is there, for a few tokens."""

    @seed(int(os.environ.get("SEED", "0")))
    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode), known=st.booleans())
    def ask(case: Any, known: bool) -> None:
        if known and isinstance(case.body, dict) and "model" in case.body:
            case.body["model"] = "tiny"
            if isinstance(case.body.get("max_tokens", 1), int):
                case.body["max_tokens"] = min(case.body.get("max_tokens", 4), 4)
        response = case.call(base_url=gateway.url, timeout=60)
        seen.add((operation.path, response.status_code))
        case.validate_response(response, checks=CHECKS)

    ask()
