"""Tasks of a text, or a pair of texts, with its class: choose, check, go from coarse to fine, find the partner."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from graftlm.data.atomic_tasks.asking import Ask
from graftlm.data.atomic_tasks.task import AtomicTask
from graftlm.data.samples import Classified

Shown = tuple[str, ...]
CANDIDATES = 4
"""Partners to choose from."""
_TRIES = 24


@dataclass(frozen=True)
class Classed:
    """A row's gold, and the data set that it stands in.

    Attributes:
        pool: every class.
        rows: to draw others from.
    """

    sample: Classified
    pool: tuple[str, ...]
    rows: Sequence[Classified]

    def given(self, ask: Ask) -> tuple[tuple[str, str], ...]:
        first = (ask.subject_name, self.sample.text)
        return (first, (ask.second_name, self.sample.text_b)) if self.sample.text_b else (first,)

    def others(self, ask: Ask) -> list[Classified]:
        """Some other rows of the data set."""
        drawn = (ask.rng.choice(self.rows) for _ in range(min(_TRIES, 4 * len(self.rows))))
        return [row for row in drawn if row.text != self.sample.text]


def classification(gold: Classed, ask: Ask, shown: Shown) -> AtomicTask:
    kind = "pair_classification" if gold.sample.text_b else "classification"
    return ask.label_task(kind, gold.given(ask), ask.name(gold.sample.label), ask.names(shown))


def class_check(gold: Classed, ask: Ask, shown: Shown) -> AtomicTask:
    kind = "pair_check" if gold.sample.text_b else "class_check"
    label, truth = ask.true_or_other(gold.sample.label, shown)
    return ask.yes_no_task(kind, gold.given(ask), truth, label=ask.name(label))


def coarse_classification(gold: Classed, ask: Ask, shown: Shown) -> AtomicTask | None:
    coarse = dict.fromkeys(_coarse(label, ask) for label in shown if _has_levels(label, ask))
    if not _has_levels(gold.sample.label, ask):
        return None
    right = ask.name(_coarse(gold.sample.label, ask))
    return ask.label_task("coarse_classification", gold.given(ask), right, ask.names(list(coarse)))


def fine_classification(gold: Classed, ask: Ask, shown: Shown) -> AtomicTask | None:
    """The coarse class is told; its fine classes are the options."""
    if not _has_levels(gold.sample.label, ask):
        return None
    coarse = _coarse(gold.sample.label, ask)
    inside = [label for label in gold.pool if _has_levels(label, ask) and _coarse(label, ask) == coarse]
    if len(inside) < 2:
        return None
    labels = ask.labels_shown((gold.sample.label,), inside)
    fine = [ask.name(_fine(label, ask)) for label in labels]
    right = ask.name(_fine(gold.sample.label, ask))
    return ask.label_task("fine_classification", gold.given(ask), right, fine, label=ask.name(coarse))


def same_class(gold: Classed, ask: Ask, shown: Shown) -> AtomicTask | None:
    """With another row, of the same class half of the time."""
    truth = ask.rng.random() < 0.5
    fitting = [row for row in gold.others(ask) if (row.label == gold.sample.label) == truth]
    if not fitting or gold.sample.text_b:
        return None
    given = ((f"{ask.subject_name} 1", gold.sample.text), (f"{ask.subject_name} 2", fitting[0].text))
    return ask.yes_no_task("same_class", given, truth)


def match_selection(gold: Classed, ask: Ask, shown: Shown) -> AtomicTask | None:
    """The partner among second texts of other rows."""
    if gold.sample.label != ask.plan.match or not gold.sample.text_b:
        return None
    others = dict.fromkeys(row.text_b for row in gold.others(ask) if row.text_b != gold.sample.text_b)
    if not others:
        return None
    candidates = [gold.sample.text_b, *list(others)[: CANDIDATES - 1]]
    ask.rng.shuffle(candidates)
    given = ((ask.subject_name, gold.sample.text), *((f"{n}", text) for n, text in enumerate(candidates, 1)))
    choices = [str(n) for n in range(1, len(candidates) + 1)]
    right = str(candidates.index(gold.sample.text_b) + 1)
    return ask.label_task("match_selection", given, right, choices)


CLASS_TASKS: Mapping[str, Callable[[Classed, Ask, Shown], AtomicTask | None]] = {
    "classification": classification,
    "class_check": class_check,
    "coarse_classification": coarse_classification,
    "fine_classification": fine_classification,
    "same_class": same_class,
}
PAIR_TASKS: Mapping[str, Callable[[Classed, Ask, Shown], AtomicTask | None]] = {
    "pair_classification": classification,
    "pair_check": class_check,
    "match_selection": match_selection,
}


def _has_levels(label: str, ask: Ask) -> bool:
    return bool(ask.plan.level) and ask.plan.level in label


def _coarse(label: str, ask: Ask) -> str:
    return label.partition(ask.plan.level)[0]


def _fine(label: str, ask: Ask) -> str:
    return label.partition(ask.plan.level)[2]
