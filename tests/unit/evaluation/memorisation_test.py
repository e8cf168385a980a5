"""Signals and their AUC against closed forms; extraction and token likelihoods against plain forward passes."""

from __future__ import annotations

import math
import zlib

import numpy as np
import pytest
import torch

from graftlm.evaluation.memorisation import extracted, membership_auc, membership_signals
from graftlm.inference.likelihood import text_log_probability, token_log_probability


def test_the_signals_by_hand() -> None:
    log_ps = [np.array([-1.0, -9.0, -2.0, -7.0, -1.0, -1.0, -1.0, -1.0, -1.0, -1.0]), np.array([-3.0])]
    texts = ["some text", "aaaa"]
    found = membership_signals(log_ps, texts, [log_ps[0] - 1.0, np.array([-1.0])])
    assert found["loss"].tolist() == [-2.5, -3.0]
    assert found["min_k"].tolist() == [-8.0, -3.0]  # the two least likely of ten, the only one of one
    assert found["zlib"].tolist() == [-25 / len(zlib.compress(b"some text")), -3 / len(zlib.compress(b"aaaa"))]
    assert found["reference"].tolist() == [1.0, -2.0]
    assert "reference" not in membership_signals(log_ps, texts)


def test_the_auc_is_that_of_all_pairs_and_its_interval_has_the_right_width() -> None:
    random = np.random.default_rng(0)
    trained, unseen = random.normal(0.8, 1, 300).round(1), random.normal(0, 1, 200).round(1)
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a in trained for b in unseen]
    found = membership_auc(trained, unseen)
    assert found.value == pytest.approx(np.mean(pairs))
    assert found.low < 0.5 * (1 + math.erf(0.8 / 2)) < found.high  # Φ(0.8/√2), of two normal distributions
    area, q1 = found.value, found.value / (2 - found.value)
    q2 = 2 * area**2 / (1 + area)  # Hanley & McNeil 1982
    variance = area * (1 - area) + 299 * (q1 - area**2) + 199 * (q2 - area**2)
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * math.sqrt(variance / (300 * 200)), rel=0.15)


def test_nothing_is_told_apart_where_nothing_differs() -> None:
    random = np.random.default_rng(1)
    covered = 0
    for _ in range(100):
        found = membership_auc(random.normal(size=60), random.normal(size=60), resamples=300)
        covered += found.low <= 0.5 <= found.high
    assert covered >= 88  # 95 expected
    assert membership_auc(np.ones(5), np.ones(5)).value == 0.5
    assert membership_auc(np.ones(5), np.zeros(5)).value == 1.0
    with pytest.raises(ValueError, match="both are needed"):
        membership_auc(np.ones(5), np.zeros(0))


def test_what_the_model_would_write_is_extracted_and_nothing_else(tiny_model) -> None:
    model = tiny_model("llama")
    random = torch.Generator().manual_seed(0)
    documents = []
    for _ in range(3):
        tokens = torch.randint(3, 60, (1, 6), generator=random)
        for _ in range(5):
            with torch.no_grad():
                tokens = torch.cat([tokens, model(input_ids=tokens).logits[:, -1:].argmax(-1)], dim=1)
        documents.append(tokens[0].tolist())
    documents[1][-1] = documents[1][-1] % 50 + 5  # another last token
    short = documents[0][:10]
    assert extracted(model, [*documents, short], prefix=6, suffix=5) == [True, False, True, None]
    assert extracted(model, [short], prefix=6, suffix=5) == [None]


def test_token_likelihoods_are_those_of_plain_forward_passes(tiny_model) -> None:
    model = tiny_model("llama")
    random = torch.Generator().manual_seed(0)
    documents = [torch.randint(3, 60, (length,), generator=random).tolist() for length in (7, 1, 20, 2, 0)]
    found = token_log_probability(model, documents, batch_tokens=16)
    for tokens, log_p in zip(documents, found, strict=True):
        assert len(log_p) == max(0, len(tokens) - 1)
        if len(log_p):
            with torch.no_grad():
                plain = model(input_ids=torch.tensor([tokens])).logits.log_softmax(-1)[0, :-1]
            expected = plain.gather(1, torch.tensor(tokens)[1:, None])[:, 0]
            np.testing.assert_allclose(log_p, expected.numpy(), atol=2e-5)
    cut = token_log_probability(model, [documents[2]], window=8)[0]
    assert cut[:7] == pytest.approx(found[2][:7], abs=1e-5) and len(cut) == 19
    assert text_log_probability(model, documents)[2] == pytest.approx((found[2].sum(), 19))
