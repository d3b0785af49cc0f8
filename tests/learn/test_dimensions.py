from tasks.learn.dimensions import dimensions
from tasks.learn.figures import Figure, headline


def named(name: str) -> Figure:
    return Figure(name, 0.5, 0.4, 0.6, 100, "higher")


def test_the_seven_dimensions_are_there_whether_measured_or_not_and_others_where_they_were() -> None:
    given = [
        "reasoning.direct.accuracy",
        "tasks.cloze.accuracy",
        "heldout.bits_per_byte",
        "heldout.bits_per_byte.source.web",
        "bias.gender.gap",
        "privacy.email",
    ]
    rows = dimensions(map(named, given), {"tokens_per_s": 4000.0})
    assert [row.name for row in rows] == [
        *("accuracy", "calibration", "robustness", "fairness", "bias", "toxicity", "efficiency"),
        "privacy",
    ]
    found = {row.name: [one.name for one in row.figures] for row in rows}
    assert found["accuracy"] == ["heldout.bits_per_byte", "tasks.cloze.accuracy", "reasoning.direct.accuracy"]
    assert found["efficiency"] == ["efficiency.tokens_per_s"] and found["calibration"] == []
    assert [row.as_json()["measured"] for row in rows] == [True, False, False, False, True, False, True, True]


def test_single_groups_are_no_headline_and_the_gap_between_them_is() -> None:
    names = [
        "heldout.perplexity",
        "heldout.perplexity.language.de",
        "heldout.bits_per_byte.half.dirty",
        "fairness.bits_per_byte.language",
        "reasoning.cot.accuracy.level.2",
        "toxicity.bad_words.gender.gap",
        "toxicity.bad_words.gender.group.male",
        "bias.crows_pairs.type.age",
        "memorisation.extraction.exact.train",
        "memorisation.canaries.exposure.copies.4",
        "tasks.gsm8k.exact_match.strict-match",
    ]
    assert [one.name for one in headline(map(named, names))] == [
        "heldout.perplexity",
        "fairness.bits_per_byte.language",
        "toxicity.bad_words.gender.gap",
        "memorisation.extraction.exact.train",
        "tasks.gsm8k.exact_match.strict-match",
    ]
