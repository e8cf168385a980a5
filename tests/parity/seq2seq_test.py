"""T5 against a forward pass in numpy (float64), written from arXiv 1910.10683 and its released code's conventions.

RMSNorm without centring, attention without the division by sqrt(d), relative positions in buckets that all layers
share, ReLU without biases, states times D^-0.5 in front of a tied head.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

H, D, K, BUCKETS, FAR = 4, 32, 8, 8, 16
SIZES = {"vocab_size": 50, "d_model": D, "d_kv": K, "d_ff": 48, "num_layers": 2, "num_heads": H}


def t5(seed: int = 0) -> T5ForConditionalGeneration:
    torch.manual_seed(seed)
    config = T5Config(
        **SIZES, relative_attention_num_buckets=BUCKETS, relative_attention_max_distance=FAR, decoder_start_token_id=0,
        tie_word_embeddings=True,
    )  # fmt: skip
    model = T5ForConditionalGeneration(config).double().eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(1 if "norm" in name else 0, 0.3)
        model.shared.weight.normal_(0, 3)
    return model


def bucket(distance: int, *, both: bool, buckets: int) -> int:
    """Of key place less query place."""
    base = 0
    if both:
        buckets //= 2
        base, distance = (buckets if distance > 0 else 0), abs(distance)
    else:
        distance = max(0, -distance)
    exact = buckets // 2
    if distance < exact:
        return base + distance
    far = exact + int(math.log(distance / exact) / math.log(FAR / exact) * (buckets - exact))
    return base + min(far, buckets - 1)


class Numpy:
    def __init__(
        self, model: T5ForConditionalGeneration, *, divide: bool = False, buckets: int = BUCKETS, scale: bool = True
    ) -> None:
        self.w = {name: weight.detach().numpy() for name, weight in model.state_dict().items()}
        self.divide, self.buckets, self.scale = divide, buckets, scale

    def norm(self, x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * self.w[name]

    def attention(self, name: str, x: np.ndarray, seen: np.ndarray, bias: np.ndarray) -> np.ndarray:
        q, k, v = (
            (states @ self.w[f"{name}.{part}.weight"].T).reshape(len(states), H, K).transpose(1, 0, 2)
            for states, part in ((x, "q"), (seen, "k"), (seen, "v"))
        )
        scores = q @ k.transpose(0, 2, 1) / (math.sqrt(K) if self.divide else 1) + bias
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        out = (weights / weights.sum(-1, keepdims=True)) @ v
        return out.transpose(1, 0, 2).reshape(len(x), -1) @ self.w[f"{name}.o.weight"].T

    def bias(self, side: str, length: int) -> np.ndarray:
        table = self.w[f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
        places = [
            [bucket(key - query, both=side == "encoder", buckets=self.buckets) for key in range(length)]
            for query in range(length)
        ]
        return table[np.array(places)].transpose(2, 0, 1)

    def stack(self, side: str, tokens: list[int], encoded: np.ndarray | None) -> np.ndarray:
        x, bias = self.w["shared.weight"][tokens], self.bias(side, len(tokens))
        if side == "decoder":
            bias = bias + np.triu(np.full((len(tokens), len(tokens)), -1e30), 1)
        for number in range(SIZES["num_layers"]):
            at = f"{side}.block.{number}.layer"
            normed = self.norm(x, f"{at}.0.layer_norm.weight")
            x = x + self.attention(f"{at}.0.SelfAttention", normed, normed, bias)
            if encoded is not None:
                normed = self.norm(x, f"{at}.1.layer_norm.weight")
                x = x + self.attention(f"{at}.1.EncDecAttention", normed, encoded, np.zeros(1))
            last = 1 if encoded is None else 2
            normed = self.norm(x, f"{at}.{last}.layer_norm.weight")
            inner = np.maximum(normed @ self.w[f"{at}.{last}.DenseReluDense.wi.weight"].T, 0)
            x = x + inner @ self.w[f"{at}.{last}.DenseReluDense.wo.weight"].T
        return self.norm(x, f"{side}.final_layer_norm.weight")

    def logits(self, source: list[int], inputs: list[int]) -> np.ndarray:
        states = self.stack("decoder", inputs, self.stack("encoder", source, None))
        return states * (D**-0.5 if self.scale else 1) @ self.w["shared.weight"].T


SOURCE, INPUTS = [5, 9, 3, 17, 44, 8, 21, 30, 11, 2, 7, 19, 1], [0, 12, 40, 6, 33, 28, 14, 10, 25]


@pytest.fixture(scope="module")
def theirs() -> Any:
    model = t5()
    with torch.no_grad():
        return model, model(
            input_ids=torch.tensor([SOURCE]), decoder_input_ids=torch.tensor([INPUTS])
        ).logits[0].numpy()  # fmt: skip


def test_t5_is_its_formulae(theirs: Any, parity: Any) -> None:
    model, wanted = theirs
    error = float(np.abs(Numpy(model).logits(SOURCE, INPUTS) - wanted).max())
    parity("T5", "numpy, encoder and decoder", error, float(np.abs(wanted).max()))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"divide": True}, "scores divided by sqrt(d)"),
        ({"buckets": 6}, "other buckets"),
        ({"scale": False}, "head unscaled"),
    ],
    ids=str,
)
def test_a_change_to_t5_shows(change: dict[str, Any], what: str, theirs: Any, parity: Any) -> None:
    model, wanted = theirs
    parity.differs("T5", what, float(np.abs(Numpy(model, **change).logits(SOURCE, INPUTS) - wanted).max()))
