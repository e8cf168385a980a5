"""The gate: it measures what the formulas say, lets exact merges through and stops lossy ones with numbers."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from graftlm.core.errors import ModelError
from graftlm.models.adapters import make_trainable
from graftlm.models.agreement import Agreement, Bounds, agreement
from graftlm.models.merge_gate import base_of, is_adapter, merge_checked, put_on

PROMPTS = [list(range(3, 23)), list(range(40, 52))]
OPEN = Bounds(mean_kl=9, max_kl=9, greedy=0)


@pytest.fixture
def adapted(plain_model):
    """How large the adapter's numbers are → a model with an adapter, weights on the grid of bf16."""

    def make(size: float):
        torch.manual_seed(0)
        model = make_trainable(plain_model().to(torch.bfloat16).float(), "lora", rank=4)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, 0, size)
        return model.eval()

    return make


def test_agreement_is_its_formula():
    random = np.random.default_rng(0)
    before, after = (random.normal(size=(2, 5, 7)) * 2 for _ in range(2))

    def softmax(logits):
        raised = np.exp(logits - logits.max(-1, keepdims=True))
        return raised / raised.sum(-1, keepdims=True)

    p, q = softmax(before), softmax(after)
    kl = (p * np.log(p / q)).sum(-1)
    found = agreement([torch.tensor(one) for one in before], [torch.tensor(one) for one in after])
    assert found.mean_kl == pytest.approx(kl.mean())
    assert found.max_kl == pytest.approx(kl.max())
    assert found.greedy == pytest.approx((before.argmax(-1) == after.argmax(-1)).mean())
    assert found.positions == 10


def test_an_exact_merge_passes_strict_bounds(adapted):
    merged = merge_checked(adapted(0.05), PROMPTS, torch.float32, Bounds(1e-9, 1e-8, 1.0), where="adapter")
    assert merged.lost == 0
    assert merged.agreement.positions == 32
    assert not any("lora" in name for name, _ in merged.model.named_parameters())


def test_bf16_loses_what_is_smaller_than_half_a_step(adapted):
    """Weights on bf16's grid: a change far below a step comes to nothing, a large one is held."""
    lost = {
        size: merge_checked(adapted(size), PROMPTS, torch.bfloat16, OPEN, where="adapter").lost for size in (1e-6, 1.0)
    }
    assert 0.9 < lost[1e-6] < 1.1
    assert lost[1.0] < 0.01


def test_a_lossy_merge_stops_with_its_numbers(adapted):
    model = adapted(0.3)
    passed = merge_checked(copy.deepcopy(model), PROMPTS, torch.bfloat16, OPEN, where="adapter").agreement
    assert passed.mean_kl > 1e-6
    with pytest.raises(ModelError, match=r"into bfloat16: the model changed: mean_kl .* > 1e-07(?s:.*)--dtype fp32"):
        merge_checked(model, PROMPTS, torch.bfloat16, Bounds(mean_kl=1e-7), where="adapter")


def test_each_bound_stops_alone():
    found = Agreement(mean_kl=0.1, max_kl=0.6, greedy=0.9, positions=10)
    found.check(Bounds(0.1, 0.6, 0.9), where="x", fix="y")
    for bounds, name in (
        (Bounds(0.09, 1, 0), "mean_kl"),
        (Bounds(1, 0.59, 0), "max_kl"),
        (Bounds(1, 1, 0.91), "greedy"),
    ):
        with pytest.raises(ModelError, match=rf"changed: {name} [^,]* \("):
            found.check(bounds, where="x", fix="y")


def test_not_a_number_is_no_agreement():
    broken = agreement([torch.randn(3, 5)], [torch.full((3, 5), float("nan"))])
    with pytest.raises(ModelError, match="nan"):
        broken.check(OPEN, where="x", fix="y")


def test_an_adapter_folder_goes_onto_its_base_only(adapted, plain_model, tmp_path):
    model = adapted(0.3)
    model.save_pretrained(tmp_path / "adapter")
    folder = str(tmp_path / "adapter")
    assert is_adapter(folder)
    assert not is_adapter(str(tmp_path))
    assert base_of(folder) is None
    again = put_on(plain_model().to(torch.bfloat16).float(), folder)
    tokens = torch.tensor([PROMPTS[0]])
    with torch.no_grad():
        assert torch.equal(again(input_ids=tokens).logits, model(input_ids=tokens).logits)
    with pytest.raises(ModelError, match="adapter cannot be loaded"):
        put_on(plain_model(hidden_size=64), folder)
