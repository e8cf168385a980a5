"""Packing: many documents in one row of a fixed token budget, each still alone in it.

Nothing is cut and no document is split: samples are placed whole (preference pairs stay together in one row),
and the attention, the positions and the targets stop at every boundary.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from graftlm.core.errors import DataError
from graftlm.data.best_fit import fill_rows, keep_shares
from graftlm.data.mixing import Mixture
from graftlm.data.store import TokenStore
from graftlm.ops.cross_entropy import IGNORE


@dataclass(frozen=True)
class PackedBatch:
    """One row.

    Attributes:
        tokens: [T] int64.
        targets: [T] int64; the token that position t must predict (the next one of its document), or IGNORE.
        boundaries: [N + 1] int32; where each document starts, and T.
        document: [N] int64; a number that each document keeps whenever it is seen, -1 for padding.
        value: [N] fp32; the number that belongs to each document (see `Encoded`), 0 for padding.
        target_count: positions that bear a target.
        padding: tokens of the documents at the end that only fill up the row (0 when rows are not filled).
        longest: tokens of the longest document, padding included.
    """

    tokens: torch.Tensor
    targets: torch.Tensor
    boundaries: torch.Tensor
    document: torch.Tensor
    value: torch.Tensor
    target_count: int
    padding: int
    longest: int

    def to(self, device: torch.device) -> PackedBatch:
        if device.type == "cpu":
            return self
        tokens, targets, boundaries, value = (
            x.pin_memory().to(device, non_blocking=True)
            for x in (self.tokens, self.targets, self.boundaries, self.value)
        )
        return replace(self, tokens=tokens, targets=targets, boundaries=boundaries, value=value)

    @property
    def documents(self) -> int:
        """Documents of the row, padding left out."""
        return int((self.document >= 0).sum())


@dataclass(frozen=True)
class PackingPlan:
    """Which samples stand in which row, and which rows make one optimizer step. A pure function of its
    inputs, so the number of the next step is all that a checkpoint has to remember of the data.

    Attributes:
        mixture: the samples, in training order.
        order: [n] indices into the mixture, row after row.
        row_edges: [rows + 1] where each row starts in `order`.
        row_tokens: the token budget of a row.
        rows_per_step: rows whose gradients are added up in one step.
    """

    mixture: Mixture
    order: np.ndarray
    row_edges: np.ndarray
    row_tokens: int
    rows_per_step: int

    @property
    def rows(self) -> int:
        return len(self.row_edges) - 1

    @property
    def steps(self) -> int:
        return -(-self.rows // self.rows_per_step)

    @property
    def fill(self) -> float:
        """Share of the rows' budget that holds real tokens."""
        return float(self.mixture.lengths.sum() / max(self.rows * self.row_tokens, 1))

    def step_rows(self, step: int) -> range:
        return range(step * self.rows_per_step, min((step + 1) * self.rows_per_step, self.rows))

    def batches(self, step: int, *, pad: bool) -> list[PackedBatch]:
        """The rows of a step; `pad` fills each to the row budget, so that all have one shape."""
        return [self.row(number, pad_to=self.row_tokens if pad else None) for number in self.step_rows(step)]

    def all_rows(self, *, pad: bool) -> Iterator[PackedBatch]:
        return (self.row(number, pad_to=self.row_tokens if pad else None) for number in range(self.rows))

    def state(self) -> dict[str, Any]:
        """Nothing: the number of the next step says it all."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Nothing to put back."""

    def join(self, rows: Sequence[PackedBatch], pad_to: int | None = None) -> PackedBatch:
        """Rows of the plan, without padding, as one."""
        return join(rows, pad_to)

    def row(self, number: int, *, pad_to: int | None = None) -> PackedBatch:
        """Build row `number`; `pad_to` fills it to that length with one more document without targets."""
        mixture = self.mixture
        chosen = self.order[self.row_edges[number] : self.row_edges[number + 1]]
        stores = mixture.stores
        documents = [
            (block, document)
            for block, sample in zip(mixture.block[chosen].tolist(), mixture.sample[chosen].tolist(), strict=True)
            for document in range(sample * stores[block].group, (sample + 1) * stores[block].group)
        ]
        spans = [(block, *stores[block].offsets[document : document + 2].tolist()) for block, document in documents]
        boundaries = [0, *itertools.accumulate(end - start for _, start, end in spans)]
        n = boundaries[-1]
        padding = max(0, (pad_to or 0) - n)

        # Slices, which are copied whole, of plain arrays: those of a memory map take ten times as long to make.
        tokens, targets = ([np.asarray(getattr(store, name)) for store in stores] for name in ("tokens", "targets"))
        tokens_T, targets_T = np.zeros(n + padding, np.int64), np.full(n + padding, IGNORE)
        np.concatenate([tokens[block][start:end] for block, start, end in spans], out=tokens_T[:n])
        wanted_n = np.concatenate([targets[block][start:end] for block, start, end in spans])
        wanted_n[boundaries[:-1]] = False  # nothing stands before a document's first token
        np.copyto(targets_T[: n - 1], tokens_T[1:n], where=wanted_n[1:])

        numbers = [((mixture.first_block + block) << 40) + document for block, document in documents]
        values = [float(stores[block].values[document]) for block, document in documents]
        if padding:
            boundaries, numbers, values = [*boundaries, n + padding], [*numbers, -1], [*values, 0.0]
        return PackedBatch(
            torch.from_numpy(tokens_T),
            torch.from_numpy(targets_T),
            torch.tensor(boundaries, dtype=torch.int32),
            torch.tensor(numbers, dtype=torch.int64),
            torch.tensor(values, dtype=torch.float32),
            int(np.count_nonzero(wanted_n)),
            padding,
            max((end - start for start, end in itertools.pairwise(boundaries)), default=0),
        )


