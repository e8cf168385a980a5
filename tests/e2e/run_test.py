"""One small recipe through the real command line: what it leaves, what a second call skips, what a change redoes."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

STAGES = ("01-pretrain", "02-sft", "03-dpo")


def receipt(run: Path, stage: str) -> dict[str, Any]:
    return json.loads((run / stage / "receipt.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, graft: Any, small_recipe: Any) -> tuple[Path, Any]:
    """The folder of a run (its recipe and output in it), and how its first call ended; its SFT is by LoRA."""
    folder = tmp_path_factory.mktemp("first")
    recipe = small_recipe(folder, {"stages.sft.method": "lora", "stages.sft.lora": {"rank": 4, "alpha": 8}})
    done = graft(folder, "run", recipe, "output=out")
    assert done.code == 0, done.said
    return folder, done


def test_a_run_leaves_everything(first: tuple[Path, Any]) -> None:
    folder, done = first
    run = folder / "out"
    assert "Traceback" not in done.said and "report: out/report.html" in done.out
    for name in ("recipe.yaml", "check.json", "receipt.json", "report.html", "log.txt"):
        assert (run / name).stat().st_size > 0, name
    for stage in STAGES:
        assert {file.name for file in (run / stage).iterdir()} >= {"receipt.json", "scores.json", "model"}
        assert not (run / stage / "checkpoints").exists()
    saved = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
    assert saved["stages"]["sft"]["weight_decay"] == 0.1  # defaults are written out
    whole = json.loads((run / "receipt.json").read_text(encoding="utf-8"))
    assert {"exam", "text", "probe"} <= set(json.dumps(whole).replace('"', " ").split())
    assert not list(run.rglob("*.part"))


def test_receipts_tell_the_truth(first: tuple[Path, Any]) -> None:
    run = first[0] / "out"
    pretrain, sft, dpo = (receipt(run, stage) for stage in STAGES)
    assert dpo["losses"][0]["step"] == 1
    assert dpo["losses"][0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    shares = pretrain["shares"]
    for name, asked in {"clinic-text": 0.6, "general-text": 0.4}.items():
        assert shares[name]["requested"] == asked
        assert shares[name]["realised"] == pytest.approx(asked, abs=0.03)
    assert pretrain["tokens"] == pytest.approx(6000, rel=0.05)
    assert sum(share["tokens"] for share in shares.values()) == pretrain["tokens"]
    assert sft["parameters"]["trained"] < 0.1 * sft["parameters"]["all"]
    assert pretrain["parameters"]["trained"] == pretrain["parameters"]["all"]
    assert (run / "02-sft/model/adapter/adapter_model.safetensors").is_file()
    for stage in (pretrain, sft, dpo):
        assert all(math.isfinite(entry["loss"]) for entry in stage["losses"])
        for name, counts in stage["accounting"].items():
            held_out = counts["read"] - counts["refused"] - counts["samples"]
            assert 0 <= held_out <= 0.02 * counts["read"], name
    assert pretrain["held_out"][-1]["loss"] < pretrain["held_out"][0]["loss"]


def test_a_second_call_does_nothing_again(first: tuple[Path, Any], nursery: Any, weights: Any) -> None:
    folder, _ = first
    times = {file: file.stat().st_mtime_ns for file in (folder / "out").glob("*/model/**/*")}
    scores = {file: file.read_bytes() for file in (folder / "out").glob("*/scores.json")}
    before = weights(folder / "out")
    done = nursery.run(folder, "run", "recipe.yaml", "output=out")
    assert done.code == 0, done.said
    assert done.out.count("done before, skipped") == 3
    assert weights(folder / "out") == before and len(before) == 4  # three models and an adapter
    assert {file: file.stat().st_mtime_ns for file in times} == times
    assert {file: file.read_bytes() for file in scores} == scores


def test_a_change_redoes_what_builds_on_it(
    first: tuple[Path, Any], nursery: Any, weights: Callable[[Path], dict[str, str]]
) -> None:
    """Runs after the tests above: it changes the run."""
    folder, _ = first
    before = weights(folder / "out")
    done = nursery.run(folder, "run", "recipe.yaml", "output=out", "stages.sft.learning_rate=1e-3")
    assert done.code == 0, done.said
    assert done.out.count("done before, skipped") == 1
    after = weights(folder / "out")
    changed = {name.split("/")[0] for name in before if after[name] != before[name]}
    assert changed == {"02-sft", "03-dpo"}
    assert receipt(folder / "out", "02-sft")["settings"]["learning_rate"] == 1e-3


def test_the_order_can_be_changed(tmp_path: Path, nursery: Any, small_recipe: Any, weights: Any) -> None:
    """`mix=sequential` trains the same samples, block after block."""
    recipe = small_recipe(tmp_path, leave_out=("stages.sft", "stages.dpo", "evaluation"))
    made = {}
    for order in ("hybrid", "sequential"):
        done = nursery.run(tmp_path, "run", recipe, f"output={order}", f"mix={order}", "stages.pretrain.tokens=2000")
        assert done.code == 0, done.said
        made[order] = receipt(tmp_path / order, "01-pretrain")
    assert made["hybrid"]["shares"] == made["sequential"]["shares"]
    assert made["hybrid"]["key"] != made["sequential"]["key"]
    assert weights(tmp_path / "hybrid") != weights(tmp_path / "sequential")
    assert made["hybrid"]["losses"] != made["sequential"]["losses"]


def test_speed_settings_change_nothing_on_a_cpu(tmp_path: Path, nursery: Any, small_recipe: Any, weights: Any) -> None:
    """Four rows a step: there, each is a pass of its own, whatever the keys of a GPU say."""
    recipe = small_recipe(tmp_path, leave_out=("stages.sft", "stages.dpo", "evaluation"))
    stage = ("stages.pretrain.tokens=3000", "stages.pretrain.step_tokens=1024")
    keys = {"fast": (), "plain": ("stages.pretrain.compile=false", "stages.pretrain.recompute=none")}
    made = {}
    for name, more in keys.items():
        done = nursery.run(tmp_path, "run", recipe, f"output={name}", *stage, *more)
        assert done.code == 0, done.said
        assert "4 × 256 tokens" in done.out and "compiled" not in done.out
        assert re.search(r"memory: needs about \d+\.\d\d of \d+ GiB", done.out)
        made[name] = receipt(tmp_path / name, "01-pretrain")
        assert made[name]["steps"] == 3
        assert made[name]["ways"] == made["fast"]["ways"]
        assert made[name]["ways"]["pass"] == "256 tokens" and made[name]["ways"]["layers"] == "recomputed: none"
    assert made["fast"]["losses"] == made["plain"]["losses"]
    assert weights(tmp_path / "fast") == weights(tmp_path / "plain")


def test_the_check_says_what_each_stage_needs(tmp_path: Path, nursery: Any, small_recipe: Any) -> None:
    recipe = small_recipe(tmp_path)
    done = nursery.run(tmp_path, "check", recipe)
    assert done.code == 0, done.said
    needs = [(float(x), int(y)) for x, y in re.findall(r"needs about (\d+\.\d\d) of (\d+) GiB", done.out)]
    assert len(needs) == len(STAGES)
    assert all(0 < needed < available for needed, available in needs)
