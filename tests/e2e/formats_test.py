"""Stages that train in few bits, through the real command line: bf16 weights, 8-bit moments, frozen 4-bit weights."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

CHANGES = {
    "stages.pretrain.weights": "bf16",
    "stages.pretrain.moments": "8bit",
    "stages.sft.method": "qlora",
    "stages.sft.lora": {"rank": 4, "alpha": 8},
    "stages.dpo.weights": "bf16_master",
    "stages.dpo.moments": "bf16",
    "save_as": "bf16",
    "profile": True,
}


@pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="the extra `qlora` (bitsandbytes) is not installed"
)
def test_few_bits_from_end_to_end(nursery: Any, small_recipe: Any, tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path, CHANGES, leave_out=("evaluation.exam", "evaluation.text"))
    done = nursery.run(tmp_path, "run", recipe, "output=out")
    assert done.code == 0, done.said
    folders = {name: tmp_path / "out" / f"{n:02d}-{name}" for n, name in enumerate(("pretrain", "sft", "dpo"), 1)}
    receipts = {name: json.loads((folder / "receipt.json").read_text()) for name, folder in folders.items()}
    assert receipts["pretrain"]["held_out"][-1]["loss"] < receipts["pretrain"]["held_out"][0]["loss"]
    assert receipts["sft"]["parameters"]["all"] > 3_803_392 > 50 * receipts["sft"]["parameters"]["trained"]
    assert receipts["dpo"]["losses"][0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert all(one["speed"]["mean_context"] > 1 for one in receipts.values())
    for folder in folders.values():
        weights = load_file(folder / "model" / "model.safetensors")
        assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
        assert "quantization_config" not in json.loads((folder / "model" / "config.json").read_text())
    assert (folders["sft"] / "model/adapter/adapter_model.safetensors").is_file()
    assert (folders["pretrain"] / "trace.json").is_file() and "where a step's time goes" in done.out
