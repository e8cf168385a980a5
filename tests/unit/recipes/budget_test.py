"""The budget takes the fastest way to train that fits, and only ways that the stage and the device have."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import LlamaConfig

from graftlm.recipes import budget as budget_module
from graftlm.recipes.budget import LONGEST_PASS, USABLE, Budget, settle
from graftlm.recipes.stage_settings import BestOfStage, DpoStage, GradientStage, GrpoStage, SftStage
from graftlm.training.memory import GIB

CONFIG = LlamaConfig(
    vocab_size=32_000, hidden_size=2048, intermediate_size=5632, num_hidden_layers=22, num_attention_heads=32,
    num_key_value_heads=4,
)  # fmt: skip
PARAMETERS = 1_100_048_384
ADAPTER = 6_000_000
CUDA, CPU = torch.device("cuda"), torch.device("cpu")


def sft(**settings: Any) -> SftStage:
    return SftStage(**({"blocks": ["a"], "row_tokens": 2048, "step_tokens": 16_384, "weights": "bf16"} | settings))


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> Any:
    """stage, GiB of the device → the budget on it."""

    def run(stage: GradientStage, gib: float = 1000, device: torch.device = CUDA, **more: Any) -> Budget:
        monkeypatch.setattr(budget_module, "available_memory", lambda device: int(gib * GIB))
        trained = PARAMETERS if stage.method == "full" else ADAPTER
        return settle(stage, CONFIG, PARAMETERS, trained, device=device, **({"bf16": True} | more))

    return run


def way(budget: Budget) -> tuple[bool, int, str]:
    return budget.accelerated, budget.rows_at_once, budget.recompute


FASTEST_FIRST = [
    *((True, rows, recompute) for recompute in ("none", "cheap") for rows in (8, 4, 2, 1)),
    (False, 1, "none"),
    (False, 1, "full"),
]


def test_with_less_memory_come_slower_ways_in_order_and_each_fits(settled: Any) -> None:
    found = [settled(sft(), gib / 4) for gib in range(400, 12, -1)]
    ways = list(dict.fromkeys(way(budget) for budget in found))
    assert ways[0] == (True, 8, "none") and ways[-1] == (False, 1, "full")
    assert len(ways) >= 5
    assert ways == sorted(ways, key=FASTEST_FIRST.index)
    for budget in found:
        assert budget.fits or way(budget) == (False, 1, "full"), "only the most frugal way may not fit"
    assert [budget.fits for budget in found] == sorted((budget.fits for budget in found), reverse=True)


def test_a_faster_way_is_not_passed_over(settled: Any) -> None:
    """With just what a way needs it is taken, with a little less it is not."""
    needed = settled(sft()).needed / GIB
    assert way(settled(sft(), needed / USABLE * 1.001)) == (True, 8, "none")
    assert way(settled(sft(), needed / USABLE * 0.999)) == (True, 4, "none")


def test_where_nothing_fits_the_most_frugal_way_is_told(settled: Any) -> None:
    budget = settled(sft(), 1)
    assert not budget.fits and way(budget) == (False, 1, "full")
    assert str(budget) == f"needs about {budget.needed / GIB:.2f} of 1 GiB"


@pytest.mark.parametrize("recompute", ["auto", "none", "cheap", "full"])
def test_a_cpu_is_never_accelerated(settled: Any, recompute: str) -> None:
    for gib in (1000, 1):
        budget = settled(sft(recompute=recompute), gib, CPU, bf16=False)
        assert way(budget) == (False, 1, "full" if recompute == "full" else "none")


@pytest.mark.parametrize(
    ("stage", "more"),
    [
        (sft(compile=False), {}),
        (sft(), {"bf16": False}),
        (sft(), {"processes": 2}),  # whether they share the weights or each has a copy
        (sft(method="qlora", weights="fp32"), {}),
        (sft(method="lora", weights="fp32", lora={"kind": "dora"}), {}),
        *((sft(method=method, weights="fp32"), {}) for method in ("freeze", "ptuning", "heads", "expand")),
        (sft(), {"compilable": False}),
        (GrpoStage(blocks=["a"], reward=[{"exact": True}]), {}),
        (BestOfStage(blocks=["a"], reward=[{"exact": True}]), {}),
    ],
    ids=["compile: false", "fp32", "several processes", "qlora", "dora", "freeze", "ptuning", "heads", "expand",
         "a prefix from before", "policy", "best of"],
)
def test_what_is_not_compiled(settled: Any, stage: GradientStage, more: dict[str, Any]) -> None:
    assert way(settled(stage, **more)) == (False, 1, "none")
    assert way(settled(stage, 1, **more)) == (False, 1, "full")


@pytest.mark.parametrize(
    "stage",
    [
        sft(),
        *(sft(method="lora", weights="fp32", lora={"kind": kind}) for kind in ("lora", "rslora", "pissa")),
        DpoStage(blocks=["a"]),
    ],
)
def test_what_is_compiled(settled: Any, stage: GradientStage) -> None:
    assert settled(stage).accelerated


@pytest.mark.parametrize("recompute", ["none", "cheap", "full"])
def test_recomputation_that_is_asked_for_is_respected(settled: Any, recompute: str) -> None:
    stage = sft(recompute=recompute)
    assert way(settled(stage)) == ((False, 1, "full") if recompute == "full" else (True, 8, recompute))
    found = {settled(stage, gib).recompute for gib in range(1, 60)}
    assert found <= ({recompute} if recompute != "cheap" else {"cheap", "none"}), "cheap is a way of compiled layers"


@pytest.mark.parametrize(
    ("row", "step", "rows"),
    [(2048, None, 1), (2048, 6 * 2048, 6), (1024, 48 * 1024, 24), (2048, 17 * 2048, 1), (40_000, 80_000, 1)],
)
def test_passes_divide_the_rows_of_a_step(settled: Any, row: int, step: int | None, rows: int) -> None:
    stage = sft(row_tokens=row, step_tokens=step)
    budget = settled(stage)
    assert budget.rows_at_once == rows
    assert stage.rows_per_step % rows == 0
    assert rows == 1 or rows * row <= LONGEST_PASS


@pytest.mark.parametrize(
    ("frugal", "lavish"),
    [
        ({"moments": "8bit"}, {"moments": "fp32"}),
        ({"weights": "bf16"}, {"weights": "fp32"}),
        ({"method": "lora", "weights": "fp32"}, {"weights": "fp32"}),
        ({"row_tokens": 1024, "step_tokens": 1024}, {"row_tokens": 2048, "step_tokens": 2048}),
    ],
)
def test_settings_that_save_memory_need_less(settled: Any, frugal: dict[str, Any], lavish: dict[str, Any]) -> None:
    assert settled(sft(**frugal)).needed < settled(sft(**lavish)).needed


@pytest.mark.parametrize(
    ("given", "meant"), [(True, "full"), (False, "none"), ("auto", "auto"), ("cheap", "cheap"), ("full", "full")]
)
def test_true_and_false_are_names_of_recomputation(given: object, meant: str) -> None:
    assert sft(recompute=given).recompute == meant


@pytest.mark.parametrize("given", ["yes", 1, 2, None, "everything"])
def test_other_names_of_recomputation_are_refused(given: object) -> None:
    with pytest.raises(ValidationError):
        sft(recompute=given)


@pytest.mark.parametrize("able", [True, False])
def test_eight_bits_only_where_the_card_has_them(settled: Any, monkeypatch: pytest.MonkeyPatch, able: bool) -> None:
    monkeypatch.setattr("graftlm.recipes.budget.multiplies_in_8_bits", lambda device: able)
    assert settled(sft(float8=True)).float8 == able
    assert settled(sft(float8=True)).accelerated
    assert not settled(sft(float8=True, compile=False)).float8
    assert not settled(sft()).float8


def test_eight_bits_come_in_sixteens() -> None:
    with pytest.raises(ValueError, match="16 divides"):
        sft(float8=True, row_tokens=1000)


def test_what_the_methods_hold(settled: Any) -> None:
    """Frozen layers below the first trained one keep nothing; weights put together anew are held once more; a policy
    that is no adapter has a copy beside it."""
    stage = sft(method="freeze", weights="fp32", compile=False)
    whole, half = (settled(stage, layers=layers).needed for layers in (None, CONFIG.num_hidden_layers // 2))
    assert half < whole
    assert settled(stage, copied=1_000_000).needed - settled(stage).needed == 2 * 1_000_000
    judged = {"blocks": ["a"], "reward": [{"exact": True}]}
    policies = [settled(GrpoStage(method=method, **judged)).needed for method in ("lora", "heads", "ptuning")]
    assert policies[1] == policies[2] == pytest.approx(policies[0] + 4 * PARAMETERS, rel=0.05)
