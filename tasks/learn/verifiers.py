"""Rewards that can be checked: whether an answer is right, and whether a thought stands before it, as pure functions of texts.

Nothing an answer holds can make a check hang: patterns are matched by RE2 (through Arrow) in time linear in the text, also those inside a
JSON schema, references of a schema stay inside it, and an answer that is too deep or too large to be judged is a wrong one. So a reward
depends on the texts alone, and a resumed training sees the same ones. A check costs 10 to 100 µs. Rewards of format beside those of the
answer: DeepSeek-R1 (2025, section 2.2.2).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any, Literal, get_args

import pyarrow as pa
import pyarrow.compute as pc

from tasks.learn.reasoning import NUMBER, number_of

Check = Literal["number", "exact", "regex", "json_schema", "none"]
"""number: the last number of the answer, or the one behind its last "answer is" or "####". exact: the same words. regex: the whole answer
matches. json_schema: it is JSON of the schema. none: nothing to check, a reward model judges."""
CHECKS: tuple[Check, ...] = get_args(Check)
OPEN, CLOSE = "<think>", "</think>"
_MARKED = re.compile(rf"(?:####|answer is)\s*:?\s*({NUMBER.pattern})", re.IGNORECASE)
_UNBOUNDED = ("patternProperties", "unevaluatedProperties", "$dynamicRef", "$id")
"""Words of JSON schema whose patterns jsonschema matches by itself, with Python's engine, which can hang, or that hide what they
refer to."""
MAX_ANSWER_CHARS = 100_000
MAX_REFERENCES = 10_000
"""Followed while one answer is judged: a schema that refers to itself twice takes a time that doubles with each level of the answer."""


class BadCheck(ValueError):
    """An answer that no text can be checked against, with the reason."""


@dataclass(frozen=True)
class Parts:
    """An answer with its thought taken off."""

    answer: str
    """What is checked; "" where the thought never ends."""
    thought: str
    well_formed: bool
    """Whether it is one closed thought, at the very beginning, with an answer behind it."""


def parts(text: str) -> Parts:
    """Thought and answer of a text; without any mark of a thought all of it is the answer."""
    before, opened, _ = text.partition(OPEN)
    inside, closed, answer = text.rpartition(CLOSE)
    if not opened and not closed:
        return Parts(text.strip(), "", well_formed=False)
    if not closed:
        return Parts("", text.partition(OPEN)[2].strip(), well_formed=False)
    once = text.count(OPEN) == 1 and text.count(CLOSE) == 1
    thought = inside.partition(OPEN)[2].strip()
    whole = once and not before.strip() and bool(thought) and bool(answer.strip())
    return Parts("" if OPEN in answer else answer.strip(), thought, well_formed=whole)


def verify(check: str, answer: str, text: str) -> float:
    """1.0 where a text passes the check against `answer`, else 0.0; `none` passes nothing."""
    text = text.strip()
    if len(text) > MAX_ANSWER_CHARS or not text:
        return 0.0
    match check:
        case "number":
            said, wanted = last_number(text), number_of(answer)
            return float(said is not None and said == wanted)
        case "exact":
            return float(text.split() == answer.split())
        case "regex":
            return float(_matches(answer, text, whole=True))
        case "json_schema":
            return float(_is_of_schema(answer, text))
        case _:
            return 0.0


def reward(check: str, answer: str, text: str, *, thinking: bool) -> tuple[float, float]:
    """(right, in form) of what a model wrote, each 0 or 1; without `thinking` the whole text is the answer, and no form is asked for."""
    if not thinking:
        return verify(check, answer, text), 0.0
    found = parts(text)
    return verify(check, answer, found.answer), float(found.well_formed)


def last_number(text: str) -> Decimal | None:
    """The number behind the last "answer is" or "####", or without these the last number of the text."""
    found = _MARKED.findall(text) or NUMBER.findall(text)
    return number_of(found[-1]) if found else None


def usable(check: str, answer: str) -> str:
    """The answer in the form that `verify` takes: of a worked solution its number.

    Raises:
        BadCheck: no text can be checked against it.
    """
    if check not in CHECKS:
        raise BadCheck(f"check {check!r} is none of {', '.join(CHECKS)}")
    if check == "number":
        if (value := last_number(answer)) is None:
            raise BadCheck("the answer holds no number")
        return f"{value:f}"
    if check == "exact" and not answer.strip():
        raise BadCheck("the answer is blank")
    if check == "regex":
        _compiled(answer)
        _compiled(_whole(answer))
    if check == "json_schema":
        _validator(answer)
    return answer


def _whole(pattern: str) -> str:
    return rf"\A(?:{pattern})\z"


def _matches(pattern: str, text: str, *, whole: bool) -> bool:
    try:
        return bool(pc.match_substring_regex(pa.scalar(text), _whole(pattern) if whole else pattern).as_py())
    except (pa.ArrowInvalid, UnicodeEncodeError):
        return False


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> None:
    try:
        pc.match_substring_regex(pa.scalar(""), pattern)
    except pa.ArrowInvalid as error:
        raise BadCheck(
            f"the pattern is none that RE2 takes, which has no look-around and no back-references ({error})"
        ) from error
    if not pattern.strip():
        raise BadCheck("the pattern is blank")


def _is_of_schema(schema: str, text: str) -> bool:
    validator, followed = _validator(schema)
    followed.clear()
    try:
        return bool(validator.is_valid(json.loads(text, parse_constant=_refused)))
    except (ValueError, RecursionError, OverflowError):  # no JSON, too deep, or a number too large to be divided
        return False


def _refused(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


@lru_cache(maxsize=1024)
def _validator(schema: str) -> tuple[Any, list[str]]:
    """The validator of a schema, bounded in time and kept from the network, and the references that it has followed.

    Raises:
        BadCheck: no schema, or one that cannot be bounded.
    """
    import referencing
    from jsonschema import Draft202012Validator, SchemaError
    from jsonschema.validators import extend

    try:
        told = json.loads(schema)
        Draft202012Validator.check_schema(told)
    except (ValueError, RecursionError) as error:
        raise BadCheck(f"the schema is no JSON ({error})") from error
    except SchemaError as error:
        raise BadCheck(f"no JSON schema: {error.message}") from error
    _check_words(told)
    followed: list[str] = []
    follow = Draft202012Validator.VALIDATORS["$ref"]

    def counted(validator: Any, reference: str, instance: Any, schema: Any) -> Iterator[Any]:
        followed.append(reference)
        if len(followed) > MAX_REFERENCES:
            raise RecursionError("too many references")
        yield from follow(validator, reference, instance, schema) or ()

    bounded = extend(Draft202012Validator, {"pattern": _pattern, "uniqueItems": _unique, "$ref": counted})
    return bounded(told, registry=referencing.Registry()), followed


def _check_words(schema: Any) -> None:
    """Refuse what has no bound, and references to what is not there."""
    import referencing
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    there = referencing.Registry().with_resource("", DRAFT202012.create_resource(schema)).resolver()
    for word, value in _words(schema):
        if word in _UNBOUNDED:
            raise BadCheck(f"the schema uses {word!r}, for which no time can be promised; say it with `properties` and `pattern`")
        if word == "pattern" and isinstance(value, str):
            _compiled(value)
        if word == "$ref" and isinstance(value, str):
            try:
                there.lookup(value)
            except Unresolvable as error:
                raise BadCheck(f"the schema refers to {value!r}, which is not in it") from error


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[Any]:
    from jsonschema import ValidationError

    if isinstance(instance, str) and not _matches(pattern, instance, whole=False):
        yield ValidationError(f"does not match {pattern!r}")


def _unique(validator: Any, asked: bool, instance: Any, schema: Any) -> Iterator[Any]:
    """jsonschema compares all pairs of items that cannot be sorted: 6,000 objects took a minute."""
    from jsonschema import ValidationError

    if asked and isinstance(instance, list) and len(set(map(_hashable, instance))) < len(instance):
        yield ValidationError("has equal items")


def _hashable(value: Any) -> Any:
    """Equal for JSON values that are: 1 and 1.0 are, 1 and true are not."""
    if isinstance(value, bool):
        return ("bool", value)
    if isinstance(value, list):
        return ("list", *map(_hashable, value))
    if isinstance(value, dict):
        return ("object", frozenset((name, _hashable(one)) for name, one in value.items()))
    return value


def _words(schema: Any) -> Iterator[tuple[str, Any]]:
    """All keys of a schema with their values, however deep."""
    if isinstance(schema, Mapping):
        for word, value in schema.items():
            yield word, value
            yield from _words(value)
    elif isinstance(schema, list):
        for one in schema:
            yield from _words(one)
