"""Learning from preferences: closed forms, the first loss, what moves, and what the metrics say."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch

from graftlm.data.encode import Encoded
from graftlm.data.mixing import mix
from graftlm.data.packing import PackedBatch, PackingPlan, pack
from graftlm.data.store import TokenStore
from graftlm.models.adapters import make_trainable
from graftlm.objectives.answers import answer_log_probabilities
from graftlm.objectives.preference import (
    DPO,
    KTO,
    ORPO,
    PairObjective,
    SimPO,
    dpo_loss,
    kto_loss,
    orpo_loss,
    simpo_loss,
)
from graftlm.objectives.reference import Reference, reference_log_probabilities
from graftlm.objectives.scores import pair_scores, unpaired_scores
from graftlm.training.trainer import Trainer, TrainingSettings

LN2_ULP = float(np.spacing(np.float32(math.log(2))))
KINDS = ("sigmoid", "hinge", "ipo", "robust")


def log(*probabilities: float) -> tuple[torch.Tensor, ...]:
    return tuple(torch.tensor([p]).log() for p in probabilities)


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


# One-token answers c and r to one prompt, over a vocabulary of two: everything has a closed form. The policy gives c
# 0.8 and the reference 0.4; r has the rest. The odds of c have risen by 6.
POLICY, REFERENCE = log(0.8, 0.2), log(0.4, 0.6)
CHOSEN, REJECTED = POLICY[0] - REFERENCE[0], POLICY[1] - REFERENCE[1]
ODDS = 6.0


def test_dpo_on_two_tokens():
    assert dpo_loss(CHOSEN, REJECTED, 0.5).item() == pytest.approx(math.log(1 + ODDS**-0.5), rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
def test_conservative_dpo_on_two_tokens(smoothing):
    kept, flipped = math.log(1 + ODDS**-0.5), math.log(1 + ODDS**0.5)
    found = dpo_loss(CHOSEN, REJECTED, 0.5, label_smoothing=smoothing)
    assert found.item() == pytest.approx((1 - smoothing) * kept + smoothing * flipped, rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.1, 0.4])
def test_robust_dpo_is_dpo_on_clean_labels_in_expectation(smoothing):
    """Over labels of which the share ε is flipped, its mean is the DPO loss of the true label."""
    right, wrong = (
        dpo_loss(*pair, 0.5, kind="robust", label_smoothing=smoothing).item()
        for pair in ((CHOSEN, REJECTED), (REJECTED, CHOSEN))
    )
    assert (1 - smoothing) * right + smoothing * wrong == pytest.approx(math.log(1 + ODDS**-0.5), rel=1e-5)
    assert right < dpo_loss(CHOSEN, REJECTED, 0.5, label_smoothing=smoothing).item() < wrong


def test_hinge_on_two_tokens():
    h = math.log(ODDS)
    assert dpo_loss(CHOSEN, REJECTED, 0.5, kind="hinge").item() == pytest.approx(1 - 0.5 * h, rel=1e-6)
    assert dpo_loss(REJECTED, CHOSEN, 0.5, kind="hinge").item() == pytest.approx(1 + 0.5 * h, rel=1e-6)
    assert dpo_loss(CHOSEN, REJECTED, 0.6, kind="hinge").item() == 0, "0.6 · ln 6 is past the margin"


def test_ipo_on_two_tokens():
    found = dpo_loss(CHOSEN, REJECTED, 0.5, kind="ipo").item()
    assert found == pytest.approx((math.log(ODDS) - 1) ** 2, rel=1e-5)
    at_target = 1 / (2 * math.log(ODDS))  # the beta whose target is where the pair lies
    assert dpo_loss(CHOSEN, REJECTED, at_target, kind="ipo").item() == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_losses_where_policy_and_reference_agree(kind):
    zero = torch.zeros(2)
    expected = {"hinge": 1.0, "ipo": (1 / 0.6) ** 2}.get(kind, math.log(2))
    for smoothing in (0.0, 0.2):
        found = dpo_loss(zero, zero, 0.3, kind=kind, label_smoothing=smoothing)
        assert found.tolist() == pytest.approx([expected] * 2, abs=2 * LN2_ULP)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_raises_the_chosen_and_lowers_the_rejected(kind):
    chosen, rejected = (torch.tensor([x], requires_grad=True) for x in (1.0, 0.5))
    beta, h = 0.2, 0.5
    dpo_loss(chosen, rejected, beta, kind=kind).backward()
    expected = {"hinge": beta, "ipo": -2 * (h - 1 / (2 * beta))}.get(kind, beta * sigma(-beta * h))
    assert chosen.grad.item() == pytest.approx(-expected, rel=1e-5)
    assert rejected.grad.item() == pytest.approx(expected, rel=1e-5)


def test_conservative_dpo_stops_at_its_share():
    """Its gradient vanishes where σ(βh) is 1 − ε."""
    beta, smoothing = 0.5, 0.1
    chosen = torch.tensor([math.log((1 - smoothing) / smoothing) / beta], requires_grad=True)
    dpo_loss(chosen, torch.zeros(1), beta, label_smoothing=smoothing).backward()
    assert chosen.grad.item() == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("kind", ["sigmoid", "hinge"])
def test_extreme_margins_stay_finite(kind):
    loss = dpo_loss(torch.tensor([0.0, -1e4]), torch.tensor([-1e4, 0.0]), 1.0, kind=kind)
    assert loss.tolist() == pytest.approx([0.0, 1e4], rel=2e-4)


def test_orpo_on_two_tokens():
    """The odds of c are 4, those of r a quarter: their ratio is 16."""
    assert orpo_loss(*POLICY, 0.5).item() == pytest.approx(0.5 * math.log(1 + 1 / 16), rel=1e-6)
    assert orpo_loss(*POLICY[::-1], 0.5).item() == pytest.approx(0.5 * math.log(1 + 16), rel=1e-6)
    assert orpo_loss(POLICY[0], POLICY[0], 2.0).item() == pytest.approx(2 * math.log(2), rel=1e-6)


@pytest.mark.parametrize("probability", [1e-4, 0.3, 0.999])
def test_orpo_gradient(probability):
    """d log odds / d log p is 1 / (1 − p)."""
    chosen, rejected = (x.requires_grad_() for x in log(probability, 0.5))
    orpo_loss(chosen, rejected, 1.0).backward()
    odds = probability / (1 - probability)
    assert chosen.grad.item() == pytest.approx(-sigma(-math.log(odds)) / (1 - probability), rel=1e-3)
    assert rejected.grad.item() == pytest.approx(sigma(-math.log(odds)) / 0.5, rel=1e-3)


def test_orpo_is_finite_where_answers_are_certain_or_impossible():
    log_p = torch.tensor([0.0, -1e-9, -1e-4, -1.0, -90.0, -1e4])
    chosen, rejected = (x.clone().requires_grad_() for x in (log_p, log_p.flip(0)))
    loss = orpo_loss(chosen, rejected, 0.1)
    loss.sum().backward()
    assert bool(loss.isfinite().all())
    assert bool(chosen.grad.isfinite().all()) and bool(rejected.grad.isfinite().all())
    assert 0 == loss[0] == loss[1] < loss[2] < 0.1 * math.log(2) < loss[3] < loss[4] < loss[5]


def test_simpo_on_two_tokens():
    found = simpo_loss(*POLICY, 2.0, 1.0).item()  # β (log 0.8 − log 0.2) − γ = 2 log 4 − 1
    assert found == pytest.approx(math.log(1 + math.e / 16), rel=1e-6)
    assert simpo_loss(POLICY[0], POLICY[0], 2.0, 0.0).item() == pytest.approx(math.log(2), rel=1e-6)


@pytest.mark.parametrize("z0", [0.0, 0.3])
def test_kto_on_two_tokens(z0):
    drift, value = torch.cat([CHOSEN, REJECTED]), torch.tensor([1.0, -1.0])
    found = kto_loss(drift, value, torch.tensor(z0), 0.5, desirable_weight=1.5, undesirable_weight=0.7)
    expected = [
        1.5 * (1 - sigma(0.5 * (math.log(2) - z0))),  # 0.8 / 0.4
        0.7 * (1 - sigma(0.5 * (z0 + math.log(3)))),  # 0.2 / 0.6
    ]
    assert found.tolist() == pytest.approx(expected, rel=1e-6)


def test_kto_gradient_is_strongest_at_the_reference_point():
    drift = torch.tensor([0.0, 2.0, 8.0, 2.0], requires_grad=True)
    value = torch.tensor([1.0, 1.0, 1.0, -1.0])
    kto_loss(drift, value, torch.tensor(2.0), 1.0).sum().backward()
    assert drift.grad.tolist() == pytest.approx([-sigma(2) * sigma(-2), -0.25, -sigma(6) * sigma(-6), 0.25], rel=1e-4)


@pytest.fixture
def pairs(make_plan):
    return make_plan([6, 9] * 12, group=2, row_tokens=48, rows_per_step=2, seed=4)


def plan_of(documents: list[Encoded], **rows: int) -> PackingPlan:
    store = TokenStore.in_memory(documents, group=2)
    return pack(mix({"a": store}, {"a": 1.0}, int(store.offsets[-1]), "hybrid", seed=5), **rows)


@pytest.fixture
def unpaired() -> PackingPlan:
    """Answers of value 1, 1, −1, 1, 1, −1 …, each before a mismatched one of value 0; 3 samples a row or so."""
    random, documents = np.random.default_rng(3), []
    for number in range(24):
        for value, length in ((-1.0 if number % 3 == 2 else 1.0, 7), (0.0, 9)):
            targets = np.arange(length) >= 3
            documents.append(Encoded(random.integers(3, 96, length).astype(np.uint32), targets, value))
    return plan_of(documents, row_tokens=48, rows_per_step=2)


def reference_of(model: torch.nn.Module, *plans: PackingPlan) -> Reference:
    return reference_log_probabilities(model, list(plans), pad_rows=False, bf16=False)


def shifted(reference: Reference, by: Callable[[np.ndarray], np.ndarray]) -> Reference:
    """The reference with `by(document number)` added: as if the policy had moved by as much the other way."""
    return Reference({block: values + by(np.arange(len(values))) for block, values in reference.values.items()})


def means(objective: PairObjective | KTO, model: torch.nn.Module, batch: PackedBatch) -> dict[str, float]:
    loss = objective(model, batch)
    return {name: float(value) / loss.units for name, value in loss.metrics.items()} | {
        "loss": loss.total.item() / loss.units
    }


def by_hand(model: torch.nn.Module, batch: PackedBatch) -> list[tuple[float, int]]:
    """(Σ log p, tokens) of each document's targets, one forward each."""
    found = []
    for a, b in pairwise(batch.boundaries.tolist()[: batch.documents + 1]):
        with torch.no_grad():
            log_p = model(input_ids=batch.tokens[None, a:b], use_cache=False).logits[0].double().log_softmax(-1)
        targets = batch.targets[a:b]
        bearing = targets >= 0
        found.append((float(log_p[bearing].gather(1, targets[bearing, None]).sum()), int(bearing.sum())))
    return found


