"""The graders of written answers that task files name, each with one metric.

They only put together what the files beside this one judge; metrics.py holds what all texts are compared by.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from graftlm.evaluation.graders.base import Grader, Mark, Reply, each
from graftlm.evaluation.graders.ifeval import Verdict, follow_instructions
from graftlm.evaluation.graders.letters import said_letter, said_letters
from graftlm.evaluation.graders.maths import gsm8k_answer, math_answer, same_answer
from graftlm.evaluation.graders.reading import character_f1, cmrc_scores, squad_scores


def letter(text: str, answers: Sequence[str]) -> float:
    """1 where the letter that the text settles on is right."""
    return float(said_letter(text) in answers)


def letters(text: str, answers: Sequence[str]) -> float:
    """1 where the text names all the right letters and no other (JEC-QA, arXiv 1911.12011; AGIEval, 2304.06364)."""
    return float(said_letters(text) == frozenset("".join(answers)))


def gsm8k(text: str, answers: Sequence[str]) -> float:
    """1 where the number behind "####", else the last number, is right; an answer may be a whole solution."""
    said = gsm8k_answer(text)
    return float(any(same_answer(said, gsm8k_answer(answer) or "") for answer in answers))


def math(text: str, answers: Sequence[str]) -> float:
    """1 where the boxed answer, else what follows "answer is", is right; an answer may be a whole solution."""
    said = math_answer(text)
    return float(any(same_answer(said, math_answer(answer) or answer) for answer in answers))


def cloze(text: str, answers: Sequence[str]) -> float:
    """1 where all blanks are right: AGIEval's cloze questions join the answers of several by ";".

    The text may be the bare answer, or announce it as in `math`.
    """
    forms = (text, math_answer(text) or "")
    return float(any(_same_blanks(said, answer) for said in forms for answer in answers))


def _same_blanks(said: str, answer: str) -> bool:
    first, second = re.split("[;；]", said), re.split("[;；]", answer)
    return len(first) == len(second) and all(map(same_answer, first, second))


def squad_exact(text: str, answers: Sequence[str]) -> float:
    """SQuAD's exact match."""
    return squad_scores(text, answers)[0]


def squad_f1(text: str, answers: Sequence[str]) -> float:
    """SQuAD's bag-of-words F1."""
    return squad_scores(text, answers)[1]


def cmrc_exact(text: str, answers: Sequence[str]) -> float:
    """CMRC 2018's exact match."""
    return cmrc_scores(text, answers)[0]


def cmrc_f1(text: str, answers: Sequence[str]) -> float:
    """CMRC 2018's F1, of the longest common run."""
    return cmrc_scores(text, answers)[1]


def soft_f1(text: str, answers: Sequence[str]) -> float:
    """F1 of the characters against the best answer (CJRC, LawBench)."""
    return max(character_f1(text, answer) for answer in answers)


def _followed(verdict: Callable[[Verdict], tuple[bool, ...]], *, all_of_a_prompt: bool) -> Grader:
    """IFEval by prompt (all instructions of it) or by instruction."""

    def grade(replies: Sequence[Reply]) -> list[Mark]:
        marks: list[Mark] = []
        for reply in replies:
            names, arguments = reply.row["instruction_id_list"], [_given(one) for one in reply.row["kwargs"]]
            found = verdict(follow_instructions(reply.text, names, arguments))
            marks.append(float(all(found)) if all_of_a_prompt else (float(sum(found)), float(len(found))))
        return marks

    return grade


def _given(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Without the empty ones: as a table, the data has every argument of every instruction in every row."""
    return {name: value for name, value in arguments.items() if value is not None}


def _strict(verdict: Verdict) -> tuple[bool, ...]:
    return verdict.strict


def _loose(verdict: Verdict) -> tuple[bool, ...]:
    return verdict.loose


ANSWER_GRADERS: MappingProxyType[str, Grader] = MappingProxyType(
    {
        "letter": each(letter),
        "letters": each(letters),
        "gsm8k": each(gsm8k),
        "math": each(math),
        "cloze": each(cloze),
        "squad_exact": each(squad_exact),
        "squad_f1": each(squad_f1),
        "cmrc_exact": each(cmrc_exact),
        "cmrc_f1": each(cmrc_f1),
        "soft_f1": each(soft_f1),
        "ifeval_prompt_strict": _followed(_strict, all_of_a_prompt=True),
        "ifeval_instruction_strict": _followed(_strict, all_of_a_prompt=False),
        "ifeval_prompt_loose": _followed(_loose, all_of_a_prompt=True),
        "ifeval_instruction_loose": _followed(_loose, all_of_a_prompt=False),
    }
)
"""name → grader of exams, sums, reading and instructions."""
