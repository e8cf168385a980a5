"""Every method, each a stage of one recipe, through the real command line; what each leaves is used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

SHORT = {"stage": "sft", "from": "base", "blocks": ["clinic-chat"], "tokens": 1500, "row_tokens": 256}
METHODS: dict[str, dict[str, Any]] = {
    "freeze": {"method": "freeze", "freeze": {"last": 1}},
    "dora": {"method": "lora", "lora": {"rank": 4, "kind": "dora", "plus": 4}},
    "pissa": {"method": "lora", "lora": {"rank": 4, "kind": "pissa"}},
    "ptuning": {"method": "ptuning", "ptuning": {"tokens": 16}},
    "heads": {"method": "heads", "heads": {"share": 0.2, "sample": 2}},
    "expand": {"method": "expand", "expand": {"blocks": 1}},
    "after": {"from": "ptuning", "method": "lora", "lora": {"rank": 2}},
}


@pytest.fixture(scope="module")
def run(nursery: Any, small_recipe: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("methods")
    stages = {f"stages.{name}": SHORT | method for name, method in METHODS.items()}
    left_out = ("stages.pretrain", "stages.sft", "stages.dpo", "evaluation.exam", "evaluation.probe")
    recipe = small_recipe(folder, stages | {"evaluation.text.count": 2}, leave_out=left_out)
    done = nursery.run(folder, "run", recipe, "output=out")
    assert done.code == 0, done.said
    return folder / "out"


def model_of(run: Path, name: str) -> Path:
    return run / f"{list(METHODS).index(name) + 1:02d}-{name}" / "model"


def names_in(folder: Path) -> dict[str, list[int]]:
    with safe_open(folder / "model.safetensors", "pt") as file:
        return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118


def test_each_trains_its_share_and_lowers_the_loss(run: Path) -> None:
    for name in METHODS:
        receipt = json.loads((model_of(run, name).parent / "receipt.json").read_text())
        counts = receipt["parameters"]
        assert 0 < counts["trained"] < 0.5 * counts["all"], name
        held_out = [entry["loss"] for entry in receipt["held_out"]]
        assert held_out[-1] < held_out[0], name
        assert receipt["speed"]["all"] > 0 and receipt["memory"]["predicted_gib"] > 0.4, name


def test_all_but_the_deeper_one_are_saved_as_the_start_model_is(run: Path) -> None:
    plain = names_in(model_of(run, "freeze"))
    for name in METHODS:
        found = names_in(model_of(run, name))
        assert found == plain or name == "expand", name
    deeper = names_in(model_of(run, "expand"))
    in_a_layer = sum(".layers.0." in name for name in plain)
    assert plain.items() < deeper.items() and len(deeper) == len(plain) + in_a_layer


def test_what_lies_beside_the_weights(run: Path) -> None:
    beside = {name: {f.name for f in model_of(run, name).iterdir() if f.is_dir()} for name in METHODS}
    adapters = {name: {"adapter"} for name in ("dora", "pissa")}
    others = {name: set() for name in ("freeze", "heads", "expand")}
    assert beside == adapters | others | {"ptuning": {"prefix"}, "after": {"prefix", "adapter"}}
    assert len(json.loads((model_of(run, "heads").parent / "heads.json").read_text())["chosen"]) == 3


def test_every_command_speaks_with_the_prefix(run: Path, nursery: Any, tmp_path: Path) -> None:
    model = model_of(run, "ptuning")
    said = []
    for prefix in (True, False):
        if not prefix:
            (model / "prefix").rename(tmp_path / "away")
        done = nursery.run(tmp_path, "generate", model, "Fever", "--temperature", "3", "--seed", "1")
        assert done.code == 0, done.said
        said.append(done.out)
    (tmp_path / "away").rename(model / "prefix")
    assert said[0] != said[1]
