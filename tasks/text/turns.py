"""Turns of a conversation as rows of many makers write them, as `{role, content}`, or why they cannot be used.

Known shapes: a text (one turn of the user), messages `{role, content}`, ShareGPT's `{from, value}`, and the texts of Anthropic's HH, whose
turns begin with `Human:` and `Assistant:`. Roles are system (first only), user and assistant, the last two by turns.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from infra.ids import content_id, digest_of

Message = dict[str, str]
ROLES = {
    **{"system": "system", "developer": "system"},
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "chatgpt", "bot"), "assistant"),
}
"""Names of roles in data sets → ours."""
_HH = re.compile(r"(?:\A|\n\n)(Human|Assistant):[ \t]?")
_HH_ROLES = {"Human": "user", "Assistant": "assistant"}


class Unusable(ValueError):
    """A row that cannot be used: (rule, what is wrong)."""

    @property
    def rule(self) -> str:
        """The rule that it breaks."""
        return str(self.args[0])

    @property
    def detail(self) -> str:
        """What is wrong, in words."""
        return str(self.args[1])


def text_of(value: Any, what: str) -> str:
    """A text that says something and that UTF-8 holds.

    Raises:
        Unusable: `no_<what>` or `broken_text`.
    """
    if not isinstance(value, str) or not value.strip():
        raise Unusable(f"no_{what}", f"the {what} is {'blank' if isinstance(value, str) else f'a {type(value).__name__}'}")
    if "\0" in value:
        raise Unusable("broken_text", f"the {what} holds a NUL character")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise Unusable("broken_text", f"the {what} holds half a surrogate pair (character {error.start})") from None
    return value


def turns_of(value: Any, what: str) -> list[Message]:
    """A conversation in any of the shapes, its roles in order.

    Raises:
        Unusable: `no_<what>`, `broken_text` or `wrong_roles`.
    """
    if isinstance(value, str) and _HH.match(value):
        parts = _HH.split(value)[1:]
        messages = [{"role": _HH_ROLES[who], "content": said.strip()} for who, said in zip(parts[::2], parts[1::2], strict=True)]
    elif isinstance(value, list) and value:
        messages = [_message(one, what) for one in value]
    else:
        messages = [{"role": "user", "content": text_of(value, what)}]
    for one in messages:
        text_of(one["content"], what)
    said = [one["role"] for one in messages[messages[0]["role"] == "system" :]]
    if not said or said != [("user", "assistant")[place % 2] for place in range(len(said))]:
        raise Unusable("wrong_roles", f"the {what}'s roles are {_listed(messages)}: user and assistant by turns, the user first")
    return messages


def prompt_of(value: Any) -> list[Message]:
    """A conversation whose last turn is the user's.

    Raises:
        Unusable: as `turns_of`.
    """
    messages = turns_of(value, "prompt")
    if messages[-1]["role"] != "user":
        raise Unusable("wrong_roles", f"the prompt's roles are {_listed(messages)}: the last one must be the user's")
    return messages


def answer_of(value: Any, what: str) -> str:
    """An answer: a text, a message of the assistant, or a list of one.

    Raises:
        Unusable: `no_<what>`, `broken_text` or `wrong_roles`.
    """
    if isinstance(value, list) and len(value) == 1:
        [value] = value
    if isinstance(value, dict):
        message = _message(value, what)
        if message["role"] != "assistant":
            raise Unusable("wrong_roles", f"the {what} is one of the {message['role']}, not of the assistant")
        value = message["content"]
    return text_of(value, what)


def _message(value: Any, what: str) -> Message:
    if not isinstance(value, dict):
        raise Unusable(f"no_{what}", f"a turn of the {what} is a {type(value).__name__}, not an object with role and content")
    role, content = value.get("role", value.get("from")), value.get("content", value.get("value"))
    if role not in ROLES:
        raise Unusable("wrong_roles", f"role {role!r} is none of {', '.join(ROLES)}")
    return {"role": ROLES[role], "content": text_of(content, what)}


def _listed(messages: Sequence[Message]) -> str:
    return ", ".join(one["role"] for one in messages)


def side_of(turns: Sequence[Message], test_share: float) -> str:
    """`train` or `test`, by what the user says first; case and white space do not count."""
    asked = next(turn["content"] for turn in turns if turn["role"] == "user")
    return "test" if int(digest_of("side", content_id(asked))[:16], 16) < test_share * 2.0**64 else "train"


def prompt_key(messages: Sequence[Message]) -> str:
    """32 hex characters, equal for equal turns."""
    return digest_of("prompt", *(part for one in messages for part in (one["role"], one["content"])))
