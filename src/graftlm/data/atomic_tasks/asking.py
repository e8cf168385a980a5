"""Putting a task together: wording, label set, output form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from graftlm.data.atomic_tasks.plan import TaskPlan
from graftlm.data.atomic_tasks.task import AtomicTask
from graftlm.data.atomic_tasks.wordings import (
    COLON,
    DEFINITIONS,
    FORMS,
    NONE,
    OPTION_LINES,
    SEPARATORS,
    SIDE,
    YES_NO,
    Language,
)


class Unjoinable(ValueError):
    """A span that holds a line break, or every separator: no list of it can be read back."""


@dataclass(frozen=True)
class Ask:
    """One row's way to be asked: the plan, the language, and what is drawn."""

    plan: TaskPlan
    language: Language
    rng: Random

    @property
    def subject(self) -> str:
        return self.plan.subject[SIDE[self.language]]

    @property
    def subject_name(self) -> str:
        """The subject as the name of an input."""
        return self.subject[:1].upper() + self.subject[1:]

    @property
    def second_name(self) -> str:
        second = self.plan.second[SIDE[self.language]]
        return second[:1].upper() + second[1:]

    def name(self, label: str) -> str:
        return self.plan.name(label, self.language)

    def names(self, labels: Sequence[str]) -> tuple[str, ...]:
        return tuple(map(self.name, labels))

    def labels_shown(self, own: Sequence[str], pool: Sequence[str]) -> tuple[str, ...]:
        """A shuffled label set: the row's own labels, and some others; two at least where there are two."""
        others = [label for label in pool if label not in own]
        fewest = max(0, min(2, len(pool)) - len(own))
        most = max(fewest, min(len(others), self.plan.options - len(own)))
        shown = [*own, *self.rng.sample(others, self.rng.randint(fewest, most))]
        self.rng.shuffle(shown)
        return tuple(shown)

    def separator(self, *texts: str) -> str:
        """The first that stands in none of the texts. Raises Unjoinable."""
        for mark in SEPARATORS[self.language]:
            if not any(mark.strip() in text or "\n" in text for text in texts):
                return mark
        raise Unjoinable("a span holds a line break, or all of the separators")

    def listing(self, members: Sequence[str], separator: str) -> str:
        return separator.join(members) or NONE[self.language]

    def task(
        self,
        kind: str,
        given: Sequence[tuple[str, str]],
        form: str,
        output: str,
        *,
        options: Sequence[str] = (),
        separator: str = "",
        choices: Sequence[str] = (),
        listed: Sequence[str] = (),
        label: str = "",
        span: str = "",
    ) -> AtomicTask:
        """The task in a wording that is drawn.

        Args:
            form: a key of `FORMS`.
            label, span: what the definition asks about.
        """
        noun, second = self.plan.noun[SIDE[self.language]], self.plan.second[SIDE[self.language]]
        mark = separator or self.separator(*options)
        wording = self._wording(DEFINITIONS[kind][self.language])
        definition = wording.format(s=self.subject, t=second, n=noun, l=label, x=span)
        line = self._wording(OPTION_LINES[self.language]).format(o=mark.join(options)) if options else ""
        shape = FORMS[form][self.language].format(j=mark, n=noun)
        return AtomicTask(
            kind, self.language, definition, tuple(options), line, tuple(given), shape, output, mark,
            tuple(choices), tuple(listed),
        )  # fmt: skip

    def label_task(
        self, kind: str, given: Sequence[tuple[str, str]], right: str, options: Sequence[str], *, label: str = "",
        span: str = "",
    ) -> AtomicTask:
        """A task whose answer is one of its options."""
        choices = options if len(options) > 1 else ()
        return self.task(kind, given, "label", right, options=options, choices=choices, label=label, span=span)

    def yes_no_task(
        self, kind: str, given: Sequence[tuple[str, str]], truth: bool, *, label: str = "", span: str = ""
    ) -> AtomicTask:
        yes, no = YES_NO[self.language]
        output = yes if truth else no
        return self.task(kind, given, "yes_no", output, choices=(yes, no), label=label, span=span)

    def true_or_other(self, own: str, shown: Sequence[str]) -> tuple[str, bool]:
        """The label itself or another of those shown, each half of the time; and which of the two it is."""
        others = [label for label in shown if label != own]
        if others and self.rng.random() < 0.5:
            return self.rng.choice(others), False
        return own, True

    def typed(self, span: str, name: str) -> str:
        """A line "span: type"."""
        return f"{span}{COLON[self.language]}{name}"

    def _wording(self, wordings: tuple[str, ...]) -> str:
        return wordings[-1] if self.plan.wording == "other" else self.rng.choice(wordings[:-1])
