"""The graders of written answers, by the name that a task file gives.

A grader judges one answer and returns its marks: for each metric a numerator and a denominator. The metric over a test
is the sum of the numerators over the sum of the denominators, so that intervals can be computed over items.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from graftlm.core.errors import DataError
from graftlm.evaluation.graders import ecommerce, law
from graftlm.evaluation.graders.ifeval import follow_instructions
from graftlm.evaluation.graders.letters import said_letter, said_letters
from graftlm.evaluation.graders.maths import gsm8k_answer, math_answer, same_answer
from graftlm.evaluation.graders.reading import character_f1, cmrc_scores, squad_scores
from graftlm.evaluation.metrics import SetCounts, exact_match, rouge_l

Marks = dict[str, tuple[float, float]]
"""Of one item: metric to (numerator, denominator)."""

Row = Mapping[str, Any]
"""The item as it stands in the data, for graders that need more than the accepted answers."""

Judge = Callable[[str, Sequence[str], Row], Marks]
"""(what the model wrote, the accepted answers, the row) to marks."""


@dataclass(frozen=True)
class Grader:
    """How a written answer is judged.

    Attributes:
        judge: one item's marks.
        metrics: their names; the first is the headline.
        harmonic: metrics that are the harmonic mean of two others over all items, as EcomGPT's macro F1.
        lower_is_better: those of the metrics that should fall.
    """

    judge: Judge
    metrics: tuple[str, ...]
    harmonic: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    lower_is_better: frozenset[str] = frozenset()


def judge_exact(text: str, answers: Sequence[str], row: Row) -> Marks:
    """Equal to an accepted answer, apart from case, width, spacing and final punctuation."""
    return {"exact_match": (exact_match(text, answers), 1)}


def judge_letter(text: str, answers: Sequence[str], row: Row) -> Marks:
    """The letter that the text settles on. answered: the texts that name a letter at all."""
    said = said_letter(text)
    return {"accuracy": (float(said in answers), 1), "answered": (float(said is not None), 1)}


def judge_letters(text: str, answers: Sequence[str], row: Row) -> Marks:
    """All the right letters and no other (JEC-QA, arXiv 1911.12011; AGIEval). answered: texts that name a letter."""
    said, right = said_letters(text), frozenset("".join(answers))
    return {"accuracy": (float(said == right), 1), "answered": (float(bool(said)), 1)}


def judge_gsm8k(text: str, answers: Sequence[str], row: Row) -> Marks:
    """The number behind "####", else the last number; the accepted answer may be a whole solution."""
    said = gsm8k_answer(text)
    right = any(same_answer(said, gsm8k_answer(answer) or "") for answer in answers)
    return {"exact_match": (float(right), 1)}


def judge_math(text: str, answers: Sequence[str], row: Row) -> Marks:
    """The boxed answer, else what follows "answer is"; the accepted answer may be a whole solution."""
    said = math_answer(text)
    return {"exact_match": (float(any(same_answer(said, math_answer(one) or one) for one in answers)), 1)}


def judge_cloze(text: str, answers: Sequence[str], row: Row) -> Marks:
    """AGIEval's blanks: as many answers as blanks, joined by ";", all the same."""
    said = math_answer(text) or text
    return {"exact_match": (float(any(_same_blanks(said, answer) for answer in answers)), 1)}


def judge_ifeval(text: str, answers: Sequence[str], row: Row) -> Marks:
    """IFEval; headline strict_mean is the leaderboard's mean of the prompt and the instruction level.

    The instruction level is a mean over instructions, so it is no mean over prompts: strict_mean is computed by the
    runner from prompt_strict and instruction_strict.
    """
    verdict = follow_instructions(text, row["instruction_id_list"], row["kwargs"])
    count = float(len(verdict.strict))
    return {
        "prompt_strict": (float(all(verdict.strict)), 1),
        "instruction_strict": (float(sum(verdict.strict)), count),
        "prompt_loose": (float(all(verdict.loose)), 1),
        "instruction_loose": (float(sum(verdict.loose)), count),
    }


def judge_squad(text: str, answers: Sequence[str], row: Row) -> Marks:
    """SQuAD's exact match and bag-of-words F1; without an accepted answer, silence is right (SQuAD 2.0)."""
    exact, f1 = squad_scores(text, answers)
    return {"f1": (f1, 1), "exact_match": (exact, 1)}


def judge_cmrc(text: str, answers: Sequence[str], row: Row) -> Marks:
    """CMRC 2018's exact match and F1, and their mean, which its table is sorted by."""
    exact, f1 = cmrc_scores(text, answers)
    return {"average": ((exact + f1) / 2, 1), "f1": (f1, 1), "exact_match": (exact, 1)}


def judge_character_f1(text: str, answers: Sequence[str], row: Row) -> Marks:
    """CJRC's and LawBench's reading: F1 of the characters against the best answer."""
    return {"f1": (max(character_f1(text, answer) for answer in answers), 1)}


def judge_rouge_l(text: str, answers: Sequence[str], row: Row) -> Marks:
    """ROUGE-L F1, Chinese by characters, English by words."""
    return {"rouge_l": (rouge_l(text, answers), 1)}


def judge_labels(text: str, answers: Sequence[str], row: Row) -> Marks:
    """EcomGPT's classification: micro F1 of the label sets, and macro F1 of their mean precision and recall."""
    counts = ecommerce.label_counts(text, answers)
    return _set_marks(counts) | {"rouge_l": (rouge_l(text, [", ".join(answers)]), 1)}


