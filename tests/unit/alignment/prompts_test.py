"""Which prompts are asked, and in which order."""

from __future__ import annotations

from collections import Counter

import pytest

from graftlm.alignment.prompts import draw_order, encode_prompts
from graftlm.data.samples import Origin, Prompt, Turn
from graftlm.evaluation.language_model import LanguageModel


@pytest.mark.parametrize("shares", [[1, 1], [0.9, 0.1], [3, 2, 1], [0.5, 0.3, 0.15, 0.05], [1]])
@pytest.mark.parametrize("count", [1, 7, 100, 333])
def test_every_beginning_holds_the_shares(shares: list[float], count: int) -> None:
    """Half a draw off for rounding, and as much for each block that may be in front of the others."""
    order = draw_order([5, 40, 3, 11][: len(shares)], shares, count, seed=3)
    assert len(order) == count
    drawn = Counter[int]()
    for number, (block, _) in enumerate(order, start=1):
        drawn[block] += 1
        for place, share in enumerate(shares):
            part = share / sum(shares)
            assert abs(drawn[place] - part * number) <= 0.5 + part * len(shares) / 2 + 1e-9


def test_every_pass_asks_every_prompt_once() -> None:
    order = draw_order([5, 40], [1, 1], 80, seed=0)
    short = [place for block, place in order if block == 0]
    long = [place for block, place in order if block == 1]
    assert sorted(long) == list(range(40)) and len(short) == 40
    passes = [short[start : start + 5] for start in range(0, 40, 5)]
    assert all(sorted(one) == list(range(5)) for one in passes)
    assert len({tuple(one) for one in passes}) > 1, "each pass is shuffled anew"


def test_the_order_is_a_function_of_the_seed() -> None:
    drawn = [draw_order([50, 50], [1, 2], 60, seed=seed) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_long_prompts_are_left_out_and_counted(letters: LanguageModel) -> None:
    prompts = [Prompt((Turn("user", "x" * length),), Origin("p", length)) for length in (3, 4, 5, 9)]
    asked, too_long = encode_prompts(letters, prompts, longest=5)
    assert [one.prompt.origin.line for one in asked] == [3, 4] and too_long == 2
    assert [one.tokens for one in asked] == [letters.encode(one.prompt.prompt) for one in asked]
