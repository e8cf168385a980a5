"""pass@k of programs that a model wrote (Chen et al. 2021, arXiv 2107.03374), run in the sandbox."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from graftlm.core.errors import DataError
from graftlm.evaluation.graders.code_problems import CodeProblem, program_of
from graftlm.evaluation.graders.sandbox.run import Job, Limits, Verdict, require_sandbox, run_job
from graftlm.evaluation.grading import Graded
from graftlm.evaluation.results import SampleAnswer
from graftlm.evaluation.statistics import Scores


@dataclass(frozen=True)
class CodeResult:
    """
    Attributes:
        metrics: "pass@k" for each k; the score of a problem is its unbiased estimate, so that the bootstrap draws
            problems.
        verdicts: of each problem, of each of its samples.
    """

    metrics: dict[str, Scores]
    verdicts: list[list[Verdict]]


def estimate_pass_at_k(samples: int, right: int, k: int) -> float:
    """The chance that k of `samples` programs, drawn without replacement, hold a right one: 1 - C(n-c, k) / C(n, k).

    Raises:
        ValueError: unless 1 <= k <= samples and 0 <= right <= samples.
    """
    if not 1 <= k <= samples or not 0 <= right <= samples:
        raise ValueError(f"pass@{k} of {samples} samples with {right} right is not defined")
    all_wrong = 1.0
    for drawn in range(k):
        all_wrong *= max(0, samples - right - drawn) / (samples - drawn)
    return 1 - all_wrong


def grade_program(
    problem: CodeProblem, reply: str, *, limits: Limits | None = None, allow_weak: bool = False
) -> Verdict:
    """Run the program in one reply against the problem's tests.

    Raises:
        GraftError: the sandbox is not whole on this machine and `allow_weak` is not set.
    """
    return run_job(_job(problem, reply), limits, allow_weak=allow_weak)


def pass_at_k(
    problems: Sequence[CodeProblem],
    replies: Sequence[Sequence[str]],
    ks: Sequence[int] = (1,),
    *,
    limits: Limits | None = None,
    workers: int | None = None,
    allow_weak: bool = False,
    advance: Callable[[int], None] | None = None,
) -> CodeResult:
    """Run every sample of every problem.

    Args:
        replies: the samples of each problem; completions of its prompt, or chat answers.
        ks: at most the smallest number of samples of a problem.
        limits: of one program.
        workers: programs that run at once; one a processor when None. A wall-clock limit means more where they are not
            more than the processors.
        allow_weak: run even where the machine cannot hold programs (`sandbox_gaps()` says what is missing).
        advance: called with the number of samples done.

    Raises:
        DataError: no problem, a problem without replies, or with fewer than k.
        GraftError: the sandbox is not whole on this machine and `allow_weak` is not set.
    """
    _check(problems, replies, ks)
    require_sandbox(allow_weak=allow_weak)
    jobs = [_job(problem, reply) for problem, some in zip(problems, replies, strict=True) for reply in some]

    times = Counter(jobs)  # a model often writes the same program again; it is run once

    def judged(job: Job) -> Verdict:
        verdict = run_job(job, limits, allow_weak=allow_weak)
        if advance is not None:
            advance(times[job])
        return verdict

    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        found = dict(zip(times, pool.map(judged, times), strict=True))
    answers = iter(jobs)
    verdicts = [[found[next(answers)] for _ in some] for some in replies]
    counts = [(len(some), sum(verdict.passed for verdict in some)) for some in verdicts]
    metrics = {f"pass@{k}": Scores.of([estimate_pass_at_k(n, right, k) for n, right in counts]) for k in ks}
    return CodeResult(metrics, verdicts)


def as_graded(problems: Sequence[CodeProblem], replies: Sequence[Sequence[str]], result: CodeResult) -> Graded:
    """The result as the task runner takes it: the metrics, and each problem's first reply with its verdict to read."""
    samples = [
        SampleAnswer(
            prompt=problem.prompt or problem.name,
            reference=problem.tests,
            answer="\n\n".join([some[0], verdicts[0].reason]).strip(),
            right=verdicts[0].passed,
        )
        for problem, some, verdicts in zip(problems, replies, result.verdicts, strict=True)
    ]
    return Graded(result.metrics, samples)


def _job(problem: CodeProblem, reply: str) -> Job:
    return Job(program_of(problem, reply), problem.tests, problem.tested, problem.prelude)


def _check(problems: Sequence[CodeProblem], replies: Sequence[Sequence[str]], ks: Sequence[int]) -> None:
    if not problems or len(problems) != len(replies):
        raise DataError(f"{len(problems)} problems and replies to {len(replies)}", where="pass@k")
    if not ks or min(ks) < 1:
        raise DataError(f"k must be 1 or more, not {list(ks)}", where="pass@k")
    for problem, some in zip(problems, replies, strict=True):
        if len(some) < max(ks):
            reason = f"pass@{max(ks)} needs as many samples, this problem has {len(some)}"
            raise DataError(reason, where=problem.name, fix="draw more samples or ask for a smaller k")
