"""From a model's replies to scores: one function for each kind of task."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from graftlm.core.errors import ModelError
from graftlm.data.samples import Labelled
from graftlm.evaluation.calibration import brier_score, calibration_error, option_probabilities
from graftlm.evaluation.metrics import (
    ANSWER_METRICS,
    abstains,
    bits,
    contains_answer,
    exact_match,
    set_counts,
    utf8_bytes,
)
from graftlm.evaluation.results import SampleAnswer
from graftlm.evaluation.statistics import Scores
from graftlm.evaluation.subject import Advance, Answer, Subject
from graftlm.evaluation.tasks import Kind, Task, choice_question

_SHOWN = 400  # characters of a plain text in a sample


@dataclass(frozen=True)
class Graded:
    """Per-item scores by metric, and each item as a sample to read."""

    metrics: dict[str, Scores]
    samples: Sequence[SampleAnswer]


def grade_choice(subject: Subject, task: Task, advance: Advance) -> Graded:
    """accuracy: the right option is the most likely; answer_probability: its share of the options' p.

    ece and brier judge the options' probabilities, of what the options are ranked by. Of equally likely options the
    first is taken.
    """
    items = task.labelled()
    asked = [choice_question(item, task.style) for item in items]
    found = subject.option_log_probabilities([a[0] for a in asked], [a[1] for a in asked], advance)
    right, share, samples, chances = [], [], [], []
    for item, (_, options, answer), log_ps in zip(items, asked, found, strict=True):
        if not all(math.isfinite(log_p) for log_p in log_ps):
            raise ModelError("an option's likelihood is not finite", where=str(item.origin))
        lengths = [len(option) if task.normalisation == "characters" else 1 for option in options]
        ranks = [log_p / length for log_p, length in zip(log_ps, lengths, strict=True)]
        picked = ranks.index(max(ranks))
        chances.append(option_probabilities(ranks))
        right.append(picked == answer)
        share.append(1 / sum(math.exp(min(log_p - log_ps[answer], 700)) for log_p in log_ps))
        samples.append(_sample(item, item.choices[picked], picked == answer))
    metrics = {
        "accuracy": Scores.of([float(hit) for hit in right]),
        "answer_probability": Scores.of(share),
        "ece": calibration_error([max(options) for options in chances], right),
        "brier": brier_score(chances, [answer for _, _, answer in asked]),
    }
    return Graded(metrics, samples)


def grade_generate(subject: Subject, task: Task, advance: Advance) -> Graded:
    """The greedy answer against the accepted ones, by every text metric, and how often it ended by itself."""
    items, answers = _answered(subject, task, advance)
    pairs = list(zip(items, answers, strict=True))
    metrics = {
        name: Scores.of([metric(answer.text, item.answers) for item, answer in pairs])
        for name, metric in ANSWER_METRICS.items()
    }
    samples = [_sample(item, a.text, bool(exact_match(a.text, item.answers))) for item, a in pairs]
    return Graded({**metrics, "stop_rate": _stop_rate(answers)}, samples)


def grade_extract(subject: Subject, task: Task, advance: Advance) -> Graded:
    """Micro F1, precision and recall of the listed items, and how often the whole set is right."""
    items, answers = _answered(subject, task, advance)
    counts = [set_counts(answer.text, item.answers) for item, answer in zip(items, answers, strict=True)]
    whole = [c.hits == c.predicted == c.expected for c in counts]
    hits = [float(c.hits) for c in counts]
    metrics = {
        "set_f1": Scores.of([2 * hit for hit in hits], [float(c.predicted + c.expected) for c in counts]),
        "precision": Scores.of(hits, [float(c.predicted) for c in counts]),
        "recall": Scores.of(hits, [float(c.expected) for c in counts]),
        "exact_set": Scores.of([float(right) for right in whole]),
        "stop_rate": _stop_rate(answers),
    }
    samples = [_sample(item, answer.text, ok) for item, answer, ok in zip(items, answers, whole, strict=True)]
    return Graded(metrics, samples)


def grade_abstain(subject: Subject, task: Task, advance: Advance) -> Graded:
    """How honest the model is about what it does not know.

    abstention_rate: of the unanswerable items, those it abstains on. hallucination_rate: of all items, those
    it answers with something false. false_abstention_rate: of the answerable items, those it abstains on.
    """
    items, answers = _answered(subject, task, advance)
    abstained = [abstains(answer.text) for answer in answers]
    unanswerable = [not item.answers or any(abstains(answer) for answer in item.answers) for item in items]
    known = [not unknown for unknown in unanswerable]
    right = [
        silent if unknown else bool(not silent and contains_answer(answer.text, item.answers))
        for item, answer, silent, unknown in zip(items, answers, abstained, unanswerable, strict=True)
    ]
    invented = [not ok and not silent for ok, silent in zip(right, abstained, strict=True)]
    metrics = {
        "abstention_rate": _rate(abstained, unanswerable),
        "hallucination_rate": _rate(invented, [True] * len(items)),
        "false_abstention_rate": _rate(abstained, known),
        "stop_rate": _stop_rate(answers),
    }
    samples = [_sample(item, answer.text, ok) for item, answer, ok in zip(items, answers, right, strict=True)]
    return Graded(metrics, samples)


def grade_text(subject: Subject, task: Task, advance: Advance) -> Graded:
    """Bits per UTF-8 byte, over all bytes of all texts."""
    texts = [item.text for item in task.texts()]
    sizes = [float(utf8_bytes(text)) for text in texts]
    spent = [bits(log_p) for log_p in subject.text_log_probabilities(texts, advance)]
    samples = [
        SampleAnswer(prompt=text[:_SHOWN], reference="", answer=f"{bit / size:.3f} bits per byte", right=None)
        for text, bit, size in zip(texts, spent, sizes, strict=True)
    ]
    return Graded({"bits_per_byte": Scores.of(spent, sizes)}, samples)


GRADERS: dict[Kind, Callable[[Subject, Task, Advance], Graded]] = {
    "choice": grade_choice,
    "generate": grade_generate,
    "extract": grade_extract,
    "abstain": grade_abstain,
    "bits_per_byte": grade_text,
}


def _answered(subject: Subject, task: Task, advance: Advance) -> tuple[list[Labelled], list[Answer]]:
    items = task.labelled()
    return items, subject.answers([item.prompt for item in items], task.max_new_tokens, advance)


def _rate(hits: Sequence[bool], among: Sequence[bool]) -> Scores:
    """The share of hits among some of the items; the other items weigh nothing."""
    both = [float(hit and inside) for hit, inside in zip(hits, among, strict=True)]
    return Scores.of(both, [float(inside) for inside in among])


def _stop_rate(answers: Sequence[Answer]) -> Scores:
    return Scores.of([float(answer.stopped) for answer in answers])


def _sample(item: Labelled, answer: str, right: bool) -> SampleAnswer:
    prompt = "\n".join(f"{turn.role}: {turn.content}" for turn in item.prompt)
    return SampleAnswer(prompt=prompt, reference=" | ".join(item.answers), answer=answer, right=right)
