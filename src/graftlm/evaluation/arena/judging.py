"""Battles and grades by a judge, in MT-bench's way (arXiv:2306.05685): two turns, references, both orders."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import TypeVar

from graftlm.evaluation.arena.battles import Battle, BattleKey, Grade, Verdict, agreed, battle_key, mirrored, style_of
from graftlm.evaluation.arena.judges import Messages, RememberingJudge, Reply
from graftlm.evaluation.arena.prompts import JudgePrompt, Kind, choose_prompt
from graftlm.evaluation.arena.questions import REFERENCED, Answers, Question, check_answered
from graftlm.evaluation.arena.record_log import RecordLog
from graftlm.evaluation.arena.verdicts import choice_of, read_choice, read_grade, read_two_scores

CHUNK = 16
"""Battles, or grades, that are judged and then written together."""

Advance = Callable[[int], None]
Work = TypeVar("Work")


@dataclass
class Cost:
    """What a judge was asked and what that cost."""

    asked: int = 0
    remembered: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0

    def add(self, replies: Sequence[Reply]) -> None:
        """Count replies; remembered ones cost nothing."""
        self.remembered += sum(reply.remembered for reply in replies)
        new = [reply for reply in replies if not reply.remembered]
        self.asked += len(new)
        self.prompt_tokens += sum(reply.prompt_tokens or 0 for reply in new)
        self.answer_tokens += sum(reply.answer_tokens or 0 for reply in new)


@dataclass(frozen=True)
class Bench:
    """What is judged: questions, every model's answers, references, and the prompts to judge with.

    Attributes:
        references: right answers (`questions.references_of`).
        unreferenced: questions of categories that want a reference (`REFERENCED`) and have none: they are judged
            without.
    """

    questions: Sequence[Question]
    answers: Mapping[str, Answers]
    prompts: Sequence[JudgePrompt]
    references: Answers = field(default_factory=dict)

    def __post_init__(self) -> None:
        for model, answers in self.answers.items():
            check_answered(self.questions, model, answers)

    @property
    def unreferenced(self) -> int:
        return sum(q.category in REFERENCED and self._reference(q, len(q.turns)) is None for q in self.questions)

    def conversation(self, kind: Kind, question: Question, turns: int, models: Sequence[str]) -> Asked:
        """What the judge is asked of one model's answers, or of two models' in this order."""
        reference = self._reference(question, turns)
        prompt = choose_prompt(
            self.prompts, kind, turns=turns, referenced=reference is not None, category=question.category,
            question=question.turns[0],
        )  # fmt: skip
        blanks = {"question": question.turns[0]} if turns == 1 else _numbered("question", question.turns)
        blanks |= _numbered("ref_answer", reference or [])
        for side, model in zip(("answer_a", "answer_b") if len(models) == 2 else ("answer",), models, strict=True):
            said = self.answers[model][question.question_id]
            blanks |= {side: said[0]} if turns == 1 else _numbered(side, said)
        return Asked(prompt, prompt.messages(blanks))

    def _reference(self, question: Question, turns: int) -> Sequence[str] | None:
        """The reference answers to the first turns, where the category has references and all are there."""
        found = self.references.get(question.question_id, ())
        return found[:turns] if question.category in REFERENCED and len(found) >= turns else None


@dataclass(frozen=True)
class Asked:
    """A filled prompt."""

    prompt: JudgePrompt
    messages: Messages


def judge_battles(
    bench: Bench, judge: RememberingJudge, log: RecordLog[Battle], advance: Advance, *, baseline: str | None = None
) -> Cost:
    """Let all pairs of models battle on all questions, in all turns; what is in the log already is left out.

    Both orders are judged, and a win needs both. The log comes out the same however often the work was interrupted.

    Args:
        baseline: only battles with this model.

    Raises:
        DataError: a prompt is missing, or cannot be filled.
        GraftError: the judge gives no reply.
    """
    done = {battle.key for battle in log.read()}
    work = [one for one in _battles_to_judge(bench, baseline) if one.key(judge.name) not in done]
    cost = Cost()
    for chunk in _chunks(work):
        asked = [bench.conversation("pairwise", w.question, w.turns, order) for w in chunk for order in w.orders]
        replies = judge.ask([one.messages for one in asked])
        cost.add(replies)
        told = [_choice(one.prompt, reply.text) for one, reply in zip(asked, replies, strict=True)]
        log.append([w.battle(bench, judge.name, *told[2 * n : 2 * n + 2]) for n, w in enumerate(chunk)])
        advance(len(chunk))
    return cost


@dataclass(frozen=True)
class _Pairing:
    question: Question
    turns: int
    one: str
    other: str

    @property
    def orders(self) -> tuple[tuple[str, str], tuple[str, str]]:
        return (self.one, self.other), (self.other, self.one)

    def key(self, judge: str) -> BattleKey:
        return battle_key(self.question.question_id, self.one, self.other, self.turns, judge)

    def battle(self, bench: Bench, judge: str, first: Verdict, swapped: Verdict) -> Battle:
        second = mirrored(swapped)
        said_a, said_b = (bench.answers[model][self.question.question_id] for model in (self.one, self.other))
        return Battle(
            question_id=self.question.question_id, category=self.question.category, model_a=self.one,
            model_b=self.other, turns=self.turns, verdict=agreed(first, second), judge=judge, order="both",
            first=first, second=second, style_a=style_of(said_a[: self.turns]), style_b=style_of(said_b[: self.turns]),
        )  # fmt: skip


def judge_grades(bench: Bench, judge: RememberingJudge, log: RecordLog[Grade], advance: Advance) -> Cost:
    """Grade every answer of every model from 1 to 10; what is in the log already is left out.

    Raises:
        DataError: a prompt is missing, or cannot be filled.
        GraftError: the judge gives no reply.
    """
    done = {grade.key for grade in log.read()}
    work = [
        (question, turns, model)
        for question in bench.questions
        for turns in _turns_judged(question)
        for model in bench.answers
        if (question.question_id, model, turns, judge.name) not in done
    ]
    cost = Cost()
    for chunk in _chunks(work):
        replies = judge.ask([bench.conversation("single", q, turns, [model]).messages for q, turns, model in chunk])
        cost.add(replies)
        log.append(
            [
                Grade(
                    question_id=q.question_id, category=q.category, model=model, turns=turns,
                    grade=read_grade(reply.text), judge=judge.name,
                )
                for (q, turns, model), reply in zip(chunk, replies, strict=True)
            ]
        )  # fmt: skip
        advance(len(chunk))
    return cost


def battles_to_judge(bench: Bench, baseline: str | None = None) -> int:
    """How many battles there are, judged or not."""
    return len(_battles_to_judge(bench, baseline))


def grades_to_give(bench: Bench) -> int:
    """How many answers there are, graded or not."""
    return sum(len(_turns_judged(question)) for question in bench.questions) * len(bench.answers)




def _battles_to_judge(bench: Bench, baseline: str | None) -> list[_Pairing]:
    pairs = [pair for pair in combinations(sorted(bench.answers), 2) if baseline is None or baseline in pair]
    return [_Pairing(q, turns, *pair) for q in bench.questions for turns in _turns_judged(q) for pair in pairs]


def _turns_judged(question: Question) -> tuple[int, ...]:
    """The first turn alone, then the first two, as MT-bench; further turns have no prompt."""
    return (1, 2) if len(question.turns) >= 2 else (1,)


def _choice(prompt: JudgePrompt, text: str) -> Verdict:
    """The verdict in terms of the answer that stood first (a) and second (b)."""
    if prompt.form == "[[A]]":
        choice = read_choice(text)
    else:
        scores = read_two_scores(text)
        choice = choice_of(*scores) if scores else None
    verdicts: dict[str | None, Verdict] = {"A": "a", "B": "b", "C": "tie", None: "unreadable"}
    return verdicts[choice]


def _numbered(name: str, texts: Sequence[str]) -> dict[str, str]:
    return {f"{name}_{number}": text for number, text in enumerate(texts, 1)}


def _chunks(work: list[Work]) -> list[list[Work]]:
    return [work[start : start + CHUNK] for start in range(0, len(work), CHUNK)]
