"""Chat templates: which a model gets that has none, and what ends its turns. Imports no torch.

A model that has a template keeps it. One without gets ChatML where its vocabulary has the two tokens for it, and else plain words: each
turn begins with a line that names who speaks, and the assistant's ends with the token that closes documents. No token is added: new
embeddings would be random rows that adapters (LoRA) do not train, while the token that closes documents is known to the model already. The
price: in plain words a user can write a line that looks like a turn.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from models.tokeniser import CHAT_TEMPLATE, TURN_END, TURN_START

Kind = Literal["own", "chatml", "plain"]

MARK = re.compile(r"\{%([-+]?)\s*(?:end)?generation\s*([-+]?)%\}")
"""In a template, where the assistant's words begin and end, as transformers knows it; with how white space around it is eaten."""

PLAIN = (
    "{% for message in messages %}"
    "{{ message['role'] | capitalize + ':\\n' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}"
    "{% else %}{{ message['content'] }}{% endif %}{{ '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:\\n' }}{% endif %}"
)


def template_for(vocabulary: Mapping[str, int]) -> tuple[Kind, str]:
    """The template of a model that has none, and which that is."""
    if TURN_START in vocabulary and TURN_END in vocabulary:
        return "chatml", CHAT_TEMPLATE
    return "plain", PLAIN


def turn_end(words: Any) -> int | None:
    """The id of the token with which the assistant's turn ends, by the template of a tokeniser as transformers loads it; None: by none of
    the special ones.
    """
    content = "wxyz"
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": content}]
    rest = words.apply_chat_template(turns, tokenize=False).rpartition(content)[2]
    special = {str(token): one for one, token in words.added_tokens_decoder.items() if token.special}
    return next(
        (one for name, one in sorted(special.items(), key=lambda pair: -len(pair[0])) if rest.lstrip().startswith(name)), None
    )


def stops(words: Any, known: int | list[int] | None) -> list[int]:
    """Ids that end an answer: the end of a turn, the end of a text, and those that the model's own settings name."""
    given = [known] if isinstance(known, int) else list(known or [])
    found = [turn_end(words) if words.chat_template else None, words.eos_token_id, *given]
    return list(dict.fromkeys(one for one in found if one is not None))
