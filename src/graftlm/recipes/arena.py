"""An arena from the command line: answers, judgements, exams. What `graft arena answer`, `judge` and `exam` call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from graftlm.core.console import progress_bar, say, warn
from graftlm.core.errors import GraftError
from graftlm.core.files import cache_folder
from graftlm.core.hashing import hash_folder
from graftlm.evaluation.arena.answering import answer_questions
from graftlm.evaluation.arena.battles import Battle, Grade
from graftlm.evaluation.arena.endpoint_judge import EndpointJudge, EndpointSettings
from graftlm.evaluation.arena.exams import exam_battles, read_result
from graftlm.evaluation.arena.grades import grade_rows
from graftlm.evaluation.arena.judges import Judge, RememberingJudge
from graftlm.evaluation.arena.judging import (
    Bench,
    Cost,
    battles_to_judge,
    grades_to_give,
    judge_battles,
    judge_grades,
)
from graftlm.evaluation.arena.local_judge import LocalJudge
from graftlm.evaluation.arena.position import position_bias
from graftlm.evaluation.arena.prompts import own_prompts, read_prompts
from graftlm.evaluation.arena.questions import (
    Answers,
    ModelAnswer,
    read_answers,
    read_questions,
    references_of,
)
from graftlm.evaluation.arena.record_log import RecordLog
from graftlm.recipes.arena_table import grade_table
from graftlm.recipes.talking import load_speaker, newest_model

JUDGE_TOKENS = 2048
"""The longest judgement, as in MT-bench."""


def answer(
    model: str,
    questions: Path,
    output: Path | None,
    *,
    name: str | None,
    template: str,
    max_new_tokens: int,
    temperature: float | None,
    seed: int,
) -> None:
    """Write a model's answers; those that the file has already are kept.

    Raises:
        DataError: the questions cannot be read, or the file holds answers of another model.
        ModelError: the model cannot be loaded.
    """
    asked = read_questions(questions)
    called = name or Path(model).name
    file = output or Path(f"{called}.jsonl")
    log = RecordLog(file, ModelAnswer)
    done = log.read()
    if others := {one.model_id for one in done} - {called}:
        reason = f"it holds answers of {', '.join(sorted(others))}, not of {called}"
        raise GraftError(reason, where=file, fix="give another --output, or the same --name")
    speaker = load_speaker(model, template)
    with progress_bar() as bar:
        task = bar.add_task("answers", total=len(asked), completed=len(done), note="")
        cut = answer_questions(
            speaker.subject, called, asked, log, max_new_tokens=max_new_tokens, seed=seed, temperature=temperature,
            advance=lambda count: bar.advance(task, count),
        )  # fmt: skip
    if cut:
        warn(f"{cut} answers were cut at {max_new_tokens} tokens: --max-new-tokens")
    say(f"{len(asked)} questions, {len(asked) - len(done)} answered now by {called}: {file}")


def judge_with(
    judge: str, settings: EndpointSettings | None, *, template: str, temperature: float, max_tokens: int
) -> RememberingJudge:
    """A judge that remembers: behind an address, or a model of this machine."""
    asked: Judge
    if settings is not None:
        asked = EndpointJudge(settings)
    else:
        place = newest_model(judge)
        content = hash_folder(Path(place)) if Path(place).is_dir() else place
        subject = load_speaker(judge, template).subject
        asked = LocalJudge(Path(judge).name, content, subject, temperature=temperature, max_new_tokens=max_tokens)
    return RememberingJudge(asked, cache_folder() / "judge")


def judge(
    questions: Path,
    answers: Sequence[Path],
    by: RememberingJudge,
    output: Path,
    *,
    prompts: Path | None,
    references: Path | None,
    baseline: str | None,
    single: bool,
) -> None:
    """Judge all pairs of models, or grade each model's answers, into a file that grows.

    Raises:
        DataError: a file cannot be read, an answer or a prompt is missing, a model is alone.
        GraftError: the judge gives no reply.
    """
    asked = read_questions(questions)
    right = references_of(asked, read_answers(references)[1] if references else {})
    bench = Bench(asked, read_all_answers(answers), read_prompts(prompts) if prompts else own_prompts(), right)
    if bench.unreferenced:
        warn(f"{bench.unreferenced} questions of maths, reasoning or coding have no reference answer: judged without")
    if single:
        _grade(bench, by, RecordLog(output, Grade))
    else:
        _battle(bench, by, RecordLog(output, Battle), baseline)


def read_all_answers(files: Sequence[Path]) -> dict[str, Answers]:
    """Models by name.

    Raises:
        GraftError: two files are of one model.
    """
    found: dict[str, Answers] = {}
    for file in files:
        name, answers = read_answers(file)
        if name in found:
            raise GraftError(f"a second file of answers by {name}", where=file, fix="one file a model")
        found[name] = answers
    return found


def _battle(bench: Bench, by: RememberingJudge, log: RecordLog[Battle], baseline: str | None) -> None:
    total = battles_to_judge(bench, baseline)
    if not total:
        where = baseline or ", ".join(bench.answers)
        raise GraftError("there is no pair of models to judge", where=where, fix="give answers of two models")
    with progress_bar() as bar:
        task = bar.add_task("battles", total=total, note="")
        cost = judge_battles(bench, by, log, lambda count: bar.advance(task, count), baseline=baseline)
    battles = [battle for battle in log.read() if battle.judge == by.name]
    _tell_cost(cost)
    if bias := position_bias(battles):
        say(
            f"both orders agree in {bias.consistent:.0%} of {bias.battles} battles; first place favoured in "
            f"{bias.first:.0%}, second in {bias.second:.0%}, no verdict in {bias.unreadable:.0%}"
        )
    say(f"{len(battles)} battles by {by.name}: {log.path}")


def _grade(bench: Bench, by: RememberingJudge, log: RecordLog[Grade]) -> None:
    with progress_bar() as bar:
        task = bar.add_task("grades", total=grades_to_give(bench), note="")
        cost = judge_grades(bench, by, log, lambda count: bar.advance(task, count))
    _tell_cost(cost)
    say(grade_table(grade_rows([grade for grade in log.read() if grade.judge == by.name])))
    say(str(log.path))


def _tell_cost(cost: Cost) -> None:
    told = f"{cost.asked} judgements asked for, {cost.remembered} remembered"
    tokens = f"; {cost.prompt_tokens:,} tokens read, {cost.answer_tokens:,} written" if cost.asked else ""
    say(told + tokens)


def exam(results: Sequence[Path], tasks: Sequence[str], output: Path) -> None:
    """Write the battles of models on the questions of an exam that `graft eval` gave all of them.

    Raises:
        DataError: a file is no result, or no task was answered by all models alike.
    """
    found = [read_result(file) for file in results]
    battles, left_out = exam_battles(found, tasks)
    for name, reason in left_out.items():
        warn(f"{name} is left out: {reason}")
    log = RecordLog(output, Battle)
    done = {battle.key for battle in log.read()}
    new = [battle for battle in battles if battle.key not in done]
    log.append(new)
    say(f"{len(battles):,} battles of {len(found)} models, {len(new):,} of them new: {output}")
