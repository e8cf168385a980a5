"""Entries of the leaderboard, made up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from graftlm.evaluation.leaderboard.entries import Entry, GroupScore, TaskScore
from graftlm.evaluation.statistics import Scores, estimate

HOSTILE = (
    "<script>alert(1)</script>", "it's \"quoted\" & 'so'", "\u202eevil\u202c", "{{ 7 * 7 }}", "模型" * 120,
    "'; DROP TABLE results; --", "[red]mark[/red]", "\x1b[31mterminal\x07", "", "مرحبا",
)  # fmt: skip


def scored(name: str, right: list[float], items: str = "same items", **more: Any) -> TaskScore:
    """A task with scores by item."""
    scores = Scores.of(right)
    found = estimate(scores, resamples=200)
    told = {"n": len(right), "shots": 0, "version": "1", "items_hash": items, "scores": scores, **more}
    return TaskScore(name, "accuracy", True, found.value, found.low, found.high, **told)


@pytest.fixture
def make_entry() -> Callable[..., Entry]:
    """An entry of some tasks and groups; `hash` is of its name by default."""

    def make(
        model: str, tasks: tuple[TaskScore, ...] = (), groups: tuple[GroupScore, ...] = (), **more: Any
    ) -> Entry:
        told: dict[str, Any] = {
            "hash": f"hash of {model}", "model_hash": "", "parameters": 7_000_000_000, "precision": "bf16",
            "started": "2026-01-01T00:00:00Z", "seconds": 60.0, "machine": "one CPU", "settings": {},
            "versions": {"graft": "0.1.0"}, "source": "graft",
        }  # fmt: skip
        return Entry(model=model, tasks=tasks, groups=groups, **told | more)

    return make


def random_entries(make: Callable[..., Entry], count: int, seed: int = 0) -> list[Entry]:
    """Models of random skill on three tests and their mean, under names that are hard to show."""
    generator = np.random.default_rng(seed)
    entries = []
    for number in range(count):
        skill = generator.uniform(0.2, 0.9)
        tasks = tuple(scored(f"test-{k}", (generator.random(40) < skill).astype(float).tolist()) for k in range(3))
        mean = 100 * sum(task.value for task in tasks) / 3
        missing = {"test-3": "it was not run"} if generator.random() < 0.2 else {}
        members = tuple(task.name for task in tasks)
        group = GroupScore("exam", mean, max(0, mean - 9), min(100, mean + 9), "mean of its members", members, missing)
        size = int(10 ** generator.uniform(7, 11))
        model = f"{HOSTILE[number % len(HOSTILE)]}-{number}"
        entries.append(make(model, tasks, (group,), parameters=size, precision=("bf16", "fp32", "int4")[number % 3]))
    return entries
