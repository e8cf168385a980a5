"""Requests and their answers, whatever engine works on them."""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from graftlm.core.errors import DataError, GraftError
from graftlm.inference.cached import position_limit
from graftlm.inference.constraints import Constraint
from graftlm.inference.decoding import Decoding
from graftlm.inference.prompt_lookup import PromptLookup
from graftlm.inference.text_stream import Decode, StopWatch

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer.

    Attributes:
        tokens: the new tokens, without the stop token. After a stop string they still hold that string.
        finish_reason: "stop" at a stop token or stop string, or where its constraint lets nothing follow; "length"
            when the budget of tokens or positions ran out.
        log_probability: sum of log p in nats of the new tokens, stop token included, under the model itself
            (before penalty, temperature and truncation).
        log_probabilities: the terms of that sum, one a token, stop token last.
        stop_token: the stop token that ended the answer, if one did.
        text: the decoded answer, cut before a stop string; None when `generate` was given no `decode`.
    """

    tokens: tuple[int, ...]
    finish_reason: FinishReason
    log_probability: float
    log_probabilities: tuple[float, ...]
    stop_token: int | None = None
    text: str | None = None


@dataclass(slots=True)
class Request:
    """A prompt on its way to its answer.

    Attributes:
        adapter: the name of the adapter that answers, for an engine whose requests name theirs; None: the base alone.
        constraint: a rule that the answer follows; of this request alone.
    """

    index: int
    prompt: Sequence[int]
    decoding: Decoding
    stop_ids: Collection[int]
    budget: int  # new tokens at most
    seed: int
    watch: StopWatch | None = None  # only where stop strings are to be found, or text is streamed
    adapter: str | None = None
    constraint: Constraint | None = None
    lookup: PromptLookup | None = None  # of an engine that guesses
    tokens: list[int] = field(default_factory=list)
    log_probabilities: list[float] = field(default_factory=list)
    stop_token: int | None = None
    finish: FinishReason | None = None
    piece: str = ""  # text that `take_piece` has not given out
    asked: int = 0  # tokens that were chosen for it, whether they have arrived or not

    def add(self, token: int, log_probability: float) -> None:
        self.log_probabilities.append(log_probability)
        if token in self.stop_ids:
            self.stop_token, self.finish = token, "stop"
            return
        self.tokens.append(token)
        if self.lookup is not None:
            self.lookup.push(token)
        if self.constraint is not None:
            self.constraint.push(token)
        if self.watch is not None:
            self.piece += self.watch.push(token)
        if (self.watch is not None and self.watch.stopped) or (self.constraint is not None and self.constraint.done):
            self.finish = "stop"
        elif len(self.tokens) == self.budget:
            self.finish = "length"

    def take_piece(self) -> str:
        """The text that was added since the last call; needs a `watch`."""
        piece, self.piece = self.piece, ""
        return piece

    def completion(self, decode: Decode | None) -> Completion:
        text = decode(self.tokens) if decode is not None and self.watch is None else None
        if self.watch is not None:
            self.watch.finish()
            text = self.watch.text
        stopped = self.watch is not None and self.watch.stopped  # also by the text held back until now
        return Completion(
            tokens=tuple(self.tokens),
            finish_reason="stop" if stopped else self.finish or "length",
            log_probability=math.fsum(self.log_probabilities),
            log_probabilities=tuple(self.log_probabilities),
            stop_token=self.stop_token,
            text=text,
        )


def open_requests(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    decoding: Decoding,
    stop_ids: Collection[int],
    decode: Decode | None,
    seeds: Sequence[int] | None,
) -> list[Request]:
    """The requests, checked, each with its budget and its seed."""
    if decoding.stop and decode is None:
        raise GraftError("stop strings need a way to decode tokens", fix="pass decode=tokenizer.decode")
    limit = position_limit(model)
    base = secrets.randbits(32) if decoding.seed is None else decoding.seed
    rows = []
    for index, prompt in enumerate(prompts):
        if not len(prompt):
            raise DataError("the prompt has no tokens", where=f"prompt {index}")
        room = decoding.max_new_tokens if limit is None else min(decoding.max_new_tokens, limit - len(prompt))
        if room < 1:
            raise DataError(
                f"the prompt has {len(prompt)} tokens and the model {limit} positions: no answer fits",
                where=f"prompt {index}",
                fix="shorten the prompt",
            )
        seed = _request_seed(base, index) if seeds is None else seeds[index]
        watch = StopWatch(decode, decoding.stop) if decoding.stop and decode is not None else None
        rows.append(Request(index, prompt, decoding, frozenset(stop_ids), room, seed, watch))
    return rows


def _request_seed(seed: int, index: int) -> int:
    """A seed for request `index`, unrelated to those of its neighbours."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{index}".encode()).digest()[:8], "big") >> 1


def uniforms(rows: Sequence[Request], count: int) -> Tensor:
    """`count` numbers in [0, 1) a row, each row from its own generator: [B, N] fp32."""
    return torch.stack([torch.rand(count, generator=torch.Generator().manual_seed(row.seed)) for row in rows])
