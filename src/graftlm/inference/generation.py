"""The generation engine: many prompts through one model with a cache, or one prompt as a stream of text.

Prompts of like length run together, padded on the left; a finished row leaves the batch as soon as enough
rows are finished to pay for moving the cache. Logits exist for the last position only.
"""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from graftlm.core.errors import DataError, GraftError, ModelError
from graftlm.inference.batching import batches_by_length
from graftlm.inference.cached import CachedBatch, evaluation_mode, position_limit
from graftlm.inference.decoding import Decoding, draw, process_logits, seen_tokens
from graftlm.inference.text_stream import Decode, StopWatch

FinishReason = Literal["stop", "length"]

_COMPACT_AT = 0.25
"""The share of finished rows at which they leave the batch: moving the cache costs about one step."""


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer.

    Attributes:
        tokens: the new tokens, without the stop token. After a stop string they still hold that string.
        finish_reason: "stop" at a stop token or stop string, "length" when the budget of tokens or positions
            ran out.
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
class _Row:
    """A request on its way."""

    index: int
    prompt: Sequence[int]
    budget: int  # new tokens at most
    seed: int
    watch: StopWatch | None = None  # only where stop strings are to be found
    tokens: list[int] = field(default_factory=list)
    log_probabilities: list[float] = field(default_factory=list)
    stop_token: int | None = None
    finish: FinishReason | None = None
    piece: str = ""  # the text that the last token added

    def add(self, token: int, log_probability: float, stop_ids: Collection[int]) -> None:
        self.log_probabilities.append(log_probability)
        self.piece = ""
        if token in stop_ids:
            self.stop_token, self.finish = token, "stop"
            return
        self.tokens.append(token)
        if self.watch is not None:
            self.piece = self.watch.push(token)
        if self.watch is not None and self.watch.stopped:
            self.finish = "stop"
        elif len(self.tokens) == self.budget:
            self.finish = "length"

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


class _Decoder:
    """Advances one batch of rows, a token at a time."""

    def __init__(
        self, model: nn.Module, rows: list[_Row], decoding: Decoding, stop_ids: Collection[int], pad_id: int
    ) -> None:
        self.rows = rows
        self._decoding = decoding
        self._stop_ids = stop_ids
        longest = max(row.budget for row in rows)
        self._batch = CachedBatch(model, [row.prompt for row in rows], pad_id, room=longest)
        self._last_B: Tensor | None = None
        self._seen_BV: Tensor | None = None
        self._uniform_BN = None if decoding.is_greedy else _uniforms(rows, longest).to(self._batch.device)
        self._steps = 0

    @torch.inference_mode()
    def advance(self) -> None:
        """Choose one more token for every row."""
        logits_BV = self._batch.prefill() if self._last_B is None else self._batch.step(self._last_B)
        chosen_B = self._choose(logits_BV)
        self._last_B = chosen_B
        self._steps += 1
        log_p_B = logits_BV.gather(1, chosen_B[:, None])[:, 0] - logits_BV.logsumexp(dim=-1)
        tokens, log_ps = torch.stack([chosen_B.double(), log_p_B.double()]).tolist()  # one transfer
        for row, token, log_p in zip(self.rows, tokens, log_ps, strict=True):
            if row.finish is not None:
                continue
            if math.isnan(log_p):
                raise ModelError("the logits are not finite", fix="check the weights, or load them in bf16")
            row.add(int(token), log_p, self._stop_ids)
        self._drop_finished()

    def _choose(self, logits_BV: Tensor) -> Tensor:
        self._note_seen(logits_BV)
        processed_BV = process_logits(logits_BV, self._decoding, self._seen_BV)
        if self._uniform_BN is None:
            return processed_BV.argmax(dim=-1)
        return draw(processed_BV, self._uniform_BN[:, self._steps])

    def _note_seen(self, logits_BV: Tensor) -> None:
        if self._decoding.repetition_penalty == 1.0:
            return
        if self._seen_BV is None:
            prompts = [row.prompt for row in self.rows]
            self._seen_BV = seen_tokens(prompts, logits_BV.shape[-1]).to(logits_BV.device)
        if self._last_B is not None:
            self._seen_BV.scatter_(1, self._last_B[:, None], True)

    def _drop_finished(self) -> None:
        live = [place for place, row in enumerate(self.rows) if row.finish is None]
        finished = len(self.rows) - len(live)
        if finished < _COMPACT_AT * len(self.rows):
            return
        self.rows = [self.rows[place] for place in live]
        if not live or not finished:
            return
        places_R = torch.tensor(live, device=self._batch.device)
        self._batch.select(places_R)
        assert self._last_B is not None
        self._last_B = self._last_B[places_R]
        self._seen_BV = None if self._seen_BV is None else self._seen_BV[places_R]
        self._uniform_BN = None if self._uniform_BN is None else self._uniform_BN[places_R]


