"""Which token each row gets: what the engine knows of its slots for that, and the tokens' way to the host.

Shapes: S slots, B rows of a step, R rows with one decoding, N positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from graftlm.inference.constraints import only_allowed
from graftlm.inference.decoding import Decoding, draw, process_logits
from graftlm.inference.request import Request, uniforms


@dataclass
class Flight:
    """Tokens that were chosen on the device, on their way to the host."""

    requests: list[Request | None]  # by row
    tokens_B: Tensor  # on the device
    found_2B: Tensor  # tokens and their log-probabilities, float64
    arrived: torch.cuda.Event | None

    def read(self) -> tuple[list[int], list[float]]:
        if self.arrived is not None:
            self.arrived.synchronize()
        tokens, log_ps = self.found_2B.tolist()
        return [int(token) for token in tokens], log_ps


class Chooser:
    """Chooses tokens for requests in slots; owns their random numbers and what it must know of their tokens so far."""

    def __init__(self, slots: int, positions: int, device: torch.device) -> None:
        self._slots, self._positions, self._device = slots, positions, device
        self._uniform_SN: Tensor | None = None
        self._seen_SV: Tensor | None = None
        self._counts_SV: Tensor | None = None

    def prepare(self, requests: list[Request], places_R: Tensor, V: int) -> None:
        """Requests come into slots: random numbers and what is known of the tokens so far, for those that need them."""
        if any(not request.decoding.is_greedy for request in requests):
            if self._uniform_SN is None:
                self._uniform_SN = torch.zeros(self._slots, self._positions + 1, device=self._device)
            self._uniform_SN[places_R] = uniforms(requests, self._positions + 1).to(self._device)
        if any(request.decoding.repetition_penalty != 1.0 for request in requests):
            if self._seen_SV is None:
                self._seen_SV = torch.zeros(self._slots, V, dtype=torch.bool, device=self._device)
            self._seen_SV[places_R] = False
            for place, request in zip(places_R, requests, strict=True):
                self._seen_SV[place, torch.as_tensor(request.prompt, device=self._device)] = True
        if any(request.decoding.counts_answers for request in requests):
            if self._counts_SV is None:
                self._counts_SV = torch.zeros(self._slots, V, device=self._device)
            self._counts_SV[places_R] = 0

    def move(self, source: int, target: int) -> None:
        """A request moves from slot to slot."""
        for kept in (self._uniform_SN, self._seen_SV, self._counts_SV):
            if kept is not None:
                kept[target] = kept[source]

    def choose(self, logits_BV: Tensor, requests: Sequence[Request | None], places_B: Tensor | None) -> Flight:
        """A token a row, sent on its way to the host; row b is slot b, or `places_B`."""
        allowed_BV = only_allowed(logits_BV, requests)
        tokens_B = allowed_BV.argmax(dim=-1)
        for decoding, rows in _by_decoding(requests).items():
            rows_R = torch.tensor(rows, device=self._device)
            places_R = rows_R if places_B is None else places_B[rows_R]
            tokens_B[rows_R] = self._choose_alike(
                allowed_BV[rows_R], decoding, [requests[row] for row in rows], places_R
            )
        log_p_B = logits_BV.gather(1, tokens_B[:, None])[:, 0] - logits_BV.logsumexp(dim=-1)
        found_2B = torch.stack([tokens_B.double(), log_p_B.double()])
        arrived = None
        if self._device.type == "cuda":
            found_2B = torch.empty(found_2B.shape, dtype=found_2B.dtype, pin_memory=True).copy_(
                found_2B, non_blocking=True
            )
            arrived = torch.cuda.Event()
            arrived.record()
        for request in requests:
            if request is not None:
                request.asked += 1
        return Flight(list(requests), tokens_B, found_2B, arrived)

    def _choose_alike(
        self, logits_RV: Tensor, decoding: Decoding, requests: list[Request | None], places_R: Tensor
    ) -> Tensor:
        """For rows with one decoding that is not plainly greedy."""
        seen_RV = self._seen_SV[places_R] if self._seen_SV is not None else None
        counts_RV = self._counts_SV[places_R] if self._counts_SV is not None else None
        processed_RV = process_logits(logits_RV, decoding, seen_RV, counts_RV)
        if decoding.is_greedy:
            chosen_R = processed_RV.argmax(dim=-1)
        else:
            assert self._uniform_SN is not None
            asked_R = torch.tensor([request.asked for request in requests if request], device=self._device)
            chosen_R = draw(processed_RV, self._uniform_SN[places_R, asked_R])
        if self._seen_SV is not None:
            self._seen_SV[places_R, chosen_R] = True
        if self._counts_SV is not None:
            self._counts_SV[places_R, chosen_R] += 1
        return chosen_R


def _by_decoding(requests: Collection[Request | None]) -> dict[Decoding, list[int]]:
    """Rows that are not plainly greedy, by how they choose."""
    found: dict[Decoding, list[int]] = {}
    for row, request in enumerate(requests):
        if request is not None and not (request.decoding.is_greedy and not request.decoding.penalises):
            found.setdefault(request.decoding, []).append(row)
    return found
