"""What a skill draws."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """`key` names the problem whatever the wording; two problems of one skill with one key have one answer."""

    key: str
    question: str
    answer: str


def wording(rng: random.Random, forms: Sequence[str], **fields: object) -> str:
    """One of `forms`, filled in."""
    return rng.choice(forms).format(**fields)


def distinct(rng: random.Random, pool: Sequence[str], count: int) -> list[str]:
    """`count` different entries of `pool` in random order."""
    # random.sample has changed between versions of Python, shuffle has not.
    entries = list(pool)
    rng.shuffle(entries)
    return entries[:count]
