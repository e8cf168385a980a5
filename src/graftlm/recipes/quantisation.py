"""Quantise a saved model and compare it, loaded back from its files, with what it was made from.

The command `graft quantize` and the stage `quantize` both come here.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.table import Table
from transformers import PreTrainedTokenizerBase as Tokenizer

from graftlm.core.console import progress_bar, say
from graftlm.core.errors import ModelError
from graftlm.core.files import atomic_folder, write_json
from graftlm.core.receipts import versions
from graftlm.data.templates import ChatTemplate
from graftlm.evaluation.language_model import language_model
from graftlm.evaluation.results import TaskResult
from graftlm.evaluation.runner import run_tasks
from graftlm.evaluation.tasks import Task
from graftlm.inference.decoding import Decoding
from graftlm.inference.generation import generate
from graftlm.models.acceleration import decoder_layers
from graftlm.models.agreement import agreement, logits_of
from graftlm.models.loading import load_config, load_model, save_model
from graftlm.models.packed_checkpoint import is_packed
from graftlm.models.weight_quantisation import Outcome, Rounding, quantise_model
from graftlm.recipes.quantisation_data import Evidence
from graftlm.recipes.stage_settings import QuantizeStage

SPEED_TOKENS = 32
"""Tokens that are generated, one by one, to measure the speed."""

EXAM_POINTS = {8: 0.5, 4: 2.0}
MEAN_KL = {8: 0.01, 4: 0.1}
"""What a quantisation may cost where the user says nothing, by bits: points of the exam; without one, nats a token."""

TEXT = "held-out text"


@dataclass(frozen=True)
class Job:
    """A model to quantise.

    Attributes:
        start: its folder.
        where: what an error names: the stage or the command.
    """

    start: str
    settings: QuantizeStage
    evidence: Evidence
    tokenizer: Tokenizer
    template: ChatTemplate
    device: torch.device
    where: str

    @property
    def rest(self) -> torch.dtype:
        return torch.bfloat16 if self.settings.rest == "bf16" else torch.float32


@dataclass(frozen=True)
class Measured:
    """A saved model's scores, the bytes of its weights, and its speed for one prompt at a time."""

    exam: TaskResult | None
    text: TaskResult
    size: int
    tokens_per_second: float


@dataclass(frozen=True)
class Quantised:
    """What was made, and what it cost."""

    figures: dict[str, float | str]
    notes: list[str]


def quantise_folder(job: Job, folder: Path) -> Quantised:
    """Quantise a model into `folder`, with `quantisation.json` beside its weights.

    Raises:
        ModelError: the gate stopped it, with the numbers; the folder stays only with `keep_failed`.
    """
    config = load_config(job.start)
    if is_packed(config):
        raise ModelError("its weights are quantised already", where=job.start, fix="use the model it was made from")
    stored = config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32
    before = _measure(job, job.start, stored)
    with atomic_folder(folder) as temporary:
        outcome = _make(job, temporary)
        after = _measure(job, str(temporary), job.rest)
        figures = _figures(before, after, outcome) | _alike(job, str(temporary), stored)
        faults = _faults(job.settings, before, figures)
        unjudged = [] if job.evidence.exam else ["no exam: KL alone judges"]
        notes = [*outcome.notes, *unjudged, *faults]
        _print(before, after, figures, notes)
        _write(job, temporary, figures, notes, outcome)
        if faults and not job.settings.keep_failed:
            raise _stopped(job, faults)
    if faults:
        raise _stopped(job, [*faults, f"kept all the same: {folder}"])
    return Quantised(figures, notes)


def _make(job: Job, folder: Path) -> Outcome:
    settings = job.settings
    if settings.method == "nf4":
        model = load_model(job.start, dtype=job.rest, device=job.device, bits=4)
        save_model(model, job.tokenizer, folder)
        return Outcome(notes=["nf4 is loaded with bitsandbytes, by transformers, vLLM and graft"])
    model = load_model(job.start, dtype=job.rest, device=job.device)
    rounding = Rounding(
        settings.method, settings.bits, settings.group_size, settings.symmetric, settings.mean_bits, settings.head
    )
    rows_RL = job.evidence.calibration_RL.to(job.device)
    with progress_bar() as bar:
        task = bar.add_task(settings.method, total=len(decoder_layers(model)), note="layers")
        outcome = quantise_model(model, rounding, rows_RL, lambda layers: bar.advance(task, layers))
    save_model(model, job.tokenizer, folder)
    return outcome


def _measure(job: Job, where: str, dtype: torch.dtype) -> Measured:
    model = load_model(where, dtype=dtype, device=job.device)
    subject = language_model(model, job.tokenizer, job.template)
    exam = [job.evidence.exam] if job.evidence.exam else []
    text = Task(name=TEXT, side="domain", kind="bits_per_byte", items=job.evidence.held_out)
    *first, last = run_tasks(subject, [*exam, text])
    size = model.get_memory_footprint()
    return Measured(first[0] if first else None, last, size, _speed(model, job.evidence.held_out_RL[0]))


