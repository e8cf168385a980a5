"""The kinds of LoRA against their papers' formulae, and that all of them begin as the identity and can be merged."""

from __future__ import annotations

import importlib.util
import math

import pytest
import torch
from peft import PeftModel

from graftlm.models.acceleration import accelerate
from graftlm.models.adapters import Lora, make_trainable, merge_adapter, parameter_counts, save_adapter
from graftlm.models.stacked_lora import StackedLoraLinear
from graftlm.models.trunk import hidden_states
from graftlm.objectives.causal_lm import CausalLM
from graftlm.training.trainer import Trainer, TrainingSettings

KINDS = ("lora", "rslora", "dora", "pissa")
TOKENS = torch.arange(3, 23)
BOUNDARIES = torch.tensor([0, 8, 20], dtype=torch.int32)


def states(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return hidden_states(model.eval(), TOKENS, BOUNDARIES)


def shaken(model: torch.nn.Module) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model


def layer(model: torch.nn.Module) -> torch.nn.Module:
    return model.base_model.model.model.layers[1].mlp.up_proj


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_new_adapter_is_the_identity(tiny_model, kind, family):
    model = tiny_model(family)
    before = states(model)
    after = states(make_trainable(model, Lora(rank=4, kind=kind)))
    if kind in ("lora", "rslora"):
        assert torch.equal(after, before)
    torch.testing.assert_close(after, before, atol=1e-5 * float(before.abs().max()), rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_layer_computes_the_formula(tiny_model, kind):
    """W x is what a merged layer must compute, W by the paper."""
    model = tiny_model("llama")
    W_OI = model.model.layers[1].mlp.up_proj.weight.detach().clone()
    adapted = shaken(make_trainable(model, Lora(rank=4, alpha=12, kind=kind)))
    module, name = layer(adapted), "default"
    A, B = module.lora_A[name].weight.detach(), module.lora_B[name].weight.detach()
    scale = 12 / math.sqrt(4) if kind == "rslora" else 12 / 4
    wanted = module.base_layer.weight + scale * B @ A
    if kind == "dora":
        magnitude = module.lora_magnitude_vector[name].weight.detach()
        wanted = magnitude[:, None] * wanted / wanted.norm(dim=1, keepdim=True)
    if kind != "pissa":
        assert torch.equal(module.base_layer.weight, W_OI)
    x = torch.randn(5, 32)
    torch.testing.assert_close(module(x), x @ wanted.T, atol=1e-4, rtol=1e-4)


def test_pissa_holds_the_largest_singular_directions(tiny_model):
    model = tiny_model("llama")
    W_OI = model.model.layers[1].mlp.up_proj.weight.detach().clone()
    module = layer(make_trainable(model, Lora(rank=4, alpha=8, kind="pissa")))
    U, S, V = torch.linalg.svd(W_OI, full_matrices=False)
    largest = U[:, :4] * S[:4] @ V[:4]
    product = 2 * module.lora_B["default"].weight @ module.lora_A["default"].weight
    torch.testing.assert_close(product, largest, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(module.base_layer.weight, W_OI - largest, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_saved_adapter_fits_the_original_base(tiny_model, plain_model, kind, tmp_path):
    """In peft, without graft: PiSSA's, too, whose own base is another one."""
    adapted = shaken(make_trainable(tiny_model("llama"), Lora(rank=4, kind=kind)))
    before = states(adapted)
    with torch.no_grad():
        logits = adapted(input_ids=TOKENS[None]).logits
    save_adapter(adapted, str(tmp_path))
    base = plain_model("llama")
    assert not torch.allclose(base(input_ids=TOKENS[None]).logits, logits, atol=1e-2)
    again = PeftModel.from_pretrained(base, str(tmp_path)).eval()
    with torch.no_grad():
        torch.testing.assert_close(again(input_ids=TOKENS[None]).logits, logits, atol=1e-4, rtol=1e-4)
    merged = merge_adapter(adapted)
    assert not any("lora" in name for name, _ in merged.named_parameters())
    torch.testing.assert_close(states(merged), before, atol=1e-5 * float(before.abs().max()), rtol=0)


def test_a_pissa_file_without_its_start_would_not_fit(tiny_model, plain_model, tmp_path):
    """The conversion is needed: the raw matrices on the original base give another model."""
    adapted = make_trainable(tiny_model("llama"), Lora(rank=4, kind="pissa"))
    logits = adapted(input_ids=TOKENS[None]).logits
    del adapted.graft_start
    adapted.peft_config["default"].init_lora_weights = True
    adapted.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(plain_model("llama"), str(tmp_path)).eval()
    assert (again(input_ids=TOKENS[None]).logits - logits).abs().max() > 0.1


def test_what_stacked_layers_do_not_compute_is_left_to_peft(tiny_model):
    """DoRA's layers stay; of the other kinds the stacked outputs are the same."""
    for kind in KINDS:
        adapted = shaken(make_trainable(tiny_model("llama"), Lora(rank=4, kind=kind)))
        before = states(adapted)
        accelerate(adapted)
        stacked = any(isinstance(module, StackedLoraLinear) for module in adapted.modules())
        assert stacked == (kind != "dora")
        torch.testing.assert_close(states(adapted), before, atol=1e-4 * float(before.abs().max()), rtol=0)


def test_dora_trains_a_length_for_each_output(tiny_model):
    plain, dora = (
        parameter_counts(make_trainable(tiny_model("llama"), Lora(rank=2, kind=kind))) for kind in ("lora", "dora")
    )
    outputs = 2 * (32 + 16 + 16 + 32 + 48 + 48 + 32)
    assert dora["trained"] - plain["trained"] == outputs


def test_lora_plus_steps_the_b_matrices_faster(tiny_model, make_plan):
    """With Adam's first step (sign of the gradient) the change of each weight is its learning rate."""
    model = make_trainable(tiny_model("llama"), Lora(rank=2))
    shaken(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    settings = TrainingSettings(learning_rate=1e-4, weight_decay=0, warmup=0, clip=1e9, rates={"lora_B": 16.0})
    trainer = Trainer(model, CausalLM(), make_plan([30], row_tokens=64), settings)
    assert {group["factor"] for group in trainer.optimizer.param_groups} == {1.0, 16.0}
    record = trainer.fit()
    assert record.losses[-1]["learning_rate"] == pytest.approx(1e-4)
    for name, p in model.named_parameters():
        if p.requires_grad:
            wanted = 1.6e-3 if "lora_B" in name else 1e-4
            assert float((p - before[name]).abs().median()) == pytest.approx(wanted, rel=0.02), name


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["rslora", "dora"])
def test_on_quantised_weights_merging_keeps_what_was_learnt(kind):
    from graftlm.models.loading import load_model

    torch.manual_seed(0)
    base = load_model("rootstock", dtype=torch.float32, device=torch.device("cpu"), bits=4)
    adapted = shaken(make_trainable(base, Lora(rank=4, kind=kind)))
    before = states(adapted)
    after = states(merge_adapter(adapted))
    assert float((after - before).norm() / before.norm()) < 1e-4