def judge_spans(text: str, answers: Sequence[str], row: Row) -> Marks:
    """EcomGPT's entities: micro F1 of typed spans, as seqeval counts them."""
    spans = [(span["type"], span["term"]) for span in row["spans"]]
    return _set_marks(ecommerce.span_counts(text, row["sentences"], spans))


def judge_law_choice(text: str, answers: Sequence[str], row: Row) -> Marks:
    """LawBench 1-2: the right letter stands in the text, no other of A–D does."""
    right = said_letter(answers[0]) or ""
    return _law("accuracy", law.only_option(text, tuple("ABCD"), right), bool(re.search("[A-D]", text)))


def judge_law_class(text: str, answers: Sequence[str], row: Row) -> Marks:
    """LawBench 2-4: the right class stands in the text, no other of the instruction's does."""
    options = _law_options(row)
    return _law("accuracy", law.only_option(text, options, answers[0]), any(option in text for option in options))


def judge_law_labels(text: str, answers: Sequence[str], row: Row) -> Marks:
    """LawBench 2-3: F1 of the instruction's labels that stand in the text."""
    options, expected = _law_options(row), _after_colon(answers[0]).split("、")
    return _law("f1", law.mention_f1(text, options, expected), any(option in text for option in options))


def judge_law_entities(text: str, answers: Sequence[str], row: Row) -> Marks:
    """LawBench 2-6: soft F1 of "kind:entity" pairs."""
    return {"f1": (law.entity_f1(text, _law_options(row), answers[0]), 1)}


def judge_law_articles(text: str, answers: Sequence[str], row: Row) -> Marks:
    """LawBench 3-1: F1 of the articles."""
    expected = [int(number) for number in re.findall(r"\d+", law.arabic_numbers(answers[0]))]
    return {"f1": (law.article_f1(text, expected), 1)}


def judge_law_term(text: str, answers: Sequence[str], row: Row) -> Marks:
    """LawBench 3-4 and 3-5: distance of a prison term; term_score is 1 - distance / ln 216, at least 0.

    Life and death sentences have no months: the script leaves these items out, and so do the weights here.
    """
    months = re.search(r"(\d+)个月", answers[0])
    if months is None:
        return {"term_score": (0.0, 0.0), "log_distance": (0.0, 0.0)}
    distance = law.term_distance(text, int(months[1]))
    return {"term_score": (max(0.0, 1 - distance / math.log(216)), 1), "log_distance": (distance, 1)}


def _set_marks(counts: SetCounts) -> Marks:
    """Micro F1 over all items; precision and recall by item, 0 where a side is empty, as the released script has it."""
    both = float(counts.predicted + counts.expected)
    return {
        "micro_f1": (2.0 * counts.hits, both),
        "macro_precision": (counts.hits / counts.predicted if counts.predicted else 0.0, 1),
        "macro_recall": (counts.hits / counts.expected if counts.expected else 0.0, 1),
        "exact_set": (float(counts.hits == counts.predicted == counts.expected), 1),
    }


def _same_blanks(said: str, answer: str) -> bool:
    first, second = re.split("[;；]", said), re.split("[;；]", answer)
    if len(first) != len(second):
        return False
    return all(same_answer(one, other) for one, other in zip(first, second, strict=True))


def _law(metric: str, value: float, answered: bool) -> Marks:
    return {metric: (value, 1), "answered": (float(answered), 1)}


def _law_options(row: Row) -> list[str]:
    """The labels that LawBench's instruction names: "…包括：a、b、c。"."""
    found = re.search("包括[:：](.+?)。", row["instruction"])
    if found is None:
        raise DataError("the instruction names no labels (包括：…。)", fix="check that the file is LawBench's")
    return found[1].split("、")


def _after_colon(text: str) -> str:
    return re.split("[:：]", text, maxsplit=1)[-1].strip().rstrip("。")


_MACRO = {"macro_f1": ("macro_precision", "macro_recall")}
_SET = ("micro_f1", "macro_precision", "macro_recall", "exact_set")

ANSWER_GRADERS: dict[str, Grader] = {
    "exact": Grader(judge_exact, ("exact_match",)),
    "letter": Grader(judge_letter, ("accuracy", "answered")),
    "letters": Grader(judge_letters, ("accuracy", "answered")),
    "gsm8k": Grader(judge_gsm8k, ("exact_match",)),
    "math": Grader(judge_math, ("exact_match",)),
    "cloze": Grader(judge_cloze, ("exact_match",)),
    "ifeval": Grader(judge_ifeval, ("prompt_strict", "instruction_strict", "prompt_loose", "instruction_loose")),
    "squad": Grader(judge_squad, ("f1", "exact_match")),
    "cmrc": Grader(judge_cmrc, ("average", "f1", "exact_match")),
    "character_f1": Grader(judge_character_f1, ("f1",)),
    "rouge_l": Grader(judge_rouge_l, ("rouge_l",)),
    "ecom_labels": Grader(judge_labels, (*_SET, "rouge_l"), _MACRO),
    "ecom_spans": Grader(judge_spans, _SET, _MACRO),
    "law_choice": Grader(judge_law_choice, ("accuracy", "answered")),
    "law_class": Grader(judge_law_class, ("accuracy", "answered")),
    "law_labels": Grader(judge_law_labels, ("f1", "answered")),
    "law_entities": Grader(judge_law_entities, ("f1",)),
    "law_articles": Grader(judge_law_articles, ("f1",)),
    "law_term": Grader(judge_law_term, ("term_score", "log_distance"), lower_is_better=frozenset({"log_distance"})),
}
"""By the name that a task file gives as its `grader`."""