def join(rows: Sequence[PackedBatch], pad_to: int | None = None) -> PackedBatch:
    """Rows without padding, end to end; `pad_to` fills them up with documents without targets.

    None of these is longer than a row: positions of a model end somewhere, and rotary embeddings may answer to them.
    """
    edges = [0, *itertools.accumulate(len(row.tokens) for row in rows)]
    n = edges[-1]
    padding = max(0, (pad_to or 0) - n)
    if len(rows) == 1 and not padding:
        return rows[0]
    starts = [row.boundaries[:-1] + start for row, start in zip(rows, edges, strict=False)]
    ends = torch.tensor([*range(n, n + padding, (pad_to or 0) // len(rows) or 1), n + padding], dtype=torch.int32)
    extra = len(ends) - 1  # documents
    return PackedBatch(
        F.pad(torch.cat([row.tokens for row in rows]), (0, padding)),
        F.pad(torch.cat([row.targets for row in rows]), (0, padding), value=IGNORE),
        torch.cat([*starts, ends]),
        F.pad(torch.cat([row.document for row in rows]), (0, extra), value=-1),
        F.pad(torch.cat([row.value for row in rows]), (0, extra)),
        sum(row.target_count for row in rows),
        padding,
        max(*ends.diff().tolist(), *(row.longest for row in rows), 0, 0),
    )


def pack(mixture: Mixture, *, row_tokens: int, rows_per_step: int = 1) -> PackingPlan:
    """Fill rows by best fit, the longest sample first, inside windows of the mix's order.

    Raises:
        DataError: a sample is longer than a row (encoding with `max_tokens` ≤ `row_tokens` prevents it).
    """
    if len(mixture.lengths) and mixture.lengths.max() > row_tokens:
        raise DataError(
            f"a sample of {int(mixture.lengths.max())} tokens does not fit a row of {row_tokens}",
            fix="raise `row_tokens` or lower `max_tokens`",
        )
    windows = fill_rows(mixture.lengths, row_tokens)
    if len(mixture.names) > 1:
        windows = keep_shares(windows, mixture.block, mixture.lengths)
    empty = np.zeros(0, np.int64)
    order = np.concatenate([empty, *(rows.order for rows in windows)])
    counts = np.concatenate([empty, *(rows.counts for rows in windows)])
    edges = np.concatenate([[0], np.cumsum(counts)])
    return PackingPlan(mixture, order, edges, row_tokens, rows_per_step)


def pack_samples(store: TokenStore, row_tokens: int, samples: Sequence[int] | None = None) -> PackingPlan:
    """The given samples of one store (all when None), once each; a document's number is its place in the store."""
    chosen = np.arange(store.samples) if samples is None else np.array(samples, np.int64)
    mixture = Mixture(("samples",), (store,), np.zeros_like(chosen), chosen, store.sample_lengths[chosen])
    return pack(mixture, row_tokens=row_tokens)
