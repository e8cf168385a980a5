"""Adapters on quantised weights, on the CPU: packed, differentiable, merged without a second quantisation."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from graftlm.core.errors import ModelError
from graftlm.models import quantised
from graftlm.models.adapters import make_trainable, merge_adapter, parameter_counts, save_adapter
from graftlm.models.loading import load_config, load_model, load_tokenizer, save_model
from graftlm.models.quantised import frozen_bytes
from graftlm.models.trunk import hidden_states
from graftlm.objectives.causal_lm import CausalLM
from graftlm.training.trainer import Trainer, TrainingSettings

CPU = torch.device("cpu")
TOKENS = torch.arange(100, 140)
BOUNDARIES = torch.tensor([0, 13, 40], dtype=torch.int32)

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="the extra `qlora` (bitsandbytes) is not installed"
)
pytestmark = pytest.mark.filterwarnings("ignore")


def rootstock(bits: int | None) -> torch.nn.Module:
    return load_model("rootstock", dtype=torch.float32, device=CPU, bits=bits)  # type: ignore[arg-type]


def states(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return hidden_states(model.eval(), TOKENS, BOUNDARIES)


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


def adapted(bits: int | None) -> torch.nn.Module:
    """With an adapter that does something."""
    torch.manual_seed(0)
    model = make_trainable(rootstock(bits), "qlora" if bits else "lora", rank=4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.02)
    return model


@needs_bitsandbytes
@pytest.mark.parametrize(("bits", "bound"), [(4, 0.35), (8, 0.05)])
def test_the_linear_layers_are_quantised_and_rows_stay_packed(bits, bound):
    model = rootstock(bits)
    assert model.graft_packs
    assert model.model.layers[0].mlp.up_proj.weight.element_size() == 1
    assert model.get_input_embeddings().weight.dtype == torch.float32
    error = apart(states(model), states(rootstock(None)))
    assert 1e-4 < error < bound, error


@needs_bitsandbytes
@pytest.mark.parametrize("bits", [4, 8])
def test_counts_are_those_of_the_weights_not_of_the_bytes(bits):
    assert parameter_counts(adapted(bits)) == parameter_counts(adapted(None))


@needs_bitsandbytes
def test_gradients_are_those_through_the_dequantised_weights():
    """Also after a look without gradients, in eval mode, where bitsandbytes would repack on some CPUs."""
    model = adapted(4)
    states(model)
    plain = make_trainable(rootstock(4).dequantize(), "lora", rank=4)
    for other, own in zip(plain.parameters(), list(model.parameters()), strict=True):
        if other.requires_grad:
            other.data.copy_(own.data)
    found = []
    for one in (model, plain):
        one.graft_packs = True
        one.get_base_model().graft_packs = True
        one.train()
        hidden_states(one, TOKENS, BOUNDARIES).square().sum().backward()
        found.append(torch.cat([p.grad.flatten() for p in one.parameters() if p.requires_grad]))
    assert found[0].any()
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-3 * float(found[1].abs().max()))


@needs_bitsandbytes
@pytest.mark.parametrize(("bits", "bound"), [(4, 1e-5), (8, 0.05)])  # 8 bits: activations are rounded as well
def test_merging_keeps_what_was_learnt_and_the_folder_loads_plainly(bits, bound, tmp_path):
    model = adapted(bits)
    before, untrained = states(model), states(rootstock(bits))
    save_adapter(model, str(tmp_path / "adapter"))
    merged = merge_adapter(model)
    assert {type(m).__name__ for m in merged.modules() if "inear" in type(m).__name__} == {"Linear"}
    assert apart(states(merged), before) < bound < apart(before, untrained)
    save_model(merged, load_tokenizer("rootstock"), tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, use_safetensors=True)
    assert getattr(again.config, "quantization_config", None) is None
    assert all(torch.equal(one, other) for one, other in zip(again.parameters(), merged.parameters(), strict=True))
    peft = PeftModel.from_pretrained(rootstock(bits), str(tmp_path / "adapter"))
    assert apart(states(peft), before) < 1e-6


@needs_bitsandbytes
@pytest.mark.gpu
@pytest.mark.parametrize("bits", [4, 8])
def test_a_gpu_trains_and_merges(bits, make_plan):
    model = load_model("rootstock", dtype=torch.bfloat16, device=torch.device("cuda"), bits=bits)
    assert model.graft_packs
    model = make_trainable(model, "qlora", rank=4)
    plan = make_plan([40] * 60, row_tokens=256, learnable=True)
    settings = TrainingSettings(learning_rate=2e-3, bf16=True, log_every=1)
    losses = Trainer(model, CausalLM(), plan, settings).fit().losses
    assert losses[-1]["loss"] < 0.9 * losses[0]["loss"]
    tokens, boundaries = TOKENS.cuda(), BOUNDARIES.cuda()
    with torch.no_grad():
        before = hidden_states(model, tokens, boundaries)
        after = hidden_states(merge_adapter(model), tokens, boundaries)
    assert apart(after.float(), before.float()) < 0.05


@needs_bitsandbytes
def test_transposed_layers_are_refused(plain_model, tmp_path):
    plain_model("gpt2").save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"stored transposed(?s:.*)method: lora"):
        load_model(str(tmp_path), dtype=torch.float32, device=CPU, bits=4)


def test_without_bitsandbytes_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(quantised.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"bitsandbytes, which is not installed(?s:.*)graftlm\[qlora\]"):
        rootstock(4)


def test_bytes_of_a_frozen_weight():
    config = load_config("rootstock")  # 3,072 × 256 of 3.8 million weights are its tied embedding
    assert frozen_bytes(config, 3_803_392, 8, 4) == pytest.approx(1 + 3 * 786_432 / 3_803_392)
    assert 0.51 < frozen_bytes(config, 10**12, 4, 2) < 0.52