@pytest.mark.parametrize("pad_to", [None, 48])
def test_answers_are_summed_document_by_document(tiny_model, pairs, pad_to):
    model = tiny_model()
    batch = pairs.row(0, pad_to=pad_to)
    assert bool(batch.padding) is (pad_to is not None)
    found = answer_log_probabilities(model, batch)
    assert len(found) == 2 * ORPO(0.1).units(batch) > 2
    expected = by_hand(model, batch)
    assert found.log_p.tolist() == pytest.approx([log_p for log_p, _ in expected], rel=1e-4, abs=1e-4)
    assert found.tokens.tolist() == [tokens for _, tokens in expected]
    assert found.log_p.dtype == torch.float32 and found.log_p.requires_grad


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_the_first_loss_is_exactly_ln2(tiny_model, pairs, method, dropout, family):
    model = make_trainable(tiny_model(family), method, rank=4, dropout=dropout)
    reference = reference_of(model, pairs)
    assert len(reference) == 24
    objective = DPO(0.1, reference)
    model.train()
    for row in range(pairs.rows):
        loss = objective(model, pairs.row(row))
        assert loss.total.item() / loss.units == pytest.approx(math.log(2), abs=LN2_ULP)
        assert float(loss.metrics["margin"]) == 0


def test_the_first_kto_loss_is_exactly_half_the_weights(tiny_model, unpaired):
    model = tiny_model()
    objective = KTO(0.1, reference_of(model, unpaired), desirable_weight=1.5, undesirable_weight=0.75)
    for batch in unpaired.all_rows(pad=False):
        loss = objective(model, batch)
        desirable = int((batch.value > 0).sum())
        assert loss.units == objective.units(batch) == batch.documents // 2 > 1
        assert loss.total.item() == 0.5 * (1.5 * desirable + 0.75 * (loss.units - desirable))
        assert float(loss.metrics["z0"]) == float(loss.metrics["signed_reward"]) == 0


