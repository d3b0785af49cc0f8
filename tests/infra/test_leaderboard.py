from __future__ import annotations

from typing import Any

from infra import leaderboard
from infra.leaderboard import FIGURES_TAG, MAX_TAG_CHARS, Shown


def figure(name: str, value: float | None, better: str = "lower") -> dict[str, Any]:
    around = (None, None) if value is None else (value - 0.123456789, value + 0.1)
    return {"name": name, "value": value, "low": around[0], "high": around[1], "n": 40, "better": better}


def registered(version: int, figures: list[dict[str, Any]], **scores: float) -> dict[str, Any]:
    tags = {FIGURES_TAG: leaderboard.packed(figures)} if figures else {}
    return {
        "name": "mill",
        "version": str(version),
        "aliases": ["champion"] * (version == 1),
        "scores": scores,
        "tags": tags,
        "url": "u",
    }


def test_figures_come_back_from_their_tag_with_five_digits_the_newest_version_first() -> None:
    older = registered(1, [figure("heldout.bits_per_byte", 1.5), figure("bias.gap", None)])
    board = leaderboard.rows([older, registered(2, [figure("heldout.bits_per_byte", 1.25)])])
    assert [(row.version, row.aliases) for row in board] == [("2", []), ("1", ["champion"])]
    assert board[1].figures == {"heldout.bits_per_byte": Shown(1.5, 1.3765, 1.6, 40, "lower")}
    assert leaderboard.as_csv(board).splitlines() == [
        "model,version,aliases,figure,value,low,high,n,better",
        "mill,2,,heldout.bits_per_byte,1.25,1.1265,1.35,40,lower",
        "mill,1,champion,heldout.bits_per_byte,1.5,1.3765,1.6,40,lower",
    ]


def test_the_best_is_the_lowest_the_highest_or_the_nearest_to_zero() -> None:
    rows = [
        registered(
            number,
            [figure("a.low", low), figure("a.high", high, "higher"), figure("a.zero", zero, "zero"), figure("a.none", 1, "none")],
        )
        for number, (low, high, zero) in enumerate([(2.0, 0.5, -0.1), (1.0, 0.75, 0.3), (1.0, 0.25, -0.4)], start=1)
    ]
    board = leaderboard.rows(rows)
    assert [leaderboard.best(board, name) for name in ("a.low", "a.high", "a.zero", "a.none")] == [
        {"2", "3"},
        {"2"},
        {"1"},
        set(),
    ]
    assert leaderboard.columns(board, ["a.zero", "a.low"]) == ["a.low", "a.zero"]


def test_a_tag_holds_what_fits_and_a_version_without_one_has_its_scores() -> None:
    many = [figure(f"tasks.some_task_of_a_long_name_{number}.accuracy", 0.5) for number in range(200)]
    packed = leaderboard.packed(many)
    assert 0.9 * MAX_TAG_CHARS < len(packed) <= MAX_TAG_CHARS
    [row] = leaderboard.rows([registered(1, many)])
    assert list(row.figures) == [one["name"] for one in many[: len(row.figures)]]
    [plain] = leaderboard.rows([registered(1, [], perplexity=9.5)])
    assert plain.figures == {"perplexity": Shown(9.5, None, None, 0, "none")}
    assert leaderboard.as_csv(leaderboard.rows([registered(1, [])])) == ""
