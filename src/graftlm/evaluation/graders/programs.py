"""pass@k as a grader of task files: HumanEval's and MBPP's rows, run in the sandbox."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from graftlm.evaluation.graders.base import Grader, Mark, Reply
from graftlm.evaluation.graders.code import pass_at_k
from graftlm.evaluation.graders.code_problems import CodeProblem, humaneval_problem, mbpp_problem


def _passing(problem_of: Callable[[Mapping[str, Any]], CodeProblem]) -> Grader:
    def grade(replies: Sequence[Reply], *, k: int = 1, allow_weak: bool = False) -> list[Mark]:
        """The chance that one of k samples passes, by problem; `generation.samples` must be k or more."""
        problems = [problem_of(reply.row) for reply in replies]
        found = pass_at_k(problems, [reply.texts for reply in replies], (k,), allow_weak=allow_weak)
        return list(found.metrics[f"pass@{k}"].numerators.tolist())

    return grade


PROGRAM_GRADERS: MappingProxyType[str, Grader] = MappingProxyType(
    {"humaneval": _passing(humaneval_problem), "mbpp": _passing(mbpp_problem)}
)
"""name → grader; options `k`, and `allow_weak` for machines that cannot hold a program."""