def objectives(reference: Reference) -> dict[str, PairObjective]:
    made: dict[str, PairObjective] = {kind: DPO(0.1, reference, kind=kind) for kind in KINDS}
    made["robust"] = DPO(0.1, reference, kind="robust", label_smoothing=0.1)
    return made | {"orpo": ORPO(0.5), "simpo": SimPO(2.0, 1.0)}


@pytest.mark.parametrize("method", ["full", "lora"])
def test_training_raises_the_margin(tiny_model, pairs, method):
    model = make_trainable(tiny_model(spread=0.05), method, rank=8)
    objective = DPO(0.1, reference_of(model, pairs))
    settings = TrainingSettings(learning_rate=5e-3 if method == "full" else 5e-2, warmup=0, log_every=1)
    first = Trainer(model, objective, pairs, settings).fit().losses
    assert first[0]["loss"] == pytest.approx(math.log(2), abs=LN2_ULP)
    assert first[0]["accuracy"] == 0, "equal is not better"
    with torch.no_grad():
        after = [objective(model, pairs.row(row)) for row in range(pairs.rows)]
    units = sum(loss.units for loss in after)
    assert sum(float(loss.total) for loss in after) / units < 0.9 * math.log(2)
    assert sum(float(loss.metrics["margin"]) for loss in after) / units > 0.1
    assert sum(float(loss.metrics["accuracy"]) for loss in after) / units > 0.8


