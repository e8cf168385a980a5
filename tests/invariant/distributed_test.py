"""Several processes learn what one learns: same steps, losses, held-out losses and weights, to rounding.

Two launches train all cases, one with two processes and one with four; starting Python is what takes the time.
"""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from graftlm.core.errors import GraftError
from graftlm.data.encode import Encoded
from graftlm.data.store import TokenStore
from graftlm.training.checkpoint import list_checkpoints
from graftlm.training.launch import launch

WORKER = Path(__file__).with_name("distributed_worker.py")
_spec = importlib.util.spec_from_file_location("distributed_worker", WORKER)
assert _spec is not None and _spec.loader is not None
worker = importlib.util.module_from_spec(_spec)
sys.modules["distributed_worker"] = worker
_spec.loader.exec_module(worker)

Results = dict[str, dict[str, Any]]
SAVED = {"save_every": 2}
KILLED = SAVED | {"stop_at": 5}

GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "embd_pdrop": 0.0, "resid_pdrop": 0.0, "attn_pdrop": 0.0}

ON_ANY: Results = {
    "full": {},
    "lora": {"method": "lora"},
    **{method: {"method": method} for method in worker.OTHERS},
    "tied": {"tied": True},
    "one row a step": {"rows_per_step": 1, "rows": 4},
    "a sum a row": {"sharding": {"reduce": "row", "regather": False}},
    "recompute": {"recompute": True, "method": "lora"},
    "score capping, padded rows": {"family": "gemma2", "tied": True, "sizes": {"head_dim": 8, "sliding_window": 64}},
    "other names": {"family": "gpt2", "tied": True, "sizes": GPT2},
}
"""23 rows in steps of 3: two processes have an uneven share of each step, and of four one has none."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("distributed")


@pytest.fixture(scope="module")
def alone(folder: Path) -> Any:
    """case → what one process makes of it; each is computed once."""
    random, documents = np.random.default_rng(0), []
    for length in [12, 20, 7, 25] * 21:
        tokens = 3 + (random.integers(93) + 7 * np.arange(length)) % 93
        documents.append(Encoded(tokens.astype(np.uint32), random.random(length) < 0.6))
    TokenStore.write(folder / "store", documents)
    TokenStore.write(folder / "pairs", [one for one in documents if len(one.tokens) < 16], group=2)
    kept: Results = {}

    def run(**case: Any) -> dict[str, Any]:
        name = json.dumps(case, sort_keys=True)
        if name not in kept:
            kept[name] = worker.run_case(placed(case, folder))
        return kept[name]

    return run


def placed(case: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The case with the place of its data."""
    return {"store": str(folder / ("pairs" if case.get("objective") == "dpo" else "store"))} | case


def run_together(cases: Results, processes: int, folder: Path, name: str) -> Results:
    """Every case by so many processes, in one launch."""
    out = folder / name
    out.mkdir()
    given = {case: placed(settings, folder) for case, settings in cases.items()}
    (out / "cases.json").write_text(json.dumps(given))
    launch([sys.executable, str(WORKER), str(out / "cases.json")], processes)
    return {case: torch.load(out / f"{case}.pt") for case in cases}


@pytest.fixture(scope="module")
def two(folder: Path, alone: Any) -> Results:
    alone(**KILLED, folder=str(folder / "by one"))
    cases = ON_ANY | {
        "killed": KILLED | {"folder": str(folder / "by two")},
        "killed lora": KILLED | {"method": "lora", "dropout": 0.2, "folder": str(folder / "lora by two")},
        "killed lora again": SAVED | {"method": "lora", "dropout": 0.2, "folder": str(folder / "lora by two")},
        "lora unkilled": {"method": "lora", "dropout": 0.2},
        "begun by one": SAVED | {"folder": str(folder / "by one")},
        "broken disk": SAVED | {"folder": str(folder / "broken"), "broken_disk": True},
        "bf16": {"bf16": True},
        "dpo": {"objective": "dpo", "method": "lora", "rows": 11},
        "patience": {"patience": 1, "rows": 15, "folder": str(folder / "patience")},
    }
    found = run_together(cases, 2, folder, "two")
    shutil.copytree(folder / "by two", folder / "by two, for one")
    shutil.copytree(folder / "by two", folder / "by two, for four")
    return found


@pytest.fixture(scope="module")
def four(folder: Path, two: Results) -> Results:
    cases = {
        "full": {},
        "hybrid": {"sharding": {"replicate": 2}},
        "hybrid, a sum a row": {"rows_per_step": 9, "sharding": {"replicate": 2, "reduce": "row"}},
        "copies": {"method": "lora", "sharding": {"replicate": 4}},
        "begun by two": SAVED | {"folder": str(folder / "by two, for four")},
    }
    return run_together(cases, 4, folder, "four")


