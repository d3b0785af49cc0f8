"""From votes to rows for training: preference pairs, liked or corrected answers as conversations, and single answers with their thumbs.

Every vote has a fate: `used`, or the reason why not, so used and dropped add up to all votes. A rater counts once for each pair of
answers, with what was said last; raters who contradict each other are resolved by majority, and a draw is dropped. Equal votes give
equal rows in an equal order.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any, NamedTuple

from tasks.serving.votes import Speaker, Vote

SOURCE = "votes"
PERSON = Speaker(name="person")
"""Stands for the model of an answer that somebody wrote."""
USED = "used"
REASONS = {
    "no consent": "the person did not agree to training, or conversation and answers were not kept",
    "said again": "the same person said something else of it later",
    "tie": "both answers were called equally good",
    "both bad": "neither answer was called good",
    "same text": "the two answers do not differ",
    "contradicting": "as many people said the opposite",
    "outvoted": "more people said the opposite",
    "no counterpart": "a thumb up without a thumb down on another answer to the same prompt, or the other way round",
    "not liked": "a thumb down is no example to follow",
    "only compared": "of two answers one is better, which does not make it good",
}
"""Why a vote is in no row."""


@dataclass(frozen=True)
class Rows:
    """Rows for training, and what became of each vote."""

    rows: list[dict[str, Any]]
    fates: dict[str, str]
    """By vote id: USED or one of REASONS."""

    @property
    def used(self) -> list[str]:
        """Ids of the votes in the rows, sorted."""
        return sorted(one for one, fate in self.fates.items() if fate == USED)

    @property
    def dropped(self) -> dict[str, int]:
        """How many votes each reason dropped."""
        counts = Counter(fate for fate in self.fates.values() if fate != USED)
        return {reason: counts[reason] for reason in REASONS if counts[reason]}


class _Ballot(NamedTuple):
    """One rater for `chosen` over `rejected`."""

    vote: Vote
    chosen: str
    rejected: str
    chosen_model: Speaker
    rejected_model: Speaker


def preference_pairs(votes: Iterable[Vote]) -> Rows:
    """prompt, chosen, rejected of choices, corrections, and thumbs up beside thumbs down on answers to the same prompt."""
    fates: dict[str, str] = {}
    usable = list(_last_said(votes, fates))
    by_pair: dict[tuple[str, ...], list[_Ballot]] = defaultdict(list)
    for vote in usable:
        if vote.kind != "thumb" and (ballot := _ballot(vote, fates)):
            by_pair[(_key(vote), *sorted((ballot.chosen, ballot.rejected)))].append(ballot)
    decided = {key: _decided(ballots, fates) for key, ballots in by_pair.items()}
    rows = {key: row for key, row in decided.items() if row}
    for row in _thumb_pairs([vote for vote in usable if vote.kind == "thumb"], rows, fates):
        rows[(_text(row["prompt"]), *sorted((row["chosen"], row["rejected"])))] = row
    return Rows([rows[key] for key in sorted(rows)], fates)


def liked_answers(votes: Iterable[Vote]) -> Rows:
    """Conversations that end with an answer which most raters liked, or with one that a rater corrected."""
    fates: dict[str, str] = {}
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    thumbs: list[Vote] = []
    for vote in _last_said(votes, fates):
        if vote.kind == "thumb":
            thumbs.append(vote)
        elif vote.kind == "choice":
            fates[vote.vote_id] = "only compared"
        elif ballot := _ballot(vote, fates):
            fates[vote.vote_id] = USED
            _add_conversation(rows, [vote], ballot.chosen, PERSON)
    for given in _judged(thumbs, fates):
        if given[0].vote == "down":
            fates |= {vote.vote_id: "not liked" for vote in given}
            continue
        fates |= {vote.vote_id: USED for vote in given}
        _add_conversation(rows, given, _answers(given[0])[0], given[0].models[0])
    return Rows([rows[key] for key in sorted(rows)], fates)


def rated_answers(votes: Iterable[Vote]) -> Rows:
    """prompt, answer, and whether most raters liked it: thumbs alone, which need no counterpart."""
    fates: dict[str, str] = {}
    thumbs: list[Vote] = []
    for vote in _last_said(votes, fates):
        if vote.kind == "thumb":
            thumbs.append(vote)
        else:
            fates[vote.vote_id] = "only compared"
    rows = []
    for given in _judged(thumbs, fates):
        fates |= {vote.vote_id: USED for vote in given}
        said = {"prompt": _prompt(given[0]), "answer": _answers(given[0])[0], "good": given[0].vote == "up"}
        by = {"raters": len(given), "model": given[0].models[0].model_dump()}
        rows.append({**said, **_origin(sorted(vote.vote_id for vote in given)), **by})
    return Rows(rows, fates)


def _add_conversation(rows: dict[tuple[str, str], dict[str, Any]], votes: Sequence[Vote], answer: str, model: Speaker) -> None:
    prompt = _prompt(votes[0])
    row = rows.setdefault(
        (_text(prompt), answer),
        {
            "messages": [*prompt, {"role": "assistant", "content": answer}],
            **_origin([]),
            "raters": 0,
            "model": model.model_dump(),
        },
    )
    row["votes"] = sorted({*row["votes"], *(vote.vote_id for vote in votes)})
    row["origin"] = row["votes"][0]
    row["raters"] += len(votes)


def _last_said(votes: Iterable[Vote], fates: dict[str, str]) -> Iterator[Vote]:
    """The votes that may be used, of each rater on each item only the last."""
    last: dict[tuple[str, ...], Vote] = {}
    for vote in sorted(votes, key=lambda one: (one.time, one.vote_id)):
        if not (vote.consent.training and vote.is_whole):
            fates[vote.vote_id] = "no consent"
            continue
        about = _answers(vote)[:1] if vote.kind == "correction" else sorted(_answers(vote))
        item = (vote.rater, vote.kind, _key(vote), *about)
        if item in last:
            fates[last[item].vote_id] = "said again"
        last[item] = vote
    yield from last.values()


def _ballot(vote: Vote, fates: dict[str, str]) -> _Ballot | None:
    """What a choice or a correction says, None where it prefers neither."""
    first, second = _answers(vote)
    if first == second:
        fates[vote.vote_id] = "same text"
    elif vote.vote in ("tie", "both_bad"):
        fates[vote.vote_id] = vote.vote.replace("_", " ")
    elif vote.kind == "correction":
        return _Ballot(vote, second, first, PERSON, vote.models[0])
    else:
        left, right = vote.models
        return _Ballot(vote, first, second, left, right) if vote.vote == "left" else _Ballot(vote, second, first, right, left)
    return None


def _decided(ballots: Sequence[_Ballot], fates: dict[str, str]) -> dict[str, Any] | None:
    """The row of the majority of those who judged one pair of answers; None for a draw."""
    some, others = ([one for one in ballots if (one.chosen < one.rejected) == way] for way in (True, False))
    # who both chose and corrected has one voice
    more, less = sorted((some, others), key=_num_raters, reverse=True)
    if _num_raters(more) == _num_raters(less):
        fates |= {one.vote.vote_id: "contradicting" for one in ballots}
        return None
    fates |= {one.vote.vote_id: "outvoted" for one in less}
    fates |= {one.vote.vote_id: USED for one in more}
    first = more[0]
    return _pair_row(
        [one.vote for one in more],
        (first.chosen, first.rejected),
        (first.chosen_model, first.rejected_model),
        against=_num_raters(less),
    )


def _num_raters(ballots: Sequence[_Ballot]) -> int:
    return len({one.vote.rater for one in ballots})


def _judged(thumbs: Sequence[Vote], fates: dict[str, str]) -> Iterator[list[Vote]]:
    """For each answer the thumbs of the majority, all up or all down; draws are left out."""
    by_answer: dict[tuple[str, str], list[Vote]] = defaultdict(list)
    for vote in thumbs:
        by_answer[_key(vote), _answers(vote)[0]].append(vote)
    for _, given in sorted(by_answer.items()):
        up, down = ([vote for vote in given if vote.vote == way] for way in ("up", "down"))
        if len(up) == len(down):
            fates |= {vote.vote_id: "contradicting" for vote in given}
            continue
        more, less = (up, down) if len(up) > len(down) else (down, up)
        fates |= {vote.vote_id: "outvoted" for vote in less}
        yield more


def _thumb_pairs(
    thumbs: Sequence[Vote], decided: dict[tuple[str, ...], dict[str, Any]], fates: dict[str, str]
) -> Iterator[dict[str, Any]]:
    """Liked beside disliked answers to one prompt, each in one pair at least: as many pairs as the more frequent kind has answers."""
    by_prompt: dict[str, dict[str, list[list[Vote]]]] = defaultdict(lambda: {"up": [], "down": []})
    for given in _judged(thumbs, fates):
        fates |= {vote.vote_id: "no counterpart" for vote in given}
        by_prompt[_key(given[0])][given[0].vote].append(given)
    for prompt, ways in by_prompt.items():
        ups, downs = ways["up"], ways["down"]
        together = zip(ups, cycle(downs), strict=False) if len(ups) >= len(downs) else zip(cycle(ups), downs, strict=False)
        for up, down in together if ups and downs else ():
            chosen, rejected = _answers(up[0])[0], _answers(down[0])[0]
            row = decided.get((prompt, *sorted((chosen, rejected))))
            if row and row["chosen"] != chosen:  # who compared the two knew more than who saw one
                fates |= {vote.vote_id: "outvoted" for vote in (*up, *down) if fates[vote.vote_id] != USED}
                continue
            fates |= {vote.vote_id: USED for vote in (*up, *down)}
            models = (up[0].models[0], down[0].models[0])
            yield _pair_row([*up, *down], (chosen, rejected), models, against=0, with_row=row)


def _pair_row(
    votes: Sequence[Vote],
    answers: tuple[str, str],
    models: tuple[Speaker, Speaker],
    against: int,
    with_row: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The pair as it is exported; with the votes of the row that said the same before."""
    ids = sorted({vote.vote_id for vote in votes} | set(with_row["votes"] if with_row else ()))
    raters = len({vote.rater for vote in votes})
    return {
        "prompt": _prompt(votes[0]),
        "chosen": answers[0],
        "rejected": answers[1],
        **_origin(ids),
        "kind": with_row["kind"] if with_row else votes[0].kind,
        "raters": max(raters, with_row["raters"]) if with_row else raters,
        "against": with_row["against"] if with_row else against,
        "chosen_model": models[0].model_dump(),
        "rejected_model": models[1].model_dump(),
    }


def _origin(ids: Sequence[str]) -> dict[str, Any]:
    return {"source": SOURCE, "origin": ids[0] if ids else "", "votes": list(ids)}


def _answers(vote: Vote) -> tuple[str, ...]:
    assert vote.answers is not None
    return vote.answers


def _prompt(vote: Vote) -> list[dict[str, Any]]:
    return [one.model_dump() for one in vote.messages or ()]


def _key(vote: Vote) -> str:
    return _text(_prompt(vote))


def _text(prompt: list[dict[str, Any]]) -> str:
    return json.dumps(prompt, ensure_ascii=False)


def as_lines(rows: Sequence[dict[str, Any]]) -> str:
    """JSON Lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
