"""Short texts with a title, names and numbers, no two alike; and a tiny model that has learnt some by heart."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from infra.ids import text_digest
from models import tokeniser
from models.tokeniser import TokeniserConfig
from tasks.learn.task_packs import Document

NAMES = [
    "Aldo",
    "Berta",
    "Cosima",
    "Dunstan",
    "Edda",
    "Falk",
    "Greta",
    "Hanno",
    "Ilse",
    "Jorun",
    "Kuno",
    "Lea",
    "Milo",
    "Nora",
    "Otis",
]
PLACES = [
    "Aarau",
    "Brixen",
    "Celle",
    "Dover",
    "Emden",
    "Fulda",
    "Gotha",
    "Husum",
    "Ivrea",
    "Jena",
    "Kiel",
    "Luino",
    "Metz",
    "Nantes",
]
THINGS = """barrels bridges candles drums engines flutes gardens hammers islands jackets kettles ladders mirrors needles organs pianos
ribbons saddles tables umbrellas violins wagons""".split()  # noqa: SIM905
ADJECTIVES = """ancient bitter careful distant eager foreign gentle heavy idle jolly kindly little modest narrow ordinary patient quiet
rapid silent tender useful wooden young""".split()  # noqa: SIM905
VERBS = "bought carried counted gathered mended offered painted ordered repaired shipped stored washed".split()  # noqa: SIM905


def text(seed: int) -> str:
    """A title and two sentences."""
    draw = random.Random(seed)
    lines = []
    for _ in range(2):
        (one, two), (like, such) = draw.sample(THINGS, 2), draw.sample(ADJECTIVES, 2)
        name, place, verb = draw.choice(NAMES), draw.choice(PLACES), draw.choice(VERBS)
        lines.append(
            draw.choice(
                [
                    f"In {place} the {like} {one} were once {verb} by {name} for {draw.randrange(10, 999)} {such} {two}.",
                    f"The {like} people who {verb} the {one} of {place} paid {draw.randrange(10, 999)} {two} to {name}.",
                    f"Nobody {verb} more {such} {one} than {name} did in {place} after the year {draw.randrange(1700, 1999)}.",
                ]
            )
        )
    return f"About {draw.choice(ADJECTIVES)} {draw.choice(THINGS)}\n\n{' '.join(lines)}"


def documents(first: int, number: int) -> list[Document]:
    return [Document(text_digest(f"{seed}"), "prose", "", text(seed)) for seed in range(first, first + number)]


def llama(vocab_size: int, end: int, seed: int, **shape: int) -> LlamaForCausalLM:
    """A small model with fresh weights."""
    sizes = {
        "hidden_size": 128,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 256,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=vocab_size,
                bos_token_id=end,
                eos_token_id=end,
                tie_word_embeddings=True,
                **({"max_position_embeddings": 128} | sizes | shape),
            )
        )


def make_model(
    folder: Path, texts: Sequence[str], *, steps: int, learn: Sequence[str] = (), rate: float = 6e-3, seed: int = 1, **shape: int
) -> Path:
    """A model folder with a tokeniser of `texts`, and `steps` of learning `learn` by heart, a text a row."""
    torch.set_num_threads(1)  # beside other work two are slower than one
    tokeniser.save(tokeniser.train_bpe(list(texts), TokeniserConfig(vocab_size=shape.pop("vocab_size", 420))), str(folder))
    words, roles = tokeniser.load(str(folder)), tokeniser.roles(str(folder))
    model = llama(roles.vocab_size, roles.end, seed, **shape)
    if steps:
        rows = [[roles.end, *words.encode(one, add_special_tokens=False).ids, roles.end] for one in learn]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [-100] * (longest - len(row)) for row in rows])
        optimiser = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.0)
        chance = torch.Generator().manual_seed(seed)
        for step in range(steps):
            batch = ids[torch.randperm(len(ids), generator=chance)[:24]]
            for group in optimiser.param_groups:
                group["lr"] = rate * min(1.0, (step + 1) / 20, 2 * (1 - step / steps) + 0.05)
            model(input_ids=batch.clamp(min=0), labels=batch).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad()
    model.save_pretrained(folder)
    return folder
