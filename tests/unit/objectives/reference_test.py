"""The reference's log-probabilities: the same numbers computed or read back, and computed only once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from graftlm.core.errors import TrainingError
from graftlm.data.mixing import Mixture, mix
from graftlm.data.packing import PackingPlan, pack
from graftlm.data.store import TokenStore
from graftlm.models.adapters import make_trainable
from graftlm.objectives.answers import answer_log_probabilities
from graftlm.objectives.preference import DPO
from graftlm.objectives.reference import DOCUMENT_BITS, Reference, layout_hash, reference_log_probabilities

LN2_ULP = float(np.spacing(np.float32(math.log(2))))


@pytest.fixture
def plans(make_store: Callable[..., TokenStore]) -> list[PackingPlan]:
    """Training rows from two stores of pairs, about 1.5 passes, and held-out rows from a third."""
    stores = {"a": make_store([6, 9] * 8, group=2, seed=1), "b": make_store([7, 5] * 6, group=2, seed=2)}
    training = mix(stores, {"a": 0.6, "b": 0.4}, 280, "hybrid", seed=5)
    held_out = make_store([8, 6] * 4, group=2, seed=3)
    rest = Mixture(("h",), (held_out,), np.zeros(4, np.int64), np.arange(4), held_out.sample_lengths, first_block=2)
    return [pack(mixture, row_tokens=48) for mixture in (training, rest)]


def compute(
    model: torch.nn.Module, plans: list[PackingPlan], *, key: str | None = None, pad_rows: bool = False
) -> Reference:
    return reference_log_probabilities(model, plans, pad_rows=pad_rows, bf16=False, key=key)


def files_of(plans: list[PackingPlan]) -> list[Path]:
    return sorted(
        file
        for folder in {store.path for plan in plans for store in plan.mixture.stores if store.path}
        for file in folder.glob("*reference-*")
    )


@contextmanager
def forwards(model: torch.nn.Module) -> Iterator[list[int]]:
    """Tokens of each forward pass inside."""
    seen: list[int] = []
    hook = model.get_input_embeddings().register_forward_hook(lambda _, inputs, out: seen.append(inputs[0].numel()))
    yield seen
    hook.remove()


def row_by_row(model: torch.nn.Module, plans: list[PackingPlan]) -> dict[int, float]:
    """Number → value in the first row that holds the document."""
    found: dict[int, float] = {}
    for plan in plans:
        for batch in plan.all_rows(pad=False):
            with torch.no_grad():
                values = answer_log_probabilities(model, batch).log_p.tolist()
            for number, value in zip(batch.document.tolist(), values, strict=True):
                found.setdefault(number, value)
    return found


def test_it_is_what_the_model_says_of_each_row_without_dropout(tiny_model, plans):
    model = tiny_model("gpt2", resid_pdrop=0.5).train()
    reference = compute(model, [*plans, plans[0]])
    assert model.training, "its state is restored"
    expected = row_by_row(model.eval(), plans)
    numbers = torch.tensor(list(expected))
    assert reference.look_up(numbers).tolist() == list(expected.values())
    assert reference.look_up(numbers.flip(0)).tolist() == list(expected.values())[::-1]
    assert len(reference) == len(expected) == len(set(expected.values()))
    assert set((numbers >> DOCUMENT_BITS).tolist()) == {0, 1, 2}


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_second_run_computes_nothing_and_finds_the_same_bits(tiny_model, plans, method):
    model = make_trainable(tiny_model(), method, rank=4)
    with forwards(model) as seen:
        first = compute(model, plans, key="k")
    assert len(seen) == sum(plan.rows for plan in plans), "documents of a second pass share rows with new ones here"
    assert len(files_of(plans)) == 3
    with forwards(model) as seen:
        second = compute(model, plans, key="k")
    assert not seen
    for block, values in first.values.items():
        assert values.tobytes() == second.values[block].tobytes()
    rows = [(plan, row) for plan in plans for row in range(plan.rows)]
    seen_before: set[int] = set()
    for plan, row in rows:
        batch = plan.row(row)
        fresh = seen_before.isdisjoint(batch.document.tolist())
        seen_before |= set(batch.document.tolist())
        loss = DPO(0.1, second)(model, batch)
        if fresh:  # a second pass's rows differ from the first's, and so do the last bits
            assert loss.total.item() / loss.units == pytest.approx(math.log(2), abs=LN2_ULP)
            assert float(loss.metrics["margin"]) == 0
        assert loss.total.item() / loss.units == pytest.approx(math.log(2), abs=1e-6)


def test_nothing_is_kept_without_a_key_or_a_folder(tiny_model, plans):
    compute(tiny_model(), plans)
    assert not files_of(plans)
    mixture = plans[1].mixture
    homeless = replace(mixture, stores=tuple(replace(store, path=None) for store in mixture.stores))
    assert len(compute(tiny_model(), [pack(homeless, row_tokens=48)], key="k")) == 8
    assert not files_of(plans)


def shorten(values: np.ndarray) -> np.ndarray:
    return values[:-1]


def empty(values: np.ndarray) -> np.ndarray:
    return values[:0]


def above_one(values: np.ndarray) -> np.ndarray:
    return np.where(np.arange(len(values)) == 0, 0.5, values).astype(np.float32)


def infinite(values: np.ndarray) -> np.ndarray:
    return np.where(np.arange(len(values)) == 0, -np.inf, values).astype(np.float32)


@pytest.mark.parametrize("damage", [shorten, empty, above_one, infinite])
def test_a_damaged_file_is_ignored_and_rewritten(tiny_model, plans, damage):
    model, held_out = tiny_model(), plans[1:]
    sound = compute(model, held_out, key="k").values[2]
    (file,) = files_of(held_out)
    damage(sound).tofile(file)
    assert compute(model, held_out, key="k").values[2].tobytes() == sound.tobytes()
    assert file.read_bytes() == sound.tobytes()


def test_only_what_is_missing_is_computed(tiny_model, plans):
    model, held_out = tiny_model(), plans[1]
    sound = compute(model, [held_out], key="k").values[2]
    (file,) = files_of([held_out])
    places = held_out.row(0).document.numpy() & ((1 << DOCUMENT_BITS) - 1)
    holed = sound.copy()
    holed[places[0]] = np.nan
    holed.tofile(file)
    with forwards(model) as seen:
        found = compute(model, [held_out], key="k").values[2]
    assert seen == [len(held_out.row(0).tokens)]
    assert found.tobytes() == sound.tobytes() == file.read_bytes()


def test_other_weights_rows_or_numerics_are_another_file(tiny_model, plans):
    model, held_out = tiny_model(), plans[1]
    compute(model, [held_out], key="k")
    for number, again in enumerate(
        (
            lambda: compute(model, [held_out], key="another"),
            lambda: compute(model, [held_out], key="k", pad_rows=True),
            lambda: reference_log_probabilities(model, [held_out], pad_rows=False, bf16=True, key="k"),
            lambda: compute(model, [pack(held_out.mixture, row_tokens=32)], key="k"),
            lambda: compute(model.bfloat16(), [held_out], key="k"),
        )
    ):
        with forwards(model) as seen:
            again()
        assert seen
        assert len(files_of([held_out])) == number + 2


def test_the_layout_is_the_rows(plans, make_store):
    training, held_out = plans
    assert layout_hash(held_out, pad_rows=False) == layout_hash(pack(held_out.mixture, row_tokens=48), pad_rows=False)
    mixture = held_out.mixture
    longer = make_store([8, 7] * 4, group=2, seed=3)
    other_store = replace(mixture, stores=(longer,), lengths=longer.sample_lengths)
    variants = [
        layout_hash(held_out, pad_rows=False),
        layout_hash(held_out, pad_rows=True),
        layout_hash(training, pad_rows=False),
        layout_hash(replace(held_out, row_tokens=64), pad_rows=True),
        layout_hash(replace(held_out, order=held_out.order[::-1]), pad_rows=False),
        layout_hash(replace(held_out, row_edges=np.array([0, 1, 4])), pad_rows=False),
        layout_hash(replace(held_out, mixture=replace(mixture, sample=mixture.sample[::-1])), pad_rows=False),
        layout_hash(replace(held_out, mixture=other_store), pad_rows=False),
    ]
    assert len(set(variants)) == len(variants)
    assert layout_hash(replace(held_out, row_tokens=64), pad_rows=False) == variants[0], "unpadded rows know no budget"
    assert layout_hash(replace(held_out, rows_per_step=4), pad_rows=False) == variants[0], "nor steps"


def test_a_document_that_was_not_computed_is_refused(tiny_model, plans):
    training, held_out = plans
    reference = compute(tiny_model(), [training])
    with pytest.raises(TrainingError, match="not seen by the reference"):
        reference.look_up(held_out.row(0).document)
    half = replace(training, order=training.order[:1], row_edges=np.array([0, 1]))
    reference = compute(tiny_model(), [half])
    assert len(reference) == 2
    with pytest.raises(TrainingError, match="not seen by the reference"):
        reference.look_up(training.row(1).document)


def test_a_broken_model_is_named_and_leaves_no_file(tiny_model, plans):
    model = tiny_model()
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(TrainingError, match="row 0 is not finite"):
        compute(model, plans, key="k")
    assert not files_of(plans)


def test_the_first_row_of_a_document_decides():
    """A later row holds it among others, which may change the last bits; training sees the first row first."""
    reference = Reference({3: np.full(4, np.nan, np.float32)})
    first = (3 << DOCUMENT_BITS) + torch.tensor([2, 0])
    reference.keep(first, torch.tensor([-1.0, -2.0]))
    assert reference.knows(first) and not reference.knows(first + 1)
    reference.keep(first + 1, torch.tensor([-3.0, -4.0]))  # documents 3 and 1
    reference.keep((3 << DOCUMENT_BITS) + torch.arange(4), torch.full((4,), -9.0))
    assert reference.values[3].tolist() == [-2.0, -4.0, -1.0, -3.0]
