"""Packed rows of blank-infilling samples, made from the samples of a mixture.

All spans are drawn when the plan is made, so the rows have the lengths that they were packed with; a row is a
function of the plan and its number. Text is masked as `Masking` says. A conversation gives one gMASK sample an
answer, whose tail the answer is: so instructions take part in pre-training (5 % of GLM-130B's tokens do).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from graftlm.data.blank_infilling import (
    GMASK,
    MASK,
    SMASK,
    BlankSample,
    Marks,
    Masking,
    Spans,
    blank_sample,
    draw_sentences,
    draw_spans,
    draw_tails,
    expanded_lengths,
)
from graftlm.data.mixing import Mixture
from graftlm.data.packing import PackedBatch, PackingPlan, join, pack
from graftlm.ops.cross_entropy import IGNORE


@dataclass(frozen=True)
class InfillBatch(PackedBatch):
    """One row of samples.

    Attributes:
        positions: [T] int64.
        branch: [T] int64; 0 in a sample's context, 1 behind it.
        step: the optimizer step that the row belongs to.
    """

    positions: torch.Tensor
    branch: torch.Tensor
    step: int

    def to(self, device: torch.device) -> PackedBatch:
        moved = super().to(device)
        assert isinstance(moved, InfillBatch)
        return replace(moved, positions=self.positions.to(device), branch=self.branch.to(device))


@dataclass(frozen=True)
class Parts:
    """Pieces of samples, each of which becomes one blank-infilling sample; n of them.

    Attributes:
        entry: [n] index into the mixture that they come from, ascending.
        start, end: [n] tokens of the document that they are.
        kind: [n] MASK, SMASK or GMASK.
        spans: what is masked in each.
    """

    entry: np.ndarray
    start: np.ndarray
    end: np.ndarray
    kind: np.ndarray
    spans: Spans

    @property
    def lengths(self) -> np.ndarray:
        counts = np.bincount(self.spans.owner, minlength=len(self.entry))
        return expanded_lengths(self.end - self.start, self.kind, counts)


@dataclass(frozen=True)
class InfillPlan(PackingPlan):
    """A packing plan whose mixture holds one entry a part."""

    parts: Parts
    span_edges: np.ndarray
    marks: Marks
    seed: int

    def row(self, number: int, *, pad_to: int | None = None) -> InfillBatch:
        """Rows are not filled up: nothing that trains on them needs one shape."""
        chosen = self.order[self.row_edges[number] : self.row_edges[number + 1]].tolist()
        samples = [self.sample(place) for place in chosen]
        lengths = [len(sample.tokens) for sample in samples]
        targets_T = torch.from_numpy(np.concatenate([sample.targets for sample in samples]))
        branch_T = np.concatenate([np.arange(n) >= one.context for n, one in zip(lengths, samples, strict=True)])
        numbers = [
            ((self.mixture.first_block + int(self.mixture.block[place])) << 40) + int(self.mixture.sample[place])
            for place in chosen
        ]
        return InfillBatch(
            tokens=torch.from_numpy(np.concatenate([sample.tokens for sample in samples])),
            targets=targets_T,
            boundaries=torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32),
            document=torch.tensor(numbers, dtype=torch.int64),
            value=torch.zeros(len(chosen)),
            target_count=int((targets_T != IGNORE).sum()),
            padding=0,
            longest=max(lengths),
            positions=torch.from_numpy(np.concatenate([sample.positions for sample in samples])),
            branch=torch.from_numpy(branch_T.astype(np.int64)),
            step=number // self.rows_per_step,
        )

    def join(self, rows: Sequence[PackedBatch], pad_to: int | None = None) -> PackedBatch:
        parts = [row for row in rows if isinstance(row, InfillBatch)]
        return InfillBatch(
            **vars(join(rows)) | {
                "positions": torch.cat([row.positions for row in parts]),
                "branch": torch.cat([row.branch for row in parts]),
                "step": parts[0].step,
            }
        )  # fmt: skip

    def sample(self, place: int) -> BlankSample:
        """The blank-infilling sample of a part."""
        store = self.mixture.stores[self.mixture.block[place]]
        first = int(store.offsets[self.mixture.sample[place]])
        parts, here = self.parts, slice(self.span_edges[place], self.span_edges[place + 1])
        tokens = np.asarray(store.tokens)[first + int(parts.start[place]) : first + int(parts.end[place])]
        starts, lengths = parts.spans.starts[here].tolist(), parts.spans.lengths[here].tolist()
        order = np.random.default_rng([self.seed, place]).permutation(len(starts)).tolist()
        return blank_sample(tokens, starts, lengths, int(parts.kind[place]), self.marks, order)


def plan_infilling(
    mixture: Mixture,
    *,
    row_tokens: int,
    rows_per_step: int,
    marks: Marks,
    masking: Masking,
    seed: int,
    ends_V: np.ndarray | None = None,
) -> InfillPlan:
    """Mask the samples of a mixture and pack them.

    A text of a single token is left out: there is nothing to mask in it. A text of one sentence that falls to sMASK
    is masked as MASK.

    Args:
        row_tokens: a sample of so many tokens less one fits into a row.
        ends_V: whether a token ends a sentence; needed for a share of sMASK.
    """
    random = np.random.default_rng(seed)
    # Marks lengthen a masked sample by a tenth and 2 tokens at most.
    masking = replace(masking, window=min(masking.window, int((row_tokens - 2) / 1.1)))
    is_chat = np.array([store.kind == "chat" for store in mixture.stores], bool)[mixture.block]
    parts = _in_order([_masked_texts(mixture, np.flatnonzero(~is_chat), masking, random, ends_V),
                       _answers(mixture, np.flatnonzero(is_chat))])  # fmt: skip
    of_parts = replace(
        mixture, block=mixture.block[parts.entry], sample=mixture.sample[parts.entry], lengths=parts.lengths
    )
    packed = pack(of_parts, row_tokens=row_tokens, rows_per_step=rows_per_step)
    edges = parts.spans.edges(len(parts.entry))
    return InfillPlan(**vars(packed), parts=parts, span_edges=edges, marks=marks, seed=seed)


def _masked_texts(
    mixture: Mixture,
    entries: np.ndarray,
    masking: Masking,
    random: np.random.Generator,
    ends_V: np.ndarray | None,
) -> Parts:
    """Parts of texts. A document's first token is never masked: there would be nothing to begin from."""
    entries = entries[mixture.lengths[entries] > 1]
    kind_e = random.choice(3, len(entries), p=np.array(masking.shares) / sum(masking.shares))
    lengths_e = mixture.lengths[entries]
    pieces_e = np.where(kind_e == GMASK, 1, -(-lengths_e // masking.window))
    owner = np.repeat(np.arange(len(entries)), pieces_e)
    number = np.arange(len(owner)) - np.repeat(np.cumsum(pieces_e) - pieces_e, pieces_e)
    start, end = (lengths_e[owner] * (number + i) // pieces_e[owner] for i in (0, 1))
    kind, sizes = kind_e[owner], end - start - 1
    spans = [_sentences(mixture, entries[owner], start, end, kind, masking, random, ends_V)]
    kind[np.setdiff1d(np.flatnonzero(kind == SMASK), spans[0].owner)] = MASK
    for one in (MASK, GMASK):
        places = np.flatnonzero(kind == one)
        drawn = (
            draw_spans(sizes[places], random, ratio=masking.ratio, mean=masking.span)
            if one == MASK
            else draw_tails(sizes[places], random, least=masking.least_tail)
        )
        spans.append(replace(drawn, starts=drawn.starts + 1, owner=places[drawn.owner]))
    return _without_empty(Parts(entries[owner], start, end, kind, _sorted(spans)))


def _sentences(
    mixture: Mixture,
    entry: np.ndarray,
    start: np.ndarray,
    end: np.ndarray,
    kind: np.ndarray,
    masking: Masking,
    random: np.random.Generator,
    ends_V: np.ndarray | None,
) -> Spans:
    starts, lengths, owners = [], [], []
    for place in np.flatnonzero(kind == SMASK).tolist():
        assert ends_V is not None
        store = mixture.stores[mixture.block[entry[place]]]
        first = int(store.offsets[mixture.sample[entry[place]]])
        tokens = np.asarray(store.tokens[first + start[place] + 1 : first + end[place]])
        most = len(tokens) // 20 + 1  # their marks fit into the row then
        a, n = draw_sentences(ends_V[tokens], random, ratio=masking.ratio, most=most)
        starts.append(a + 1)
        lengths.append(n)
        owners.append(np.full(len(a), place))
    empty = [np.zeros(0, np.int64)]
    return Spans(*(np.concatenate(some or empty) for some in (starts, lengths, owners)))


def _answers(mixture: Mixture, entries: np.ndarray) -> Parts:
    """One part an answer: the conversation up to its end."""
    entry, start, end = [], [], []
    for place in entries.tolist():
        targets = mixture.stores[mixture.block[place]].documents(int(mixture.sample[place]))[0][1]
        edges = np.flatnonzero(np.diff(targets, prepend=False, append=False))
        entry += [place] * (len(edges) // 2)
        start += edges[0::2].tolist()
        end += edges[1::2].tolist()
    begin, stop = np.array(start, np.int64), np.array(end, np.int64)
    spans = Spans(begin, stop - begin, np.arange(len(entry)))
    return Parts(np.array(entry, np.int64), np.zeros_like(begin), stop, np.full(len(entry), GMASK), spans)


def _without_empty(parts: Parts) -> Parts:
    kept = np.unique(parts.spans.owner)
    spans = replace(parts.spans, owner=np.searchsorted(kept, parts.spans.owner))
    return Parts(parts.entry[kept], parts.start[kept], parts.end[kept], parts.kind[kept], spans)


def _in_order(several: Sequence[Parts]) -> Parts:
    """Parts in the order of the mixture."""
    entry = np.concatenate([parts.entry for parts in several])
    turn = np.argsort(entry, kind="stable")
    rank = np.argsort(turn)
    offsets = np.cumsum([0, *(len(parts.entry) for parts in several)])
    spans = [replace(p.spans, owner=rank[p.spans.owner + at]) for p, at in zip(several, offsets, strict=False)]
    start, end, kind = (np.concatenate([getattr(p, name) for p in several])[turn] for name in ("start", "end", "kind"))
    return Parts(entry[turn], start, end, kind, _sorted(spans))


def _sorted(several: Sequence[Spans]) -> Spans:
    """Spans by their owners; those of one keep their order."""
    owner = np.concatenate([spans.owner for spans in several]).astype(np.int64)
    turn = np.argsort(owner, kind="stable")
    starts, lengths = (np.concatenate([getattr(spans, name) for spans in several]) for name in ("starts", "lengths"))
    return Spans(starts[turn].astype(np.int64), lengths[turn].astype(np.int64), owner[turn])
