"""GPT-2 (Radford et al. 2019) in plain numpy, to be read from top to bottom; slow on purpose: no cache, no batch.
T tokens, D numbers a token, H heads of K numbers, V tokens that it knows."""

from pathlib import Path

import numpy as np
from safetensors.torch import load_file

from graftlm.core.files import read_json

Weights = dict[str, np.ndarray]


def load(folder: Path) -> tuple[Weights, int, float]:
    """(weights by name, heads, eps) of any GPT-2 kept as safetensors; matrices are [in, out]."""
    config = read_json(folder / "config.json")
    files = [load_file(file) for file in sorted(folder.glob("*.safetensors"))]
    w = {name.removeprefix("transformer."): x.float().numpy() for file in files for name, x in file.items()}
    return w, config["n_head"], config.get("layer_norm_epsilon", 1e-5)


def norm(x: np.ndarray, w: Weights, name: str, eps: float) -> np.ndarray:
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)  # [T, D]: mean 0, size 1
    return x * w[f"{name}.weight"] + w[f"{name}.bias"]  # [T, D]


def linear(x: np.ndarray, w: Weights, name: str) -> np.ndarray:
    return x @ w[f"{name}.weight"] + w[f"{name}.bias"]  # [T, in] → [T, out]


def attention(x: np.ndarray, w: Weights, name: str, heads: int) -> np.ndarray:
    q, k, v = linear(x, w, f"{name}.c_attn").reshape(len(x), 3, heads, -1).transpose(1, 2, 0, 3)  # each [H, T, K]
    scores = q @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1])  # [H, T, T]: query i with key j
    scores = np.where(np.tri(len(x), dtype=bool), scores, -np.inf)  # [H, T, T]: no token sees a later one
    weights = np.exp(scores - scores.max(-1, keepdims=True))  # [H, T, T]
    weights = weights / weights.sum(-1, keepdims=True)  # [H, T, T]: shares that add up to 1
    return linear((weights @ v).swapaxes(0, 1).reshape(x.shape), w, f"{name}.c_proj")  # [H, T, K] → [T, D]


def mlp(x: np.ndarray, w: Weights, name: str) -> np.ndarray:
    h = linear(x, w, f"{name}.c_fc")  # [T, D] → [T, 4 D]
    h = 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))  # [T, 4 D], GELU
    return linear(h, w, f"{name}.c_proj")  # [T, 4 D] → [T, D]


def forward(tokens: list[int], w: Weights, heads: int, eps: float) -> np.ndarray:
    """[T, V] logits: how well each word follows each token."""
    assert 0 < len(tokens) <= len(w["wpe.weight"]), f"{len(tokens)} tokens do not fit {len(w['wpe.weight'])} positions"
    x = w["wte.weight"][tokens] + w["wpe.weight"][: len(tokens)]  # [T, D]: what it is, and where
    for layer in range(sum(name.endswith("ln_1.weight") for name in w)):
        x = x + attention(norm(x, w, f"h.{layer}.ln_1", eps), w, f"h.{layer}.attn", heads)  # [T, D]
        x = x + mlp(norm(x, w, f"h.{layer}.ln_2", eps), w, f"h.{layer}.mlp")  # [T, D]
    return norm(x, w, "ln_f", eps) @ w.get("lm_head.weight", w["wte.weight"]).T  # [T, D] → [T, V]


def greedy(tokens: list[int], count: int, w: Weights, heads: int, eps: float) -> list[int]:
    """The `count` tokens that follow, the likeliest one each time."""
    for _ in range(count):
        tokens = [*tokens, int(forward(tokens, w, heads, eps)[-1].argmax())]
    return tokens[len(tokens) - count :]