def _speed(model: torch.nn.Module, row_L: torch.Tensor) -> float:
    """Tokens a second of greedy decoding after a short prompt."""
    prompt = row_L[:16].tolist()
    decoding = Decoding(greedy=True, max_new_tokens=SPEED_TOKENS)
    seconds = []
    for _ in range(2):  # the first time is for warming up
        began = time.perf_counter()
        (found,) = generate(model, [prompt], decoding, stop_ids=(), pad_id=0)
        seconds.append((time.perf_counter() - began) / len(found.tokens))
    return 1 / seconds[-1]


def _alike(job: Job, folder: str, dtype: torch.dtype) -> dict[str, float | str]:
    one = load_model(job.start, dtype=dtype, device=job.device)
    other = load_model(folder, dtype=job.rest, device=job.device)
    rows = job.evidence.held_out_RL.tolist()
    found = agreement(logits_of(one, rows), logits_of(other, rows))
    return {"kl": found.mean_kl, "greedy match": found.greedy, "positions compared": float(found.positions)}


def _figures(before: Measured, after: Measured, outcome: Outcome) -> dict[str, float | str]:
    figures: dict[str, float | str] = {
        "bits per byte before": before.text.value,
        "bits per byte after": after.text.value,
        "MiB before": before.size / 2**20,
        "MiB after": after.size / 2**20,
        "tokens/s before": before.tokens_per_second,
        "tokens/s after": after.tokens_per_second,
    }
    if before.exam and after.exam:
        figures |= {"exam": before.exam.name, "exam before": before.exam.value, "exam after": after.exam.value}
    if outcome.errors:
        worst = max(outcome.errors, key=lambda name: outcome.errors[name])
        mean = sum(outcome.errors.values()) / len(outcome.errors)
        figures |= {"mean layer error": mean, "largest layer error": outcome.errors[worst], "its layer": worst}
    return figures


def _faults(settings: QuantizeStage, before: Measured, figures: dict[str, float | str]) -> list[str]:
    """What costs more than it may."""
    found = []
    points = EXAM_POINTS[settings.bits] if settings.max_exam_loss is None else settings.max_exam_loss
    divergence = settings.max_kl
    if divergence is None and not before.exam:
        divergence = MEAN_KL[settings.bits]
    if before.exam:
        was, now = float(figures["exam before"]), float(figures["exam after"])
        lost = 100 * (was - now)
        if not lost <= points + 1e-9:
            found.append(f"{before.exam.name} {was:.1%} → {now:.1%}: {lost:.2f} points lost, {points:g} allowed")
    if divergence is not None and not float(figures["kl"]) <= divergence:
        found.append(f"KL {float(figures['kl']):.4f} nats a token, {divergence:g} allowed")
    return found


def _stopped(job: Job, faults: list[str]) -> ModelError:
    return ModelError(
        f"the quantised model is too far from the start model: {'; '.join(faults)}",
        where=job.where,
        fix="use gptq, smaller groups (group: 32), mean_bits: 5 or bits: 8; or allow more (max_exam_loss, max_kl)",
    )


def _write(
    job: Job, folder: Path, figures: dict[str, float | str], notes: list[str], outcome: Outcome
) -> None:
    layers = {name: {"bits": bits, "error": outcome.errors.get(name, 0.0)} for name, bits in outcome.bits.items()}
    made_of = {"from": job.start, "settings": job.settings.model_dump(mode="json", by_alias=True)}
    write_json(
        folder / "quantisation.json",
        made_of | {"figures": figures, "notes": notes, "layers": layers, "versions": versions()},
    )


def _print(before: Measured, after: Measured, figures: dict[str, float | str], notes: list[str]) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2))
    for column in ("", "before", "after"):
        table.add_column(column, no_wrap=True, justify="left" if not column else "right")
    if before.exam and after.exam:
        table.add_row(before.exam.name, f"{before.exam.value:.1%}", f"{after.exam.value:.1%}")
    table.add_row("bits per byte", f"{before.text.value:.4f}", f"{after.text.value:.4f}")
    table.add_row("KL, nats a token", "", f"{float(figures['kl']):.4f}")
    table.add_row("same likeliest token", "", f"{float(figures['greedy match']):.1%}")
    table.add_row("size, MiB", f"{before.size / 2**20:,.1f}", f"{after.size / 2**20:,.1f}")
    table.add_row("tokens/s, one prompt", f"{before.tokens_per_second:,.0f}", f"{after.tokens_per_second:,.0f}")
    say(table)
    for note in notes:
        say(f"  {note}")