@pytest.mark.parametrize("name", [*KINDS, "orpo", "simpo"])
def test_every_objective_learns_its_pairs(tiny_model, pairs, name):
    model = tiny_model(spread=0.05)
    objective = objectives(reference_of(model, pairs))[name]
    before = pair_scores(objective, model, pairs, pad_rows=False, bf16=False)
    Trainer(model, objective, pairs, TrainingSettings(learning_rate=5e-3, warmup=0, log_every=1)).fit()
    after = pair_scores(objective, model, pairs, pad_rows=False, bf16=False)
    assert (after.chosen > after.rejected).mean() > 0.9
    assert (after.chosen - after.rejected).mean() > (before.chosen - before.rejected).mean() + 0.03


def test_the_metrics_say_what_moved(tiny_model, pairs):
    model = tiny_model()
    batch = pairs.row(0)
    # The policy likes chosen answers by 1 more than the reference does, rejected ones by 0.5 less.
    reference = shifted(reference_of(model, pairs), lambda number: np.where(number % 2 == 0, -1.0, 0.5))
    found = means(DPO(0.2, reference), model, batch)
    per_token = [log_p / tokens for log_p, tokens in by_hand(model, batch)]
    assert found == pytest.approx(
        {
            "accuracy": 1.0,
            "margin": 0.3,
            "chosen_log_p": np.mean(per_token[0::2]),
            "rejected_log_p": np.mean(per_token[1::2]),
            "chosen_drift": 1.0,
            "rejected_drift": -0.5,
            "loss": math.log(1 + math.exp(-0.3)),
        },
        abs=1e-4,
    )


def test_ipo_compares_drifts_a_token(tiny_model, pairs):
    model = tiny_model()
    batch = pairs.row(0)
    reference = shifted(reference_of(model, pairs), lambda number: np.where(number % 2 == 0, -1.0, 0.5))
    tokens = [tokens for _, tokens in by_hand(model, batch)]
    h = [1 / chosen + 0.5 / rejected for chosen, rejected in zip(tokens[0::2], tokens[1::2], strict=True)]
    assert len(set(tokens)) > 1
    found = means(DPO(0.2, reference, kind="ipo"), model, batch)
    assert found["margin"] == pytest.approx(0.2 * np.mean(h), abs=1e-4)
    assert found["loss"] == pytest.approx(np.mean([(one - 2.5) ** 2 for one in h]), abs=1e-3)
    assert found["chosen_drift"] == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("name", ["orpo", "simpo"])
