"""Quantised models: rounded layer by layer, saved, and loaded alike by graft and by transformers."""

from __future__ import annotations

import importlib.util
import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from graftlm.core.errors import ModelError
from graftlm.models.adapters import make_trainable
from graftlm.models.bit_choice import choose_bits
from graftlm.models.calibration import output_error, visit_layers
from graftlm.models.channel_scaling import scale_channels
from graftlm.models.loading import load_model, load_tokenizer, save_model
from graftlm.models.packed_checkpoint import format_of
from graftlm.models.quant_linear import QuantLinear, quantised_layers
from graftlm.models.weight_quantisation import Rounding, quantise_model
from graftlm.ops.int_weights import IntFormat

CPU = torch.device("cpu")
ROWS = torch.randint(3, 96, (6, 24), generator=torch.Generator().manual_seed(0))


def logits(model: torch.nn.Module, rows: torch.Tensor = ROWS) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=rows).logits


def loss_of_outputs(model: torch.nn.Module, plain: torch.nn.Module) -> float:
    one, other = logits(model), logits(plain)
    return float((one - other).norm() / other.norm())


def rounded(model: torch.nn.Module, rounding: Rounding) -> torch.nn.Module:
    quantise_model(model, rounding, None if rounding.method == "absmax" and not rounding.mean_bits else ROWS)
    return model


@pytest.mark.parametrize("method", ["absmax", "gptq", "awq"])
@pytest.mark.parametrize("family", ["llama", "bloom", "gemma2"])
def test_every_linear_layer_of_the_decoder_is_quantised_and_nothing_else(tiny_model, family, method):
    model, plain = tiny_model(family), tiny_model(family)
    linear = [name for name, module in plain.named_modules() if isinstance(module, torch.nn.Linear)]
    inside = [name for name in linear if "head" not in name]
    outcome = quantise_model(model, Rounding(method, 8, None), ROWS)
    assert sorted(quantised_layers(model)) == sorted(inside) == sorted(outcome.bits) == sorted(outcome.errors)
    assert 0 < loss_of_outputs(model, plain) < 0.1
    assert all(0 < error < 1e-3 for error in outcome.errors.values())


def test_gptq_moves_the_model_less_than_rounding(tiny_model):
    found = {m: loss_of_outputs(rounded(tiny_model(), Rounding(m, 4, None)), tiny_model()) for m in ("absmax", "gptq")}
    assert found["gptq"] < 0.85 * found["absmax"]


def test_groups_that_do_not_divide_become_smaller_or_rows(plain_model):
    model = plain_model(hidden_size=64, intermediate_size=72)
    outcome = quantise_model(model, Rounding("absmax", 4, 128), None)
    groups = {name.rpartition(".")[2]: layer.form.group for name, layer in quantised_layers(model).items()}
    assert groups["q_proj"] is None and groups["down_proj"] is None  # one group of 64 is the row
    assert "128 does not divide" in outcome.notes[0]


