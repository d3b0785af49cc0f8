"""Rows of many shapes as conversations: one small function for each format, which takes a row's fields and gives turns.

A formatter gets the values of its fields by its own names for them (`Format.fields`), whatever the row calls them. What it cannot use it
refuses with a rule and a detail; nothing is guessed. Which turns make a conversation is said by `problem_of`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tasks.text.turns import ROLES, Message, Unusable

Values = Mapping[str, Any]
FormatName = Literal[
    "prompt_response",
    "messages",
    "sharegpt",
    "alpaca",
    "sentiment",
    "classification",
    "ner",
    "qa",
    "summary",
    "translation",
]


@dataclass(frozen=True)
class Wording:
    """How a task is put into words."""

    template: str
    """The user's turn; names in braces are the formatter's."""
    labels: Mapping[str, str]
    """Labels as the rows write them → as the assistant does; the only ones that are taken."""
    nothing: str
    """What the assistant says where there is nothing to say."""


@dataclass(frozen=True)
class Format:
    """What one format needs, and how it is read."""

    make: Callable[[Values, Wording], list[Message]]
    fields: Mapping[str, str]
    """The formatter's names of its fields → what rows usually call them; a dot leads into a row's objects."""
    optional: tuple[str, ...] = ()
    """Fields that a row may lack."""
    template: str = ""
    """The usual template; "": the format has none."""
    slots: tuple[str, ...] = ()
    """Names that a template may have in braces."""
    labels: tuple[str, ...] | None = None
    """The usual labels; (): they must be given; None: the format has none."""
    nothing: str = ""
    """The usual words for nothing; "": the format has none."""


def pair(user: str, assistant: str, system: str | None = None) -> list[Message]:
    """A question and its answer."""
    before = [{"role": "system", "content": system}] if system else []
    return [*before, {"role": "user", "content": user}, {"role": "assistant", "content": assistant}]


def prompt_response(row: Values, words: Wording) -> list[Message]:
    """A prompt and its response, with a system's words where the row has some."""
    return pair(_text(row, "prompt"), _text(row, "response"), _optional_text(row, "system"))


def messages(row: Values, words: Wording) -> list[Message]:
    """A list of {role, content}, as OpenAI's API takes it; content may be a list of text parts."""
    return [{"role": _role(_text(turn, "role")), "content": _content(turn)} for turn in _turns(row, "messages")]


def sharegpt(row: Values, words: Wording) -> list[Message]:
    """A list of {from, value}."""
    turns = _turns(row, "conversations")
    return [{"role": _role(_text(turn, "from")), "content": _text(turn, "value")} for turn in turns]


def alpaca(row: Values, words: Wording) -> list[Message]:
    """An instruction, what it is about, if anything, and the output."""
    about = _optional_text(row, "input")
    instruction = _text(row, "instruction")
    return pair(f"{instruction}\n\n{about}" if about else instruction, _text(row, "output"), _optional_text(row, "system"))


def classification(row: Values, words: Wording) -> list[Message]:
    """A text, and one of the labels."""
    label = _label(row.get("label"), words)
    names = ", ".join(dict.fromkeys(words.labels.values()))
    return pair(words.template.format(text=_text(row, "text"), labels=names), label)


def ner(row: Values, words: Wording) -> list[Message]:
    """A text with its entities, a line for each: as {text, label} or {start, end, label}, or as tokens with BIO tags."""
    if row.get("tokens") is not None:
        text, found = _tagged(row)
    else:
        text = _text(row, "text")
        found = [_entity(one, text) for one in _turns(row, "entities")]
    lines = [f"{_label(label, words)}: {what}" for label, what in found]
    names = ", ".join(dict.fromkeys(words.labels.values()))
    return pair(words.template.format(text=text, labels=names), "\n".join(lines) or words.nothing)


def qa(row: Values, words: Wording) -> list[Message]:
    """A question, a text that answers it, if any, and the answer: a string, a list whose first one counts, or SQuAD's {text: [...]}."""
    given = row.get("answer")
    given = given.get("text") if isinstance(given, Mapping) else given
    if isinstance(given, Sequence) and not isinstance(given, str):
        given = given[0] if given else words.nothing
    context, question = _optional_text(row, "context"), _text(row, "question")
    asked = words.template.format(context=context, question=question) if context else question
    return pair(asked, _text({"answer": given}, "answer"))


def summary(row: Values, words: Wording) -> list[Message]:
    """A text and its summary."""
    return pair(words.template.format(text=_text(row, "text")), _text(row, "summary"))


def translation(row: Values, words: Wording) -> list[Message]:
    """A text and its translation; the template says between which languages."""
    return pair(words.template.format(text=_text(row, "text")), _text(row, "translation"))


_TEXT_AND_LABEL = {"text": "text", "label": "label"}
FORMATS: Mapping[FormatName, Format] = {
    "prompt_response": Format(
        prompt_response, {"prompt": "prompt", "response": "response", "system": "system"}, optional=("system",)
    ),
    "messages": Format(messages, {"messages": "messages"}),
    "sharegpt": Format(sharegpt, {"conversations": "conversations"}),
    "alpaca": Format(
        alpaca,
        {"instruction": "instruction", "input": "input", "output": "output", "system": "system"},
        optional=("input", "system"),
    ),
    "sentiment": Format(
        classification,
        _TEXT_AND_LABEL,
        template="Is the sentiment of this text {labels}? Answer with one of these words.\n\n{text}",
        slots=("text", "labels"),
        labels=("negative", "neutral", "positive"),
    ),
    "classification": Format(
        classification,
        _TEXT_AND_LABEL,
        template="Which of these describes the text: {labels}? Answer with one of them.\n\n{text}",
        slots=("text", "labels"),
        labels=(),
    ),
    "ner": Format(
        ner,
        {"text": "text", "entities": "entities", "tokens": "tokens", "tags": "tags"},
        optional=("text", "entities", "tokens", "tags"),
        template="Name what the text says of these kinds: {labels}. Write a line for each, as in `kind: name`.\n\n{text}",
        slots=("text", "labels"),
        labels=(),
        nothing="none",
    ),
    "qa": Format(
        qa,
        {"context": "context", "question": "question", "answer": "answers"},
        optional=("context",),
        template="{context}\n\nAnswer from the text above: {question}",
        slots=("context", "question"),
        nothing="The text does not say.",
    ),
    "summary": Format(
        summary, {"text": "document", "summary": "summary"}, template="Summarise this text.\n\n{text}", slots=("text",)
    ),
    "translation": Format(translation, {"text": "source", "translation": "target"}, slots=("text",)),
}
"""The formats by name."""


