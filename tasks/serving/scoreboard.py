"""What all votes say together: scores of the models, shares of thumbs up, and how far raters agree.

A choice between two answers of one model says nothing of models and is left out of the scores; of a choice that nobody called good the
scores know only that neither was better. Agreement is of choices and thumbs whose texts were kept: others have no item to agree on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from infra import plots
from tasks.serving.ratings import Agreement, Choice, Interval, Ratings, agreement, bradley_terry, share
from tasks.serving.votes import Vote

FEW_RATERS = 5
"""Below so many people the intervals say little of other people."""


@dataclass(frozen=True)
class Scoreboard:
    """The models beside each other."""

    ratings: Ratings | None
    """None where no two models were compared."""
    games: dict[str, int]
    """Choices that each model was part of."""
    thumbs: dict[str, tuple[int, Interval]]
    """Thumbs of each model, and the share of those up."""
    num_both_bad: int
    """Choices of which neither answer was called good."""
    choice_agreement: Agreement
    thumb_agreement: Agreement

    @property
    def warnings(self) -> list[str]:
        """What to know before one believes the scores."""
        if self.ratings is None:
            return ["no two models were compared yet"]
        told = []
        if self.ratings.num_raters < FEW_RATERS:
            told.append(
                f"{self.ratings.num_raters} rater(s): the intervals say how sure these are, not what other people would say"
            )
        if not self.ratings.left_share.low <= 0.5 <= self.ratings.left_share.high:
            told.append("raters lean to one side; the scores allow for it")
        if apart := [one for one in self.ratings.differences if not one.compared]:
            told.append(f"{len(apart)} pair(s) of models were never compared, not even through others")
        return told

    def plot(self) -> str:
        """The scores with their intervals, as SVG; empty without any."""
        if self.ratings is None:
            return ""
        scores = self.ratings.scores
        return plots.intervals(
            list(scores),
            [one.value for one in scores.values()],
            [(one.low, one.high) for one in scores.values()],
            "Bradley-Terry scores of the models",
            "log-odds of being preferred to an average model",
            reference=0.0,
            logarithmic=False,
        )


def scoreboard(votes: Sequence[Vote]) -> Scoreboard:
    """What these votes say; later votes of a rater on the same answers take the place of earlier ones."""
    latest, shown = _latest(votes), _shown(votes)
    choices = [one for one in latest if one.kind == "choice" and one.models[0].identity != one.models[1].identity]
    thumbs = [one for one in latest if one.kind == "thumb"]
    counts = Counter((shown[one.models[0].identity], one.vote) for one in thumbs)
    shares = {}
    for name in sorted({name for name, _ in counts}):
        total = counts[name, "up"] + counts[name, "down"]
        if found := share(counts[name, "up"], total):
            shares[name] = (total, found)
    return Scoreboard(
        ratings=bradley_terry([_choice(one, shown) for one in choices]),
        games=dict(Counter(shown[speaker.identity] for one in choices for speaker in one.models)),
        thumbs=shares,
        num_both_bad=sum(one.vote == "both_bad" for one in choices),
        choice_agreement=agreement((one.item, one.rater, _said(one)) for one in choices if one.is_whole),
        thumb_agreement=agreement((one.item, one.rater, one.vote) for one in thumbs if one.is_whole),
    )


def _latest(votes: Sequence[Vote]) -> list[Vote]:
    """Bare votes as they are; of each rater on the same answers only the last."""
    last = {}
    for vote in sorted(votes, key=lambda one: (one.time, one.vote_id)):
        last[(vote.rater, vote.item) if vote.is_whole else (vote.vote_id,)] = vote
    return list(last.values())


def _shown(votes: Sequence[Vote]) -> dict[str, str]:
    """By identity what each model is called: its last version, more where several would be called the same."""
    last = {speaker.identity: speaker for vote in sorted(votes, key=lambda one: one.time) for speaker in vote.models}
    shown = {identity: one.version or one.name for identity, one in last.items()}
    for longer in (lambda one: one.label, lambda one: f"{one.label} {one.digest[:8]}"):
        counts = Counter(shown.values())
        shown = {identity: longer(last[identity]) if counts[name] > 1 else name for identity, name in shown.items()}
    return shown


def _choice(vote: Vote, shown: Mapping[str, str]) -> Choice:
    left, right = (shown[one.identity] for one in vote.models)
    outcome = {"left": "left", "right": "right"}.get(vote.vote, "tie")
    return Choice(left, right, outcome, vote.rater)  # type: ignore[arg-type]


def _said(vote: Vote) -> str:
    """The same for the same opinion, whichever side the answers were on."""
    left, right = vote.answers or ("", "")
    if vote.vote not in ("left", "right"):
        return vote.vote
    chosen, other = (left, right) if vote.vote == "left" else (right, left)
    return "first" if chosen < other else "second"
