"""`graft run --gpus`: what is refused before anything starts, and one short run of two processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from graftlm.core.errors import GraftError, RecipeError, TrainingError
from graftlm.recipes.launching import run_on, sharding_of
from graftlm.recipes.schema import ParallelSettings
from graftlm.training.distributed import Sharding, World


def recipe(folder: Path, stages: dict[str, Any], **keys: Any) -> Path:
    tree = {
        "name": "many",
        "base": "rootstock",
        "output": str(folder / "run"),
        "device": "cpu",
        "offline": True,
        "data": {"chats": {"world": "clinic", "part": "consultations", "count": 60}},
        "stages": stages,
        "evaluation": {},
    }
    (folder / "recipe.yaml").write_text(json.dumps(tree | keys))
    return folder / "recipe.yaml"


SFT = {"sft": {"blocks": ["chats"], "tokens": 1500, "row_tokens": 256, "step_tokens": 768}}


@pytest.mark.parametrize(
    ("sharding", "processes", "shape"),
    [
        (Sharding(), 8, (1, 8)),
        (Sharding(shard=4), 8, (2, 4)),
        (Sharding(replicate=2), 8, (2, 4)),
        (Sharding(shard=1), 8, (8, 1)),
        (Sharding(shard=2, replicate=4), 8, (4, 2)),
        (Sharding(shard=5, replicate=7), 1, (1, 1)),
    ],
)
def test_shapes(sharding: Sharding, processes: int, shape: tuple[int, int]) -> None:
    assert sharding.shape(processes) == shape


@pytest.mark.parametrize("sharding", [Sharding(shard=3), Sharding(replicate=3), Sharding(shard=2, replicate=2)])
def test_shapes_that_do_not_fit_name_reason_and_fix(sharding: Sharding) -> None:
    with pytest.raises(TrainingError, match=r"parallel: shard .* does not make 8 processes(?s:.*)fix: choose"):
        sharding.shape(8)


def test_every_row_is_one_processes_and_all_get_equally_many() -> None:
    shares = [World(rank, 4).share(range(10, 16)) for rank in range(4)]
    assert {len(numbers) for numbers, _ in shares} == {2}
    assert sorted(n for numbers, counted in shares for n in numbers[:counted]) == list(range(10, 16))
    assert World().share(range(3)) == ([0, 1, 2], 3)
    assert [World(0, 4).idle(rows) for rows in (1, 3, 4, 6, 8)] == [0.75, 0.25, 0, 0.25, 0]
    assert World().idle(5) == 0


def test_settings_become_sharding() -> None:
    assert sharding_of(ParallelSettings()) == Sharding()
    assert sharding_of(ParallelSettings(shard=2, replicate=3, regather=False, reduce="row")) == Sharding(
        2, 3, False, "row"
    )


def test_a_stage_that_answers_by_itself_is_refused(tmp_path: Path) -> None:
    grpo = {"grpo": {"blocks": ["chats"], "reward": {"contains": True}}}
    with pytest.raises(RecipeError, match=r"stages.grpo: a grpo stage writes its own answers(?s:.*)without --gpus"):
        run_on(recipe(tmp_path, grpo), [], 2)


def test_numbers_that_do_not_fit_are_refused_before_the_start(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="does not make 2 processes"):
        run_on(recipe(tmp_path, SFT, parallel={"shard": 3}), [], 2)


def graft(*arguments: str, cache: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"GRAFT_CACHE": str(cache)}
    command = [sys.executable, "-m", "graftlm", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)


def test_a_run_of_two_processes_tells_one_story(tmp_path: Path) -> None:
    done = graft("run", str(recipe(tmp_path, SFT)), "--gpus", "2", cache=tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("[1/1] sft from base") == 1
    assert "2 × cpu" in done.stdout
    receipt = json.loads((tmp_path / "run" / "01-sft" / "receipt.json").read_text())
    assert receipt["notes"][0].startswith("2 processes: 1 copies of the weights")
    assert any(note.startswith("25% of the processes' work") and "multiple of 512" in note for note in receipt["notes"])
    assert (tmp_path / "run" / "01-sft" / "model" / "model.safetensors").is_file()
    assert (tmp_path / "run" / "report.html").is_file()
    again = graft("run", str(tmp_path / "recipe.yaml"), cache=tmp_path / "cache")
    assert "done before, skipped" in again.stdout, "how many processes is no part of what a stage is"


def test_an_error_in_the_processes_is_said_once(tmp_path: Path) -> None:
    file = recipe(tmp_path, SFT, data={"chats": {"path": str(tmp_path / "nothing.jsonl")}})
    done = graft("run", str(file), "--gpus", "2", cache=tmp_path / "cache")
    assert done.returncode == 2
    assert done.stdout.count("nothing.jsonl") == 1
    assert done.stderr.count("the check found 1 error(s); nothing was trained\n  fix: mend them") == 1
    assert "Traceback" not in done.stderr and "elastic" not in done.stderr


def test_an_error_that_no_one_explained_is_still_one(tmp_path: Path) -> None:
    from graftlm.training.launch import launch

    with pytest.raises(GraftError, match=r"process 0: it ended with exit code 3 and left no word"):
        launch([sys.executable, "-c", "import os; os._exit(3 if os.environ['RANK'] == '0' else 0)"], 2)
