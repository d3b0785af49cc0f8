"""Arithmetic problems: generated right, asked in each mode, answers found; a model that has learnt to add does, a fresh one does not."""

import json
import re
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.learn import reasoning
from tasks.learn.benchmark_config import ReasoningConfig
from tasks.learn.config import EvalConfig
from tasks.learn.figures import Figure
from tasks.learn.reasoning import ASK, ReasoningError, final_number, number_of, problems, prompt
from tasks.learn.scorer import Scorer

from . import prose

CONFIG = EvalConfig(device="cpu", num_threads=1, batch_tokens=4096)
GSM8K = Path(__file__).parents[3] / "shared" / "data" / "tasks" / "gsm8k_test.jsonl"
SUMS = [(one, two) for one in range(10) for two in range(10)]


def rows() -> list[dict[str, str]]:
    return [
        {"question": f"{one} + {two}?", "answer": f"{one} + {two} = <<{one}+{two}={one + two}>>{one + two}\n#### {one + two}"}
        for one, two in SUMS
    ]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sums") / "sums.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    return path


@pytest.fixture(scope="module")
def adding(tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    """Learns sums of two digits in the form in which they are asked."""
    texts = [
        f"Question: {one} + {two}?\n{ASK[mode]} {words}"
        for one, two in SUMS
        for mode, words in (("direct", f"{one + two}"), ("cot", f"{one} + {two} = {one + two}\n#### {one + two}"))
    ]
    sizes = {"vocab_size": 300, "max_position_embeddings": 96}
    return Scorer(prose.make_model(tmp_path_factory.mktemp("adding"), texts, steps=200, learn=texts, **sizes), CONFIG)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    texts = [row["question"] for row in rows()]
    return Scorer(
        prose.make_model(tmp_path_factory.mktemp("fresh"), texts, steps=0, vocab_size=300, max_position_embeddings=96), CONFIG
    )


def measured(scorer: Scorer, file: Path) -> dict[str, Figure]:
    config = ReasoningConfig(path=str(file), num_items=100, num_shots=0, num_samples=3, max_new_tokens=24, temperature=0.5)
    made = reasoning.measure(scorer, config)
    assert all(len(table) == 100 for table in made.items)
    return {one.name: one for one in made.figures}


@pytest.mark.soak
def test_a_model_that_has_learnt_sums_adds_in_every_mode_and_a_fresh_one_in_none(
    adding: Scorer, fresh: Scorer, file: Path
) -> None:
    good, guess = measured(adding, file), measured(fresh, file)
    for mode in ("direct", "cot", "self_consistency"):
        learnt, unlearnt = good[f"reasoning.{mode}.accuracy"], guess[f"reasoning.{mode}.accuracy"]
        # the most frequent sum is right one time in ten
        assert learnt.low is not None and learnt.low > 0.3, learnt
        assert unlearnt.value is not None and unlearnt.value <= 0.1, unlearnt
        assert learnt.n == 100


@given(st.integers(1, 6), st.integers(2, 50), st.integers(0, 1000))
def test_generated_problems_add_up(level: int, largest: int, seed: int) -> None:
    [problem], [] = problems(ReasoningConfig(levels=(level,), num_items=1, largest=largest, seed=seed, num_shots=0))
    words = re.findall(r"has (\d+)|(?:finds|buys|gets) (\d+) more|(?:gives|loses|sells) (\d+)", problem.question)
    have = 0
    for start, more, less in words:
        have += int(start or 0) + int(more or 0) - int(less or 0)
        assert have >= 0
    assert len(words) == level + 1 and str(have) == problem.answer
    for one, sign, two, result in re.findall(r"(\d+) ([+-]) (\d+) = (\d+)\.", problem.steps):
        assert int(result) == (int(one) + int(two) if sign == "+" else int(one) - int(two))
    assert final_number(problem.steps, "cot") == Decimal(problem.answer)


def test_problems_are_seeded_distinct_and_as_many_of_each_level() -> None:
    config = ReasoningConfig(num_items=30)
    asked, examples = problems(config)
    assert (asked, examples) == problems(config) != problems(ReasoningConfig(num_items=30, seed=2))
    texts = [one.question for one in [*asked, *examples]]
    assert len(set(texts)) == 32
    assert [sum(one.level == str(level) for one in asked) for level in (1, 2, 3)] == [10, 10, 10]


@pytest.mark.parametrize(
    ("text", "mode", "number"),
    [
        (" 12\n\nQuestion: 3", "direct", 12),
        (" It is 7, not 8", "direct", 7),
        ("\n 5", "direct", 5),
        ("none", "direct", None),
        (" 3 + 4 = 7. The answer is 7. And 9", "cot", 7),
        (" 3 + 4 = 7\n#### 7\n\nQuestion: 1", "cot", 7),
        ("first 2\n\nand 3\n#### 7\n\n#### 8", "cot", 7),
        ("first 2, then 1,080.50\n\nand 9", "cot", Decimal("1080.50")),
        ("The answer is: $5.", "cot", 5),
        ("The answer is 5.00", "self_consistency", 5),
        ("Question: 4", "cot", None),
    ],
)
def test_the_final_number_is_found(text: str, mode: reasoning.Mode, number: Decimal | int | None) -> None:
    assert final_number(text, mode) == number


def test_a_number_is_read_as_people_write_it() -> None:
    assert number_of(" $1,234. ") == 1234 and number_of("-3") == -3
    assert number_of("seven") is None and number_of("NaN") is None and number_of("") is None


def test_the_most_frequent_number_counts() -> None:
    numbers = [None, Decimal(3), Decimal(5), Decimal("5.0"), None, None]
    assert reasoning._majority(numbers) == 5
    assert reasoning._majority([Decimal(2), Decimal(1)]) == 2 and reasoning._majority([None]) is None


def test_the_prompt_shows_examples_in_the_manner_of_the_mode(file: Path) -> None:
    asked, examples = problems(ReasoningConfig(path=str(file), num_items=1, num_shots=1))
    assert prompt(asked[0], examples, "direct") == "Question: 9 + 9?\nAnswer: 18\n\nQuestion: 0 + 0?\nAnswer:"
    steps = "Answer: Let's think step by step."
    assert prompt(asked[0], examples, "cot") == f"Question: 9 + 9?\n{steps} 9 + 9 = 18\n#### 18\n\nQuestion: 0 + 0?\n{steps}"


@pytest.mark.skipif(not GSM8K.is_file(), reason=f"{GSM8K} is not there")
def test_gsm8ks_own_rows_are_read() -> None:
    asked, examples = problems(ReasoningConfig(path=str(GSM8K), num_items=2000, num_shots=3))
    assert len(asked) == 1316 and len(examples) == 3 and asked[0].answer == "18"
    assert all(final_number(one.steps, "cot") == number_of(one.answer) for one in asked)
    assert "<<" not in asked[0].steps


def test_rows_without_an_answer_are_told(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "1 + 1?", "answer": "2"}\n')
    with pytest.raises(ReasoningError, match=r"rows.jsonl: row 1: wants .*#### NUMBER"):
        problems(ReasoningConfig(path=str(path)))
    path.write_text('{"question": "1 + 1?", "answer": "#### 2"}\n')
    with pytest.raises(ReasoningError, match="num_shots 2 are examples: none is left"):
        problems(ReasoningConfig(path=str(path)))
