"""From annotated rows to tasks: which kinds a row allows, which are drawn, what had to be left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from graftlm.core.errors import DataError
from graftlm.data.atomic_tasks.asking import Ask, Unjoinable
from graftlm.data.atomic_tasks.classes import CLASS_TASKS, PAIR_TASKS, Classed
from graftlm.data.atomic_tasks.plan import TaskPlan
from graftlm.data.atomic_tasks.spans import SPAN_TASKS, Spans, chain_of_spans
from graftlm.data.atomic_tasks.task import AtomicTask
from graftlm.data.atomic_tasks.wordings import Language
from graftlm.data.readers import Fault
from graftlm.data.samples import Classified, Origin, Sample, Tagged


@dataclass
class Built:
    """Tasks with the row that each was made of, and the rows that gave none, with the reason."""

    tasks: list[tuple[AtomicTask, Origin]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)


@dataclass(frozen=True)
class DataSet:
    """What a row is asked among.

    Attributes:
        pool: every label.
        rows: rows to draw others from (two alike? which partner?); may be empty.
    """

    pool: tuple[str, ...]
    rows: Sequence[Classified] = ()

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> DataSet:
        labels = {one.kind for sample in samples if isinstance(sample, Tagged) for one in sample.entities}
        rows = [sample for sample in samples if isinstance(sample, Classified)]
        return cls(tuple(sorted(labels | {row.label for row in rows})), rows)


def build_tasks(samples: Sequence[Sample], plan: TaskPlan) -> Built:
    """Tasks of every row, in the order of the rows. Row i's tasks depend on the plan's seed, i and the data set.

    Raises:
        DataError: a row that is neither tagged nor classified.
    """
    data, built = DataSet.of(samples), Built()
    for number, sample in enumerate(samples):
        if not isinstance(sample, Tagged | Classified):
            raise DataError(
                f"tasks are made of rows with classes or marked entities, this is {type(sample).__name__.lower()}",
                where=str(sample.origin),
                fix="set `kind: tagged` or `kind: classified`",
            )
        rng = Random(f"{plan.seed}:{number}")
        try:
            made = chain_of(sample, data, plan, rng) if plan.chain else drawn_tasks(sample, data, plan, rng)
        except Unjoinable as error:
            built.faults.append(Fault(sample.origin, str(error)))
            continue
        if not made:
            built.faults.append(Fault(sample.origin, "the row allows none of the kinds of tasks"))
        built.tasks += [(task, sample.origin) for task in made]
    return built


def drawn_tasks(sample: Tagged | Classified, data: DataSet, plan: TaskPlan, rng: Random) -> list[AtomicTask]:
    """`plan.prompts` tasks of different kinds, each with a label set of its own. Raises Unjoinable."""
    ask = _ask(sample, plan, rng)
    kinds = [kind for kind in kinds_of(sample) if not plan.kinds or kind in plan.kinds]
    rng.shuffle(kinds)
    made: list[AtomicTask] = []
    for kind in kinds:
        task = make_task(kind, sample, data, ask)
        if task is not None and len(made) < plan.prompts:
            made.append(task)
    return made


def make_task(kind: str, sample: Tagged | Classified, data: DataSet, ask: Ask) -> AtomicTask | None:
    """One task; None where the row does not allow it. Raises Unjoinable."""
    if isinstance(sample, Tagged):
        gold = Spans(sample)
        return SPAN_TASKS[kind](gold, ask, ask.labels_shown(tuple(gold.by_label), data.pool))
    tasks = PAIR_TASKS if sample.text_b else CLASS_TASKS
    return tasks[kind](Classed(sample, data.pool, data.rows), ask, ask.labels_shown((sample.label,), data.pool))


def chain_of(sample: Tagged | Classified, data: DataSet, plan: TaskPlan, rng: Random) -> list[AtomicTask]:
    """Every step of the row's chain, with one label set: what one puts out, the next is given. Raises Unjoinable."""
    ask = _ask(sample, plan, rng)
    if isinstance(sample, Tagged):
        gold = Spans(sample)
        steps = chain_of_spans(gold, ask, ask.labels_shown(tuple(gold.by_label), data.pool))
        return [step for step in steps if not plan.kinds or step.kind in plan.kinds]
    shown = ask.labels_shown((sample.label,), data.pool)
    classed = Classed(sample, data.pool, data.rows)
    order = PAIR_TASKS if sample.text_b else _COARSE_TO_FINE
    made = [CLASS_OR_PAIR[kind](classed, ask, shown) for kind in order if not plan.kinds or kind in plan.kinds]
    return [step for step in made if step is not None]


def kinds_of(sample: Tagged | Classified) -> list[str]:
    """The kinds that a row of this sort may allow."""
    if isinstance(sample, Tagged):
        return list(SPAN_TASKS)
    return list(PAIR_TASKS if sample.text_b else CLASS_TASKS)


CLASS_OR_PAIR = {**CLASS_TASKS, **PAIR_TASKS}
_COARSE_TO_FINE = ("coarse_classification", "fine_classification", "classification", "class_check", "same_class")


def _ask(sample: Tagged | Classified, plan: TaskPlan, rng: Random) -> Ask:
    language: Language = plan.language if plan.language != "auto" else language_of_text(sample.text)
    return Ask(plan, language, rng)


def language_of_text(text: str) -> Language:
    return "zh" if any("\u4e00" <= char <= "\u9fff" for char in text) else "en"
