"""Tasks of a text with named entities: find the spans, type them, extract values, and all at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

from graftlm.data.atomic_tasks.asking import Ask
from graftlm.data.atomic_tasks.task import AtomicTask
from graftlm.data.atomic_tasks.wordings import SPANS_GIVEN
from graftlm.data.samples import Tagged

Shown = tuple[str, ...]
"""The label set of a task, in the order of its options; the row's own labels are among them."""


@dataclass(frozen=True)
class Spans:
    """A row's gold: each span once for each of its types, in the order of the text."""

    sample: Tagged

    @cached_property
    def found(self) -> tuple[tuple[str, str], ...]:
        """(span, label)."""
        text = self.sample.text
        return tuple(dict.fromkeys((text[one.start : one.end], one.kind) for one in self.sample.entities))

    @cached_property
    def by_label(self) -> dict[str, tuple[str, ...]]:
        return {label: tuple(span for span, own in self.found if own == label) for _, label in self.found}

    @cached_property
    def spans(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(span for span, _ in self.found))

    @cached_property
    def clear(self) -> tuple[tuple[str, str], ...]:
        """Those of one type only."""
        labels = [span for span, _ in self.found]
        return tuple((span, label) for span, label in self.found if labels.count(span) == 1)

    def given(self, ask: Ask) -> tuple[tuple[str, str], ...]:
        return ((ask.subject_name, self.sample.text),)


def span_detection(gold: Spans, ask: Ask, shown: Shown) -> AtomicTask:
    options = ask.names(shown)
    mark = ask.separator(*gold.spans, *options)
    output = ask.listing(gold.spans, mark)
    return ask.task("span_detection", gold.given(ask), "list", output, options=options, separator=mark,
                    listed=gold.spans)  # fmt: skip


def span_typing(gold: Spans, ask: Ask, shown: Shown) -> AtomicTask | None:
    """The spans are given, as span detection puts them out."""
    if not gold.found:
        return None
    options = ask.names(shown)
    mark = ask.separator(*gold.spans, *options)
    lines = tuple(ask.typed(span, ask.name(label)) for span, label in gold.found)
    given = (*gold.given(ask), (SPANS_GIVEN[ask.language], mark.join(gold.spans)))
    return ask.task("span_typing", given, "typed_spans", "\n".join(lines), options=options, separator=mark,
                    listed=lines)  # fmt: skip


def span_type(gold: Spans, ask: Ask, shown: Shown) -> AtomicTask | None:
    if not gold.clear:
        return None
    span, label = ask.rng.choice(gold.clear)
    return ask.label_task("span_type", gold.given(ask), ask.name(label), ask.names(shown), span=span)


def value_choice(gold: Spans, ask: Ask, shown: Shown) -> AtomicTask | None:
    """Which of the spans has the type: for a type with one span, in a text with several."""
    single = [(span, label) for span, label in gold.clear if len(gold.by_label[label]) == 1]
    if not single or len(gold.spans) < 2:
        return None
    span, label = ask.rng.choice(single)
    options = ask.labels_shown((span,), gold.spans)
    return ask.label_task("value_choice", gold.given(ask), span, options, label=ask.name(label))


def span_check(gold: Spans, ask: Ask, shown: Shown) -> AtomicTask | None:
    if not gold.clear:
        return None
    span, own = ask.rng.choice(gold.clear)
    label, truth = ask.true_or_other(own, shown)
    return ask.yes_no_task("span_check", gold.given(ask), truth, label=ask.name(label), span=span)


def type_detection(gold: Spans, ask: Ask, shown: Shown) -> AtomicTask:
    """Which types occur, in the order of the label set."""
    options = ask.names(shown)
    mark = ask.separator(*options)
    present = ask.names([label for label in shown if label in gold.by_label])
    output = ask.listing(present, mark)
    return ask.task("type_detection", gold.given(ask), "list", output, options=options, separator=mark, listed=present)


def type_check(gold: Spans, ask: Ask, shown: Shown) -> AtomicTask | None:
    label = _present_or_absent(gold, ask, shown, absent=0.5)
    if label is None:
        return None
    return ask.yes_no_task("type_check", gold.given(ask), label in gold.by_label, label=ask.name(label))


def value_extraction(gold: Spans, ask: Ask, shown: Shown) -> AtomicTask | None:
    label = _present_or_absent(gold, ask, shown, absent=0.2)
    return None if label is None else values_of(gold, ask, label)


def values_of(gold: Spans, ask: Ask, label: str) -> AtomicTask:
    """The spans of one type."""
    values = gold.by_label.get(label, ())
    mark = ask.separator(*values)
    output = ask.listing(values, mark)
    return ask.task("value_extraction", gold.given(ask), "list", output, separator=mark, listed=values,
                    label=ask.name(label))  # fmt: skip


def entity_extraction(gold: Spans, ask: Ask, shown: Shown) -> AtomicTask:
    """A line for each type of the label set, "None" where it does not occur."""
    options = ask.names(shown)
    mark = ask.separator(*gold.spans, *options)
    values = [ask.listing(gold.by_label.get(label, ()), mark) for label in shown]
    lines = tuple(ask.typed(name, value) for name, value in zip(options, values, strict=True))
    return ask.task("entity_extraction", gold.given(ask), "spans_by_type", "\n".join(lines), options=options,
                    separator=mark, listed=lines)  # fmt: skip


def _present_or_absent(gold: Spans, ask: Ask, shown: Shown, absent: float) -> str | None:
    missing = [label for label in shown if label not in gold.by_label]
    if missing and (not gold.by_label or ask.rng.random() < absent):
        return ask.rng.choice(missing)
    return ask.rng.choice(list(gold.by_label)) if gold.by_label else None


SPAN_TASKS: Mapping[str, Callable[[Spans, Ask, Shown], AtomicTask | None]] = {
    "span_detection": span_detection,
    "span_typing": span_typing,
    "span_type": span_type,
    "value_choice": value_choice,
    "span_check": span_check,
    "type_detection": type_detection,
    "type_check": type_check,
    "value_extraction": value_extraction,
    "entity_extraction": entity_extraction,
}


def chain_of_spans(gold: Spans, ask: Ask, shown: Shown) -> list[AtomicTask]:
    """Detection → typing; which types → the values of each; and all at once: three ways to one gold."""
    steps = [span_detection(gold, ask, shown), span_typing(gold, ask, shown), type_detection(gold, ask, shown)]
    values = [values_of(gold, ask, label) for label in shown if label in gold.by_label]
    return [step for step in (*steps, *values, entity_extraction(gold, ask, shown)) if step is not None]
