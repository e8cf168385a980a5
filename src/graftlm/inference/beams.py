"""Beam search: the n most likely answers to a prompt, with their log-probabilities.

Beams that end are kept aside with their score, log p / length^penalty (stop token counted), and the search ends when
the best running beam could not enter among them, taken at its present length. That is what transformers does with
`early_stopping=False`, and the tests hold it against that.

Shapes: W beams, V vocabulary, C candidates of a step.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from graftlm.core.errors import DataError, GraftError, ModelError
from graftlm.inference.cached import CachedBatch, evaluation_mode, position_limit
from graftlm.inference.request import Completion
from graftlm.inference.text_stream import Decode


@dataclass(frozen=True, slots=True)
class _Beam:
    tokens: tuple[int, ...] = ()
    log_ps: tuple[float, ...] = ()
    total: float = 0.0

    def then(self, token: int, log_p: float, total: float) -> _Beam:
        return _Beam((*self.tokens, token), (*self.log_ps, log_p), total)

    def score(self, penalty: float) -> float:
        return self.total / len(self.tokens) ** penalty


@torch.inference_mode()
def beam_search(
    model: nn.Module,
    prompt: Sequence[int],
    *,
    beams: int,
    max_new_tokens: int,
    stop_ids: Collection[int],
    pad_id: int,
    length_penalty: float = 1.0,
    decode: Decode | None = None,
) -> list[Completion]:
    """The best `beams` answers that the search finds, best first.

    Args:
        model: a transformers causal language model, peft-wrapped or not.
        beams: answers that are followed at once; 1 is greedy decoding.
        length_penalty: above 0 long answers are favoured, below 0 short ones; at 0 the score is log p itself.
        decode: tokens → text, fills `Completion.text`.

    Returns:
        Completions of falling score log p / length^penalty. Fewer than `beams` where the vocabulary has no more.

    Raises:
        DataError: the prompt is empty or fills all positions.
        GraftError: not one beam.
        ModelError: the logits are not finite.
    """
    limit = position_limit(model)
    room = max_new_tokens if limit is None else min(max_new_tokens, limit - len(prompt))
    if not len(prompt) or room < 1:
        raise DataError(f"a prompt of {len(prompt)} tokens has no answer", fix="give it tokens, and room to answer")
    if beams < 1:
        raise GraftError(f"{beams} beams follow nothing", fix="1 or more")
    stops = frozenset(stop_ids)
    with evaluation_mode(model):
        batch = CachedBatch(model, [prompt], pad_id, room=room)
        running, ended = [_Beam()], list[_Beam]()
        logits_WV = batch.prefill()
        while True:
            candidates = _candidates(logits_WV, running, beams, len(stops))
            last = len(running[0].tokens) + 1 == room
            # Beyond the first `beams` candidates none ends: they are there to go on where those have ended.
            ended += [beam for _, beam in candidates[:beams] if last or beam.tokens[-1] in stops]
            ended = sorted(ended, key=lambda beam: -beam.score(length_penalty))[:beams]
            going = [(parent, beam) for parent, beam in candidates if beam.tokens[-1] not in stops][:beams]
            if last or not going or not _can_improve(going[0][1], ended, beams, length_penalty):
                break
            running = [beam for _, beam in going]
            batch.select(torch.tensor([parent for parent, _ in going], device=batch.device))
            logits_WV = batch.step(torch.tensor([beam.tokens[-1] for beam in running], device=batch.device))
    return [_completion(beam, stops, decode) for beam in ended]


def _candidates(logits_WV: Tensor, running: list[_Beam], beams: int, stops: int) -> list[tuple[int, _Beam]]:
    """The likeliest continuations, best first, each with its parent: enough that `beams` go on whatever ends."""
    if not logits_WV.isfinite().all():
        raise ModelError("the logits are not finite", fix="check the weights, or load them in bf16")
    log_p_WV = logits_WV.log_softmax(dim=-1)
    totals_W1 = torch.tensor([[beam.total] for beam in running], device=logits_WV.device)
    count = min(max(2, 1 + stops) * beams, log_p_WV.numel())
    totals_C, places_C = (log_p_WV + totals_W1).flatten().topk(count)
    log_ps_C, V = log_p_WV.flatten()[places_C], logits_WV.shape[1]
    return [
        (place // V, running[place // V].then(place % V, log_p, total))
        for place, log_p, total in zip(places_C.tolist(), log_ps_C.tolist(), totals_C.tolist(), strict=True)
    ]


def _can_improve(best: _Beam, ended: list[_Beam], beams: int, penalty: float) -> bool:
    return len(ended) < beams or best.score(penalty) > ended[-1].score(penalty)


def _completion(beam: _Beam, stops: frozenset[int], decode: Decode | None) -> Completion:
    stop = beam.tokens[-1] if beam.tokens[-1] in stops else None
    tokens = beam.tokens if stop is None else beam.tokens[:-1]
    return Completion(
        tokens=tokens,
        finish_reason="length" if stop is None else "stop",
        log_probability=sum(beam.log_ps),
        log_probabilities=beam.log_ps,
        stop_token=stop,
        text=None if decode is None else decode(tokens),
    )