def test_objectives_without_a_reference_compare_means_a_token(tiny_model, pairs, name):
    model, batch = tiny_model(), pairs.row(0)
    per_token = torch.tensor([log_p / tokens for log_p, tokens in by_hand(model, batch)])
    chosen, rejected = per_token[0::2], per_token[1::2]
    log_odds = torch.logit(per_token.exp())
    expected, objective = {
        "orpo": (-0.5 * torch.sigmoid(log_odds[0::2] - log_odds[1::2]).log() - 0.3 * chosen, ORPO(0.5, sft_weight=0.3)),
        "simpo": (-torch.sigmoid(2 * (chosen - rejected) - 1).log(), SimPO(2.0, 1.0)),
    }[name]
    found = means(objective, model, batch)
    assert found.keys() == {"loss", "accuracy", "margin", "chosen_log_p", "rejected_log_p"}
    assert found["loss"] == pytest.approx(expected.mean().item(), rel=1e-4)
    assert found["accuracy"] == pytest.approx((chosen > rejected).float().mean().item())
    assert found["margin"] == pytest.approx(objective.beta * (chosen - rejected).mean().item(), rel=1e-4)


@pytest.mark.parametrize("name", [*KINDS, "orpo", "simpo"])
def test_the_sft_term_adds_the_chosen_answers_mean_loss(tiny_model, pairs, name):
    model, batch = tiny_model(), pairs.row(0)
    objective = objectives(reference_of(model, pairs))[name]
    objective.sft_weight = 0.0
    without = means(objective, model, batch)
    objective.sft_weight = 0.7
    found = means(objective, model, batch)
    nll = np.mean([-log_p / tokens for log_p, tokens in by_hand(model, batch)[0::2]])
    assert found["loss"] - without["loss"] == pytest.approx(0.7 * nll, rel=1e-4)
    assert {**found, "loss": 0} == {**without, "loss": 0}, "metrics do not change"


def kto_by_hand(model, batch, shift, *, beta, weights) -> tuple[list[float], float, list[float]]:
    """(losses, z0, drifts of the answers) where every document's drift is `shift` of its place in the row."""
    drifts = [float(shift(number & (2**40 - 1))) for number in batch.document.tolist()]
    answers, mismatched = drifts[0::2], drifts[1::2]
    z0 = max(0.0, sum(mismatched) / len(mismatched))
    losses = [
        weights[0] * (1 - sigma(beta * (r - z0))) if value > 0 else weights[1] * (1 - sigma(beta * (z0 - r)))
        for r, value in zip(answers, batch.value.tolist()[0::2], strict=True)
    ]
    return losses, z0, answers


@pytest.mark.parametrize("unrelated", [0.4, -0.2])
def test_kto_takes_its_reference_point_from_the_rows_mismatched_answers(tiny_model, unpaired, unrelated):
    model = tiny_model()

    def drift(number: np.ndarray) -> np.ndarray:
        return np.where(number % 2 == 0, 0.1 * (number % 7) - 0.2, unrelated + 0.01 * number)

    objective = KTO(
        0.5, shifted(reference_of(model, unpaired), lambda n: -drift(n)), desirable_weight=1.5, undesirable_weight=0.7
    )
    points = set()
    for batch in unpaired.all_rows(pad=False):
        losses, z0, answers = kto_by_hand(model, batch, drift, beta=0.5, weights=(1.5, 0.7))
        values = batch.value.tolist()[0::2]
        points.add(round(z0, 3))
        expected = {
            "loss": np.mean(losses),
            "z0": z0,
            "reward": 0.5 * np.mean(answers),
            "signed_reward": 0.5 * np.mean(np.multiply(answers, values)),
            "desirable_share": np.mean([value > 0 for value in values]),
            "accuracy": np.mean([value * (r - z0) > 0 for value, r in zip(values, answers, strict=True)]),
            "log_p": np.mean([log_p / tokens for log_p, tokens in by_hand(model, batch)[0::2]]),
        }
        assert means(objective, model, batch) == pytest.approx(expected, abs=1e-4)
    assert len(points) > 2, "each row has its own"
    assert (0.0 in points) is (unrelated < 0), "never below zero"


