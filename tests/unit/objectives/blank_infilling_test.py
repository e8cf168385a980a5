"""The loss of blank infilling against its definition; training with it lowers it, and what is learnt fills blanks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from graftlm.core.seeds import seed_everything
from graftlm.data.blank_infilling import Marks, Masking
from graftlm.data.encode import Encoded
from graftlm.data.infill_plan import plan_infilling
from graftlm.data.mixing import mix
from graftlm.data.store import TokenStore
from graftlm.inference.blanks import fill_blanks
from graftlm.inference.decoding import Decoding
from graftlm.models import families as families
from graftlm.models.adapters import make_trainable
from graftlm.objectives.blank_infilling import BlankInfilling, Shrink
from graftlm.ops.cross_entropy import IGNORE
from graftlm.training.trainer import Trainer, TrainingSettings

MARKS = Marks(mask=3, smask=4, gmask=5, sop=6, eop=7)
FIRST, LETTERS = 10, 20
SETTINGS = TrainingSettings(learning_rate=5e-3, warmup=0.1, log_every=1)


def make(seed: int = 0):
    seed_everything(seed)
    config = AutoConfig.for_model(
        "glm130b", vocab_size=FIRST + LETTERS, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        mask_token_id=3, smask_token_id=4, gmask_token_id=5, sop_token_id=6, eop_token_id=7, embedding_gradient=1.0,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def counting(start: int, length: int) -> list[int]:
    return [FIRST + (start + 3 * place) % LETTERS for place in range(length)]


def make_plan(*, tokens: int, seed: int = 0, **options):
    """Rows of texts that count in threes, so that every blank has one right answer."""
    random = np.random.default_rng(seed)
    texts = [
        np.array([1, *counting(int(random.integers(LETTERS)), int(random.integers(8, 24)))], np.uint32)
        for _ in range(200)
    ]
    store = TokenStore.in_memory([Encoded(text, np.arange(len(text)) > 0) for text in texts])
    mixture = mix({"a": store}, {"a": 1.0}, tokens, "hybrid", seed=seed)
    options = {"row_tokens": 256, "rows_per_step": 1, "masking": Masking()} | options
    return plan_infilling(mixture, marks=MARKS, seed=seed, **options)


def test_the_loss_is_that_of_each_sample_by_itself():
    """Tokens of a sample go through the model alone, and the marks alone say what is seen."""
    model, plan = make(), make_plan(tokens=600, masking=Masking(shares=(0.5, 0.0, 0.5)))
    total, units = torch.zeros(()), 0
    for number in range(plan.rows):
        loss = BlankInfilling()(model, plan.row(number))
        total, units = total + loss.total, units + loss.units
    gradient = torch.autograd.grad(total, model.model.embed_tokens.weight)[0]
    expected, targets = torch.zeros(()), 0
    for place in range(len(plan.parts.entry)):
        sample = plan.sample(place)
        positions, wanted = torch.from_numpy(sample.positions), torch.from_numpy(sample.targets)
        seen = torch.tensor(
            [[u < sample.context or u <= t for u in range(len(wanted))] for t in range(len(wanted))]
        )
        logits = states_of(model, torch.from_numpy(sample.tokens), positions, seen) @ model.lm_head.weight.T
        chosen = wanted != IGNORE
        expected = expected - logits.log_softmax(-1)[chosen].gather(1, wanted[chosen][:, None]).sum()
        targets += int(chosen.sum())
    assert units == targets
    torch.testing.assert_close(total, expected, rtol=1e-5, atol=1e-3)
    wanted_gradient = torch.autograd.grad(expected, model.model.embed_tokens.weight)[0]
    torch.testing.assert_close(gradient, wanted_gradient, rtol=1e-3, atol=1e-4)


def states_of(model, tokens_T, positions_T, seen_TT):
    """Hidden states under an explicit mask."""
    inner = model.model
    x = inner.embedding_norm(inner.embed_tokens(tokens_T[None]))
    for layer in inner.layers:
        x = layer(x, inner._rotary(positions_T[None]), seen_TT[None, None], None)
    return x[0]


def test_the_shrink_goes_from_one_value_to_the_other():
    shrink = Shrink(0.2, 1.0, after=100, over=50)
    assert [round(shrink.at(step), 6) for step in (0, 100, 125, 150, 10_000)] == [0.2, 0.2, 0.6, 1.0, 1.0]
    assert Shrink(0.1, 0.1).at(7) == 0.1


def test_the_shrink_of_a_row_is_that_of_its_step():
    """Only the embedding's gradient through its lookup changes; rows know their step."""
    plan = make_plan(tokens=2000, rows_per_step=2)
    row = plan.row(5)
    assert row.step == 2
    found = []
    for objective in (BlankInfilling(Shrink(1.0, 0.25, over=2)), BlankInfilling(Shrink(0.25, 0.25)), BlankInfilling()):
        model = make()
        objective(model, row).total.backward()
        found.append(model.model.embed_tokens.weight.grad)
    assert torch.equal(found[0], found[1])
    assert not torch.allclose(found[0], found[2])


@pytest.fixture(scope="module")
def trained():
    """A model after 250 steps, and its training record."""
    model = make_trainable(make(), "full")
    plan = make_plan(tokens=60_000, masking=Masking(shares=(0.6, 0.0, 0.4)))
    held_out = make_plan(tokens=1500, seed=9, masking=Masking(shares=(0.6, 0.0, 0.4)))
    record = Trainer(model, BlankInfilling(), plan, replace(SETTINGS, evaluate_every=50), held_out=held_out).fit()
    return model.eval(), record


def test_held_out_loss_falls(trained):
    losses = [entry["loss"] for entry in trained[1].held_out]
    assert losses[0] > 3
    assert losses[-1] < 0.5


def test_what_was_learnt_fills_blanks(trained):
    """Where the blank is seen from both sides its filling has one right length, too; guesses are right once in 20^2."""
    model, right = trained[0], 0
    for start in range(LETTERS):
        text, size = counting(start, 14), 1 + start % 3
        asked = [1, *text[:6], MARKS.mask, *text[6 + size :]]
        found = fill_blanks(model, asked, Decoding(greedy=True, max_new_tokens=12), stop_ids={MARKS.eop}, pad_id=0)
        right += found.tokens == [1, *text]
    assert right >= 14
    text = counting(5, 10)
    tail = fill_blanks(
        model, [1, *text[:6], MARKS.gmask], Decoding(greedy=True, max_new_tokens=4), stop_ids={MARKS.eop}, pad_id=0
    )
    assert tail.tokens == [1, *text]


def test_a_killed_run_ends_where_an_uninterrupted_one_does(tmp_path):
    class Killed(Exception):
        pass

    def kill(step: int) -> None:
        if step == 7:
            raise Killed

    def start(folder):
        plan = make_plan(tokens=3000)
        assert plan.steps > 10
        settings = replace(SETTINGS, save_every=3, evaluate_every=5)
        return Trainer(
            make_trainable(make(), "full"), BlankInfilling(Shrink(0.2, 1.0, over=9)), plan, settings,
            held_out=make_plan(tokens=500, seed=9), folder=folder, key="k",
        )  # fmt: skip

    whole, killed = start(tmp_path / "whole"), start(tmp_path / "killed")
    record = whole.fit()
    with pytest.raises(Killed):
        killed.fit(kill)
    resumed = start(tmp_path / "killed")
    again = resumed.fit()
    assert again.resumed_from == [6]
    assert (again.losses, again.held_out) == (record.losses, record.held_out)
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)
