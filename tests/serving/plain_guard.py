"""What a guard does, slowly and plainly: whole texts, `re.finditer`, every phrase tried at every word; the guard is held against it."""

from __future__ import annotations

import itertools
import re
from typing import NamedTuple

from tasks.serving import patterns
from tasks.serving.policy import LeakRule, PatternsRule, Policy, TopicsRule, ToxicityRule
from tasks.serving.views import HIDDEN_RUN, MAX_HIDDEN, folded_sign, plain_sign


class Span(NamedTuple):
    start: int
    end: int
    order: int
    action: str
    mask: str


def view_of(text: str, name: str) -> tuple[str, list[int]]:
    signs, origins, hidden = "", [], 0
    for at, char in enumerate(text):
        sign = {"given": str, "plain": plain_sign, "folded": folded_sign}[name](char)
        hidden = 0 if sign else hidden + 1
        sign = HIDDEN_RUN if hidden == MAX_HIDDEN else sign
        signs += sign
        origins += [at] * len(sign)
    return signs, origins


def phrase_spans(text: str, phrases: list[str]) -> list[tuple[int, int, str]]:
    """(start, end, phrase) of the longest phrase at every word of a folded text; words of more than 64 letters are in none."""
    words = [(one.start(), one.end(), one.group()) for one in re.finditer(r"\w+", text)]
    wanted = [re.findall(r"\w+", one) for one in phrases]
    found = []
    for at in range(len(words)):
        best = None
        for phrase, own in zip(phrases, wanted, strict=True):
            some = words[at : at + len(own)]
            close = all(after[0] - before[1] <= 5 for before, after in itertools.pairwise(some))
            if [one[2] for one in some] == own and close and (best is None or len(own) > best[0]):
                best = (len(own), some[0][0], some[-1][1], phrase)
        if best:
            found.append(best[1:])
    return found


def spans_of(text: str, policy: Policy, side: str, system_prompt: str = "") -> list[Span]:
    found: list[Span] = []
    views = {name: view_of(text, name) for name in ("given", "plain", "folded")}

    def add(order: int, action: str, view: str, start: int, end: int, mask: str) -> None:
        origins = views[view][1]
        found.append(Span(origins[start], origins[end - 1] + 1, order, action, mask))

    for order, rule in enumerate(policy.rules):
        if side not in rule.sides:
            continue
        if isinstance(rule, PatternsRule):
            for one in patterns.load(rule.kind):
                if one.score < rule.threshold or (rule.find is not None and one.kind not in rule.find) or one.kind == "encoded":
                    continue
                check = patterns.CHECKS[one.check] if one.check else None
                for match in re.finditer(one.expression(), views[one.view][0]):
                    group = "it" if "it" in match.re.groupindex else 0
                    if check is None or check(match.group(group)):
                        add(order, rule.action, one.view, *match.span(group), one.mask)
        elif isinstance(rule, TopicsRule | ToxicityRule | LeakRule):
            allow: list[str] = []
            if isinstance(rule, LeakRule):
                words = re.findall(r"\w+", view_of(system_prompt, "folded")[0])
                deny = [" ".join(words[at : at + rule.num_words]) for at in range(len(words) - rule.num_words + 1)]
            else:
                given = rule.deny if isinstance(rule, TopicsRule) else rule.words
                deny, allow = ([view_of(one, "folded")[0] for one in some] for some in (given, rule.allow))
            folded = views["folded"][0]
            for start, end, phrase in (own := phrase_spans(folded, [*deny, *allow])):
                inside = any(one[2] in allow and one[0] <= start and end <= one[1] for one in own)
                if not inside:
                    assert phrase in deny
                    add(order, rule.action, "folded", start, end, "[removed]")
    return sorted(found, key=lambda one: (one.start, -one.end, one.order))


def judged(text: str, policy: Policy, side: str = "after", system_prompt: str = "") -> tuple[str, bool]:
    """(the text masked, up to where a rule refuses; whether one does)."""
    made, at = "", 0
    left = [one for one in spans_of(text, policy, side, system_prompt) if one.action != "log"]
    while left:
        group, end = [left.pop(0)], 0
        end = group[0].end
        while left and left[0].start < end:
            group.append(left.pop(0))
            end = max(end, group[-1].end)
        made += text[at : group[0].start]
        if any(one.action == "refuse" for one in group):
            return made, True
        made += group[0].mask
        at = end
    return made + text[at:], False
