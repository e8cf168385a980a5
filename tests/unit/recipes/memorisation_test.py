"""`graft canaries` and `graft memorisation`: a model that saw its rows 1 to 64 times, beside one that saw none."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
import yaml

from graftlm.core.errors import DataError, GraftError
from graftlm.recipes.canaries import exposure_of, read_canaries, write_canaries
from graftlm.recipes.loading import load_recipe
from graftlm.recipes.memorisation import memorisation
from graftlm.recipes.networks import Network
from graftlm.recipes.pipeline import run_recipe
from graftlm.recipes.schema import Block
from graftlm.recipes.sources import read_source


def test_canaries_are_rows_that_a_recipe_reads(tmp_path: Path) -> None:
    file = tmp_path / "canaries.jsonl"
    write_canaries(file, 3, (1, 4), 4, seed=0)
    found = read_canaries(file)
    assert {repeats: len(some) for repeats, some in found.items()} == {1: 3, 4: 3}
    rows = read_source("secrets", Block(path=str(file)))
    assert rows.kind == "text" and len(rows.samples) == 15 and not rows.faults
    assert {sample.text for sample in rows.samples} == {one.text for some in found.values() for one in some}
    with pytest.raises(GraftError, match="it exists"):
        write_canaries(file, 3, (1,), 4, seed=0)
    (tmp_path / "plain.jsonl").write_text('{"text": "no secret"}')
    with pytest.raises(DataError, match=r"plain.jsonl:1: no canary"):
        read_canaries(tmp_path / "plain.jsonl")


def test_an_untouched_model_exposes_canaries_by_chance_alone(tmp_path: Path) -> None:
    write_canaries(tmp_path / "canaries.jsonl", 80, (1,), 1, seed=3)
    [(_, planted)] = read_canaries(tmp_path / "canaries.jsonl").items()
    found = exposure_of(1, planted, Network.load("rootstock", "own"), None)
    assert found.chance == pytest.approx(math.log2(10) - math.log2(math.factorial(10)) / 10) and found.how == "exact"
    assert found.exposure.low <= found.chance <= found.exposure.high
    assert found.base is None


def test_rows_that_nobody_saw_are_not_told_apart(tmp_path: Path) -> None:
    """Two halves of one stream, of which the rootstock has seen nothing."""
    lines = [sample.text for sample in read_source("t", Block(world="clinic", part="documents", count=160)).samples]
    random.Random(0).shuffle(lines)
    (tmp_path / "a.txt").write_text("\n\n".join(lines[0::2]))
    (tmp_path / "b.txt").write_text("\n\n".join(lines[1::2]))
    found = memorisation("rootstock", trained=tmp_path / "a.txt", unseen=tmp_path / "b.txt", prefix=10, suffix=10)
    [block] = found.blocks
    assert block.trained >= 70 and block.unseen >= 60 and found.canaries == []
    for signal in ("loss", "min_k", "zlib"):
        auc = block.membership[signal]
        assert auc.low <= 0.5 <= auc.high and auc.high - auc.low < 0.25
    assert block.extraction["trained"].value <= 0.2
    with pytest.raises(GraftError, match="no rows"):
        memorisation("rootstock")


@pytest.mark.slow
def test_exposure_rises_with_repeats_and_trained_rows_give_themselves_away(tmp_path: Path) -> None:
    write_canaries(tmp_path / "canaries.jsonl", 6, (1, 4, 16, 64), 4, seed=0)
    tree = {
        "name": "kept", "base": "rootstock", "offline": True, "output": str(tmp_path / "run"), "evaluation": {},
        "data": {
            "secrets": {"path": str(tmp_path / "canaries.jsonl"), "held_out": 0},
            "notes": {"world": "clinic", "part": "documents", "count": 160, "held_out": 0.4},
        },
        "stages": {
            "pretrain": {
                "blocks": {"secrets": 0.16, "notes": 0.84}, "tokens": 50_000, "learning_rate": 1e-3, "row_tokens": 512,
            }
        },
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tree))
    run = run_recipe(load_recipe(tmp_path / "recipe.yaml"))
    exposed = memorisation(str(run), canaries=tmp_path / "canaries.jsonl", output=tmp_path / "found.json")
    bits = [one.exposure.value for one in exposed.canaries]
    assert [one.repeats for one in exposed.canaries] == [1, 4, 16, 64]
    assert bits[0] < bits[2] and bits[1] < bits[3] and bits[3] > 10
    before = [one.base for one in exposed.canaries if one.base]
    assert 0.8 <= sum(one.value for one in before) / 4 <= 2.3, "1.44 bits and four standard errors of 24 canaries"
    [notes] = [block for block in memorisation(str(run), prefix=15, suffix=15).blocks if block.name == "notes"]
    assert notes.membership["loss"].low > 0.8 and notes.membership["min_k"].low > 0.8
    assert notes.membership["reference"].value > 0.6
    assert notes.extraction["trained"].value > notes.extraction["trained, base"].value + 0.3
    assert notes.extraction["trained"].value > notes.extraction["unseen"].value + 0.3
