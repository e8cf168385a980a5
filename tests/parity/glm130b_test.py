"""GLM-130B's architecture against an independent forward pass, for both kinds of positions.

The forward pass below is written from the papers (arXiv 2210.02414, 2103.10360) in numpy float64, one query at a time,
over the list of keys that it may see. It shares nothing with the model's code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from graftlm.models import families as families
from graftlm.models.families.glm130b import infilling_states
from graftlm.models.trunk import output_head

MASK, SMASK, GMASK, SOP, EOP = 3, 4, 5, 6, 7
V, D, H, N = 50, 32, 4, 3
K = D // H


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "glm130b", vocab_size=V, hidden_size=D, num_hidden_layers=N, num_attention_heads=H, max_position_embeddings=64,
        mask_token_id=MASK, smask_token_id=SMASK, gmask_token_id=GMASK, sop_token_id=SOP, eop_token_id=EOP,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0, 0.35)
            if "norm" in name and name.endswith("weight"):
                parameter.add_(1)
    return model.eval()


@dataclass(frozen=True)
class Reading:
    """How the reference reads a sample; one setting changed makes it another model."""

    alpha: float = math.sqrt(2 * N)
    bidirectional: bool = True
    gated: bool = True
    positions: str = "blank"


def normed(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    return (x - x.mean()) / np.sqrt(x.var() + 1e-5) * weight + bias


def gelu(x: np.ndarray) -> np.ndarray:
    return x * np.array([0.5 * (1 + math.erf(value / math.sqrt(2))) for value in x])


def turned(x_K: np.ndarray, position: int) -> np.ndarray:
    """The pairs (i, i + K/2) as complex numbers, turned by position / 10000^(2i/K)."""
    pairs = x_K[: K // 2] + 1j * x_K[K // 2 :]
    pairs = pairs * np.exp(1j * position / 10000 ** (2 * np.arange(K // 2) / K))
    return np.concatenate([pairs.real, pairs.imag])


def forward(model, tokens: list[int], context: int, reading: Reading) -> np.ndarray:
    """[T, V] logits of one sample whose first `context` tokens see each other."""
    w = {name: value.double().numpy() for name, value in model.state_dict().items()}

    def linear(name: str, x: np.ndarray) -> np.ndarray:
        return w[f"{name}.weight"] @ x + w[f"{name}.bias"]

    def norm(name: str, x: np.ndarray) -> np.ndarray:
        return normed(x, w[f"{name}.weight"], w[f"{name}.bias"])

    T = len(tokens)
    marks = [place for place in range(context) if tokens[place] in (MASK, SMASK)]
    position = list(range(T))
    if marks and reading.positions == "blank":
        position[context:] = [marks[0]] * (T - context)
    xs = [norm("model.embedding_norm", w["model.embed_tokens.weight"][token]) for token in tokens]
    for layer in range(N):
        at = f"model.layers.{layer}"
        q, k, v = ([linear(f"{at}.attention.{n}_proj", x).reshape(H, K) for x in xs] for n in "qkv")
        for t, x in enumerate(xs):
            seen = [u for u in range(T) if u <= t or (reading.bidirectional and u < context)]
            heads = []
            for h in range(H):
                query = turned(q[t][h], position[t])
                scores = np.array([query @ turned(k[u][h], position[u]) for u in seen]) / math.sqrt(K)
                share = np.exp(scores - scores.max())
                heads.append(sum(p * v[u][h] for p, u in zip(share / share.sum(), seen, strict=True)))
            attended = linear(f"{at}.attention.o_proj", np.concatenate(heads))
            x = norm(f"{at}.attention_norm", reading.alpha * x + attended)
            gate = gelu(linear(f"{at}.mlp.gate_proj", x))
            wide = gate * linear(f"{at}.mlp.up_proj", x) if reading.gated else gate
            xs[t] = norm(f"{at}.mlp_norm", reading.alpha * x + linear(f"{at}.mlp.down_proj", wide))
    return np.stack([w["lm_head.weight"] @ x for x in xs])


SAMPLES = {
    "[MASK] positions": ([1, 20, MASK, 31, 8, 44, SOP, 9, 10, 11], 6),
    "[gMASK] positions": ([1, 20, 31, 8, GMASK, SOP, 9, 10, 11, 12], 5),
    "two blanks, no [gMASK]": ([1, SMASK, 31, MASK, 8, SOP, 12, 9], 5),
    "no blank": ([1, 20, 31, 8, 44], 0),
}


def found(model, tokens: list[int]) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0].numpy()


@pytest.mark.parametrize("name", SAMPLES)
def test_logits_equal_the_independent_forward(model, parity, name):
    tokens, context = SAMPLES[name]
    expected = forward(model, tokens, context, Reading())
    logits = found(model, tokens)
    parity("glm130b", f"numpy, {name}", float(np.abs(logits - expected).max()), float(np.abs(expected).max()))


def test_packed_samples_equal_the_independent_forward(model, parity):
    samples = [SAMPLES[name] for name in list(SAMPLES)[:3]]
    expected = np.concatenate([forward(model, tokens, context, Reading()) for tokens, context in samples])
    marks = [(2, 6), (None, 5), (1, 5)]
    positions = [
        place if place < context or mark is None else mark
        for (tokens, context), (mark, _) in zip(samples, marks, strict=True)
        for place in range(len(tokens))
    ]
    branch = [int(place >= context) for tokens, context in samples for place in range(len(tokens))]
    boundaries = np.cumsum([0, *(len(tokens) for tokens, _ in samples)])
    with torch.no_grad():
        states = infilling_states(
            model,
            torch.tensor([token for tokens, _ in samples for token in tokens]),
            torch.tensor(positions),
            torch.tensor(boundaries, dtype=torch.int32),
            torch.tensor(branch),
        )
        logits = output_head(model).logits(states).numpy()
    parity("glm130b", "numpy, packed samples", float(np.abs(logits - expected).max()), float(np.abs(expected).max()))


CHANGES = {
    "Post-LN without α": replace(Reading(), alpha=1.0),
    "a context that sees only its past": replace(Reading(), bidirectional=False),
    "positions that go on behind a [MASK]": replace(Reading(), positions="on"),
    "GELU without a gate": replace(Reading(), gated=False),
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_model_would_be_seen(model, parity, change):
    tokens, context = SAMPLES["[MASK] positions"]
    wrong = forward(model, tokens, context, CHANGES[change])
    parity.differs("glm130b", change, float(np.abs(found(model, tokens) - wrong).max()))
