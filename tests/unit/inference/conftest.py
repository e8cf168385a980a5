"""A random little Llama whose tokens are UTF-8 bytes, so a Chinese character is split over three."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM


@pytest.fixture(scope="session")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=260,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config).float()


@pytest.fixture(scope="session")
def decode() -> Callable[[Sequence[int]], str]:
    return lambda tokens: bytes(token for token in tokens if token < 256).decode("utf-8", errors="replace")


@pytest.fixture(scope="session")
def prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    lengths = [3, 17, 1, 9, 30, 5, 9]
    return [torch.randint(0, 260, (length,), generator=generator).tolist() for length in lengths]
