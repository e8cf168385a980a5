"""A run that is killed again and again, at any moment, ends bit for bit where an undisturbed one ends."""

from __future__ import annotations

import contextlib
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CHANGES = {
    "stages.pretrain.tokens": 3000,
    "stages.sft.tokens": 1500,
    "stages.dpo.tokens": 1200,
    "stages.sft.method": "lora",
    "stages.sft.lora": {"rank": 4, "dropout": 0.1},  # resuming must restore the random state
    **{f"stages.{stage}.save_every": 2 for stage in ("pretrain", "sft", "dpo")},
    **{f"stages.{stage}.keep": 1 for stage in ("pretrain", "dpo")},
    "evaluation.probe.max_new_tokens": 4,
}
ALIGNED = {
    "data.clinic-pairs": {"world": "clinic", "part": "advice_pairs", "count": 40, "held_out": 0.2},
    "data.questions": {"world": "clinic", "part": "advice_questions", "count": 40, "held_out": 0.2},
    "stages": {
        "sft": {"blocks": ["clinic-chat"], "tokens": 1000, "row_tokens": 256, "learning_rate": 2e-4},
        "reward": {
            "blocks": ["clinic-pairs"], "tokens": 1500, "row_tokens": 256, "learning_rate": 2e-4, "save_every": 2,
        },
        "ppo": {
            "from": "sft", "blocks": ["questions"], "reward": "reward", "iterations": 3, "answers": 12, "compare": 4,
            "minibatches": 2, "passes": 2, "max_new_tokens": 8, "row_tokens": 128, "learning_rate": 2e-4,
            "kl_target": 1.0, "save_every": 1, "keep": 1,
        },
        "dpo": {
            "from": "sft", "blocks": ["clinic-pairs"], "tokens": 1500, "row_tokens": 256, "learning_rate": 2e-4,
            "save_every": 1, "compare": 4, "max_new_tokens": 8,
        },
        "best_of": {
            "from": "sft", "blocks": ["questions"], "reward": "reward", "samples": 2, "rounds": 2, "prompts": 6,
            "max_new_tokens": 8, "row_tokens": 128, "learning_rate": 2e-4, "save_every": 1, "compare": 0,
        },
    },
    "evaluation.probe.max_new_tokens": 4,
}  # fmt: skip
"""Reward model, PPO, DPO and best of K: checkpoints come in the middle of a round of answers, too."""

WATCHED = {"model": ".model.*.part", "checkpoint": ".step-*.part"}
"""What graft writes under another name first: seen, it is being saved."""


def run_undisturbed(folder: Path, changes: dict[str, Any], nursery: Any, small_recipe: Any) -> tuple[Path, float]:
    began = time.monotonic()
    done = nursery.run(folder, "run", small_recipe(folder, changes), "output=out", GRAFT_CACHE=str(folder / "cache"))
    assert done.code == 0, done.said
    return folder / "out", time.monotonic() - began


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, nursery: Any, small_recipe: Any) -> tuple[Path, float]:
    """The run folder of a run that nobody stopped, and its seconds."""
    return run_undisturbed(tmp_path_factory.mktemp("undisturbed"), CHANGES, nursery, small_recipe)


@pytest.fixture(scope="module")
def aligned(tmp_path_factory: pytest.TempPathFactory, nursery: Any, small_recipe: Any) -> tuple[Path, float]:
    """The same of a run that learns from preferences."""
    return run_undisturbed(tmp_path_factory.mktemp("aligned"), ALIGNED, nursery, small_recipe)


def results(run: Path) -> dict[str, Any]:
    """What must be the same: every loss and score."""
    found: dict[str, Any] = {}
    for file in run.glob("*/scores.json"):
        scores = json.loads(file.read_text())["results"]
        found[str(file.relative_to(run))] = [score | {"seconds": None} for score in scores]
    for file in run.glob("*/receipt.json"):
        receipt = json.loads(file.read_text())
        names = ("key", "losses", "held_out", "shares", "accounting", "targets", "tokens", "steps")
        names += ("rollouts", "pairs", "comparison", "diagnosis")
        found[str(file.relative_to(run))] = {name: receipt[name] for name in names}
    return found


