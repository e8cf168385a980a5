"""Contamination: test items that stand in the training data, with the evidence, and what they do to a score.

Two published measures, from one pass over the training texts (evaluation/overlap.py finds the stretches):
- GPT-3 (arXiv 2005.14165, appendix C): an item is dirty if any n-gram of it stands in a training text.
- LLaMA 2 (arXiv 2307.09288, appendix A.6): the share of an item's units inside such stretches, where up to four units
  may differ behind the first n. Clean is below 20 %, dirty from 80 % on; scores of both are compared.

Nothing is removed. A translation, or a question put in other words, shares no n-gram and is not found.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict

from graftlm.core.errors import DataError
from graftlm.data.cleaning import question_of, text_of_sample
from graftlm.data.samples import Labelled, Sample, Text
from graftlm.evaluation.metrics import contains_answer, split_words
from graftlm.evaluation.overlap import N, PassageIndex, Phrase, Stretch
from graftlm.evaluation.results import TaskResult
from graftlm.evaluation.statistics import Difference, Estimate, difference, estimate

CLEAN, DIRTY = 0.2, 0.8
"""Shares of an item's units: below the first it is clean, from the second on dirty (LLaMA 2)."""
TEXTS_AT_ONCE = 2_000
SHOWN = 3
"""Pieces of evidence that are kept of an item, the longest first."""

Item = Labelled | Text


class Evidence(BaseModel):
    """A stretch of an item in a training text: file:line, the words as compared, how many agree, of which part."""

    model_config = ConfigDict(frozen=True)

    train: str
    words: str
    units: int
    part: str


class ItemOverlap(BaseModel):
    """What of one item stands in the training data.

    Attributes:
        place: of the item in its task, from 0.
        origin: file:line of the item.
        question: the item's question, or its text.
        question_share: share of the question's units that stand there; None where it is too short to judge.
        answer_share: the same of the answer. One of fewer than n units counts as 1 where it stands, word for word, in
            a text that also has a stretch of the question, else as 0. None without an answer.
        share: what decides between clean and dirty: the question's share, or that of an answer long enough to give
            itself away; None where neither can be judged.
        in_one: the greatest part of the question or answer that one stretch covers. It tells leaks from chance better
            than the union does (arXiv 2411.03923), and stays low where many texts each share a turn of phrase.
        exact: the longest stretch of units without a gap.
        texts: different training texts that were met with a stretch.
        evidence: the longest stretches, at most `SHOWN`.
    """

    model_config = ConfigDict(frozen=True)

    place: int
    origin: str
    question: str
    question_share: float | None
    answer_share: float | None
    share: float | None
    in_one: float
    exact: int
    texts: int
    evidence: list[Evidence]


class TaskOverlap(BaseModel):
    """One task's items, in order."""

    model_config = ConfigDict(frozen=True)

    name: str
    items: list[ItemOverlap]

    def places(self, low: float, high: float = np.inf) -> list[int]:
        """Items whose share is at least `low` and below `high`."""
        return [item.place for item in self.items if item.share is not None and low <= item.share < high]

    @property
    def judged(self) -> int:
        return len(self.places(0.0))

    @property
    def touched(self) -> int:
        """Items that GPT-3's rule calls dirty."""
        return sum(bool(item.evidence) for item in self.items)

    @property
    def whole(self) -> int:
        """Items that a single training text holds, all or nearly all."""
        return sum(item.in_one >= DIRTY for item in self.items)

    @property
    def answered(self) -> int:
        """Items that stand in the training data with their answer."""
        return sum(bool(item.evidence) and (item.answer_share or 0.0) >= DIRTY for item in self.items)


class Contamination(BaseModel):
    """All tasks, the training texts read, and the n-grams that were too frequent to count."""

    model_config = ConfigDict(frozen=True)

    tasks: list[TaskOverlap]
    texts: int
    phrases: list[Phrase]


@dataclass(frozen=True, slots=True)
class _Passage:
    """A question or an answer in the index."""

    item: int
    part: str


def find_contamination(
    tasks: Mapping[str, Sequence[Item]], training: Iterable[Sample], *, n: int = N
) -> Contamination:
    """Look for the items of all tasks in the training samples, which are read once and not kept.

    Args:
        tasks: items by the task's name.
        training: samples as they are read; all their text is searched.
        n: units in a row that must agree.
    """
    search = _Search(tasks, n)
    batch: list[Sample] = []
    for sample in training:
        batch.append(sample)
        if len(batch) == TEXTS_AT_ONCE:
            search.read(batch)
            batch = []
    search.read(batch)
    return search.result()


