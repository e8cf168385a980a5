"""The engine: requests that come and go, in a cache of slots, one token each at a time (continuous batching).

A request waits until a slot is free, its prompt runs together with others' as packed rows (equal prompts once), and
from then on it takes part in every step until it ends. On a GPU a step is a graph, and the host reads its tokens while
the next one runs: what a request would write after its end is thrown away. Where the next step depends on the tokens
of this one (guesses, rules), the host waits for them.

Method: Orca (Yu et al., OSDI 2022) for the batching; slots instead of pages, because a sequence's room is known.
Shapes: S slots, B slots of a step, K tokens of each, R requests, T tokens of packed prompts, V vocabulary.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from graftlm.core.errors import ModelError
from graftlm.inference.cached import evaluation_mode, model_device
from graftlm.inference.choosing import Chooser, Flight
from graftlm.inference.next_token import NextToken
from graftlm.inference.prompt_lookup import DraftCount, PromptLookup
from graftlm.inference.request import Request
from graftlm.models.adapter_routes import NONE, AdapterRoutes
from graftlm.models.slots import SlotCache
from graftlm.models.trunk import causal_lm, output_head, prompt_states


class Engine:
    """Answers requests with one model.

    Args:
        model: a causal language model that takes packed rows (`models.trunk.prepare_trunk`); not under autocast.
        slots: sequences at once.
        positions: tokens of a sequence, prompt and answer, at most.
        prefill_tokens: tokens of prompts that run together.
        compile: on a GPU, compile the layers for decoding: for an engine that stays.
        draft: the most tokens to guess from what a request holds already, and to check in one forward pass
            (`prompt_lookup`). Answers stay the same, up to the rounding of matrix products of other shapes.
        adapters: each request names one of the model's LoRA adapters, or none; else all take what is active.

    Attributes:
        drafts: how guessing went so far.

    Raises:
        ModelError: the model cannot keep packed documents apart, or its adapters cannot share a step.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        slots: int,
        positions: int,
        prefill_tokens: int = 8192,
        compile: bool = False,
        draft: int = 0,
        adapters: bool = False,
    ) -> None:
        if not getattr(causal_lm(model), "graft_packs", False):
            raise ModelError("its attention cannot keep packed prompts apart", fix="use inference.generation")
        self._model, self._slots, self._prefill_tokens, self._draft = model, slots, prefill_tokens, draft
        self._device = model_device(model)
        self._cache = SlotCache(slots, positions)
        self._next = NextToken(model, self._cache, slots, positions, self._device, compile=compile)
        self._head = output_head(model)
        self._chooser = Chooser(slots, positions, self._device)
        self._routes = AdapterRoutes(model) if adapters else None
        self._adapter_S = torch.full((slots,), NONE, device=self._device)
        self.positions, self.drafts = positions, DraftCount()
        self._waiting: deque[Request] = deque()
        self._running: list[Request | None] = [None] * slots
        self._flights: deque[Flight] = deque()

    def submit(self, request: Request) -> None:
        """Queue a request (from `request.open_requests`)."""
        if self._routes is not None:
            self._routes.place(request.adapter)
        elif request.adapter is not None:
            raise ModelError(f"it names the adapter `{request.adapter}`", fix="make the engine with adapters=True")
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
        """Let waiting requests in, choose more tokens for each running one; returns those that got some."""
        self._free_slots()
        arrivals = self._arrivals()
        if arrivals:
            self._prefill(arrivals)
        elif any(self._running):
            self._close_gaps()
            guesses = [self._guess(request) for request in self._running[: self._used]]
            if any(guesses):
                return self._decode_guesses(guesses)
            self._decode()
        found = []
        while len(self._flights) > self._ahead:
            found += self._land(self._flights.popleft())
        return found

    @property
    def _used(self) -> int:
        """Slots up to the last one that is taken."""
        return max((slot + 1 for slot, request in enumerate(self._running) if request is not None), default=0)

    @property
    def _ahead(self) -> int:
        """Steps whose tokens the host may leave on their way while the next one runs."""
        running = [request for request in self._running if request is not None]
        waits = self._draft or any(request.constraint is not None for request in running)
        return 1 if self._device.type == "cuda" and running and not waits else 0

    def _free_slots(self) -> None:
        for slot, request in enumerate(self._running):
            if request is not None and request.finish is not None:
                self._running[slot] = None
                self._next.lengths_S[slot] = 0

    def _arrivals(self) -> list[list[Request]]:
        """Requests to let in now, those with equal prompts (and adapters) together."""
        free, tokens = self._running.count(None), 0
        groups: dict[tuple[str | None, tuple[int, ...]], list[Request]] = {}
        while self._waiting and free:
            request = self._waiting[0]
            alike = request.adapter, tuple(request.prompt)
            if alike not in groups and tokens and tokens + len(request.prompt) > self._prefill_tokens:
                break
            tokens += 0 if alike in groups else len(request.prompt)
            groups.setdefault(alike, []).append(self._waiting.popleft())
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
        if self._routes is not None:
            for group, group_slots in zip(groups, slots, strict=True):
                self._adapter_S[group_slots] = self._routes.place(group[0].adapter)
        slot_T = slot_T.to(self._device)
        self._cache.expect_prompts(slot_T, position_T.to(self._device))
        with self._cache.on(self._model), self._routed(self._adapter_S[slot_T][None]):
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
            request.lookup = PromptLookup(request.prompt) if self._draft else None
        places_R = torch.tensor(places, device=self._device)
        owner_R = torch.tensor([n for n, group in enumerate(groups) for _ in group], device=self._device)
        logits_RV = logits_NV[owner_R]
        self._chooser.prepare(requests, places_R, logits_RV.shape[-1])
        flight = self._chooser.choose(logits_RV, requests, places_R)
        self._flights.append(flight)
        self._next.tokens_S[places_R] = flight.tokens_B
        self._next.lengths_S[places_R] = torch.tensor([len(r.prompt) for r in requests], device=self._device)

    def _decode(self) -> None:
        B = self._next.rounded(self._used)
        with self._routed(self._adapter_S[:B, None]):
            logits_BV = self._next.logits(B)
        flight = self._chooser.choose(logits_BV, self._running[:B], None)
        self._flights.append(flight)
        self._next.append(flight.tokens_B)

    def _guess(self, request: Request | None) -> list[int]:
        if request is None or request.lookup is None:
            return []
        # The pass itself gives a token more than was guessed.
        return request.lookup.guess(min(self._draft, request.budget - len(request.tokens) - 1))

    def _decode_guesses(self, guesses: list[list[int]]) -> list[Request]:
        """Run each row's guesses in one pass; a row takes tokens, chosen as ever, up to the first wrong guess."""
        B, K = len(guesses), 1 + max(map(len, guesses))
        last, counts = self._next.tokens_S[:B].tolist(), [0] * B
        rows = [[token, *guess, *[0] * (K - 1 - len(guess))] for token, guess in zip(last, guesses, strict=True)]
        with self._routed(self._adapter_S[:B, None]):
            logits_BKV = self._next.logits_of_several(torch.tensor(rows, device=self._device))
        going = [slot for slot in range(B) if self._running[slot] is not None]
        self.drafts.rows += len(going)
        self.drafts.drafted += sum(map(len, guesses))
        found = []
        for place in range(K):
            going_R = torch.tensor(going, device=self._device)
            flight = self._chooser.choose(logits_BKV[going_R, place], [self._running[slot] for slot in going], going_R)
            landed = self._land(flight)
            self.drafts.accepted += len(landed) if place else 0
            found += landed
            for slot, token in zip(going, flight.read()[0], strict=True):
                last[slot], counts[slot] = token, counts[slot] + 1
            going = [slot for slot in going if guesses[slot][place : place + 1] == [last[slot]] and self._goes_on(slot)]
            if not going:
                break
        self._next.append_several(*(torch.tensor(numbers, device=self._device) for numbers in (last, counts)))
        return list({id(request): request for request in found}.values())  # each once

    def _goes_on(self, slot: int) -> bool:
        request = self._running[slot]
        return request is not None and request.finish is None

    def _routed(self, place_BK: Tensor) -> AbstractContextManager[None]:
        return nullcontext() if self._routes is None else self._routes.on(place_BK)

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
            self._chooser.move(source, target)
            for kept in (self._next.tokens_S, self._next.lengths_S, self._adapter_S):
                kept[target] = kept[source]
            self._next.lengths_S[source] = 0
            self._running[target], self._running[source] = request, None

    def _land(self, flight: Flight) -> list[Request]:
        """Give the requests their tokens; those that have ended in the meantime get none."""
        tokens, log_ps = flight.read()
        found = []
        for request, token, log_p in zip(flight.requests, tokens, log_ps, strict=True):
            if request is None or request.finish is not None:
                continue
            if math.isnan(log_p):
                raise ModelError("the logits are not finite", fix="check the weights, or load them in bf16")
            request.add(token, log_p)
            found.append(request)
        return found

