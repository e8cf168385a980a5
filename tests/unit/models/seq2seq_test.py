"""Encoder–decoders: their losses are their own, they learn, and are what they were when they are loaded again."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForSeq2SeqLM, PreTrainedModel

from graftlm.core.errors import ModelError
from graftlm.data.encode import Encoded
from graftlm.data.packing import pack_samples
from graftlm.data.store import TokenStore
from graftlm.models.loading import load_config
from graftlm.models.seq2seq import is_seq2seq_place, load_seq2seq, ready
from graftlm.objectives.seq2seq import SourceToTarget, pairs_of

CPU, V = torch.device("cpu"), 80
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
BART = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 64,
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "t5": T5,
    "t5, head of its own": T5 | {"model_type": "t5", "tie_word_embeddings": False},
    "mt5": T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    "bart": BART,
    "pegasus": BART,
}


def build(family: str, seed: int = 0) -> PreTrainedModel:
    torch.manual_seed(seed)
    settings = dict(FAMILIES[family])
    kind = settings.pop("model_type", family)
    config = AutoConfig.for_model(
        kind, vocab_size=V, pad_token_id=0, eos_token_id=1, bos_token_id=2, decoder_start_token_id=0, dropout_rate=0.0,
        dropout=0.0, forced_eos_token_id=None, **settings,
    )  # fmt: skip
    model = AutoModelForSeq2SeqLM.from_config(config, dtype=torch.float32)
    if getattr(model, "final_logits_bias", None) is not None:
        model.final_logits_bias.normal_()  # a bias that is left out must show
    return ready(model, family)


def row(count: int = 16, seed: int = 0):
    """Random pairs in one packed row."""
    random = np.random.default_rng(seed)
    documents = []
    for _ in range(count):
        source, target = (random.integers(3, V, random.integers(low, 9)) for low in (2, 1))
        tokens = np.array([*source, 1, *target, 1], np.uint32)
        documents.append(Encoded(tokens, np.arange(len(tokens)) > len(source)))
    plan = pack_samples(TokenStore.in_memory(documents), sum(len(one.tokens) for one in documents))
    assert plan.rows == 1
    return plan


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_is_the_models_own(family: str) -> None:
    model, batch = build(family), row().row(0)
    total = SourceToTarget()(model, batch).total.detach()
    own = 0.0
    edges = batch.boundaries.tolist()
    for start, end in pairwise(edges):
        tokens, targets = batch.tokens[start:end], batch.targets[start:end]
        labels = targets[targets >= 0]
        with torch.no_grad():
            loss = model(input_ids=tokens[None, : -len(labels)], labels=labels[None]).loss
        own += float(loss) * len(labels)
    assert float(total) == pytest.approx(own, rel=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_sixteen_samples_are_learnt_and_kept(family: str, tmp_path: Path) -> None:
    model, plan = build(family), row()
    batch, objective = plan.row(0), SourceToTarget()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0)
    for _ in range(150):
        loss = objective(model, batch).total / batch.target_count
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss) < 0.1 * np.log(V)
    model.save_pretrained(tmp_path)
    again = load_seq2seq(str(tmp_path), dtype=torch.float32, device=CPU)
    assert torch.equal(objective(again, batch).total, objective(model.eval(), batch).total)
    assert is_seq2seq_place(str(tmp_path))


def test_filling_up_a_row_changes_nothing() -> None:
    model, plan = build("t5"), row(5)
    bare, filled = plan.row(0), plan.row(0, pad_to=plan.row_tokens + 40)
    assert len(filled.tokens) == len(bare.tokens) + 40
    losses = [float(SourceToTarget()(model, batch).total) for batch in (bare, filled)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_pairs_are_taken_apart_again() -> None:
    batch = row(12, seed=3).row(0)
    found = set()
    for pairs in pairs_of(batch):
        for source, real, target, said in zip(pairs.source, pairs.real, pairs.target, pairs.said, strict=True):
            found.add((tuple(source[real].tolist()), tuple(target[said].tolist())))
    wanted = set()
    edges = batch.boundaries.tolist()
    for start, end in pairwise(edges):
        labels = batch.targets[start:end][batch.targets[start:end] >= 0].tolist()
        wanted.add((tuple(batch.tokens[start : end - len(labels)].tolist()), tuple(labels)))
    assert found == wanted


def test_another_kind_of_model_is_refused() -> None:
    with pytest.raises(ModelError, match="is no encoder–decoder"):
        load_seq2seq("rootstock", dtype=torch.float32, device=CPU)
    assert not is_seq2seq_place("rootstock")
    assert load_config("rootstock").model_type == "llama"
