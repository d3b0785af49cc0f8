import re

from tasks.text.canaries import SOURCE, CanaryConfig, canaries, documents


def test_canaries_follow_from_the_seed_and_are_never_those_that_nobody_plants() -> None:
    config = CanaryConfig(seed=5, num=40, repeats=(1, 3))
    planted, others = canaries(config), canaries(config, planted=False)
    assert planted == canaries(config) and planted != canaries(config.model_copy(update={"seed": 6}))
    assert len({one.name for one in planted}) == len(others) == 40
    assert not {one.name for one in planted} & {one.name for one in others}
    assert not {one.secret for one in planted} & {one.secret for one in others}
    for one in planted:
        assert re.fullmatch(r"The code of [A-Z][a-z]{5} [A-Z][a-z]{5} is( \d{4}){3}\.", one.sentence)
    # fewer canaries of a seed are the first of more
    assert planted[:7] == canaries(config.model_copy(update={"num": 7}))


def test_each_canary_stands_in_as_many_documents_as_it_repeats_and_no_two_are_alike() -> None:
    config = CanaryConfig(seed=5, num=4, repeats=(1, 3))
    rows = list(documents(config))
    assert [sum(one.sentence in row["text"] for row in rows) for one in canaries(config)] == [1, 3, 1, 3]
    assert len({row["text"] for row in rows}) == len({row["url"] for row in rows}) == 8
    assert {row["source"] for row in rows} == {SOURCE} and all(100 < len(row["text"].split()) < 150 for row in rows)
