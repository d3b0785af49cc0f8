"""`gristmill votes`: what people said of answers, listed, scored, forgotten, and exported as rows for training."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from infra.errors import InputError
from infra.ids import payload_digest
from infra.settings import settings
from tasks.serving.pairs import REASONS, Rows, as_lines, liked_answers, preference_pairs, rated_answers
from tasks.serving.ratings import Agreement, Interval
from tasks.serving.scoreboard import scoreboard
from tasks.serving.votes import FILE, Vote, VoteStore, printable

FORMS = {"pairs": preference_pairs, "conversations": liked_answers, "ratings": rated_answers}
"""What can be exported: rows for `prefer`, for `instruct`, and for `rate`."""
SHOWN_CHARS = 60
MIN_RATER_CHARS = 4
"""What is forgotten is gone: a variable that is not set must not name somebody."""


def opened() -> VoteStore:
    """The votes of this installation.

    Raises:
        InputError: there are none.
    """
    folder = settings().votes
    if not (folder / FILE).exists():
        raise InputError(f"{folder / FILE}: nobody has voted here yet; `gristmill serve MODEL` has a page to do so")
    return VoteStore(folder, expires=False)  # for how long they are kept, the gateway's configuration says


def show(votes: list[Vote], console: Console, num: int) -> None:
    """The newest votes, and how many there are."""
    table = Table("time", "rater", "vote", "models", "question", "why")
    for vote in votes[-num:] if num else []:
        question = vote.messages[-1].content if vote.messages else "(not kept)"
        models = " | ".join(one.label for one in vote.models)
        cells = (
            vote.time[:16].replace("T", " "),
            vote.rater[:8],
            vote.vote,
            printable(models),
            _short(question),
            _short(vote.text or ""),
        )
        table.add_row(*map(escape, cells))
    console.print(table)
    kept = sum(vote.is_whole and vote.consent.training for vote in votes)
    raters = len({vote.rater for vote in votes})
    console.print(
        f"{len(votes)} votes by {raters} raters, {kept} of them with conversation and consent to training", highlight=False
    )


def show_scores(votes: list[Vote], console: Console) -> None:
    """Scores with intervals, what tells the models apart, and whether raters agree."""
    board = scoreboard(votes)
    if board.ratings:
        table = Table("model", "score", "95 % interval", "choices", "thumbs up")
        for name, score in board.ratings.scores.items():
            up = _percent(board.thumbs[name][1]) if name in board.thumbs else ""
            table.add_row(
                escape(name), f"{score.value:+.2f}", f"{score.low:+.2f} to {score.high:+.2f}", str(board.games[name]), up
            )
        console.print(table)
        for one in board.ratings.differences:
            verdict = "significant" if one.is_significant else "no difference beyond noise" if one.compared else "never compared"
            words = f"{one.better} before {one.worse}: {one.value:.2f} ({one.low:.2f} to {one.high:.2f}), {verdict}"
            console.print(words, highlight=False, markup=False, soft_wrap=True)
        console.print(f"left of two equal answers preferred: {_percent(board.ratings.left_share)}", highlight=False)
        console.print(f"both called bad: {board.num_both_bad} of {board.ratings.num_votes}", highlight=False)
    else:
        for name, (total, up_share) in board.thumbs.items():
            console.print(f"{name}: {total} thumbs, up {_percent(up_share)}", highlight=False, markup=False)
    for kind, found in (("choices", board.choice_agreement), ("thumbs", board.thumb_agreement)):
        console.print(_agreement(kind, found), highlight=False, soft_wrap=True)
    for warning in board.warnings:
        console.print(warning, style="yellow", highlight=False, markup=False, soft_wrap=True)


def forget(store: VoteStore, rater: str, console: Console) -> None:
    """Remove all that a rater said, and name the files that hold copies.

    Raises:
        InputError: no rater begins so, or several do.
    """
    if len(rater) < MIN_RATER_CHARS:
        raise InputError(
            f"forget {rater!r}: give at least {MIN_RATER_CHARS} characters of the id; `gristmill votes list` shows them"
        )
    known = {vote.rater for vote in store.votes()}
    found = [one for one in known if one == rater] or sorted(one for one in known if one.startswith(rater))
    if len(found) != 1:
        several = f"{len(found)} raters begin so; give more of the id"
        raise InputError(f"forget {rater!r}: {several if found else 'there is no such rater; `gristmill votes list` shows them'}")
    forgotten = store.forget(found[0])
    console.print(f"{forgotten.votes} votes of {found[0]} removed", highlight=False, markup=False)
    for digest, file in forgotten.exports:
        words = f"still in the export {digest[:12]} ({file}), and in what was made of it"
        console.print(words, style="yellow", highlight=False, markup=False, soft_wrap=True)


def export(store: VoteStore, output: Path, form: str, console: Console) -> Rows:
    """Write rows for training as JSON Lines, and remember in the store which votes are in them.

    Raises:
        InputError: no vote gives a row.
    """
    votes = store.votes()
    found = FORMS[form](votes)
    for reason, count in found.dropped.items():
        console.print(f"{count:>6} dropped: {reason} ({REASONS[reason]})", highlight=False, markup=False, soft_wrap=True)
    if not found.rows:
        raise InputError(
            f"votes export: none of {len(votes)} votes gives a row; nothing was written, and what is at {output} is as it was"
        )
    body = as_lines(found.rows).encode()
    digest = payload_digest(body)
    # noted before it is there: a file that nobody remembers could not be named to who wants to be forgotten
    store.note_export(digest, str(output.absolute()), form, found.used)
    _write_whole(output, body)
    console.print(f"{len(found.rows)} rows from {len(found.used)} of {len(votes)} votes, digest {digest}", highlight=False)
    console.print(str(output), highlight=False, markup=False, soft_wrap=True)
    return found


def _write_whole(path: Path, body: bytes) -> None:
    """All of it or nothing, readable for its owner alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    with os.fdopen(handle, "wb") as file:
        file.write(body)
        file.flush()
        os.fsync(file.fileno())
    Path(name).replace(path)


def _agreement(kind: str, found: Agreement) -> str:
    if found.raw is None:
        return f"agreement on {kind}: nobody judged the same answers as somebody else"
    alpha = "all say one thing"
    if found.alpha:
        alpha = f"Krippendorff's alpha {found.alpha.value:.2f} ({found.alpha.low:.2f} to {found.alpha.high:.2f})"
    return f"agreement on {kind}: {found.items} items, {found.raters} raters, {found.raw:.0%} of pairs of raters say the same, {alpha}"


def _percent(share: Interval) -> str:
    return f"{share.value:.0%} ({share.low:.0%} to {share.high:.0%})"


def _short(text: str) -> str:
    line = " ".join(printable(text).split())
    return line if len(line) <= SHOWN_CHARS else line[: SHOWN_CHARS - 1] + "…"
