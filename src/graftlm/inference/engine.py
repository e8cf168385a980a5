"""The engine: requests that come and go, in a cache of slots, one token each at a time (continuous batching).

A request waits until a slot is free, its prompt runs together with others' as packed rows (equal prompts once), and
from then on it takes part in every step until it ends. On a GPU a step is a graph, and the host reads its tokens while
the next one runs: what a request would write after its end is thrown away.

Method: Orca (Yu et al., OSDI 2022) for the batching; slots instead of pages, because a sequence's room is known.
Shapes: S slots, B slots of a step, R requests, T tokens of packed prompts, V vocabulary.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from graftlm.core.errors import ModelError
from graftlm.inference.cached import evaluation_mode, model_device
from graftlm.inference.decoding import Decoding, draw, process_logits
from graftlm.inference.next_token import NextToken
from graftlm.inference.request import Request, uniforms
from graftlm.models.slots import SlotCache
from graftlm.models.trunk import causal_lm, output_head, prompt_states


@dataclass
class _Flight:
    """Tokens that were chosen on the device, on their way to the host."""

    requests: list[Request | None]  # by row
    found_2B: Tensor  # tokens and their log-probabilities, float64
    arrived: torch.cuda.Event | None

    def read(self) -> tuple[list[float], list[float]]:
        if self.arrived is not None:
            self.arrived.synchronize()
        tokens, log_ps = self.found_2B.tolist()
        return tokens, log_ps


class Engine:
    """Answers requests with one model.

    Args:
        model: a causal language model that takes packed rows (`models.trunk.prepare_trunk`); not under autocast.
        slots: sequences at once.
        positions: tokens of a sequence, prompt and answer, at most.
        prefill_tokens: tokens of prompts that run together.
        compile: on a GPU, compile the layers for decoding: for an engine that stays.

    Raises:
        ModelError: the model cannot keep packed documents apart.
    """

    def __init__(
        self, model: nn.Module, *, slots: int, positions: int, prefill_tokens: int = 8192, compile: bool = False
    ) -> None:
        if not getattr(causal_lm(model), "graft_packs", False):
            raise ModelError("its attention cannot keep packed prompts apart", fix="use inference.generation")
        self._model, self._slots, self._prefill_tokens = model, slots, prefill_tokens
        self._device = model_device(model)
        self._cache = SlotCache(slots, positions)
        self._next = NextToken(model, self._cache, slots, positions, self._device, compile=compile)
        self._head = output_head(model)
        self.positions = positions
        self._waiting: deque[Request] = deque()
        self._running: list[Request | None] = [None] * slots
        self._flights: deque[_Flight] = deque()
        self._ahead = 1 if self._device.type == "cuda" else 0
        self._uniform_SN: Tensor | None = None
        self._seen_SV: Tensor | None = None
        self._counts_SV: Tensor | None = None

    def submit(self, request: Request) -> None:
        """Queue a request (from `request.open_requests`)."""
        if len(request.prompt) + request.budget > self.positions:
            raise ModelError(
                f"prompt and answer take {len(request.prompt) + request.budget} positions, a slot has {self.positions}",
                fix="lower max_new_tokens, or make the engine with more positions",
            )
        self._waiting.append(request)

    def cancel(self, request: Request) -> None:
        """End a request now; what it has stays in it."""
        if request.finish is None:
            request.finish = "cancelled"
        if request in self._waiting:
            self._waiting.remove(request)

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._flights or any(self._running))

    def run(self, requests: Iterable[Request], on_finish: Callable[[Request], None] | None = None) -> None:
        """Submit requests and step until nothing is left to do."""
        for request in requests:
            self.submit(request)
        with evaluation_mode(self._model):
            while self.busy:
                for request in self.step():
                    if on_finish is not None and request.finish is not None:
                        on_finish(request)

    @torch.inference_mode()
    def step(self) -> list[Request]:
        """Let waiting requests in, choose one more token for each running one; returns those that got one."""
        self._free_slots()
        arrivals = self._arrivals()
        if arrivals:
            self._prefill(arrivals)
        elif any(self._running):
            self._close_gaps()
            self._decode()
        found = []
        while len(self._flights) > (self._ahead if any(self._running) else 0):
            found += self._land(self._flights.popleft())
        return found

    def _free_slots(self) -> None:
        for slot, request in enumerate(self._running):
            if request is not None and request.finish is not None:
                self._running[slot] = None
                self._next.lengths_S[slot] = 0

    def _arrivals(self) -> list[list[Request]]:
        """Requests to let in now, those with equal prompts together."""
        free, tokens = self._running.count(None), 0
        groups: dict[tuple[int, ...], list[Request]] = {}
        while self._waiting and free:
            prompt = tuple(self._waiting[0].prompt)
            if prompt not in groups and tokens and tokens + len(prompt) > self._prefill_tokens:
                break
            tokens += 0 if prompt in groups else len(prompt)
            groups.setdefault(prompt, []).append(self._waiting.popleft())
            free -= 1
        return list(groups.values())

    def _prefill(self, groups: list[list[Request]]) -> None:
        """Run prompts, put their states into slots and choose each one's first token."""
        free = (slot for slot, request in enumerate(self._running) if request is None)
        slots = [[next(free) for _ in group] for group in groups]
        prompts = [torch.as_tensor(group[0].prompt, dtype=torch.long) for group in groups]
        lengths = [len(prompt) for prompt in prompts]
        slot_T = torch.repeat_interleave(torch.tensor([places[0] for places in slots]), torch.tensor(lengths))
        position_T = torch.cat([torch.arange(length) for length in lengths])
        ends = torch.tensor(lengths).cumsum(0)
        boundaries = torch.cat([ends.new_zeros(1), ends]).int()
        self._cache.expect_prompts(slot_T.to(self._device), position_T.to(self._device))
        with self._cache.on(self._model):
            states_TD = prompt_states(
                self._model, torch.cat(prompts).to(self._device), boundaries.to(self._device), self._cache
            )
        logits_NV = self._head.logits(states_TD[(ends - 1).to(self._device)])
        for places, length in zip(slots, lengths, strict=True):
            if len(places) > 1:
                self._cache.copy_slot(places[0], places[1:], length)
        requests = [request for group in groups for request in group]
        places = [slot for group in slots for slot in group]
        for slot, request in zip(places, requests, strict=True):
            self._running[slot] = request
        places_R = torch.tensor(places, device=self._device)
        owner_R = torch.tensor([n for n, group in enumerate(groups) for _ in group], device=self._device)
        logits_RV = logits_NV[owner_R]
        self._prepare(requests, places_R, logits_RV.shape[-1])
        chosen_R = self._choose(logits_RV, list(requests), places_R)
        self._next.tokens_S[places_R] = chosen_R
        self._next.lengths_S[places_R] = torch.tensor([len(r.prompt) for r in requests], device=self._device)

    def _decode(self) -> None:
        top = max(slot for slot, request in enumerate(self._running) if request is not None) + 1
        B = self._next.rounded(top)
        logits_BV = self._next.logits(B)
        chosen_B = self._choose(logits_BV, self._running[:B], None)
        self._next.append(chosen_B)

    def _choose(self, logits_BV: Tensor, requests: list[Request | None], places_B: Tensor | None) -> Tensor:
        """A token a row, sent on its way to the host; row b is slot b, or `places_B`."""
        plain = logits_BV.argmax(dim=-1)
        for decoding, rows in _by_decoding(requests).items():
            rows_R = torch.tensor(rows, device=self._device)
            places_R = rows_R if places_B is None else places_B[rows_R]
            plain[rows_R] = self._choose_alike(logits_BV[rows_R], decoding, [requests[row] for row in rows], places_R)
        log_p_B = logits_BV.gather(1, plain[:, None])[:, 0] - logits_BV.logsumexp(dim=-1)
        found_2B = torch.stack([plain.double(), log_p_B.double()])
        arrived = None
        if self._device.type == "cuda":
            found_2B = torch.empty(found_2B.shape, dtype=found_2B.dtype, pin_memory=True).copy_(
                found_2B, non_blocking=True
            )
            arrived = torch.cuda.Event()
            arrived.record()
        self._flights.append(_Flight(list(requests), found_2B, arrived))
        for request in requests:
            if request is not None:
                request.asked += 1
        return plain

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

    def _prepare(self, requests: list[Request], places_R: Tensor, V: int) -> None:
        """Random numbers and what is known of the tokens so far, for requests that need them."""
        if any(not request.decoding.is_greedy for request in requests):
            if self._uniform_SN is None:
                self._uniform_SN = torch.zeros(self._slots, self.positions + 1, device=self._device)
            self._uniform_SN[places_R] = uniforms(requests, self.positions + 1).to(self._device)
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

    def _close_gaps(self) -> None:
        """When nobody waits, the last slots move into empty ones, if that makes steps smaller."""
        count = self._slots - self._running.count(None)
        used = [slot for slot, request in enumerate(self._running) if request is not None]
        if self._waiting or self._next.rounded(count) >= self._next.rounded(used[-1] + 1):
            return
        for target in range(count):
            if self._running[target] is not None:
                continue
            source = used.pop()
            request = self._running[source]
            assert request is not None
            self._cache.copy_slot(source, [target], min(self.positions, len(request.prompt) + request.asked))
            for kept in (self._next.tokens_S, self._next.lengths_S, self._uniform_SN, self._seen_SV, self._counts_SV):
                if kept is not None:
                    kept[target] = kept[source]
            self._next.lengths_S[source] = 0
            self._running[target], self._running[source] = request, None

    def _land(self, flight: _Flight) -> list[Request]:
        """Give the requests their tokens; those that have ended in the meantime get none."""
        tokens, log_ps = flight.read()
        found = []
        for request, token, log_p in zip(flight.requests, tokens, log_ps, strict=True):
            if request is None or request.finish is not None:
                continue
            if math.isnan(log_p):
                raise ModelError("the logits are not finite", fix="check the weights, or load them in bf16")
            request.add(int(token), log_p)
            found.append(request)
        return found


def _by_decoding(requests: Collection[Request | None]) -> dict[Decoding, list[int]]:
    """Rows that are not plainly greedy, by how they choose."""
    found: dict[Decoding, list[int]] = {}
    for row, request in enumerate(requests):
        if request is not None and not (request.decoding.is_greedy and not request.decoding.penalises):
            found.setdefault(request.decoding, []).append(row)
    return found
