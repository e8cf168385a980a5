"""The generation engine: many prompts through one model with a cache, or one prompt as a stream of text.

Prompts of like length run together, padded on the left; a finished row leaves the batch as soon as enough
rows are finished to pay for moving the cache. Logits exist for the last position only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence

import torch
from torch import Tensor, nn

from graftlm.core.errors import ModelError
from graftlm.inference.batching import batches_by_length
from graftlm.inference.cached import CachedBatch, evaluation_mode, model_device
from graftlm.inference.constraints import Constraint, only_allowed
from graftlm.inference.decoding import Decoding, draw, process_logits, seen_tokens
from graftlm.inference.engine import Engine
from graftlm.inference.request import Completion, Request, open_requests, uniforms
from graftlm.inference.text_stream import Decode, StopWatch
from graftlm.models.trunk import causal_lm

_COMPACT_AT = 0.25
"""The share of finished rows at which they leave the batch: moving the cache costs about one step."""


class _Decoder:
    """Advances one batch of rows, a token at a time."""

    def __init__(
        self, model: nn.Module, rows: list[Request], decoding: Decoding, pad_id: int
    ) -> None:
        self.rows = rows
        self._decoding = decoding
        longest = max(row.budget for row in rows)
        self._batch = CachedBatch(model, [row.prompt for row in rows], pad_id, room=longest)
        self._last_B: Tensor | None = None
        self._seen_BV: Tensor | None = None
        self._counts_BV: Tensor | None = None
        self._uniform_BN = None if decoding.is_greedy else uniforms(rows, longest).to(self._batch.device)
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
            row.add(int(token), log_p)
        self._drop_finished()

    def _choose(self, logits_BV: Tensor) -> Tensor:
        self._note_seen(logits_BV)
        allowed_BV = only_allowed(logits_BV, self.rows)
        processed_BV = process_logits(allowed_BV, self._decoding, self._seen_BV, self._counts_BV)
        if self._uniform_BN is None:
            return processed_BV.argmax(dim=-1)
        return draw(processed_BV, self._uniform_BN[:, self._steps])

    def _note_seen(self, logits_BV: Tensor) -> None:
        if self._decoding.counts_answers:
            if self._counts_BV is None:
                self._counts_BV = torch.zeros_like(logits_BV)
            if self._last_B is not None:
                self._counts_BV.scatter_add_(1, self._last_B[:, None], torch.ones_like(self._counts_BV[:, :1]))
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
        self._counts_BV = None if self._counts_BV is None else self._counts_BV[places_R]
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
    constraints: Sequence[Constraint | None] | None = None,
    draft: int = 0,
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
        constraints: a rule for each prompt, or None; each of its own, since it follows its answer.
        draft: tokens to guess from the prompt and to check at once (`Engine`); does nothing for models that the
            engine cannot serve.
        on_progress: called with the number of prompts that a batch has finished.

    Returns:
        One completion a prompt, in the order of `prompts`. Sampled answers depend on their own prompt and
        seed, not on the prompts beside them (up to the rounding of batched matrix products).

    Raises:
        DataError: a prompt is empty or fills all the model's positions.
        ModelError: the logits are not finite, or the model has no usable cache.
        GraftError: stop strings without `decode`.
    """
    rows = open_requests(model, prompts, decoding, stop_ids, decode, seeds)
    for row, constraint in zip(rows, constraints or [None] * len(rows), strict=True):
        row.constraint = constraint
    lengths = [len(row.prompt) + row.budget for row in rows]
    if rows and _serves(model):
        engine = engine_for(model, lengths, batch_size=batch_size, batch_tokens=batch_tokens, draft=draft)
        engine.run(rows, on_finish=lambda _: on_progress(1) if on_progress is not None else None)
        return [row.completion(decode) for row in rows]
    with evaluation_mode(model):
        for batch in batches_by_length(lengths, batch_tokens=batch_tokens, batch_size=batch_size):
            decoder = _Decoder(model, [rows[index] for index in batch], decoding, pad_id)
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
    constraint: Constraint | None = None,
    draft: int = 0,
) -> Iterator[str]:
    """Answer one prompt, yielding the text as it comes: whole characters, no stop string.

    Arguments and errors are those of `generate`; the pieces joined are the `text` of its completion.
    """
    row = open_requests(model, [prompt], decoding, stop_ids, decode, None)[0]
    row.constraint = constraint
    watch = row.watch = StopWatch(decode, decoding.stop)
    with evaluation_mode(model):
        for _ in _steps(model, row, pad_id, draft):
            if piece := row.take_piece():
                yield piece
    last = watch.finish()
    if last:
        yield last


def _steps(model: nn.Module, row: Request, pad_id: int, draft: int) -> Iterator[None]:
    """Works on one request, by the engine where it can."""
    if not _serves(model):
        decoder = _Decoder(model, [row], row.decoding, pad_id)
        while decoder.rows:
            yield decoder.advance()
        return
    engine = Engine(model, slots=1, positions=len(row.prompt) + row.budget, draft=draft)
    engine.submit(row)
    while row.finish is None:
        engine.step()
        yield


def _serves(model: nn.Module) -> bool:
    """Whether the engine can answer with this model: not under autocast, which would cast all weights at each step."""
    packs = getattr(causal_lm(model), "graft_packs", False)
    return packs and not torch.is_autocast_enabled(model_device(model).type)


def engine_for(
    model: nn.Module, lengths: Sequence[int], *, batch_size: int, batch_tokens: int, draft: int = 0
) -> Engine:
    """An engine with as many slots as sequences of these lengths need and `batch_tokens` positions allow."""
    positions = max(lengths)
    slots = max(1, min(batch_size, len(lengths), batch_tokens // positions))
    return Engine(model, slots=slots, positions=positions, draft=draft)
