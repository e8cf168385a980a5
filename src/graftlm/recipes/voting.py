"""People as judges: two answers side by side without names, one key a verdict. What `graft arena vote` calls."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from graftlm.core.console import console, say
from graftlm.core.errors import GraftError
from graftlm.evaluation.arena.battles import Battle, Order, Verdict, battle_key, mirrored, style_of
from graftlm.evaluation.arena.questions import Answers, Question, check_answered, read_questions
from graftlm.evaluation.arena.record_log import RecordLog
from graftlm.recipes.arena import read_all_answers

KEYS = "a: the first is better · b: the second · t: a tie · x: both are bad · s: skip · q: end"
_ON_LEFT: dict[str, Verdict] = {"a": "a", "b": "b", "t": "tie", "x": "both_bad"}


@dataclass(frozen=True)
class Showing:
    """A battle as it is shown: `left` and `right` are models, which the voter does not see."""

    question: Question
    left: str
    right: str

    def battle(self, key: str, voter: str, answers: Mapping[str, Answers]) -> Battle:
        """What a key means: the model that comes first in the alphabet is a, whichever side it stood on."""
        order: Order = "ab" if self.left < self.right else "ba"
        verdict = _ON_LEFT[key]
        said = {model: answers[model][self.question.question_id] for model in (self.left, self.right)}
        model_a, model_b = sorted(said)
        return Battle(
            question_id=self.question.question_id, category=self.question.category, model_a=model_a, model_b=model_b,
            turns=len(self.question.turns), verdict=verdict if order == "ab" else mirrored(verdict),
            judge=voter, order=order, style_a=style_of(said[model_a]), style_b=style_of(said[model_b]),
        )  # fmt: skip


def vote(
    questions: Path,
    files: Sequence[Path],
    output: Path,
    *,
    voter: str,
    seed: int,
    read: Callable[[str], str] = input,
) -> None:
    """Show battles until all are judged or the voter ends; every verdict is written at once.

    Battles come in random order with random sides, the same ones for the same seed and voter, so that a voter who comes
    back goes on where they were.

    Raises:
        DataError: questions or answers cannot be read, or answers are missing.
        GraftError: answers of one model only.
    """
    asked, answers = read_questions(questions), read_all_answers(files)
    if len(answers) < 2:
        raise GraftError("there is no pair of models", where=", ".join(answers), fix="give answers of two models")
    for model, said in answers.items():
        check_answered(asked, model, said)
    log = RecordLog(output, Battle)
    done = {battle.key for battle in log.read()}
    left = [one for one in showings(asked, list(answers), voter, seed) if _key(one, voter) not in done]
    console.print(f"{len(left)} battles to judge. {KEYS}", markup=False)
    judged = 0
    for one, key in _verdicts(left, answers, read):
        log.append([one.battle(key, voter, answers)])
        judged += 1
    say(f"{judged} battles judged, {len(left) - judged} left: {output}")


def showings(questions: Sequence[Question], models: Sequence[str], voter: str, seed: int) -> list[Showing]:
    """All pairs on all questions, in an order and with sides that only the seed and the voter decide."""
    drawn = random.Random(hashlib.sha256(f"{seed}/{voter}".encode()).digest())
    found = []
    for question in questions:
        for one, other in combinations(sorted(models), 2):
            left, right = (one, other) if drawn.random() < 0.5 else (other, one)
            found.append(Showing(question, left, right))
    drawn.shuffle(found)
    return found


def _verdicts(
    left: Sequence[Showing], answers: Mapping[str, Answers], read: Callable[[str], str]
) -> Iterator[tuple[Showing, str]]:
    for number, one in enumerate(left, 1):
        _show(one, answers, f"{number} of {len(left)}")
        key = _key_pressed(read)
        if key == "q":
            return
        if key != "s":
            yield one, key


def _show(one: Showing, answers: Mapping[str, Answers], place: str) -> None:
    console.rule(place)
    for name, model in (("A", one.left), ("B", one.right)):
        for question, said in zip(one.question.turns, answers[model][one.question.question_id], strict=False):
            console.out(f"user: {question}", style="dim", highlight=False)
            console.out(f"{name}: {said}\n", highlight=False)


def _key_pressed(read: Callable[[str], str]) -> str:
    """One of the keys; the end of the input ends the voting."""
    while True:
        try:
            key = read("a/b/t/x/s/q> ").strip().lower()
        except EOFError:
            return "q"
        if key in (*_ON_LEFT, "s", "q"):
            return key
        console.print(KEYS, markup=False)


def _key(one: Showing, voter: str) -> tuple[int | str, str, str, int, str]:
    return battle_key(one.question.question_id, one.left, one.right, len(one.question.turns), voter)
