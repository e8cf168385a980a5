"""The reference model's log-probabilities: computed once before training, kept beside the tokens.

The reference is the model as it stands when training begins (with LoRA: the model with the adapter off, because
a new adapter starts as the identity). Its values are taken over the very rows that training will use, so no
second copy of the weights is held and the first loss is exact: both models agree to the last bit.
"""

from __future__ import annotations

import hashlib
import platform
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from graftlm.core.console import progress_bar
from graftlm.core.errors import TrainingError
from graftlm.core.files import atomic_file
from graftlm.core.hashing import hash_value
from graftlm.data.packing import PackedBatch, PackingPlan
from graftlm.models.trunk import causal_lm
from graftlm.objectives.answers import Answers, answers_as_it_stands
from graftlm.training.distributed import ALONE, World

DOCUMENT_BITS = 40
"""A document's number in `PackedBatch` is (its block << 40) + its place in the block's store."""


class Reference:
    """Log-probabilities of whole answers, looked up by document number.

    Args:
        values: block number → [documents] fp32, NaN where nothing was computed.
    """

    def __init__(self, values: dict[int, np.ndarray]) -> None:
        self.values = values

    def __len__(self) -> int:
        """Documents that have a value."""
        return sum(int((~np.isnan(values)).sum()) for values in self.values.values())

    def look_up(self, document_N: torch.Tensor) -> torch.Tensor:
        """[N] fp32, on the CPU as document numbers are.

        Raises:
            TrainingError: a document has no value.
        """
        found_N = self._find(document_N.numpy())
        if np.isnan(found_N).any():
            raise TrainingError(
                "a document was not seen by the reference model", fix="compute the reference over every plan in use"
            )
        return torch.from_numpy(found_N)

    def join(self, answers: Answers, batch: PackedBatch) -> Answers:
        """The answers of a row with their reference beside."""
        reference_N = self.look_up(batch.document[: batch.documents])
        return replace(answers, reference=reference_N.to(answers.log_p.device))

    def knows(self, document_N: torch.Tensor) -> bool:
        """Whether every one of these documents has a value."""
        return not np.isnan(self._find(document_N.numpy())).any()

    def keep(self, document_N: torch.Tensor, value_N: torch.Tensor) -> None:
        """Take values in; a document that has one keeps it: it belongs to the row that comes first."""
        block_N, place_N = _split(document_N.numpy())
        for block in np.unique(block_N):
            here = block_N == block
            values, place = self.values[int(block)], place_N[here]
            values[place] = np.where(np.isnan(values[place]), value_N.numpy()[here], values[place])

    def _find(self, document_N: np.ndarray) -> np.ndarray:
        block_N, place_N = _split(document_N)
        found_N = np.full(len(document_N), np.nan, np.float32)
        for block in np.unique(block_N):
            here = block_N == block
            if int(block) in self.values:
                found_N[here] = self.values[int(block)][place_N[here]]
        return found_N


