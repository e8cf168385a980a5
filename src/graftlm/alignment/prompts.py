"""The prompts that answers are written to: encoded, checked for length, and drawn in a fixed order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graftlm.data.mixing import hash_seed
from graftlm.data.samples import Prompt
from graftlm.evaluation.language_model import LanguageModel


@dataclass(frozen=True)
class Asked:
    """A prompt, and its tokens up to where the answer begins."""

    prompt: Prompt
    tokens: list[int]


def encode_prompts(subject: LanguageModel, prompts: Sequence[Prompt], longest: int) -> tuple[list[Asked], int]:
    """(prompts of at most `longest` tokens, how many were longer and are left out)."""
    asked = [Asked(prompt, subject.encode(prompt.prompt)) for prompt in prompts]
    short = [one for one in asked if len(one.tokens) <= longest]
    return short, len(asked) - len(short)


def draw_order(sizes: Sequence[int], shares: Sequence[float], count: int, seed: int) -> list[tuple[int, int]]:
    """`count` draws as (block, place in it): every block in its share all along, each shuffled pass after pass.

    Draw j of a block that has `share` of all draws is due at (j + 1/2) / share; sorting by these moments is the mix.
    """
    total = sum(shares)
    moments, blocks, places = [], [], []
    for block, (size, share) in enumerate(zip(sizes, shares, strict=True)):
        draws = int(np.ceil(count * share / total)) + 1
        random = np.random.default_rng(hash_seed(seed, block))
        passes = [random.permutation(size) for _ in range(-(-draws // size))]
        places.append(np.concatenate(passes)[:draws])
        blocks.append(np.full(draws, block))
        moments.append((np.arange(draws) + 0.5) * total / share)
    first = np.argsort(np.concatenate(moments), kind="stable")[:count]
    return list(zip(np.concatenate(blocks)[first].tolist(), np.concatenate(places)[first].tolist(), strict=True))