def generate(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    decoding: Decoding,
    *,
    stop_ids: Collection[int],
    pad_id: int,
    batch_size: int = 64,
    batch_tokens: int = 32_768,
    decode: Decode | None = None,
    seeds: Sequence[int] | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> list[Completion]:
    """Answer many prompts.

    Args:
        model: a transformers causal language model (peft-wrapped or not); its training state is restored.
        prompts: the tokens of each prompt, none empty.
        decoding: how to choose tokens.
        stop_ids: tokens that end an answer.
        pad_id: any token id; padding is masked.
        batch_size: prompts that run together, at most.
        batch_tokens: cache positions that a batch may occupy (rows x (longest prompt + new tokens)); halve it
            when memory runs out.
        decode: tokens → text; needed for stop strings, and fills `Completion.text`.
        seeds: a seed for each prompt, in place of the ones derived from `decoding.seed` and the prompt's
            place.
        on_progress: called with the number of prompts that a batch has finished.

    Returns:
        One completion a prompt, in the order of `prompts`. Sampled answers depend on their own prompt and
        seed, not on the prompts beside them (up to the rounding of batched matrix products).

    Raises:
        DataError: a prompt is empty or fills all the model's positions.
        ModelError: the logits are not finite, or the model has no usable cache.
        GraftError: stop strings without `decode`.
    """
    rows = _open(model, prompts, decoding, decode, seeds)
    lengths = [len(row.prompt) + row.budget for row in rows]
    with evaluation_mode(model):
        for batch in batches_by_length(lengths, batch_tokens=batch_tokens, batch_size=batch_size):
            decoder = _Decoder(model, [rows[index] for index in batch], decoding, frozenset(stop_ids), pad_id)
            while decoder.rows:
                decoder.advance()
            if on_progress is not None:
                on_progress(len(batch))
    return [row.completion(decode) for row in rows]


def stream(
    model: nn.Module,
    prompt: Sequence[int],
    decoding: Decoding,
    *,
    stop_ids: Collection[int],
    pad_id: int,
    decode: Decode,
) -> Iterator[str]:
    """Answer one prompt, yielding the text as it comes: whole characters, no stop string.

    Arguments and errors are those of `generate`; the pieces joined are the `text` of its completion.
    """
    row = _open(model, [prompt], decoding, decode, None)[0]
    watch = row.watch = StopWatch(decode, decoding.stop)
    with evaluation_mode(model):
        decoder = _Decoder(model, [row], decoding, frozenset(stop_ids), pad_id)
        while decoder.rows:
            decoder.advance()
            if row.piece:
                yield row.piece
    last = watch.finish()
    if last:
        yield last


def _open(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    decoding: Decoding,
    decode: Decode | None,
    seeds: Sequence[int] | None,
) -> list[_Row]:
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
        rows.append(_Row(index=index, prompt=prompt, budget=room, seed=seed, watch=watch))
    return rows


def _request_seed(seed: int, index: int) -> int:
    """A seed for request `index`, unrelated to those of its neighbours."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{index}".encode()).digest()[:8], "big") >> 1


def _uniforms(rows: Sequence[_Row], count: int) -> Tensor:
    """`count` numbers in [0, 1) a row, each row from its own generator: [B, N] fp32."""
    return torch.stack([torch.rand(count, generator=torch.Generator().manual_seed(row.seed)) for row in rows])