def test_the_inputs_that_layers_share_are_found_and_summed(tiny_model):
    model = tiny_model()
    seen: list[torch.Tensor] = []
    hook = model.model.layers[1].mlp.down_proj.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    logits(model)
    hook.remove()
    visits = list(visit_layers(model, ROWS))
    assert len(visits) == 2
    names = [[name.rpartition(".")[2] for name in one.layers] for one in visits[1].found]
    assert names == [["q_proj", "k_proj", "v_proj"], ["o_proj"], ["gate_proj", "up_proj"], ["down_proj"]]
    x = torch.cat([one.flatten(0, 1) for one in seen])
    last = visits[1].found[3]
    torch.testing.assert_close(last.gram_II, x.T @ x, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(last.magnitude_I, x.abs().sum(0), rtol=1e-4, atol=1e-3)
    assert visits[1].found[0].norm is model.model.layers[1].input_layernorm
    assert last.norm is None
    change = torch.randn(5, x.shape[1])
    assert output_error(change, last.gram_II) == pytest.approx(float((x @ change.T).square().sum()), rel=1e-4)


def test_layers_behind_see_what_quantised_layers_give(tiny_model):
    """The second layer's figures are those of a model whose first layer is rounded."""
    model, other = tiny_model(), tiny_model()
    for number, visit in enumerate(visit_layers(model, ROWS)):
        if number == 0:
            with torch.no_grad():
                model.model.layers[0].mlp.down_proj.weight.mul_(0.5)
                other.model.layers[0].mlp.down_proj.weight.mul_(0.5)
        second = visit.found[0].gram_II
    torch.testing.assert_close(second, list(visit_layers(other, ROWS))[1].found[0].gram_II, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("family", "left"), [("llama", {"o_proj"}), ("gemma2", {"q_proj", "k_proj", "v_proj"})])
def test_scaled_channels_change_nothing_but_the_rounding(tiny_model, family, left):
    """llama: heads share their values, so the mean of values cannot be scaled. gemma: its norm is 1 + w."""
    model, plain = tiny_model(family), tiny_model(family)
    with torch.no_grad():
        for one in (model, plain):  # without salient channels there would be nothing to scale
            one.get_input_embeddings().weight[:, :2] *= 30
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    forms = dict.fromkeys(linear, IntFormat(4, None))
    before = {name: p.clone() for name, p in model.named_parameters()}
    found = [name for visit in visit_layers(model, ROWS) for name in scale_channels(visit, forms)]
    assert left <= {name.rpartition(".")[2] for name in found}
    assert loss_of_outputs(model, plain) < 1e-3
    assert any(not torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_bits_go_where_they_save_most():
    errors = {("a",): {4: 8.0, 8: 0.1, 16: 0.0}, ("b",): {4: 2.0, 8: 0.1, 16: 0.0}, ("c",): {4: 1.0, 8: 0.9, 16: 0.0}}
    weights = {("a",): 100, ("b",): 100, ("c",): 100}
    assert choose_bits(errors, weights, 4.0) == {("a",): 4, ("b",): 4, ("c",): 4}
    assert choose_bits(errors, weights, 5.4) == {("a",): 8, ("b",): 4, ("c",): 4}
    assert choose_bits(errors, weights, 6.7) == {("a",): 8, ("b",): 8, ("c",): 4}
    assert choose_bits(errors, weights, 16) == {("a",): 16, ("b",): 16, ("c",): 16}
    assert choose_bits(errors, weights | {("a",): 1000}, 4.4)[("b",)] == 8, "what is large costs more"


def test_a_budget_of_bits_lowers_the_error(tiny_model):
    four, five = tiny_model(), tiny_model()
    quantise_model(four, Rounding("absmax", 4, None), ROWS)
    outcome = quantise_model(five, Rounding("absmax", 4, None, mean_bits=6), ROWS)
    sizes = {name: layer.in_features * layer.out_features for name, layer in quantised_layers(four).items()}
    assert sum(bits * sizes[name] for name, bits in outcome.bits.items()) <= 6 * sum(sizes.values())
    assert loss_of_outputs(five, tiny_model()) < 0.7 * loss_of_outputs(four, tiny_model())
    for layer in ("layers.0.self_attn", "layers.1.self_attn"):
        assert len({outcome.bits[f"model.{layer}.{name}"] for name in ("q_proj", "k_proj", "v_proj")}) == 1


FORMS = [
    Rounding("absmax", 8, None),
    Rounding("absmax", 4, 64),
    Rounding("gptq", 4, 64, mean_bits=6),
    Rounding("absmax", 4, 32, symmetric=False),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rounding", FORMS, ids=str)
def test_a_saved_model_comes_back_with_equal_logits(rounding, dtype, tmp_path):
    model = rounded(load_model("rootstock", dtype=dtype, device=CPU), rounding)
    save_model(model, load_tokenizer("rootstock"), tmp_path)
    before = logits(model)
    again = load_model(str(tmp_path), dtype=dtype, device=CPU)
    assert {type(m) for m in again.model.layers[0].mlp.children()} >= {QuantLinear}
    assert again.graft_packs
    assert torch.equal(logits(again), before)
    save_model(again, load_tokenizer("rootstock"), tmp_path / "twice")
    assert torch.equal(logits(load_model(str(tmp_path / "twice"), dtype=dtype, device=CPU)), before)
    assert "graft" not in (tmp_path / "config.json").read_text()
    if importlib.util.find_spec("compressed_tensors") and rounding.symmetric:
        stock = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype)
        difference = (logits(stock) - before).abs().max()
        assert difference <= (1e-4 if dtype == torch.float32 else 0.1) * before.abs().max()
        assert type(stock.model.layers[0].mlp.up_proj) is torch.nn.Linear, "transformers dequantises"


def test_a_tied_head_stays_and_one_of_its_own_can_be_quantised(plain_model, tmp_path):
    tied = plain_model(tie_word_embeddings=True)
    outcome = quantise_model(tied, Rounding("absmax", 8, None, head=True), None)
    assert "the head is the embedding" in outcome.notes[-1]
    assert tied.lm_head.weight is tied.model.embed_tokens.weight
    own = plain_model()
    quantise_model(own, Rounding("absmax", 8, None, head=True), None)
    assert isinstance(own.lm_head, QuantLinear)
    save_model(own, load_tokenizer("rootstock"), tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["quantization_config"]["ignore"] == []
    assert torch.equal(logits(load_model(str(tmp_path), dtype=torch.float32, device=CPU)), logits(own))


def test_a_gradient_passes_through_quantised_layers(tiny_model):
    model = rounded(tiny_model(), Rounding("absmax", 8, None))
    embedded = model.get_input_embeddings()(ROWS[:1]).detach().requires_grad_()
    model(inputs_embeds=embedded).logits.square().sum().backward()
    assert embedded.grad is not None and embedded.grad.abs().sum() > 0


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_quantised_model_is_not_trained(tiny_model, method):
    with pytest.raises(ModelError, match=r"cannot be trained(?s:.*)qlora"):
        make_trainable(rounded(tiny_model(), Rounding("absmax", 8, None)), method)


def test_what_cannot_be_quantised_says_so(tiny_model):
    with pytest.raises(ModelError, match=r"stored transposed(?s:.*)nf4"):
        quantise_model(tiny_model("gpt2"), Rounding("absmax", 8, None), None)
    with pytest.raises(ModelError, match=r"method: gptq: no calibration data"):
        quantise_model(tiny_model(), Rounding("gptq"), None)


def test_other_tools_descriptions_are_read():
    weights = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128, "symmetric": True}
    groups = {"g": {"targets": ["Linear"], "weights": weights}}
    described = {"ignore": ["lm_head", r"re:.*\.gate$"], "config_groups": groups}
    assert format_of("model.layers.0.mlp.up_proj", described) == IntFormat(4, 128)
    assert format_of("lm_head", described) is None
    assert format_of("model.layers.0.mlp.gate", described) is None
    named = {"config_groups": {"g": {"targets": ["re:.*q_proj$"], "weights": weights | {"strategy": "channel"}}}}
    assert format_of("model.layers.0.self_attn.q_proj", named) == IntFormat(4, None)
    assert format_of("model.layers.0.self_attn.k_proj", named) is None
    for change in ({"num_bits": 3}, {"type": "float", "num_bits": 8}, {"strategy": "tensor"}, {"actorder": "group"}):
        with pytest.raises(ModelError, match="graft cannot compute"):
            format_of("x", {"config_groups": {"g": {"targets": ["Linear"], "weights": weights | change}}})