def test_kto_gives_mismatched_answers_no_gradient(tiny_model, unpaired):
    model, batch, embeddings = tiny_model(), unpaired.row(0), []
    # z0 above zero: the clamp alone must not be what stops the gradient
    reference = shifted(reference_of(model, unpaired), lambda number: np.full(len(number), -1.0))

    def watch(module: torch.nn.Module, inputs: object, out: torch.Tensor) -> None:
        out.retain_grad()
        embeddings.append(out)

    model.get_input_embeddings().register_forward_hook(watch)
    loss = KTO(0.5, reference)(model, batch)
    assert float(loss.metrics["z0"]) > 0
    loss.total.backward()
    gradient = embeddings[0].grad[0].abs().sum(-1)
    for place, (a, b) in enumerate(pairwise(batch.boundaries.tolist())):
        assert bool((gradient[a:b] == 0).all()) is (place % 2 == 1)


def test_the_sft_term_of_kto_counts_desirable_answers_only(tiny_model, unpaired):
    model, batch = tiny_model(), next(row for row in unpaired.all_rows(pad=False) if row.value.min() < 0)
    reference = reference_of(model, unpaired)
    values = batch.value.tolist()[0::2]
    assert len(set(values)) == 2
    nll = [-log_p / tokens for log_p, tokens in by_hand(model, batch)[0::2]]
    expected = 0.7 * sum(one for one, value in zip(nll, values, strict=True) if value > 0) / len(values)
    found, without = (means(KTO(0.5, reference, sft_weight=weight), model, batch)["loss"] for weight in (0.7, 0.0))
    assert found - without == pytest.approx(expected, rel=1e-4)


def test_kto_training_parts_the_answers(tiny_model, unpaired):
    model = tiny_model(spread=0.05)
    objective = KTO(0.1, reference_of(model, unpaired))
    Trainer(model, objective, unpaired, TrainingSettings(learning_rate=5e-3, warmup=0, log_every=1)).fit()
    found = unpaired_scores(objective, model, unpaired, pad_rows=False, bf16=False)
    assert found.score[found.value > 0].mean() > found.score[found.value < 0].mean() + 0.1
    assert sorted(found.value.tolist()) == [-1.0] * 8 + [1.0] * 16


@pytest.mark.parametrize("pad_rows", [False, True])
def test_scores_are_those_of_every_pair_in_order(tiny_model, pairs, pad_rows):
    model = tiny_model("gpt2", resid_pdrop=0.5).train()
    reference = shifted(reference_of(model, pairs), lambda number: -0.25 * number)
    found = pair_scores(DPO(0.2, reference), model, pairs, pad_rows=pad_rows, bf16=False)
    assert model.training, "its state is restored"
    numbers = np.concatenate([batch.document.numpy() for batch in pairs.all_rows(pad=False)])
    assert found.chosen == pytest.approx(0.2 * 0.25 * numbers[0::2], abs=1e-4)
    assert found.rejected == pytest.approx(0.2 * 0.25 * numbers[1::2], abs=1e-4)
    tokens = [tokens for batch in pairs.all_rows(pad=False) for _, tokens in by_hand(model.eval(), batch)]
    assert found.chosen_tokens.tolist() == tokens[0::2]
    assert found.rejected_tokens.tolist() == tokens[1::2]


def test_scores_of_an_empty_plan_are_empty(tiny_model):
    nothing = plan_of([Encoded(np.ones(4, np.uint32), np.ones(4, bool))] * 2, row_tokens=8)
    nothing = PackingPlan(nothing.mixture, nothing.order[:0], nothing.row_edges[:1], 8, 1)
    assert [len(part) for part in pair_scores(SimPO(2.0, 1.0), tiny_model(), nothing, pad_rows=False, bf16=False)] == [
        0
    ] * 4
