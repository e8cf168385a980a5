"""How the next token is chosen: the settings, and the logits processors as pure functions.

The order is penalties → temperature → top-k → top-p → min-p, the order of transformers, so a published setting
means the same thing here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import MappingProxyType

import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor

_MINUS_INFINITY = float("-inf")


class Decoding(BaseModel):
    """Settings of one generation request.

    Attributes:
        greedy: take the most likely token always; temperature, top_p, top_k and seed are then unused. A
            temperature of 0 means the same.
        temperature: divides the logits; below 1 sharpens the distribution.
        top_p: nucleus sampling: draw from the smallest set of tokens whose probability sums to at least this
            (Holtzman et al. 2020, arXiv:1904.09751). 1 turns it off.
        top_k: draw from the k most likely tokens (Fan et al. 2018, arXiv:1805.04833). 0 turns it off.
        min_p: leave out tokens less likely than this share of the most likely one (Nguyen et al. 2024,
            arXiv:2407.01082). 0 turns it off.
        repetition_penalty: divides the positive and multiplies the negative logits of every token already in
            the prompt or the answer (Keskar et al. 2019, arXiv:1909.05858). 1 turns it off.
        presence_penalty, frequency_penalty: taken from the logits of every token in the answer so far, once, and
            once each time that it is there (as OpenAI's interface has them). 0 turns them off.
        max_new_tokens: the most tokens an answer may have.
        seed: request i of a call draws from its own generator seeded by (seed, i); None draws a fresh seed.
        stop: strings that end an answer; they need the `decode` callback of `generate` and are cut from its
            text.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    greedy: bool = False
    temperature: float = Field(default=1.0, ge=0.0, allow_inf_nan=False)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    top_k: int = Field(default=0, ge=0)
    min_p: float = Field(default=0.0, ge=0.0, le=1.0)
    repetition_penalty: float = Field(default=1.0, gt=0.0, allow_inf_nan=False)
    presence_penalty: float = Field(default=0.0, allow_inf_nan=False)
    frequency_penalty: float = Field(default=0.0, allow_inf_nan=False)
    max_new_tokens: int = Field(default=512, ge=1)
    seed: int | None = 0
    stop: tuple[str, ...] = ()

    @field_validator("stop", mode="before")
    @classmethod
    def _one_string_is_one_stop(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @field_validator("stop")
    @classmethod
    def _no_empty_stop(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if "" in value:
            raise ValueError("an empty stop string would end every answer at once; remove it")
        return value

    @property
    def is_greedy(self) -> bool:
        return self.greedy or self.temperature == 0.0

    @property
    def penalises(self) -> bool:
        """Whether the tokens so far change the logits."""
        return self.repetition_penalty != 1.0 or self.counts_answers

    @property
    def counts_answers(self) -> bool:
        """Whether it asks how often each token is in the answer so far."""
        return bool(self.presence_penalty or self.frequency_penalty)


PRESETS: MappingProxyType[str, Decoding] = MappingProxyType(
    {
        "greedy": Decoding(greedy=True),
        "ziya-writing": Decoding(temperature=0.85, top_p=0.85, repetition_penalty=1.0, max_new_tokens=2048),
        "chatglm2": Decoding(temperature=0.8, top_p=0.8),
        "llama2": Decoding(temperature=0.6, top_p=0.9),
        "firefly": Decoding(temperature=0.35, top_p=0.9),
    }
)
"""Settings that well-known models publish for themselves, by name."""


def seen_tokens(rows: Sequence[Sequence[int]], vocabulary: int) -> Tensor:
    """Which tokens each row holds (padding never counts): bool [B, V]."""
    seen_BV = torch.zeros(len(rows), vocabulary, dtype=torch.bool)
    for row, tokens in zip(seen_BV, rows, strict=True):
        row[torch.as_tensor(tokens, dtype=torch.long)] = True
    return seen_BV


def penalise_repetition(logits_BV: Tensor, seen_BV: Tensor, penalty: float) -> Tensor:
    """Make every token of `seen_BV` less likely: [B, V] → [B, V]."""
    penalised_BV = torch.where(logits_BV > 0, logits_BV / penalty, logits_BV * penalty)
    return torch.where(seen_BV, penalised_BV, logits_BV)


def keep_top_k(logits_BV: Tensor, k: int) -> Tensor:
    """Set all but the k largest logits of a row to -inf (ties with the k-th stay): [B, V] → [B, V]."""
    kth_B1 = logits_BV.topk(min(k, logits_BV.shape[-1]), dim=-1).values[:, -1:]
    return logits_BV.masked_fill(logits_BV < kth_B1, _MINUS_INFINITY)


def keep_nucleus(logits_BV: Tensor, p: float) -> Tensor:
    """Keep the smallest set of tokens whose probability reaches p, never none: [B, V] → [B, V]."""
    sorted_BV, order_BV = logits_BV.sort(dim=-1, descending=True, stable=True)
    probabilities_BV = sorted_BV.softmax(dim=-1, dtype=torch.float32)
    mass_before_BV = probabilities_BV.cumsum(dim=-1) - probabilities_BV
    drop_sorted_BV = mass_before_BV >= p
    drop_sorted_BV[:, 0] = False
    drop_BV = torch.zeros_like(drop_sorted_BV).scatter(-1, order_BV, drop_sorted_BV)
    return logits_BV.masked_fill(drop_BV, _MINUS_INFINITY)


def keep_likely(logits_BV: Tensor, share: float) -> Tensor:
    """Keep the tokens at least `share` times as likely as the most likely one: [B, V] → [B, V]."""
    least_B1 = logits_BV.amax(dim=-1, keepdim=True) + math.log(share)
    return logits_BV.masked_fill(logits_BV < least_B1, _MINUS_INFINITY)


def process_logits(
    logits_BV: Tensor, decoding: Decoding, seen_BV: Tensor | None = None, counts_BV: Tensor | None = None
) -> Tensor:
    """All processors in order: [B, V] → [B, V].

    Args:
        seen_BV: which tokens prompt and answer hold; needed for a repetition penalty.
        counts_BV: how often each is in the answer; needed for the penalties on presence and frequency.
    """
    if decoding.repetition_penalty != 1.0:
        assert seen_BV is not None, "a repetition penalty needs the tokens seen so far"
        logits_BV = penalise_repetition(logits_BV, seen_BV, decoding.repetition_penalty)
    if decoding.counts_answers:
        assert counts_BV is not None, "penalties on presence and frequency need the tokens of the answer"
        logits_BV = logits_BV - decoding.frequency_penalty * counts_BV - decoding.presence_penalty * (counts_BV > 0)
    if decoding.is_greedy:
        return logits_BV
    if decoding.temperature != 1.0:
        logits_BV = logits_BV / decoding.temperature
    if decoding.top_k:
        logits_BV = keep_top_k(logits_BV, decoding.top_k)
    if decoding.top_p < 1.0:
        logits_BV = keep_nucleus(logits_BV, decoding.top_p)
    if decoding.min_p:
        logits_BV = keep_likely(logits_BV, decoding.min_p)
    return logits_BV


def draw(logits_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """Sample a token a row by inverting the cumulative distribution: [B, V], [B] → [B] int64.

    One uniform number in [0, 1) a row decides, so a row's draw cannot depend on its neighbours, and the whole
    batch is drawn at once. In float64, u·total stays below total for every float32 u, so a token of
    probability 0 is never drawn.
    """
    cumulative_BV = logits_BV.softmax(dim=-1, dtype=torch.float64).cumsum(dim=-1)
    target_B1 = uniform_B.double()[:, None] * cumulative_BV[:, -1:]
    return torch.searchsorted(cumulative_BV, target_B1, right=True)[:, 0]
