"""What tests of several layers share: tiny random models, token stores and packing plans."""

from __future__ import annotations

import os

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports Triton: its kernels then run on the CPU

from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from graftlm.data.encode import Encoded
from graftlm.data.mixing import mix
from graftlm.data.packing import PackingPlan, pack
from graftlm.data.store import TokenStore
from graftlm.models.trunk import prepare_trunk

torch.set_num_threads(1)  # tiny tensors: more threads cost more than they give

VOCABULARY = 96

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": SIZES,
    "mistral": SIZES | {"sliding_window": 6},
    "qwen2": SIZES,
    "qwen3": SIZES | {"head_dim": 16},
    "gpt2": {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
    "gemma2": SIZES | {"head_dim": 8, "sliding_window": 64},
    "bloom": {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 4},
    "mamba": {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8},
    "qwen2_moe": SIZES
    | {"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 0, "num_experts": 4}
    | {"moe_intermediate_size": 16, "shared_expert_intermediate_size": 16},
    "falcon_h1": SIZES | {"lm_head_multiplier": 0.3},
}


@pytest.fixture
def plain_model() -> Callable[..., PreTrainedModel]:
    """family → a random transformers model that graft has not touched, fp32, eval mode."""

    def make(family: str = "llama", *, seed: int = 0, spread: float = 0.2, **sizes: Any) -> PreTrainedModel:
        torch.manual_seed(seed)
        config = AutoConfig.for_model(family, **(FAMILIES[family] | sizes))
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        with (
            torch.no_grad()
        ):  # weights this large let every token matter: a leak shows far above the tolerance
            for parameter in model.parameters():
                if parameter.ndim >= 2:
                    parameter.normal_(0, spread)
        return model.eval()

    return make


@pytest.fixture
def tiny_model(plain_model: Callable[..., PreTrainedModel]) -> Callable[..., PreTrainedModel]:
    """family → a random model ready for packed rows."""

    def make(family: str = "llama", **options: Any) -> PreTrainedModel:
        model = plain_model(family, **options)
        prepare_trunk(model)
        return model

    return make


@pytest.fixture
def make_store(tmp_path: Path) -> Callable[..., TokenStore]:
    """Document lengths → a store of random tokens of which about `share` are targets."""
    number = count()

    def make(
        lengths: Sequence[int], *, group: int = 1, share: float = 0.6, seed: int = 0, learnable: bool = False
    ) -> TokenStore:
        random = np.random.default_rng(seed)
        documents = []
        for length in lengths:
            start = random.integers(3, VOCABULARY)
            tokens = random.integers(3, VOCABULARY, length)
            if learnable:  # each token follows from the one before
                tokens = 3 + (start - 3 + 7 * np.arange(length)) % (VOCABULARY - 3)
            documents.append(Encoded(tokens.astype(np.uint32), random.random(length) < share))
        return TokenStore.write(tmp_path / f"store-{next(number)}", documents, group=group)

    return make


@pytest.fixture
def make_plan(make_store: Callable[..., TokenStore]) -> Callable[..., PackingPlan]:
    """Document lengths → a plan that sees each sample once."""

    def make(lengths: Sequence[int], *, row_tokens: int, rows_per_step: int = 1, **store: Any) -> PackingPlan:
        made = make_store(lengths, **store)
        mixture = mix({"a": made}, {"a": 1.0}, int(sum(lengths)), "hybrid", seed=5)
        return pack(mixture, row_tokens=row_tokens, rows_per_step=rows_per_step)

    return make
