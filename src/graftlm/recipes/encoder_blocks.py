"""The data of an encoder's stage: from a recipe's blocks to documents with notes, with every row accounted for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedTokenizerBase as Tokenizer

from graftlm.core.errors import DataError
from graftlm.data.annotated import Annotated, AnnotatedStore, Note
from graftlm.data.encode_annotated import encode_choice, encode_classified, encode_tagged, encode_words
from graftlm.data.records.schemas import Kind
from graftlm.data.samples import Classified, Labelled, Sample, Tagged
from graftlm.data.tags import OUTSIDE, Offsets, entities_of_tokens, tag_names
from graftlm.models.encoder import Task
from graftlm.recipes.schema import Block
from graftlm.recipes.sources import held_out_places, read_source

KIND: dict[Task, Kind] = {
    "classify": "classified", "match": "classified", "tag": "tagged", "choice": "labelled", "mlm": "text",
}  # fmt: skip
NEEDS: dict[Task, str] = {
    "classify": "rows with `text` and `label`",
    "match": "rows with `text`, `text_b` and `label`",
    "tag": "rows with `text` and `entities` (start, end, type), or with `tokens` and `tags`",
    "choice": "rows with `question`, `choices` and `answer`",
    "mlm": "plain text",
}


@dataclass(frozen=True)
class TaskRows:
    """The samples of a block that a task can learn from.

    Attributes:
        faults: the rows that were refused, as `file:line: reason`.
    """

    train: list[Sample]
    held_out: list[Sample]
    faults: list[str]
    read: int


def read_task_rows(name: str, block: Block, task: Task) -> TaskRows:
    """Raises DataError when no row can be used."""
    rows = read_source(name, block if block.world else block.model_copy(update={"kind": KIND[task]}))
    reasons = {sample.origin: _unfit(sample, task) for sample in rows.samples}
    samples = [sample for sample in rows.samples if not reasons[sample.origin]]
    faults = [*map(str, rows.faults), *(f"{origin}: {reason}" for origin, reason in reasons.items() if reason)]
    if not samples or rows.kind != KIND[task]:
        found = (
            f"it holds {rows.kind} rows" if rows.kind != KIND[task] else f"no row can be used; the first: {faults[0]}"
        )
        raise DataError(found, where=f"data.{name}", fix=f"task: {task} learns from {NEEDS[task]}")
    kept_back = held_out_places(len(samples), block.held_out)
    return TaskRows(
        [sample for place, sample in enumerate(samples) if place not in kept_back],
        [samples[place] for place in sorted(kept_back)],
        faults,
        rows.read,
    )


def _unfit(sample: Sample, task: Task) -> str:
    """Why a sample of the right kind does not serve the task; empty where it does."""
    if task == "match" and isinstance(sample, Classified) and not sample.text_b:
        return "there is no second text to match"
    if task == "choice" and isinstance(sample, Labelled) and not sample.choices:
        return "the question has no options to choose from"
    return ""


def label_names(samples: Sequence[Sample], task: Task, finished: list[str] | None) -> list[str]:
    """Names of the outputs: of a head that knows all of them its own, else those of the samples, in order."""
    if task == "tag":
        named = tag_names(one.kind for sample in samples if isinstance(sample, Tagged) for one in sample.entities)
    else:
        named = sorted({sample.label for sample in samples if isinstance(sample, Classified)})
    return finished if finished and set(named) <= set(finished) else named


@dataclass(frozen=True)
class TaskDocuments:
    """Encoded samples; those that are too long for the encoder are left out and counted.

    Attributes:
        samples: the sample of each document; of masked words none.
        offsets: of a tagger, the characters of each token.
        cut: tokens that the length limit took from each document.
    """

    store: AnnotatedStore
    samples: list[Any]
    offsets: list[Offsets] = field(default_factory=list)
    cut: list[int] = field(default_factory=list)


def encode_task(
    tokenizer: Tokenizer, samples: Sequence[Any], task: Task, labels: Sequence[str], longest: int
) -> TaskDocuments:
    """Documents of samples; the accounting of the store says what the length limit and the alignment cost."""
    offsets: list[Offsets] = []
    more: dict[str, int] = {}
    kept = list(samples)
    documents: list[Annotated]
    if task == "tag":
        pairs = encode_tagged(tokenizer, samples, labels, longest=longest)
        documents, offsets = [one for one, _ in pairs], [places for _, places in pairs]
        more["entities_lost"] = _lost_entities(samples, documents, offsets, labels)
    elif task == "choice":
        encoded = [encode_choice(tokenizer, sample, longest=longest) for sample in samples]
        documents = [one for one in encoded if one is not None]
        kept = [sample for sample, one in zip(samples, encoded, strict=True) if one is not None]
    elif task == "mlm":
        documents, kept = encode_words(tokenizer, samples, longest=longest), []
    else:
        documents = encode_classified(tokenizer, samples, labels, longest=longest)
    counts = {
        "samples": len(samples),
        "cut": sum(one.cut > 0 for one in documents),
        "dropped": len(samples) - len(kept) if task == "choice" else 0,
        "tokens_cut": sum(one.cut for one in documents),
        "targets_cut": 0,
    }
    return TaskDocuments(
        AnnotatedStore.of(documents, KIND[task], counts | more), kept, offsets, [one.cut for one in documents]
    )


def _lost_entities(
    samples: Sequence[Tagged], documents: Sequence[Annotated], offsets: Sequence[Offsets], labels: Sequence[str]
) -> int:
    """Entities that the tags do not give back: cut off, or with an end inside a token."""
    lost = 0
    for sample, document, places in zip(samples, documents, offsets, strict=True):
        told = [OUTSIDE if number < 0 else labels[number] for number in document.notes[:, Note.LABEL]]
        lost += len(set(sample.entities) - set(entities_of_tokens(told, places, sample.text)))
    return lost
