"""From likelihoods and answers to the scores of a task, item by item."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftlm.core.errors import DataError, ModelError
from graftlm.core.settings_file import nearest
from graftlm.evaluation.benchmarks.filters import apply_filters
from graftlm.evaluation.benchmarks.items import Item
from graftlm.evaluation.benchmarks.task_file import Generation, Metric, TaskFile
from graftlm.evaluation.graders.base import Grader, Mark, Reply
from graftlm.evaluation.graders.table import GRADERS
from graftlm.evaluation.grading import Graded
from graftlm.evaluation.metrics import bits, utf8_bytes
from graftlm.evaluation.results import SampleAnswer
from graftlm.evaluation.statistics import Scores
from graftlm.evaluation.subject import Advance
from graftlm.evaluation.text_subject import Likelihood, Open, Options, Passage, TextSubject, Writing

_SHOWN = 1_500  # characters of a prompt in a sample, its end


def grade(
    subject: TextSubject, task: TaskFile, items: Sequence[Item], questions: Sequence[Any], seed: int, advance: Advance
) -> Graded:
    """Put the questions to the subject and score what comes back.

    Raises:
        DataError: a grader that does not exist, or that cannot grade an item.
        ModelError: a likelihood that is not finite.
    """
    if task.request == "rolling":
        return _grade_passages(questions, subject.text_likelihoods(questions, advance), task)
    if task.request == "generate":
        writing = writing_of(task.generation, seed)
        return _grade_answers(task, items, questions, subject.completions(questions, writing, advance))
    found = subject.continuation_likelihoods(questions, advance)
    for item, row in zip(items, found, strict=True):
        if not all(math.isfinite(one.log_p) for one in row):
            raise ModelError("an option's likelihood is not finite", where=item.where)
    if task.request == "likelihood":
        return _grade_likelihood(questions, [row[0] for row in found], task)
    return _grade_options(questions, found, task)


def writing_of(generation: Generation, seed: int) -> Writing:
    return Writing(
        until=tuple(generation.until),
        max_tokens=generation.max_tokens,
        samples=generation.samples,
        temperature=generation.temperature,
        top_p=generation.top_p,
        top_k=generation.top_k,
        seed=seed,
    )


def _grade_options(questions: Sequence[Options], found: list[list[Likelihood]], task: TaskFile) -> Graded:
    scores: dict[str, list[float]] = {metric.shown: [] for metric in task.metrics}
    samples = []
    for question, row in zip(questions, found, strict=True):
        log_p = np.array([one.log_p for one in row])
        for metric in task.metrics:
            scores[metric.shown].append(_option_score(metric.name, question, log_p))
        taken = int(np.argmax(log_p))
        samples.append(_sample(question.contexts[0], question, taken))
    return Graded({name: Scores.of(values) for name, values in scores.items()}, samples)


def _option_score(metric: str, question: Options, log_p: NDArray[np.float64]) -> float:
    """Of equally likely options the first counts as chosen."""
    if metric in ("mc2", "answer_probability"):
        share = np.exp(log_p - np.logaddexp.reduce(log_p))
        return float(share[list(question.right)].sum())
    lengths = np.ones_like(log_p)
    if metric == "acc_norm":
        lengths = np.array([float(len(choice)) for choice in question.choices])
    if metric == "acc_bytes":
        lengths = np.array([float(utf8_bytes(choice)) for choice in question.choices])
    if not lengths.all():
        raise DataError(f"an empty option has no {metric}", fix="score it by acc")
    return float(int(np.argmax(log_p / lengths)) in question.right)


def _grade_likelihood(questions: Sequence[Options], found: list[Likelihood], task: TaskFile) -> Graded:
    """acc: whether the answer is the greedy one. perplexity: e to the mean nats an answer, here as nats."""
    scores = {"acc": [float(one.greedy) for one in found], "perplexity": [-one.log_p for one in found]}
    samples = [
        SampleAnswer(
            prompt=question.contexts[0][-_SHOWN:],
            reference=question.choices[0],
            answer=f"log p {one.log_p:.2f}",
            right=one.greedy,
        )
        for question, one in zip(questions, found, strict=True)
    ]
    return Graded({metric.shown: Scores.of(scores[metric.name]) for metric in task.metrics}, samples)


def _grade_passages(passages: Sequence[Passage], log_ps: Sequence[float], task: TaskFile) -> Graded:
    """Bits over bytes; perplexities as nats over bytes and over words (parted by white space)."""
    sizes = [float(utf8_bytes(passage.text)) for passage in passages]
    words = [float(len(re.split(r"\s+", passage.text))) for passage in passages]
    nats = [-log_p for log_p in log_ps]
    scores = {
        "bits_per_byte": Scores.of([bits(log_p) for log_p in log_ps], sizes),
        "byte_perplexity": Scores.of(nats, sizes),
        "word_perplexity": Scores.of(nats, words),
    }
    samples = [
        SampleAnswer(
            prompt=passage.text[:_SHOWN], reference="", answer=f"{bits(log_p) / size:.3f} bits per byte", right=None
        )
        for passage, log_p, size in zip(passages, log_ps, sizes, strict=True)
        if size
    ]
    return Graded({metric.shown: scores[metric.name] for metric in task.metrics}, samples)


def _grade_answers(
    task: TaskFile, items: Sequence[Item], prompts: Sequence[Open], answers: Sequence[Sequence[str]]
) -> Graded:
    metrics: dict[str, Scores] = {}
    shown: list[Reply] = []
    for metric in task.metrics:
        replies = [
            Reply(apply_filters(texts, metric.filters), prompt.answers, item.row)
            for texts, prompt, item in zip(answers, prompts, items, strict=True)
        ]
        shown = shown or replies
        metrics[metric.shown] = _scores(_grader(metric, task)(replies, **metric.options))
    first = metrics[task.headline]
    samples = [
        SampleAnswer(
            prompt=prompt.prompt[-_SHOWN:],
            reference=" | ".join(prompt.answers),
            answer=texts[0] if texts[0] == reply.text else f"{texts[0]}\n→ {reply.text}",
            right=bool(score == weight) if weight else None,
        )
        for prompt, texts, reply, score, weight in zip(
            prompts, answers, shown, first.numerators, first.denominators, strict=True
        )
    ]
    return Graded(metrics, samples)


def _grader(metric: Metric, task: TaskFile) -> Grader:
    if metric.name not in GRADERS:
        raise DataError(f"there is no grader `{metric.name}`", where=task.name, fix=nearest(metric.name, list(GRADERS)))
    grader = GRADERS[metric.name]
    known = [name for name, one in inspect.signature(grader).parameters.items() if one.kind is one.KEYWORD_ONLY]
    unknown = [name for name in metric.options if name not in known]
    if unknown:
        fix = nearest(unknown[0], known) if known else "it has no options"
        raise DataError(f"`{metric.name}` has no option `{unknown[0]}`", where=task.name, fix=fix)
    return grader


def _scores(marks: Sequence[Mark]) -> Scores:
    parted = [mark if isinstance(mark, tuple) else (mark, 1.0) for mark in marks]
    return Scores.of([above for above, _ in parted], [below for _, below in parted])


def _sample(prompt: str, question: Options, taken: int) -> SampleAnswer:
    right = " | ".join(question.choices[place] for place in question.right)
    return SampleAnswer(
        prompt=prompt[-_SHOWN:], reference=right, answer=question.choices[taken], right=taken in question.right
    )
