"""The plan of accelerated training: its parts, and what compiled layers keep, counted with saved-tensor hooks."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config

from graftlm.models.acceleration import accelerate, compiled_layers
from graftlm.models.adapters import make_trainable, recompute_activations
from graftlm.models.trunk import hidden_states, prepare_trunk
from graftlm.ops.linear_cross_entropy import LOGITS_HELD
from graftlm.training.accelerated_memory import CONTEXT, Recompute, Sizes, kept_of_a_layer, plan_accelerated
from graftlm.training.memory import MemoryPlan

SHAPE = {
    "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 8, "num_attention_heads": 16,
    "num_key_value_heads": 4,
}  # fmt: skip
CONFIG = LlamaConfig(vocab_size=32_000, **SHAPE)
PARAMETERS = 10**8
SIZES = Sizes.of(CONFIG)
WAYS: list[Recompute] = ["none", "cheap", "full"]


def plan(config: LlamaConfig = CONFIG, **changes: Any) -> MemoryPlan:
    options: dict[str, Any] = {
        "parameters": PARAMETERS, "trained": PARAMETERS, "tokens": 16_384, "weight_bytes": 2, "moment_bytes": 8,
        "float8": False, "recompute": "none", "accumulates": True,
    }  # fmt: skip
    return plan_accelerated(config, **(options | changes))


def test_sizes_are_those_of_the_configuration():
    assert Sizes(1024, 2816, 1024, 256, 16, 8, 32_000) == SIZES
    wide = Sizes.of(Qwen3Config(hidden_size=64, num_attention_heads=4, num_key_value_heads=2, head_dim=128))
    assert (wide.Q, wide.K) == (512, 256), "heads need not add up to the hidden size"


def test_what_is_held_of_each_weight():
    full, adapter = plan(), plan(trained=1000)
    assert (full.weights, full.gradients, full.optimizer) == (2 * PARAMETERS, 2 * PARAMETERS, 8 * PARAMETERS)
    assert (adapter.weights, adapter.gradients, adapter.optimizer) == (2 * (PARAMETERS - 1000) + 4000, 4000, 8000)
    in_fp32 = plan(weight_bytes=4, copy_bytes=2)
    assert (in_fp32.weights, in_fp32.gradients) == (6 * PARAMETERS, 4 * PARAMETERS)
    assert plan(moment_bytes=2).optimizer == 2 * PARAMETERS
    assert full.runtime == CONTEXT


def test_eight_bits_hold_copies_of_the_layers_weights():
    linear = 8 * (2 * 1024 * 1024 + 2 * 1024 * 256 + 3 * 1024 * 2816)
    assert plan(float8=True).weights - plan().weights == linear
    assert plan(float8=True, trained=1000).weights - plan(trained=1000).weights == 2 * linear, "in both orders"


def test_gradients_of_a_single_pass_take_the_room_of_what_it_lets_go_of():
    assert plan(accumulates=False).gradients == 0
    few = plan(accumulates=False, tokens=64)
    assert few.gradients == max(0, 2 * PARAMETERS - few.activations)


def test_activations_answer_to_tokens_and_to_what_is_computed_again():
    by_way = [plan(recompute=way).activations for way in WAYS]
    assert by_way[0] > by_way[1] > by_way[2] > 0
    assert plan(tokens=32_768).activations > 1.6 * by_way[0]
    assert plan(trained=1000).activations < by_way[0], "weight gradients of small matrices need less"
    assert plan(float8=True).activations < by_way[0]
    huge = plan(LlamaConfig(vocab_size=10**6, **SHAPE), trained=1000)
    assert huge.activations - plan(trained=1000).activations < 2 * LOGITS_HELD, "never the logits of all tokens"


@pytest.mark.parametrize("adapter", [False, True])
def test_a_layer_keeps_less_the_more_is_computed_again(adapter):
    kept = [kept_of_a_layer(SIZES, adapter=adapter, float8=False, recompute=way) for way in WAYS]
    assert kept[0] > kept[1] > kept[2] == 2 * SIZES.D


TOKENS = 128
LAYER = Sizes(D=64, I=176, Q=64, K=32, H=4, L=3, vocabulary=100)  # nothing is as long as the row


def kept_bytes_a_token(layers: int, method: str, float8: bool, recompute: Recompute) -> float:
    """Bytes of all storages with an entry for each token that one forward pass leaves to the backward pass."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=LAYER.vocabulary, hidden_size=LAYER.D, intermediate_size=LAYER.I, num_hidden_layers=layers,
        num_attention_heads=LAYER.H, num_key_value_heads=2,
    )  # fmt: skip
    assert Sizes.of(config) == Sizes(**(vars(LAYER) | {"L": layers}))
    model: torch.nn.Module = LlamaForCausalLM(config).bfloat16()
    prepare_trunk(model)
    model.graft_kernel = "documents"  # type: ignore[assignment]
    model = make_trainable(model, method, rank=2, alpha=4, weights=torch.bfloat16)  # type: ignore[arg-type]
    model.train()
    if recompute == "full":
        recompute_activations(model)
    kept: dict[int, int] = {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        if TOKENS in x.shape:
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with ExitStack() as stack:
        if recompute != "full":
            from graftlm.models.stacked_lora import stack_mlps

            accelerate(model, float8=float8)
            stack_mlps(model)  # which is done on a GPU only
            stack.enter_context(compiled_layers(model, cheap_again=recompute == "cheap"))
        stack.enter_context(torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x))
        boundaries = torch.tensor([0, 40, 64, TOKENS], dtype=torch.int32)
        states = hidden_states(model, torch.arange(TOKENS) % 100, boundaries, 64)
        assert states.requires_grad
    return sum(kept.values()) / TOKENS


@pytest.mark.parametrize(
    ("method", "float8", "recompute"),
    [
        ("full", False, "full"),
        ("lora", False, "full"),
        ("full", False, "none"),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in [  # compiles
            ("lora", False, "none"), ("full", False, "cheap"), ("lora", False, "cheap"), ("full", True, "none"),
        ]),
    ],
)  # fmt: skip
def test_compiled_layers_keep_what_the_plan_says(monkeypatch, method, float8, recompute):
    pytest.importorskip("triton")
    from graftlm.ops import float8 as float8_module
    from graftlm.ops.kernels.float8 import cast_both

    def quantise(x: torch.Tensor, kind: torch.dtype) -> Any:
        """As on a GPU, where the kernel writes both orders."""
        largest = torch.finfo(kind).max
        scale = x.abs().amax().float().clamp(min=1e-12) / largest
        return *cast_both(x, scale, kind, largest), scale

    if float8:
        monkeypatch.setattr(float8_module, "quantise", quantise)
    torch._dynamo.reset()
    a_layer = (kept_bytes_a_token(4, method, float8, recompute) - kept_bytes_a_token(2, method, float8, recompute)) / 2
    planned = kept_of_a_layer(LAYER, adapter=method == "lora", float8=float8, recompute=recompute)
    print(f"\n{method}, float8 {float8}, recompute {recompute}: kept {a_layer:.0f}, planned {planned} bytes a token")
    assert planned == pytest.approx(a_layer, rel=0.03)
