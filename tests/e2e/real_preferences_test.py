"""The reward stage on real pairs of people's and models' answers: every row accounted for, accuracy with its interval.

The files lie outside the repository (`../shared/data`, or where GRAFT_DATA points). The rootstock has never seen real
text, so its accuracy is near chance; what is tested is that nothing is lost and that the figures are honest.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("GRAFT_DATA", ROOT.parent / "shared" / "data"))
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"no real data at {DATA}: set GRAFT_DATA")

FILES = {
    "hh": "preference/hh_rlhf/harmless-base/test.jsonl",
    "medical": "preference/medicalgpt/dpo_zh_500.jsonl",
    "llmbar": "preference/llmbar/LLMBar/Natural/dataset.json",
}
ROWS = {"hh": 713, "medical": 500, "llmbar": 100}
REFUSED = {"hh": 6, "medical": 0, "llmbar": 0}


@pytest.fixture(scope="module")
def run(nursery: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    recipe = {
        "name": "pairs",
        "base": "rootstock",
        "offline": True,
        "device": "cpu",
        "data": {name: {"path": str(DATA / file), "held_out": 0.06} for name, file in FILES.items()},
        "stages": {
            f"reward-{name}": {
                "stage": "reward", "from": "base", "blocks": [name], "tokens": 12_000, "row_tokens": 1024,
                "learning_rate": 2e-4, "evaluate_every": 1000,
            }
            for name in FILES
        },
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    done = nursery.run(folder, "run", folder / "recipe.yaml")
    assert done.code == 0, done.said
    return folder / "runs" / "pairs"


@pytest.mark.parametrize("name", FILES)
def test_every_row_is_accounted_for_and_the_accuracy_has_an_interval(run: Path, name: str) -> None:
    place = list(FILES).index(name) + 1
    receipt = json.loads((run / f"{place:02d}-reward-{name}" / "receipt.json").read_text(encoding="utf-8"))
    counts = receipt["accounting"][name]
    assert counts["read"] == ROWS[name]
    assert counts["refused"] == REFUSED[name]
    valid = counts["read"] - counts["refused"]
    kept_back = int(valid * 0.06)
    assert counts["samples"] == valid - kept_back
    pairs = receipt["pairs"]
    assert 0 < pairs["pairs"] <= kept_back, "a held-out pair without room for its answers is dropped"
    accuracy = pairs["accuracy"]
    assert accuracy["low"] <= accuracy["value"] <= accuracy["high"]
    assert accuracy["high"] - accuracy["low"] > 0.05, "so few pairs cannot tell more"
    print(f"{name}: {accuracy['value']:.1%} ({accuracy['low']:.1%}–{accuracy['high']:.1%}) of {pairs['pairs']} pairs")