def _split(document_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(block, place in its store) of each document."""
    return document_N >> DOCUMENT_BITS, document_N & ((1 << DOCUMENT_BITS) - 1)


def reference_log_probabilities(
    model: torch.nn.Module,
    plans: list[PackingPlan],
    *,
    pad_rows: bool,
    bf16: bool,
    key: str | None = None,
    world: World = ALONE,
) -> Reference:
    """Σ log p of every document of the plans under the model as it stands.

    Args:
        pad_rows, bf16: as training will run the rows.
        key: identity of the model's weights. With it the values are kept in the stores' folders, as
            `reference-<hash>.f32`, and a second run over the same rows computes nothing. Stores without a
            folder are not kept. Several processes keep nothing: one with a cache would leave the others alone.
        world: the processes over which the model is spread; each runs its share of the rows.

    Raises:
        TrainingError: a value is not finite.
    """
    reference = Reference({})
    key = key if world.size == 1 else None
    for plan in plans:
        files = _cache_files(model, plan, key, pad_rows=pad_rows, bf16=bf16)
        for block, store in enumerate(plan.mixture.stores, plan.mixture.first_block):
            if block not in reference.values:
                reference.values[block] = _read(files.get(block), documents=len(store.offsets) - 1)
        if world.size > 1:
            _compute_together(model, plan, reference, world, pad_rows=pad_rows, bf16=bf16)
            continue
        if not _compute_missing(model, plan, reference, pad_rows=pad_rows, bf16=bf16):
            continue
        for block, file in files.items():
            with atomic_file(file) as temporary:
                reference.values[block].tofile(temporary)
    return reference


def _compute_missing(
    model: torch.nn.Module, plan: PackingPlan, reference: Reference, *, pad_rows: bool, bf16: bool
) -> bool:
    """Run every row that has a document without a value; False when there is none."""
    computed = False
    with progress_bar() as bar:
        task = bar.add_task("reference", total=plan.rows, note="")
        for row, batch in enumerate(plan.all_rows(pad=pad_rows)):
            bar.update(task, completed=row)
            documents_N = batch.document[: batch.documents]
            if reference.knows(documents_N):
                continue
            reference.keep(documents_N, _finite_log_p(model, batch, row, bf16=bf16))
            computed = True
    return computed


def _compute_together(
    model: torch.nn.Module, plan: PackingPlan, reference: Reference, world: World, *, pad_rows: bool, bf16: bool
) -> None:
    """Run every row, each process its share; of a document that stands in many rows the first row's value counts."""
    rows, counted = world.share(range(plan.rows))
    own = Reference({block: np.full_like(values, np.nan) for block, values in reference.values.items()})
    first = {block: np.full(len(values), plan.rows) for block, values in reference.values.items()}
    with progress_bar() as bar:
        task = bar.add_task("reference", total=len(rows), note="")
        for place, row in enumerate(rows):
            bar.update(task, completed=place)
            batch = plan.row(row, pad_to=plan.row_tokens if pad_rows else None)
            log_p_N = _finite_log_p(model, batch, row, bf16=bf16)
            if place >= counted:
                continue
            documents_N = batch.document[: batch.documents]
            block_N, place_N = _split(documents_N.numpy())
            for block in np.unique(block_N):
                np.minimum.at(first[int(block)], place_N[block_N == block], row)
            own.keep(documents_N, log_p_N)
    for block, values in reference.values.items():
        lowest = world.elementwise(first[block], "lowest")
        mine = (first[block] == lowest) & (lowest < plan.rows)
        summed = world.elementwise(np.where(mine, own.values[block], 0.0), "sum")
        new = (lowest < plan.rows) & np.isnan(values)
        values[new] = summed[new]


def _finite_log_p(model: torch.nn.Module, batch: PackedBatch, row: int, *, bf16: bool) -> torch.Tensor:
    """[N] log-probability of each document. Raises TrainingError where one is not finite."""
    log_p_N = answers_as_it_stands(model, batch, bf16=bf16).log_p.cpu()
    if not bool(log_p_N.isfinite().all()):
        raise TrainingError(
            f"the model's log-probability of an answer in row {row} is not finite",
            fix="check the model that training starts from: it evaluates to infinity or NaN",
        )
    return log_p_N


def layout_hash(plan: PackingPlan, *, pad_rows: bool) -> str:
    """16 hex digits: the same when the same documents stand in the same rows of the same lengths."""
    mixture, digest = plan.mixture, hashlib.sha256()
    arrays = (plan.order, plan.row_edges, mixture.block, mixture.sample, *(store.offsets for store in mixture.stores))
    for array in arrays:
        digest.update(f"{len(array)}:".encode())
        digest.update(np.ascontiguousarray(array, np.int64).tobytes())
    stores = [[store.path.name if store.path else "", store.group] for store in mixture.stores]
    return hash_value([digest.hexdigest(), stores, plan.row_tokens if pad_rows else 0])


def _cache_files(
    model: torch.nn.Module, plan: PackingPlan, key: str | None, *, pad_rows: bool, bf16: bool
) -> dict[int, Path]:
    """Block number → the file that holds its values; only blocks that lie in a folder."""
    if key is None:
        return {}
    name = f"reference-{hash_value([key, layout_hash(plan, pad_rows=pad_rows), _numerics(model, bf16=bf16)])}.f32"
    stores = enumerate(plan.mixture.stores, plan.mixture.first_block)
    return {block: store.path / name for block, store in stores if store.path is not None}


def _numerics(model: torch.nn.Module, *, bf16: bool) -> list[object]:
    """What decides the last bits of a forward pass, beside weights and rows."""
    device = next(model.parameters()).device
    on = (
        [torch.cuda.get_device_name(device)]
        if device.type == "cuda"
        else [device.type, platform.machine(), torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()]
    )
    dtypes = sorted({str(parameter.dtype) for parameter in model.parameters()})
    return [torch.__version__, on, dtypes, bf16, bool(getattr(causal_lm(model), "graft_packs", False))]


def _read(file: Path | None, *, documents: int) -> np.ndarray:
    """[documents] fp32 from a file; all NaN when it is absent, of another length, or cannot be log-probabilities."""
    nothing = np.full(documents, np.nan, np.float32)
    if file is None or not file.is_file() or file.stat().st_size != 4 * documents:
        return nothing
    values = np.fromfile(file, np.float32)
    return values if not np.isinf(values).any() and not (values > 0).any() else nothing