def wait_for(run: Path, moment: float | str, running: Any) -> None:
    """Seconds, or until a file of this kind is being saved (or one of this pattern is there); at most to the end."""
    began = time.monotonic()
    while running.ended(wait=False) is None:
        if isinstance(moment, float):
            if time.monotonic() - began >= moment:
                return
        else:
            with contextlib.suppress(FileNotFoundError):  # a folder was renamed while it was looked into
                if any(run.glob(moment if "/" in moment else f"0*/**/{WATCHED[moment]}")):
                    return
        time.sleep(0.001)


def kill_and_compare(
    folder: Path,
    moments: list[float | str],
    undisturbed: Path,
    nursery: Any,
    small_recipe: Any,
    weights: Callable[..., Any],
    changes: dict[str, Any] = CHANGES,
) -> tuple[int, int]:
    """Start and kill once a moment, run to the end, compare. Returns the kills, and those that left a checkpoint."""
    recipe, run = small_recipe(folder, changes), folder / "out"
    command = ("run", recipe, "output=out")
    cache = {"GRAFT_CACHE": str(folder / "cache")}
    killed = resumable = 0
    for moment in moments:
        running = nursery.start(folder, *command, **cache)
        wait_for(run, moment, running)
        if not running.kill():
            break
        killed += 1
        resumable += any(run.glob("0*/checkpoints/**/step-*/state.pt"))
    done = nursery.run(folder, *command, **cache)
    assert done.code == 0, done.said
    assert weights(run) == weights(undisturbed) and len(weights(run)) >= 4
    assert results(run) == results(undisturbed)
    left = {str(file.relative_to(run)) for file in run.rglob("*.part")}
    assert not left, "half-written files stay behind"
    return killed, resumable


def test_three_kills(
    tmp_path: Path, undisturbed: tuple[Path, float], nursery: Any, small_recipe: Any, weights: Any
) -> None:
    run, seconds = undisturbed
    moments: list[float | str] = [random.Random(3).uniform(0.3, 0.6) * seconds, "checkpoint", "model"]
    killed, resumable = kill_and_compare(tmp_path, moments, run, nursery, small_recipe, weights)
    assert killed == 3 and resumable


@pytest.mark.slow
def test_kills_in_the_middle_of_a_round_of_answers(
    tmp_path: Path, aligned: tuple[Path, float], nursery: Any, small_recipe: Any, weights: Any
) -> None:
    """PPO is killed behind the first step of its second round, DPO behind its second step."""
    moments: list[float | str] = [
        "03-ppo/checkpoints/step-0000005/state.pt",
        "04-dpo/checkpoints/step-0000002/state.pt",
    ]
    killed, resumable = kill_and_compare(tmp_path, moments, aligned[0], nursery, small_recipe, weights, ALIGNED)
    assert killed == 2 and resumable == 2


@pytest.mark.slow
def test_ten_kills(
    tmp_path: Path, undisturbed: tuple[Path, float], nursery: Any, small_recipe: Any, weights: Any
) -> None:
    """Random moments all over the run, and on purpose while it saves. A run may be over before all its moments have
    come, so runs are disturbed until ten kills have been survived; each one ends like the undisturbed run."""
    disturb(tmp_path / "tuning", undisturbed, CHANGES, nursery, small_recipe, weights)


@pytest.mark.slow
def test_ten_kills_while_it_learns_from_preferences(
    tmp_path: Path, aligned: tuple[Path, float], nursery: Any, small_recipe: Any, weights: Any
) -> None:
    disturb(tmp_path / "alignment", aligned, ALIGNED, nursery, small_recipe, weights)


def disturb(
    folder: Path,
    undisturbed: tuple[Path, float],
    changes: dict[str, Any],
    nursery: Any,
    small_recipe: Any,
    weights: Callable[..., Any],
) -> None:
    run, seconds = undisturbed
    kills = 0
    for attempt in range(5):
        draw = random.Random(attempt)
        moments: list[float | str] = [draw.uniform(0.02, 0.5) * seconds for _ in range(6)]
        moments += ["checkpoint", "checkpoint", "model", "model"]
        draw.shuffle(moments)
        here = folder / str(attempt)
        here.mkdir(parents=True)
        killed, resumable = kill_and_compare(here, moments, run, nursery, small_recipe, weights, changes)
        print(f"{killed} kills, {resumable} of them with a checkpoint to go on from")
        kills += killed
        if kills >= 10:
            return
    raise AssertionError(f"only {kills} kills in five runs: the moments come too late")
