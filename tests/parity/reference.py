"""A decoder in plain numpy, float64: the published formulae and nothing else, one sequence, no cache, no batch.

It shares no code with transformers or graft, so that an equal result is a proof. What families do differently is an
option; `families.py` says which family takes which. Shapes: T tokens, D hidden size, H query heads, G key heads,
K size of a head, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

Array = np.ndarray


def silu(x: Array) -> Array:
    return x / (1 + np.exp(-x))


def gelu_tanh(x: Array) -> Array:
    """arXiv 1606.08415, the tanh form."""
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def softmax(x: Array) -> Array:
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def rotary(size: int, base: float = 10_000.0) -> Array:
    """[size / 2] radians a position of each pair (arXiv 2104.09864)."""
    return base ** (-np.arange(0, size, 2) / size)


def llama3_rotary(size: int, base: float, factor: float, low: float, high: float, context: int) -> Array:
    """Llama 3.1: pairs that turn fewer than `low` times in the old context are slowed by `factor`, those of more than
    `high` turns are kept, those between are a blend (arXiv 2407.21783; the values are in Meta's configuration)."""
    plain = rotary(size, base)
    turns = context * plain / (2 * np.pi)
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return kept * plain + (1 - kept) * plain / factor


def alibi_slopes(heads: int) -> Array:
    """[H] arXiv 2108.12409: 2^(-8 i / n) for a power of two; else those of the power below, then every second one
    of the power above."""
    power = 2 ** int(np.log2(heads))
    first = 2.0 ** (-8 * np.arange(1, power + 1) / power)
    more = 2.0 ** (-8 * np.arange(1, 2 * power + 1, 2) / (2 * power))
    return np.concatenate([first, more])[:heads]


@dataclass(frozen=True)
class Decoder:
    """Weights by the names used below, matrices as [out, in]; and what this family does.

    Attributes:
        turns: [K' / 2] of each layer; the first K' of a head's K numbers are rotated. Empty: no rotary embedding.
        interleaved: rotary pairs are neighbours; else the two halves.
        windows: of each layer; a token sees itself and the `window - 1` before it. Empty: all before it.
        slopes: [H] of ALiBi.
        centred: LayerNorm; else RMSNorm.
        norm_offset: added to the weights of a norm.
        caps: of scores and of logits: x → cap · tanh(x / cap).
        chosen: experts of a token.
        renormalised: the chosen experts' shares are made to add up to 1.
    """

    weights: Mapping[str, Array]
    layers: int
    heads: int
    key_heads: int
    eps: float
    activation: Callable[[Array], Array] = silu
    turns: tuple[Array, ...] = ()
    interleaved: bool = False
    windows: tuple[int | None, ...] = ()
    slopes: Array | None = None
    centred: bool = False
    norm_offset: float = 0.0
    embed_scale: float = 1.0
    score_scale: float | None = None
    caps: tuple[float | None, float | None] = (None, None)
    chosen: int = 0
    renormalised: bool = True

    def logits(self, tokens: list[int]) -> Array:
        """[T, V]"""
        w = self.weights
        x_TD = w["embed"][tokens] * self.embed_scale
        if "positions" in w:
            x_TD = x_TD + w["positions"][: len(tokens)]
        if "embed_norm" in w:
            x_TD = self._norm("embed_norm", x_TD)
        for layer in range(self.layers):
            at = f"{layer}."
            change_TD = self._attend(layer, self._norm(at + "norm1", x_TD))
            x_TD = x_TD + (self._norm(at + "after1", change_TD) if at + "after1" in w else change_TD)
            change_TD = self._feed(at, self._norm(at + "norm2", x_TD))
            x_TD = x_TD + (self._norm(at + "after2", change_TD) if at + "after2" in w else change_TD)
        return _capped(self._norm("norm", x_TD) @ w.get("head", w["embed"]).T, self.caps[1])

    def greedy(self, tokens: list[int], count: int) -> list[int]:
        """The next `count` tokens."""
        for _ in range(count):
            tokens = [*tokens, int(self.logits(tokens)[-1].argmax())]
        return tokens[-count:]

    def _norm(self, name: str, x: Array) -> Array:
        if self.centred:
            x = x - x.mean(axis=-1, keepdims=True)
        size = np.sqrt((x**2).mean(axis=-1, keepdims=True) + self.eps)
        return x / size * (self.weights[name] + self.norm_offset) + self.weights.get(name + ".bias", 0)

    def _linear(self, name: str, x: Array) -> Array:
        return x @ self.weights[name].T + self.weights.get(name + ".bias", 0)

    def _attend(self, layer: int, x_TD: Array) -> Array:
        at, T = f"{layer}.", len(x_TD)
        q_THK = self._linear(at + "q", x_TD).reshape(T, self.heads, -1)
        k_TGK, v_TGK = (self._linear(at + name, x_TD).reshape(T, self.key_heads, -1) for name in ("k", "v"))
        if at + "q_norm" in self.weights:
            q_THK, k_TGK = self._norm(at + "q_norm", q_THK), self._norm(at + "k_norm", k_TGK)
        if self.turns:
            q_THK, k_TGK = self._rotated(q_THK, layer), self._rotated(k_TGK, layer)
        back_TT = np.arange(T)[:, None] - np.arange(T)  # how far key j lies before query i
        window = self.windows[layer] if self.windows else None
        hidden_TT = (back_TT < 0) | (back_TT >= (window or T))
        out = []
        for head in range(self.heads):
            group = head * self.key_heads // self.heads
            scores_TT = q_THK[:, head] @ k_TGK[:, group].T * (self.score_scale or q_THK.shape[-1] ** -0.5)
            if self.slopes is not None:
                scores_TT = scores_TT - self.slopes[head] * back_TT
            scores_TT = np.where(hidden_TT, -np.inf, _capped(scores_TT, self.caps[0]))
            out.append(softmax(scores_TT) @ v_TGK[:, group])
        return self._linear(at + "o", np.concatenate(out, axis=-1))

    def _rotated(self, x_THK: Array, layer: int) -> Array:
        """Each pair of numbers is a complex one, turned by position times the pair's frequency."""
        turns_P = self.turns[layer]
        size = 2 * len(turns_P)
        first = slice(0, size, 2) if self.interleaved else slice(0, size // 2)
        second = slice(1, size, 2) if self.interleaved else slice(size // 2, size)
        angle_TP = np.arange(len(x_THK))[:, None] * turns_P
        turned = (x_THK[..., first] + 1j * x_THK[..., second]) * np.exp(1j * angle_TP)[:, None]
        out = x_THK.copy()
        out[..., first], out[..., second] = turned.real, turned.imag
        return out

    def _feed(self, at: str, x_TD: Array) -> Array:
        if at + "router" not in self.weights:
            return self._mlp(at, x_TD)
        shares_TE = softmax(self._linear(at + "router", x_TD))
        out_TD = np.zeros_like(x_TD)
        for t, shares_E in enumerate(shares_TE):
            best = np.argsort(-shares_E)[: self.chosen]
            whole = shares_E[best].sum() if self.renormalised else 1
            for expert in best:
                out_TD[t] += shares_E[expert] / whole * self._mlp(f"{at}{expert}.", x_TD[t])
        return out_TD

    def _mlp(self, at: str, x_TD: Array) -> Array:
        h_TM = self.activation(self._linear(at + "gate", x_TD))
        if at + "up" in self.weights:
            h_TM = h_TM * self._linear(at + "up", x_TD)
        return self._linear(at + "down", h_TM)


def _capped(x: Array, cap: float | None) -> Array:
    return x if cap is None else cap * np.tanh(x / cap)
