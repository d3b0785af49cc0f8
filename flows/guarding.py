"""What the guardrails make of one text, at the command line."""

from __future__ import annotations

from dataclasses import replace

from rich.console import Console
from rich.table import Table

from tasks.serving.guardrails import Decision, Guard
from tasks.serving.policy import load_policy

STYLES = {"allow": "green", "change": "yellow", "refuse": "red"}


def judge(text: str, policy: str, side: str) -> Decision:
    """What a policy decides about a text, as the message of a user or as an answer.

    Raises:
        InputError: the policy is not there or wrong.
    """
    guard = Guard(load_policy(policy), count_tokens=lambda text: len(text.encode()))  # no model is asked: at most so many tokens
    if side == "after":
        return guard.after(text)
    decision = guard.before([{"role": "user", "content": text}])
    return replace(decision, text=decision.messages[0]["content"] if decision.messages else None)


def show(decision: Decision, console: Console) -> None:
    """Print a decision: what fired and where, and what may pass."""
    console.print(f"[{STYLES[decision.action]}]{decision.action}[/]")
    if decision.rules:
        table = Table("rule", "kind", "action", "characters", "score")
        for one in decision.rules:
            place = "" if one.start is None else f"{one.start}-{one.end}"
            table.add_row(one.rule, one.kind, one.action, place, f"{one.score:.2f}")
        console.print(table)
        if decision.num_fired > len(decision.rules):
            console.print(f"and {decision.num_fired - len(decision.rules):,} more", highlight=False)
    if decision.action != "allow":
        console.print(decision.refusal if decision.text is None else decision.text, highlight=False, markup=False, soft_wrap=True)
