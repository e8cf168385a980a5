"""BERT against an independent forward pass in numpy (from the paper, arXiv 1810.04805): classes, tags, options."""

from __future__ import annotations

from math import erf
from typing import Any

import numpy as np
import torch
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification

from graftlm.models.encoder import encoder_logits

SIZES = {
    "vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 40, "type_vocab_size": 2,
}  # fmt: skip


def norm(x: np.ndarray, weights: dict[str, np.ndarray], name: str) -> np.ndarray:
    mean, spread = x.mean(-1, keepdims=True), x.std(-1, keepdims=True)
    return (x - mean) / np.sqrt(spread**2 + 1e-12) * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def linear(x: np.ndarray, weights: dict[str, np.ndarray], name: str) -> np.ndarray:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def gelu(x: np.ndarray) -> np.ndarray:
    return x * (1 + np.vectorize(erf)(x / np.sqrt(2))) / 2


def states(
    weights: dict[str, np.ndarray], tokens: list[int], segments: list[int], positions: list[int], groups: list[int]
) -> np.ndarray:
    """[L, D] last hidden states of one document; tokens of different groups above 0 do not see each other."""
    e = "bert.embeddings"
    x = weights[f"{e}.word_embeddings.weight"][tokens] + weights[f"{e}.position_embeddings.weight"][positions]
    x = norm(x + weights[f"{e}.token_type_embeddings.weight"][segments], weights, f"{e}.LayerNorm")
    L, H, D = len(tokens), SIZES["num_attention_heads"], SIZES["hidden_size"]
    for layer in range(SIZES["num_hidden_layers"]):
        at = f"bert.encoder.layer.{layer}"
        q, k, v = (
            linear(x, weights, f"{at}.attention.self.{name}").reshape(L, H, D // H)
            for name in ("query", "key", "value")
        )
        mixed = np.zeros((L, H, D // H))
        for i in range(L):
            seen = [j for j in range(L) if 0 in (groups[i], groups[j]) or groups[i] == groups[j]]
            for h in range(H):
                score = np.array([q[i, h] @ k[j, h] for j in seen]) / np.sqrt(D // H)
                share = np.exp(score - score.max())
                mixed[i, h] = (share / share.sum()) @ v[seen, h]
        x = norm(
            x + linear(mixed.reshape(L, D), weights, f"{at}.attention.output.dense"),
            weights,
            f"{at}.attention.output.LayerNorm",
        )
        inner = gelu(linear(x, weights, f"{at}.intermediate.dense"))
        x = norm(x + linear(inner, weights, f"{at}.output.dense"), weights, f"{at}.output.LayerNorm")
    return x


def class_logits(weights: dict[str, np.ndarray], *document: list[int]) -> np.ndarray:
    first = states(weights, *document)[0]
    return linear(np.tanh(linear(first, weights, "bert.pooler.dense")), weights, "classifier")


def word_logits(weights: dict[str, np.ndarray], *document: list[int]) -> np.ndarray:
    x = gelu(linear(states(weights, *document), weights, "cls.predictions.transform.dense"))
    x = norm(x, weights, "cls.predictions.transform.LayerNorm")
    return x @ weights["bert.embeddings.word_embeddings.weight"].T + weights["cls.predictions.bias"]


def build(kind: Any, spread: float, **more: Any) -> tuple[Any, dict[str, np.ndarray]]:
    torch.manual_seed(2)
    model = kind(BertConfig(**SIZES, **more)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, spread) if parameter.ndim > 1 else parameter.add_(torch.randn_like(parameter) * 0.1)
    return model, {name: value.double().numpy() for name, value in model.state_dict().items()}


DOCUMENTS = [
    ([2, 17, 9, 33, 3, 41, 8, 3], [0, 0, 0, 0, 0, 1, 1, 1]),
    ([2, 50, 3, 44, 3], [0, 0, 0, 1, 1]),
]


def padded() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """[2, 8] tokens (rubbish on padding), whether they are real, segments."""
    tokens, segments = torch.full((2, 8), 59), torch.zeros(2, 8, dtype=torch.long)
    real = torch.zeros(2, 8, dtype=torch.bool)
    for n, (ids, types) in enumerate(DOCUMENTS):
        tokens[n, : len(ids)], segments[n, : len(ids)], real[n, : len(ids)] = (
            torch.tensor(ids),
            torch.tensor(types),
            True,
        )
    return tokens, real, segments


@torch.no_grad()
def test_bert_classes(parity: Any) -> None:
    model, weights = build(BertForSequenceClassification, 0.5, num_labels=5)
    tokens, real, segments = padded()
    found = encoder_logits(model, tokens, real, segments).numpy()
    wanted = np.stack(
        [class_logits(weights, ids, types, list(range(len(ids))), [0] * len(ids)) for ids, types in DOCUMENTS]
    )
    parity("bert, classes", "numpy", float(np.abs(found - wanted).max()), float(np.abs(wanted).max()))
    ids = DOCUMENTS[0][0]
    other = class_logits(weights, ids, [0] * len(ids), list(range(len(ids))), [0] * len(ids))
    parity.differs("bert, classes", "one segment", float(np.abs(other - wanted[0]).max()))


@torch.no_grad()
def test_bert_options(parity: Any) -> None:
    model, weights = build(BertForMaskedLM, 0.4)
    tokens = [2, 4, 11, 12, 4, 13, 3, 20, 21, 3]
    segments, positions, groups = (
        [0, 1, 1, 1, 1, 1, 1, 0, 0, 0],
        [0, 1, 2, 3, 1, 2, 4, 5, 6, 7],
        [0, 1, 1, 1, 2, 2, 0, 0, 0, 0],
    )
    rows = [torch.tensor([values]) for values in (tokens, segments, positions, groups)]
    real = torch.ones_like(rows[0], dtype=torch.bool)
    found = encoder_logits(model, rows[0], real, rows[1], positions_nL=rows[2], groups_nL=rows[3])[0].numpy()
    wanted = word_logits(weights, tokens, segments, positions, groups)
    parity("bert, options", "numpy", float(np.abs(found - wanted).max()), float(np.abs(wanted).max()), bound=2e-4)
    for change, document in (
        ("positions in order", (tokens, segments, list(range(10)), groups)),
        ("options that see each other", (tokens, segments, positions, [0] * 10)),
    ):
        parity.differs("bert, options", change, float(np.abs(word_logits(weights, *document) - wanted).max()))
