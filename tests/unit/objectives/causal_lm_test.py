"""The language-model loss against torch's own cross entropy, document by document."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from graftlm.objectives.causal_lm import CausalLM
from graftlm.ops.cross_entropy import IGNORE

LENGTHS = [9, 1, 17, 30, 4, 22]


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "mamba"])
@pytest.mark.parametrize("pad_to", [None, 96])
def test_loss_and_gradients_equal_torchs_cross_entropy(tiny_model, plain_model, make_plan, family, pad_to):
    plan = make_plan(LENGTHS, row_tokens=96)
    assert plan.rows == 1
    model, untouched = tiny_model(family), plain_model(family)
    batch = plan.row(0, pad_to=pad_to)
    objective = CausalLM()
    loss = objective(model, batch)
    loss.total.backward()

    expected = torch.zeros(())
    units = 0
    (store,) = plan.mixture.stores
    for sample in range(store.samples):
        ((tokens, wanted),) = store.documents(sample)
        ids = torch.from_numpy(tokens.astype("int64"))
        logits = untouched(input_ids=ids[None], use_cache=False).logits[0]
        targets = torch.where(torch.from_numpy(wanted.copy()), ids, IGNORE)[1:]
        expected = expected + F.cross_entropy(logits[:-1], targets, ignore_index=IGNORE, reduction="sum")
        units += int((targets != IGNORE).sum())
    expected.backward()

    assert loss.units == objective.units(batch) == units > 20
    torch.testing.assert_close(loss.total, expected, rtol=1e-4, atol=1e-4)
    for (name, one), other in zip(model.named_parameters(), untouched.parameters(), strict=True):
        if other.grad is None:
            continue
        scale = float(other.grad.abs().max())
        torch.testing.assert_close(
            one.grad, other.grad, rtol=1e-3, atol=1e-3 * scale, msg=f"gradient of {name}"
        )


def test_a_row_without_targets_costs_nothing(tiny_model, make_plan):
    plan = make_plan([5, 6], row_tokens=16, share=0.0)
    loss = CausalLM()(tiny_model(), plan.row(0))
    loss.total.backward()
    assert (loss.total.item(), loss.units) == (0.0, 0)
