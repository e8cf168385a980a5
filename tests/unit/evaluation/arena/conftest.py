"""Battles whose true strengths are known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from graftlm.evaluation.arena.battles import Battle

Simulated = tuple[dict[str, float], list[Battle]]


def simulate(count: int, strengths: np.ndarray, seed: int, ties: float = 0.6) -> Simulated:
    """Battles of models m00, m01 … drawn in pairs and sides at random, and their true ratings around 1000.

    Of a pair with chance p a share 2 · ties · p · (1 − p) are ties, and what a wins beside half of them is p.
    """
    generator = np.random.default_rng(seed)
    models = len(strengths)
    a = generator.integers(0, models, count)
    b = (a + generator.integers(1, models, count)) % models
    p = 1 / (1 + np.exp(strengths[b] - strengths[a]))
    tie = 2 * ties * p * (1 - p)
    draw = generator.random(count)
    verdicts = np.where(draw < tie, "tie", np.where(draw < tie / 2 + p, "a", "b"))
    battles = [
        Battle(
            question_id=number, category="talk", model_a=f"m{a[number]:02}", model_b=f"m{b[number]:02}",
            verdict=str(verdicts[number]), judge="people", order="ab",
        )
        for number in range(count)
    ]  # fmt: skip
    centred = strengths - strengths.mean()
    return {f"m{place:02}": 1000 + 400 / np.log(10) * float(value) for place, value in enumerate(centred)}, battles


@pytest.fixture
def simulated() -> Callable[..., Simulated]:
    return simulate
