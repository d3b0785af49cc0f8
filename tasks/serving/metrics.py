"""What Prometheus is told: requests, latencies, tokens, queues, replicas, refusals, decisions of the guardrails.

Labels have few values: routes, models, statuses, reasons, the numbers of replicas; never a key, a version or a text.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The figures of one gateway."""

    def __init__(self) -> None:
        self._registry = named = CollectorRegistry()
        self.requests = Counter(
            "gristmill_requests", "Requests, when they are over.", ["route", "model", "status"], registry=named
        )
        self.seconds = Histogram(
            "gristmill_request_seconds",
            "From a request's arrival to its end.",
            ["route", "model"],
            buckets=SECONDS,
            registry=named,
        )
        self.first_token_seconds = Histogram(
            "gristmill_first_token_seconds",
            "From an answer's arrival to its first token.",
            ["model"],
            buckets=SECONDS,
            registry=named,
        )
        self.queue_seconds = Histogram(
            "gristmill_queue_seconds", "That answers waited for a place.", ["model"], buckets=SECONDS, registry=named
        )
        self.tokens_in = Counter("gristmill_prompt_tokens", "Tokens of prompts.", ["model"], registry=named)
        self.tokens_out = Counter("gristmill_completion_tokens", "Tokens of answers.", ["model"], registry=named)
        self.refused = Counter(
            "gristmill_refused", "Requests that were not answered to their end, by reason.", ["reason"], registry=named
        )
        self.queue = Gauge("gristmill_queue_depth", "Answers that wait for a place.", ["model"], registry=named)
        self.working = Gauge("gristmill_in_flight", "Answers that a replica writes.", ["model", "replica"], registry=named)
        self.up = Gauge("gristmill_replica_up", "1: a replica takes requests.", ["model", "replica"], registry=named)
        self.restarts = Counter("gristmill_replica_ends", "Replicas that ended unasked.", ["model"], registry=named)
        self.retried = Counter(
            "gristmill_retried", "Answers that went to another replica because theirs ended.", ["model"], registry=named
        )
        self.reloads = Counter(
            "gristmill_reloads", "Versions that took the place of another.", ["model", "outcome"], registry=named
        )
        self.prompt_reloads = Counter(
            "gristmill_prompt_reloads", "System prompts that took the place of another.", ["outcome"], registry=named
        )
        self.unwritten = Counter("gristmill_unwritten_lines", "Lines that the request log could not keep.", registry=named)
        self.decisions = Counter(
            "gristmill_guardrail_decisions", "What guardrails did.", ["side", "action", "rule"], registry=named
        )

        self.drift = Gauge(
            "gristmill_traffic_distance",
            "Total variation distance of the last hours from the days before, 0 to 1.",
            ["model", "feature"],
            registry=named,
        )
        self.drifted = Gauge(
            "gristmill_traffic_drifted", "1: it is far from what it was, and not by chance.", ["model", "feature"], registry=named
        )

    def page(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self._registry)
