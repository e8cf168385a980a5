"""DeepSpeed files: every key has a fate, and what is mapped means the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from graftlm.core.errors import GraftError, RecipeError
from graftlm.recipes.compat.deepspeed import map_deepspeed, show_deepspeed
from graftlm.recipes.loading import load_recipe

ZERO_3 = {
    "bf16": {"enabled": True},
    "optimizer": {"type": "AdamW", "params": {"lr": 3e-5, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.05}},
    "scheduler": {
        "type": "WarmupDecayLR",
        "params": {"warmup_min_lr": 0, "warmup_max_lr": 3e-5, "warmup_num_steps": 50, "total_num_steps": 1000},
    },
    "zero_optimization": {
        "stage": 3,
        "overlap_comm": True,
        "contiguous_gradients": True,
        "sub_group_size": 1e9,
        "reduce_bucket_size": "auto",
        "stage3_prefetch_bucket_size": "auto",
        "stage3_param_persistence_threshold": "auto",
        "stage3_max_live_parameters": 1e9,
        "stage3_max_reuse_distance": 1e9,
        "stage3_gather_16bit_weights_on_model_save": True,
        "offload_optimizer": {"device": "none", "pin_memory": True},
    },
    "gradient_accumulation_steps": 4,
    "gradient_clipping": 0.5,
    "steps_per_print": 2000,
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": 2,
    "wall_clock_breakdown": False,
}
"""As the files that go around with fine-tuning scripts look."""


def fates(config: dict[str, Any]) -> dict[str, str]:
    return {line.key: line.fate for line in map_deepspeed(config).lines}


def leaves(value: Any, key: str = "") -> list[str]:
    """Dotted keys of everything that is set; the device of an offload is judged as one."""
    if isinstance(value, dict) and not key.rpartition(".")[2].startswith("offload"):
        return [leaf for name, inner in value.items() for leaf in leaves(inner, f"{key}.{name}".lstrip("."))]
    return [key]


def test_every_key_of_a_usual_file_has_a_fate_and_none_is_refused() -> None:
    found = fates(ZERO_3)
    assert sorted(found) == sorted(leaves(ZERO_3))
    assert "refused" not in found.values()


def test_what_is_mapped() -> None:
    made = map_deepspeed(ZERO_3)
    assert made.recipe == {"precision": "bf16"}
    assert made.parallel == {"regather": True, "reduce": "row"}
    assert made.stages == {"clip": 0.5, "learning_rate": 3e-5, "weight_decay": 0.05, "warmup": 0.05}


@pytest.mark.parametrize(
    ("stage", "parallel"),
    [
        (0, {"shard": 1}),
        (1, {"regather": False, "reduce": "step"}),
        (2, {"regather": False, "reduce": "row"}),
        (3, {"regather": True, "reduce": "row"}),
    ],
)
def test_stages_of_zero(stage: int, parallel: dict[str, Any]) -> None:
    assert map_deepspeed({"zero_optimization": {"stage": stage}}).parallel == parallel


@pytest.mark.parametrize(
    "config",
    [
        {"zero_optimization": {"stage": 4}},
        {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu", "pin_memory": True}}},
        {"zero_optimization": {"stage": 3, "offload_param": {"device": "nvme", "nvme_path": "/disk"}}},
        {"zero_optimization": {"stage": 2, "cpu_offload": True}},
        {"zero_optimization": {"stagee": 3}},
        {"optimizer": {"type": "OneBitAdam"}},
        {"amp": {"enabled": True}},
        {"tensor_parallel": {"autotp_size": 4}},
        {"zero_optimisation": {}},
    ],
)
def test_what_graft_does_not_do_is_refused(config: dict[str, Any]) -> None:
    assert "refused" in fates(config).values()


@pytest.mark.parametrize(
    "config",
    [
        {"amp": {"enabled": False}},
        {"sequence_parallel_size": 1},
        {"zero_optimization": {"offload_param": {"device": "none"}}},
        {"fp16": {"enabled": "auto"}, "bf16": {"enabled": "auto"}},
        {"gradient_clipping": "auto", "optimizer": {"params": {"lr": "auto"}}},
    ],
)
def test_what_is_switched_off_or_auto_changes_nothing(config: dict[str, Any]) -> None:
    made = map_deepspeed(config)
    assert "refused" not in fates(config).values()
    assert (made.recipe, made.parallel, made.stages) == ({}, {}, {})


def test_fp16_becomes_bf16_where_there_is_bf16() -> None:
    assert map_deepspeed({"fp16": {"enabled": True, "loss_scale": 0}}).recipe == {"precision": "auto"}
    both = {"fp16": {"enabled": True}, "bf16": {"enabled": True}}
    assert map_deepspeed(both).recipe == {"precision": "bf16"}


def test_clipping_by_zero_means_never() -> None:
    assert map_deepspeed({"gradient_clipping": 0}).stages["clip"] == 1e9


def write_recipe(folder: Path, config: dict[str, Any], **stage: Any) -> Path:
    (folder / "ds.json").write_text(json.dumps(config))
    recipe = {
        "name": "a",
        "base": "rootstock",
        "parallel": {"deepspeed": "ds.json"},
        "data": {"texts": {"world": "clinic", "part": "documents", "count": 10}},
        "stages": {"pretrain": {"blocks": ["texts"]} | stage},
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe))  # JSON is YAML
    return folder / "recipe.yaml"


def test_a_recipe_takes_what_it_does_not_say_itself(tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path, ZERO_3, learning_rate=1e-4))
    stage = recipe.stages["pretrain"]
    assert (stage.clip, stage.weight_decay, stage.warmup) == (0.5, 0.05, 0.05)
    assert stage.learning_rate == 1e-4, "the recipe's own word goes first"
    assert (recipe.precision, recipe.parallel.reduce, recipe.parallel.regather) == ("bf16", "row", True)


def test_a_recipe_with_a_file_that_asks_too_much_is_an_error(tmp_path: Path) -> None:
    file = write_recipe(tmp_path, {"zero_optimization": {"stage": 3, "offload_param": {"device": "cpu"}}})
    with pytest.raises(RecipeError, match=r"offload_param: nothing is moved to cpu(?s:.*)graft deepspeed"):
        load_recipe(file)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    file = write_recipe(tmp_path, {})
    (tmp_path / "ds.json").unlink()
    with pytest.raises(GraftError, match="does not exist"):
        load_recipe(file)


def test_the_table_shows_every_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ds.json").write_text(json.dumps(ZERO_3))
    show_deepspeed(tmp_path / "ds.json")
    shown = capsys.readouterr().out
    assert "zero_optimization.stage" in shown and "parallel: {regather: true, reduce: row}" in shown
    assert "stages.NAME.learning_rate: 3e-05" in shown
