"""Random bits as a pure function of a counter: Philox 4×32 (Salmon et al., SC 2011), the same on CPU and GPU.

A run that was killed and taken up again, and every replica of a weight, draw the same bits without any state.
"""

from __future__ import annotations

import torch

ROUNDS = 7
"""The fewest rounds that pass BigCrush (Salmon et al., table 2); 10 are usual and cost 40 % more."""

LANE = 256
"""One call gives four words: those of elements i, i + 256, i + 512 and i + 768 of a block of 1,024."""

_MASK = 0xFFFFFFFF
_A, _B = 0xD2511F53, 0xCD9E8D57
_KEY_A, _KEY_B = 0x9E3779B9, 0xBB67AE85


def random_bits(elements: int, *, seed: int, number: int, step: int, device: torch.device) -> torch.Tensor:
    """[elements] int64 in [0, 2³²): a word for each element of tensor `number` in step `step`."""
    blocks = -(-elements // (4 * LANE))
    quad_Q = torch.arange(blocks * LANE, device=device)
    words = philox(quad_Q, number, step, 0, seed=seed)
    return torch.stack([word_Q.view(blocks, LANE) for word_Q in words], dim=1).flatten()[:elements]


def philox(c0: torch.Tensor, c1: int, c2: int, c3: int, *, seed: int) -> tuple[torch.Tensor, ...]:
    """Four words, each of c0's shape, for the counter (c0, c1, c2, c3); 32-bit numbers held in int64."""
    words = (c0, *(torch.full_like(c0, c) for c in (c1, c2, c3)))
    key_a, key_b = seed & _MASK, (seed >> 32) & _MASK
    for _ in range(ROUNDS):
        one, other = words[0] * _A, words[2] * _B  # the low 64 bits; the sign is of no matter
        words = (
            _high(other) ^ words[1] ^ key_a,
            other & _MASK,
            _high(one) ^ words[3] ^ key_b,
            one & _MASK,
        )
        key_a, key_b = (key_a + _KEY_A) & _MASK, (key_b + _KEY_B) & _MASK
    return words


def _high(product: torch.Tensor) -> torch.Tensor:
    return (product >> 32) & _MASK
