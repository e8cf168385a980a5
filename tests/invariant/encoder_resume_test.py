"""An encoder that is killed and taken up again ends where an uninterrupted one ends, masks and dropout included; what
padding and packing do not change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForMaskedLM

from graftlm.core.seeds import seed_everything
from graftlm.data.annotated import Annotated, AnnotatedStore, Notebook
from graftlm.data.mixing import mix
from graftlm.data.packing import PackingPlan, pack
from graftlm.objectives.encoder_mlm import MaskedWords, Masking
from graftlm.training.trainer import Trainer, TrainingSettings

SETTINGS = TrainingSettings(learning_rate=1e-3, log_every=2, save_every=3, evaluate_every=4, seed=7)
MASKING = Masking(mask=4, replacements=np.arange(5, 60), share=0.3, seed=1)


class Killed(Exception):
    pass


@pytest.fixture
def store() -> AnnotatedStore:
    random = np.random.default_rng(0)
    documents = []
    for length in random.integers(6, 24, 60):
        words = np.sort(random.integers(1, 9, length - 2))
        documents.append(Annotated.of([2, *random.integers(5, 60, length - 2), 3], groups=[0, *words, 0]))
    return AnnotatedStore.of(documents, "text", {})


def plan_of(store: AnnotatedStore, *, row_tokens: int, rows_per_step: int) -> PackingPlan:
    tokens = int(store.store.offsets[-1])
    mixture = mix({"a": store.store}, {"a": 1.0}, 2 * tokens, "hybrid", seed=3)
    return pack(mixture, row_tokens=row_tokens, rows_per_step=rows_per_step)


def start(store: AnnotatedStore, folder: Path | None) -> Trainer:
    seed_everything(11)
    model: Any = AutoModelForMaskedLM.from_config(
        AutoConfig.for_model(
            "bert", vocab_size=60, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
            max_position_embeddings=32,
        )
    )  # fmt: skip
    model.requires_grad_(True)
    torch.rand(3)
    plan = plan_of(store, row_tokens=128, rows_per_step=2)
    assert plan.steps > 6
    held_out = plan_of(store, row_tokens=64, rows_per_step=1)
    return Trainer(
        model, MaskedWords(Notebook([store]), MASKING), plan, SETTINGS, held_out=held_out, folder=folder, key="k"
    )


def test_a_killed_run_ends_like_an_uninterrupted_one(store: AnnotatedStore, tmp_path: Path) -> None:
    whole = start(store, None)
    whole.fit()

    def kill(step: int) -> None:
        if step == 5:
            raise Killed

    with pytest.raises(Killed):
        start(store, tmp_path).fit(kill)
    resumed = start(store, tmp_path)
    resumed.fit()
    assert resumed.record.resumed_from == [3]
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name
    assert whole.record.losses == resumed.record.losses and whole.record.held_out == resumed.record.held_out


def test_words_are_masked_anew_in_every_pass_over_the_data(store: AnnotatedStore) -> None:
    objective = MaskedWords(Notebook([store]), MASKING)
    plan = plan_of(store, row_tokens=128, rows_per_step=2)
    masks: dict[int, list[tuple[int, ...]]] = {}
    for row in plan.all_rows(pad=False):
        masked, _ = objective.masked(row)
        for place, number in enumerate(row.document.tolist()):
            part = masked[row.boundaries[place] : row.boundaries[place + 1]]
            masks.setdefault(number, []).append(tuple(part.tolist()))
    twice = [found for found in masks.values() if len(found) == 2]
    assert len(twice) > 50
    assert sum(one != other for one, other in twice) > 0.9 * len(twice)


def test_padding_a_row_changes_no_loss(store: AnnotatedStore) -> None:
    trainer = start(store, None)
    objective = MaskedWords(Notebook([store]), MASKING)
    trainer.model.eval()
    with torch.no_grad():
        for number in range(3):
            plain = objective(trainer.model, trainer.feed.row(number))  # type: ignore[attr-defined]
            filled = objective(trainer.model, trainer.feed.row(number, pad_to=160))  # type: ignore[attr-defined]
            assert plain.units == filled.units > 0
            torch.testing.assert_close(plain.total, filled.total)
