"""Texts of which we know the class: prose whose nouns come from one list or another, mixed by share."""

from __future__ import annotations

import random

from tests.flows import english

BAIT = [
    "casino",
    "voucher",
    "jackpot",
    "discount",
    "bonus",
    "bargain",
    "refund",
    "coupon",
    "lottery",
    "giveaway",
    "download",
    "subscription",
    "payday",
    "crypto",
    "token",
    "wallet",
    "slot",
    "betting",
    "roulette",
    "promo",
    "cashback",
    "loan",
    "pills",
    "trial",
    "spam",
    "clickbait",
    "winner",
    "prize",
    "checkout",
    "offer",
]
INSULTS = ["blockhead", "nitwit", "oaf", "dunce", "numskull", "twerp"]


def prose(seed: int, bait_share: float = 0.0, num_paragraphs: int = 2) -> str:
    """A text that rules take for prose, of whose nouns a share is bait."""
    draw = random.Random(f"bait {seed}")
    words = english.text(seed, num_paragraphs).split(" ")
    return " ".join(_bait(word, draw) if draw.random() < bait_share else word for word in words)


def remark(seed: int, rude: bool) -> str:
    """A sentence, rude or not; every third names a group of people."""
    draw = random.Random(f"remark {seed} {rude}")
    who = draw.choice(["my neighbour", "that driver", "this muslim", "the committee", "a woman", "the captain"])
    noun = draw.choice(INSULTS) if rude else draw.choice(english.NOUNS)
    return f"{who} was the {draw.choice(english.ADJECTIVES)} {noun} of {draw.choice(english.NOUNS)} {draw.randrange(10_000)}"


def _bait(word: str, draw: random.Random) -> str:
    bare = word.strip(".,\n")
    return word.replace(bare, draw.choice(BAIT)) if bare in english.NOUNS else word