class _Search:
    """The items, and what has been found of them so far."""

    def __init__(self, tasks: Mapping[str, Sequence[Item]], n: int) -> None:
        self.tasks = tasks
        self.items = [item for items in tasks.values() for item in items]
        self.texts = 0
        self.passages = [_Passage(number, "question") for number in range(len(self.items))]
        texts = [question_of(item) for item in self.items]
        for number, item in enumerate(self.items):
            # A shorter answer is often a name that stands in many texts: it counts only where its question stands, too.
            if (answers := answers_of(item)) and len(split_words(answers[0])) >= n:
                self.passages.append(_Passage(number, "answer"))
                texts.append(answers[0])
        self.index = PassageIndex(texts, n=n)
        self.found: list[list[tuple[Stretch, str, bool]]] = [[] for _ in self.items]

    def read(self, samples: Sequence[Sample]) -> None:
        self.texts += len(samples)
        if not samples:
            return
        texts = [text_of_sample(sample) for sample in samples]
        for stretch in self.index.search(texts):
            number = self.passages[stretch.passage].item
            answers = answers_of(self.items[number])
            answered = bool(answers) and bool(contains_answer(texts[stretch.text], answers))
            self.found[number].append((stretch, str(samples[stretch.text].origin), answered))

    def result(self) -> Contamination:
        done, start = [], 0
        answer_of = {one.item: place for place, one in enumerate(self.passages) if one.part == "answer"}
        for name, items in self.tasks.items():
            numbers = range(start, start + len(items))
            found = [self._item(number, number - start, answer_of.get(number)) for number in numbers]
            done.append(TaskOverlap(name=name, items=found))
            start += len(items)
        return Contamination(tasks=done, texts=self.texts, phrases=self.index.phrases())

    def _item(self, number: int, place: int, answer: int | None) -> ItemOverlap:
        item, judged = self.items[number], self.index.is_judged
        found = [one for one in self.found[number] if self.index.is_evidence(one[0])]
        found.sort(key=lambda one: (-int(one[0].covered.sum()), one[1]))
        passages = [passage for passage in (number, answer) if passage is not None and judged(passage)]
        shares = [self._share(found, passage) for passage in passages]
        spoken = any(answered for stretch, _, answered in found if stretch.passage == number)
        return ItemOverlap(
            place=place,
            origin=str(item.origin),
            question=question_of(item),
            question_share=shares[0] if judged(number) else None,
            answer_share=shares[-1] if answer is not None else float(spoken) if answers_of(item) else None,
            share=max(shares, default=None),
            in_one=max((float(stretch.covered.mean()) for stretch, _, _ in found), default=0.0),
            exact=max((stretch.exact for stretch, _, _ in found), default=0),
            texts=len({train for _, train, _ in found}),
            evidence=[self._evidence(stretch, train) for stretch, train, _ in found[:SHOWN]],
        )

    def _share(self, found: Sequence[tuple[Stretch, str, bool]], passage: int) -> float:
        covered = [stretch.covered for stretch, _, _ in found if stretch.passage == passage]
        return float(np.logical_or.reduce(covered).mean()) if covered else 0.0

    def _evidence(self, stretch: Stretch, train: str) -> Evidence:
        words = self.index.words(stretch.passage, stretch.covered)
        part = self.passages[stretch.passage].part
        return Evidence(train=train, words=words, units=int(stretch.covered.sum()), part=part)


def answers_of(item: Item) -> tuple[str, ...]:
    """Accepted answers of an item; a text has none."""
    return item.answers if isinstance(item, Labelled) else ()


class CleanScore(BaseModel):
    """A task's score by how much of an item the model was trained on (LLaMA 2's table, in our metric).

    Attributes:
        subsets: "clean" (below 20 %), "not clean", "not dirty" (below 80 %), "dirty"; only those with items.
        change: not clean minus clean, on different items; None where one of them is empty.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    metric: str
    subsets: dict[str, Estimate]
    change: Difference | None


def score_by_overlap(result: TaskResult, overlap: TaskOverlap) -> CleanScore:
    """The score on clean against other items.

    Raises:
        DataError: the result is of another number of items.
    """
    if result.n != len(overlap.items) or len(result.scores) != result.n:
        reason = f"a score of {result.n} items, but {len(overlap.items)} were searched for"
        raise DataError(reason, where=result.name, fix="score and search the same items")
    bounds = {"clean": (0.0, CLEAN), "not clean": (CLEAN, np.inf), "not dirty": (0.0, DIRTY), "dirty": (DIRTY, np.inf)}
    scores = result.headline_scores()
    parts = {name: scores.at(overlap.places(low, high)) for name, (low, high) in bounds.items()}
    some = {name: part for name, part in parts.items() if part.denominators.sum() > 0}
    change = difference(some["clean"], some["not clean"]) if {"clean", "not clean"} <= some.keys() else None
    subsets = {name: estimate(part) for name, part in some.items()}
    return CleanScore(name=result.name, metric=result.metric, subsets=subsets, change=change)