def problem_of(turns: Sequence[Message]) -> tuple[str, str] | None:
    """(rule, detail) where turns are no conversation; a system's words may come first, then user and assistant take turns to the end."""
    spoken = turns[1:] if turns and turns[0]["role"] == "system" else turns
    if not spoken:
        return "no_turns", "nobody says anything"
    for place, turn in enumerate(turns):
        role, content = turn["role"], turn["content"]
        if role not in ROLES.values():
            return "unknown_role", f"turn {place + 1}: {role!r} is none of {', '.join(dict.fromkeys(ROLES.values()))}"
        if not content.strip():
            return "empty_turn", f"turn {place + 1}: the {role} says nothing"
        if "\0" in content or not _has_utf8(content):
            return "broken_text", f"turn {place + 1}: a NUL character or half a surrogate pair"
    for place, turn in enumerate(spoken):
        due = ("user", "assistant")[place % 2]
        if turn["role"] != due:
            at = place + 1 + len(turns) - len(spoken)
            return "roles_do_not_alternate", f"turn {at} is the {turn['role']}'s where the {due}'s is due"
    if spoken[-1]["role"] != "assistant":
        return "assistant_is_not_last", f"the last of {len(turns)} turns is the user's"
    return None


def at_path(row: Mapping[str, Any], path: str) -> Any:
    """The value of a row at a dotted path; a field of that very name comes first. None where there is none."""
    if path in row:
        return row[path]
    first, _, rest = path.partition(".")
    inner = row.get(first)
    return at_path(inner, rest) if rest and isinstance(inner, Mapping) else None


def _text(row: Values, name: str) -> str:
    value = row.get(name)
    if value is None:
        raise Unusable("no_field", f"no {name}")
    if not isinstance(value, str):
        raise Unusable("not_text", f"{name} is a {type(value).__name__}")
    return value


def _optional_text(row: Values, name: str) -> str | None:
    value = _text(row, name) if row.get(name) is not None else ""
    return value if value.strip() else None


def _turns(row: Values, name: str) -> Sequence[Mapping[str, Any]]:
    value = row.get(name)
    if value is None:
        raise Unusable("no_field", f"no {name}")
    if not isinstance(value, Sequence) or isinstance(value, str) or not all(isinstance(one, Mapping) for one in value):
        raise Unusable("not_a_list", f"{name} is no list of objects")
    return value


def _role(speaker: str) -> str:
    if speaker not in ROLES:
        raise Unusable("unknown_role", f"{speaker!r} is none of {', '.join(ROLES)}")
    return ROLES[speaker]


def _content(turn: Mapping[str, Any]) -> str:
    content = turn.get("content")
    if isinstance(content, Sequence) and not isinstance(content, str):
        parts = [part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None for part in content]
        if not all(isinstance(part, str) for part in parts):
            raise Unusable("not_text", "content has parts that are no text")
        return "".join(str(part) for part in parts)
    return _text(turn, "content")


def _label(value: Any, words: Wording) -> str:
    if value is None:
        raise Unusable("no_field", "no label")
    given = str(value)
    if given not in words.labels:
        raise Unusable("unknown_label", f"{given!r} is none of {', '.join(words.labels)}")
    return words.labels[given]


def _entity(one: Mapping[str, Any], text: str) -> tuple[Any, str]:
    label = one.get("label", one.get("type"))
    if one.get("text") is not None:
        what = _text(one, "text")
        if what not in text:
            raise Unusable("entity_not_in_text", f"{what!r} is not in the text")
        return label, what
    start, end = one.get("start"), one.get("end")
    if not (isinstance(start, int) and isinstance(end, int) and 0 <= start < end <= len(text)):
        raise Unusable("entity_not_in_text", f"characters {start} to {end} of {len(text)}")
    return label, text[start:end]


def _tagged(row: Values) -> tuple[str, list[tuple[str, str]]]:
    """The text of tokens, and (label, entity) by their BIO tags."""
    tokens, tags = row["tokens"], row.get("tags") or []
    if not (_is_words(tokens) and _is_words(tags) and len(tokens) == len(tags)):
        raise Unusable("tokens_without_tags", "tokens and tags must be two lists of words of one length")
    found: list[tuple[str, str]] = []
    inside = ""
    for token, tag in zip(tokens, tags, strict=True):
        mark, _, label = tag.partition("-")
        if mark == "I" and label == inside:
            found[-1] = (label, f"{found[-1][1]} {token}")
        elif mark in ("B", "I") and label:
            found.append((label, token))
        elif tag != "O":
            raise Unusable("unknown_label", f"the tag {tag!r} is neither O, nor B-… or I-…")
        inside = label
    return " ".join(tokens), found


def _is_words(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(one, str) for one in value)


def _has_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
