"""An encoder for one task: classes, pairs, named entities, one of several options, masked words.

Its held-out rows are scored before training and after. A new head guesses, so the score before says what guessing
gives; beside it stands what the commonest class would score.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from graftlm.core.console import say
from graftlm.core.errors import DataError
from graftlm.core.files import atomic_folder
from graftlm.core.receipts import Receipt
from graftlm.data.annotated import Notebook
from graftlm.data.packing import PackingPlan
from graftlm.data.tags import entities_of_tokens
from graftlm.evaluation.encoder import (
    classes,
    entity_scores,
    estimated,
    masked_word_scores,
    options,
    perplexity,
    read_documents,
    tags,
)
from graftlm.evaluation.statistics import Estimate, Scores, paired_difference
from graftlm.models.encoder import Task, finished_labels, load_encoder, position_limit
from graftlm.models.loading import load_config, save_model
from graftlm.objectives.encoder_choice import AnswerWords, OptionChoice
from graftlm.objectives.encoder_labels import LabelLoss
from graftlm.objectives.encoder_mlm import MaskedWords, Masking
from graftlm.recipes.answer_words import answer_ids, choose_answer_words, note_answer_words, noted_answer_words
from graftlm.recipes.encoder_blocks import TaskDocuments, encode_task, label_names, read_task_rows
from graftlm.recipes.stage_settings import EncoderStage
from graftlm.recipes.stages.context import StageContext, require_one_process
from graftlm.recipes.stages.outcome import save_format, write_receipt
from graftlm.recipes.stages.tuning import fit, load_trainable
from graftlm.recipes.tokenise import TokenisedBlock
from graftlm.training.objective import Objective

METRIC: dict[Task, str] = {
    "classify": "accuracy", "match": "accuracy", "choice": "accuracy", "tag": "entity F1",
    "mlm": "perplexity of masked words",
}  # fmt: skip


@dataclass(frozen=True)
class TaskData:
    """All documents of a stage, and what its outputs mean."""

    train: dict[str, TaskDocuments]
    held_out: dict[str, TaskDocuments]
    labels: list[str]
    words: tuple[str, str] | None = None

    @property
    def blocks(self) -> dict[str, TokenisedBlock]:
        pairs = zip(self.train.items(), self.held_out.values(), strict=True)
        return {name: TokenisedBlock(train.store.store, spare.store.store) for (name, train), spare in pairs}

    @property
    def notebook(self) -> Notebook:
        return Notebook([documents.store for documents in (*self.train.values(), *self.held_out.values())])


def run(stage: StageContext) -> Receipt:
    settings = stage.settings
    assert isinstance(settings, EncoderStage)
    require_one_process(stage)
    data = read_data(stage, settings)
    stage = replace(stage, blocks=data.blocks)

    def load(place: str, dtype: torch.dtype, device: torch.device) -> torch.nn.Module:
        torch.manual_seed(stage.recipe.seed)  # a new head is random
        return load_encoder(place, settings.task, data.labels, dtype=dtype, device=device)

    loaded = load_trainable(stage, load)
    judge = Judge(stage, settings, data, make_objective(stage, settings, data))
    before = judge.scores(loaded.model)

    def objective(model: torch.nn.Module, plans: list[PackingPlan]) -> Objective:
        return judge.objective

    trainer, mixture = fit(stage, loaded, objective)
    after = judge.scores(loaded.model)
    if data.words:
        note_answer_words(loaded.model.config, data.words)  # type: ignore[arg-type]
    with atomic_folder(stage.model_folder) as folder:
        save_model(loaded.model, stage.tokenizer, folder, save_format(stage))
    receipt = write_receipt(stage, loaded, trainer, mixture)
    figures = judge.figures(before, after)
    say("  " + say_figures(figures))
    return receipt.model_copy(update={"figures": figures})


def read_data(stage: StageContext, settings: EncoderStage) -> TaskData:
    """The rows of all blocks, encoded; the check before has said which rows are refused.

    Raises:
        DataError: a block has no row for the task; fewer than two classes, or no entity at all.
    """
    rows = {name: read_task_rows(name, stage.recipe.data[name], settings.task) for name in settings.blocks}
    samples = [sample for block in rows.values() for sample in (*block.train, *block.held_out)]
    headless = settings.task in ("classify", "match", "tag")
    finished = finished_labels(stage.start.where, settings.task) if headless else None
    labels = label_names(samples, settings.task, finished) if headless else []
    if headless and len(labels) < 2:
        what = "no entity is marked" if settings.task == "tag" else f"all rows are of one class, {labels[0]!r}"
        raise DataError(what, where=", ".join(f"data.{name}" for name in rows), fix="give rows of all classes")
    longest = min(settings.longest, position_limit(stage.start.where) or settings.longest)
    train, held_out = {}, {}
    for name, block in rows.items():
        train[name] = encode_task(stage.tokenizer, block.train, settings.task, labels, longest)
        held_out[name] = encode_task(stage.tokenizer, block.held_out, settings.task, labels, longest)
        train[name].store.store.accounting.update(read=block.read, refused=len(block.faults))
    words = None
    if settings.task == "choice":
        asked = settings.answer_words or noted_answer_words(load_config(stage.start.where))
        words = choose_answer_words(stage.tokenizer, asked)
    return TaskData(train, held_out, labels, words)


def make_objective(stage: StageContext, settings: EncoderStage, data: TaskData) -> Objective:
    if settings.task == "choice":
        assert data.words is not None
        return OptionChoice(data.notebook, answer_ids(stage.tokenizer, data.words))
    if settings.task == "mlm":
        return MaskedWords(data.notebook, masking_of(stage, settings))
    return LabelLoss(data.notebook)


def masking_of(stage: StageContext, settings: EncoderStage) -> Masking:
    plain = np.setdiff1d(np.arange(len(stage.tokenizer)), stage.tokenizer.all_special_ids)
    return Masking(int(stage.tokenizer.mask_token_id), plain, settings.mask_share, stage.recipe.seed)


@dataclass(frozen=True)
class Judge:
    """Scores an encoder on the rows that were kept back."""

    stage: StageContext
    settings: EncoderStage
    data: TaskData
    objective: Objective

    def scores(self, model: torch.nn.Module) -> Scores | None:
        """One score a held-out document; None where nothing is kept back."""
        parts = [self._scores(model, documents) for documents in self.data.held_out.values()]
        joined = Scores.of(
            [float(n) for part in parts for n in part.numerators],
            [float(n) for part in parts for n in part.denominators],
        )
        return joined if estimated(joined) else None

    def _scores(self, model: torch.nn.Module, documents: TaskDocuments) -> Scores:
        task, labels = self.settings.task, self.data.labels
        if not documents.store.store.samples:
            return Scores.of([])
        if task == "mlm":
            objective = MaskedWords(Notebook([documents.store]), masking_of(self.stage, self.settings))
            return masked_word_scores(
                model, documents.store, objective, row_tokens=self.settings.longest, device=self.stage.device,
                bf16=self.stage.bf16,
            )  # fmt: skip
        if task == "tag":
            told = self._read(model, documents, tags)
            found = [
                entities_of_tokens([labels[number] for number in numbers], places, sample.text)
                for numbers, places, sample in zip(told, documents.offsets, documents.samples, strict=True)
            ]
            return entity_scores(found, [sample.entities for sample in documents.samples])
        if task == "choice":
            words: AnswerWords = self.objective.words  # type: ignore[attr-defined]
            chosen = self._read(model, documents, options(words))
            pairs = zip(documents.samples, chosen, strict=True)
            return Scores.of([sample.choices[one.argmax()] in sample.answers for sample, one in pairs])
        chosen = self._read(model, documents, classes)
        pairs = zip(documents.samples, chosen, strict=True)
        return Scores.of([sample.label == labels[one.argmax()] for sample, one in pairs])

    def _read(self, model: torch.nn.Module, documents: TaskDocuments, read: Callable[..., Any]) -> list[np.ndarray]:
        return read_documents(
            model, documents.store, read, row_tokens=self.settings.row_tokens, device=self.stage.device,
            bf16=self.stage.bf16,
        )  # fmt: skip

    def figures(self, before: Scores | None, after: Scores | None) -> dict[str, float | str]:
        """What the receipt keeps: the score before and after with its interval, and what it has to beat."""
        if before is None or after is None:
            return {"metric": METRIC[self.settings.task], "held out": 0.0}
        mlm = self.settings.task == "mlm"
        found: dict[str, float | str] = {"metric": METRIC[self.settings.task], "held out": float(len(after))}
        for name, scores in (("before", before), ("after", after)):
            one = estimated(scores)
            assert one is not None
            found |= _spread(name, perplexity(one) if mlm else one)
        change = paired_difference(before, after)
        found |= {"change p": change.p}
        if self.settings.task in ("classify", "match"):
            found["commonest class"] = self._commonest_share()
        return found

    def _commonest_share(self) -> float:
        """Accuracy on the held-out rows of always saying the commonest class of the training rows."""
        trained = Counter(sample.label for documents in self.data.train.values() for sample in documents.samples)
        asked = [sample.label for documents in self.data.held_out.values() for sample in documents.samples]
        return asked.count(trained.most_common(1)[0][0]) / len(asked)


def _spread(name: str, one: Estimate) -> dict[str, float | str]:
    return {name: one.value, f"{name} low": one.low, f"{name} high": one.high}


def say_figures(figures: dict[str, float | str]) -> str:
    """One line: the held-out score before and after."""
    if "after" not in figures:
        return "no row was kept back: its score is not known (raise held_out)"
    form = "{:.2f}" if str(figures["metric"]).startswith("perplexity") else "{:.1%}"
    before, after, low, high = (form.format(figures[key]) for key in ("before", "after", "after low", "after high"))
    rest = f"; the commonest class alone: {figures['commonest class']:.1%}" if "commonest class" in figures else ""
    what = "rows of text" if form == "{:.2f}" else "held-out rows"
    return (
        f"{figures['metric']} on {figures['held out']:.0f} {what}: {before} before, {after} after ({low}–{high}){rest}"
    )