def assert_same(found: dict[str, Any], expected: dict[str, Any], *, resumed_from: list[int] | None = None) -> None:
    """The same run to rounding in fp32."""
    record, wanted = found["record"], expected["record"]
    assert record["resumed_from"] == (resumed_from or [])
    assert found["error"] == ""
    for kind in ("losses", "held_out"):
        assert len(record[kind]) == len(wanted[kind]) > 0
        for entry, other in zip(record[kind], wanted[kind], strict=True):
            assert entry == pytest.approx(other, rel=1e-5)
    assert found["meter"] == expected["meter"]
    assert found["weights"].keys() == expected["weights"].keys()
    for name, weight in expected["weights"].items():
        if name.endswith("c_attn.bias"):  # no softmax sees a key's bias: its gradient is rounding, which Adam scales up
            continue
        torch.testing.assert_close(found["weights"][name], weight, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", ON_ANY)
def test_two_processes_learn_what_one_learns(case: str, two: Results, alone: Any) -> None:
    assert_same(two[case], alone(**{key: value for key, value in ON_ANY[case].items() if key != "sharding"}))


@pytest.mark.parametrize(
    ("case", "settings"),
    [("full", {}), ("hybrid", {}), ("hybrid, a sum a row", {"rows_per_step": 9}), ("copies", {"method": "lora"})],
)
def test_four_processes_learn_what_one_learns(case: str, settings: dict[str, Any], four: Results, alone: Any) -> None:
    assert_same(four[case], alone(**settings))


def test_preferences_against_a_reference_that_all_processes_made(two: Results, alone: Any) -> None:
    assert two["dpo"]["record"]["losses"][0]["loss"] == pytest.approx(math.log(2), abs=1e-7)
    assert two["dpo"]["record"]["losses"][-1]["loss"] != pytest.approx(math.log(2), abs=1e-3)
    assert_same(two["dpo"], alone(objective="dpo", method="lora", rows=11))


def test_bf16_is_near(two: Results, alone: Any) -> None:
    """Not equal: one process keeps norms and the residual in fp32 under autocast, FSDP gathers all weights in bf16."""
    for entry, other in zip(two["bf16"]["record"]["losses"], alone(bf16=True)["record"]["losses"], strict=True):
        assert entry["loss"] == pytest.approx(other["loss"], rel=0.02)
    assert two["bf16"]["record"]["losses"] != two["full"]["record"]["losses"]


def test_the_comparison_can_fail(two: Results, alone: Any) -> None:
    with pytest.raises(AssertionError):
        assert_same(two["full"], alone(tied=True))


def test_a_run_goes_on_with_another_number_of_processes(two: Results, four: Results, alone: Any, folder: Path) -> None:
    whole = alone()
    assert_same(two["begun by one"], whole, resumed_from=[4])
    assert_same(four["begun by two"], whole, resumed_from=[4])
    assert_same(alone(**SAVED, folder=str(folder / "by two, for one")), whole, resumed_from=[4])


def test_the_same_number_of_processes_goes_on_with_its_random_states(two: Results) -> None:
    """Dropout goes on where it stood in each process: the resumed run equals the one that was not killed."""
    again, whole = two["killed lora again"], two["lora unkilled"]
    assert again["record"]["resumed_from"] == [4]
    assert again["record"]["losses"] == whole["record"]["losses"]
    for name, weight in whole["weights"].items():
        assert torch.equal(again["weights"][name], weight)


def test_dropout_differs_between_processes(two: Results, alone: Any) -> None:
    assert two["lora unkilled"]["record"]["losses"] != alone(method="lora", dropout=0.2)["record"]["losses"]


def test_sharded_checkpoints_are_whole_and_the_last_ones_kept(two: Results, folder: Path) -> None:
    found = list_checkpoints(folder / "by two, for four")
    assert [step for step, _ in found][-2:] == [4, 6]  # of the four processes that went on
    assert sorted(path.name for path in list_checkpoints(folder / "by two")[-1][1].iterdir()) == [
        ".metadata", "__0_0.distcp", "__1_0.distcp", "random-0.pt", "random-1.pt", "run.pt",
    ]  # fmt: skip
    assert not list(folder.rglob("*.part"))


def test_a_write_that_fails_beside_the_training_ends_it(two: Results) -> None:
    broken = two["broken disk"]
    assert "the checkpoint of step 2 could not be written: No space left on device" in broken["error"]
    assert broken["record"]["steps"] == 4, "found out before the next checkpoint"


def test_early_stopping_goes_back_to_the_best_weights(two: Results, alone: Any, folder: Path) -> None:
    one = alone(patience=1, rows=15, folder=str(folder / "patience of one"))
    assert two["patience"]["record"]["best_step"] == one["record"]["best_step"]
    assert_same(two["patience"], one)


def test_one_failing_process_ends_all_with_its_error(folder: Path, alone: Any) -> None:
    alone()
    with pytest.raises(GraftError, match=r"^process 1: a place: this one fails\n  fix: a way out$"):
        run_together({"dies": {"dies": 1}}, 2, folder, "dies")


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("method", ["full", "lora"])
def test_two_gpus_learn_what_one_learns(folder: Path, alone: Any, method: str) -> None:
    """NCCL, fp32 and bf16; checkpoints staged in page-locked memory, resumed."""
    place = str(folder / f"gpu {method}")
    cases = {
        "fp32": {"cuda": True, "method": method},
        "bf16": {"cuda": True, "method": method, "bf16": True},
        "killed": KILLED | {"cuda": True, "method": method, "folder": place},
        "again": SAVED | {"cuda": True, "method": method, "folder": place},
    }
    found = run_together(cases, 2, folder, f"gpu-{method}")
    one = alone(cuda=True, method=method)
    for kind in ("fp32", "again"):
        assert found[kind]["record"]["resumed_from"] == ([4] if kind == "again" else [])
        for entry, other in zip(found[kind]["record"]["losses"], one["record"]["losses"], strict=True):
            assert entry["loss"] == pytest.approx(other["loss"], rel=1e-3)
    for entry, other in zip(found["bf16"]["record"]["losses"], one["record"]["losses"], strict=True):
        assert entry["loss"] == pytest.approx(other["loss"], rel=0.05)
