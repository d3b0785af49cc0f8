"""Conversations as tokens, and which of them the assistant said.

A chat template with generation marks ({% generation %}) says so itself. For one without, a turn's words are what the conversation up to it
has more than the conversation before it with the assistant's opening: that needs a template that never changes what it wrote before, and
one that does is refused. A text that prints one of the tokeniser's special tokens would forge a turn, so such a conversation is left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from infra.errors import InputError
from models.chat import MARK

IGNORED = -100
"""Label of a token that is not learnt."""
Messages = Sequence[Mapping[str, str]]


class Chat(NamedTuple):
    """A conversation as tokens."""

    ids: list[int]
    labels: list[int]
    """`ids` where the assistant speaks, else IGNORED."""


class LeftOut(NamedTuple):
    """A row that is not learnt from, and why."""

    row_id: str
    rule: str
    value: float | None
    threshold: float | None


def unfit(left_out: Sequence[LeftOut]) -> dict[str, int]:
    """How many held-out rows are not measured, all and by the rule, as facts of a training."""
    name, rules = "rows_heldout_left_out", Counter(one.rule for one in left_out)
    return {name: len(left_out), **{f"{name}.{rule}": count for rule, count in sorted(rules.items())}}


def encode(words: PreTrainedTokenizerBase, messages: Messages) -> Chat:
    """A conversation as the tokeniser's chat template writes it.

    Raises:
        InputError: the tokeniser has no chat template, or one in which the assistant's words cannot be told.
    """
    if not words.chat_template:
        raise InputError("the model has no chat template; give it one with step adopt")
    turns = [dict(one) for one in messages]
    if MARK.search(words.chat_template):
        given: Any = words.apply_chat_template(turns, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
        said = [bool(one) for one in given["assistant_masks"]]
        ids = list(given["input_ids"])
    else:
        ids, said = by_prefixes(words, turns)
    return Chat(ids, [one if learnt else IGNORED for one, learnt in zip(ids, said, strict=True)])


def chats(
    rows: Sequence[Mapping[str, Any]], words: PreTrainedTokenizerBase, max_length: int, too_long: str
) -> tuple[dict[str, Chat], list[LeftOut]]:
    """Rows of CONVERSATIONS as tokens by row_id, in their order, and what is left out."""
    special = specials(words)
    found: dict[str, Chat] = {}
    left_out: list[LeftOut] = []
    for row in rows:
        row_id = row["row_id"]
        if forged(special, [turn["content"] for turn in row["messages"]]):
            left_out.append(LeftOut(row_id, "special_token", None, None))
            continue
        chat = encode(words, row["messages"])
        length = len(chat.ids)
        if length > max_length:
            if too_long == "drop":
                left_out.append(LeftOut(row_id, "too_long", length, max_length))
                continue
            chat = Chat(chat.ids[:max_length], chat.labels[:max_length])
        if all(label == IGNORED for label in chat.labels[1:]):
            left_out.append(LeftOut(row_id, "no_learnt_token", length, max_length))
            continue
        found[row_id] = chat
    return found, left_out


def specials(words: PreTrainedTokenizerBase) -> list[str]:
    """The tokens that a text must not print: they would end its turn."""
    return [str(one) for one in words.added_tokens_decoder.values() if one.special]


def forged(special: Sequence[str], texts: Sequence[str]) -> bool:
    """Whether a text prints one of the special tokens."""
    return any(token in text for text in texts for token in special)


def by_prefixes(words: PreTrainedTokenizerBase, turns: list[dict[str, str]]) -> tuple[list[int], list[bool]]:
    """Ids, and whether the assistant said them, by what each of its turns adds."""

    def ids_of(part: list[dict[str, str]], *, opened: bool = False) -> list[int]:
        given: Any = words.apply_chat_template(part, tokenize=True, return_dict=True, add_generation_prompt=opened)
        return list(given["input_ids"])

    ids = ids_of(turns)
    said = [False] * len(ids)
    for place, turn in enumerate(turns):
        if turn["role"] != "assistant":
            continue
        before, until = ids_of(turns[:place], opened=True), ids_of(turns[: place + 1])
        if until[: len(before)] != before or ids[: len(until)] != until:
            raise InputError(
                "the model's chat template writes earlier turns otherwise once later ones follow, and has no generation marks, so the "
                "assistant's words cannot be told; put {% generation %} and {% endgeneration %} around them in its chat_template.jinja"
            )
        said[len(before) : len(until)] = [True] * (len(until) - len(before))
    return ids, said
