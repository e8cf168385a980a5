"""The memory of a stage by the formats that it trains in."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig

from graftlm.recipes.budget import stage_memory
from graftlm.recipes.stage_settings import SftStage

SEVEN_B = LlamaConfig(
    vocab_size=32_000, hidden_size=4096, intermediate_size=11_008, num_hidden_layers=32, num_attention_heads=32
)
PARAMETERS = 6_738_415_616


def memory(trained: int = PARAMETERS, **settings: object) -> float:
    """Bytes beside activations, a parameter."""
    stage = SftStage(blocks=["a"], row_tokens=2, **settings)
    needed = stage_memory(stage, SEVEN_B, PARAMETERS, trained, device=torch.device("cuda"), bf16=True)
    return needed / PARAMETERS


@pytest.mark.parametrize(
    ("weights", "moments", "wanted"),
    [
        ("fp32", "fp32", 18), ("fp32", "bf16", 14), ("fp32", "8bit", 12),
        ("bf16_master", "fp32", 14), ("bf16_master", "bf16", 10), ("bf16_master", "8bit", 8),
        ("bf16", "fp32", 12), ("bf16", "bf16", 8), ("bf16", "8bit", 6),
    ],
)  # fmt: skip
def test_full_training(weights: str, moments: str, wanted: float) -> None:
    """The table of docs/recipes.md; fp32 weights have their bf16 copies besides."""
    assert memory(weights=weights, moments=moments) == pytest.approx(wanted, abs=0.05)


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [({"method": "lora"}, 2), ({"method": "qlora"}, 0.574), ({"method": "qlora", "lora": {"bits": 8}}, 1.039)],
)
def test_adapters(settings: dict[str, object], wanted: float) -> None:
    """Embedding and head, 3.9 % of the weights, stay in bf16."""
    assert memory(trained=0, **settings) == pytest.approx(wanted, abs=0.005)
