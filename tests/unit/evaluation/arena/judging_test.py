"""Battles and grades by judges whose mind is known: fair ones, biased ones, silent ones."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from graftlm.core.errors import DataError, GraftError
from graftlm.evaluation.arena.battles import Battle, Grade, agreed
from graftlm.evaluation.arena.grades import grade_battles, grade_rows
from graftlm.evaluation.arena.judges import Messages, RememberingJudge, Reply
from graftlm.evaluation.arena.judging import Bench, battles_to_judge, grades_to_give, judge_battles, judge_grades
from graftlm.evaluation.arena.position import position_bias
from graftlm.evaluation.arena.prompts import JudgePrompt, own_prompts, read_prompts
from graftlm.evaluation.arena.questions import Question
from graftlm.evaluation.arena.ratings import rate
from graftlm.evaluation.arena.record_log import RecordLog

ROOT = Path(__file__).parents[4]
SHARED = ROOT.parent / "shared" / "data" / "eval"
NUMBER = re.compile(r"worth (\d+)")


class Scripted:
    """A judge that says what a function of the conversation says, and may fall silent after some questions."""

    name = "scripted"

    def __init__(self, decide: Callable[[str], str], breaks_after: int | None = None) -> None:
        self._decide, self._left = decide, breaks_after
        self.asked: list[Messages] = []

    def identity(self) -> dict[str, Any]:
        return {"scripted": True}

    def ask(self, conversations: Sequence[Messages]) -> Iterator[tuple[int, Reply]]:
        for place, messages in enumerate(conversations):
            if self._left is not None and len(self.asked) >= self._left:
                raise GraftError("the line is dead")
            self.asked.append(messages)
            yield place, Reply(self._decide(messages[-1]["content"]), 10, 2)


def fair(shown: str) -> str:
    """A's worth stands first, B's last, whatever stands between."""
    one, *_, other = map(int, NUMBER.findall(shown))
    return "[[C]]" if one == other else "[[A]]" if one > other else "[[B]]"


def bench(questions: int = 6, worths: dict[str, int] | None = None, **changes: Any) -> Bench:
    """Models whose answers say what they are worth; every other question has two turns."""
    asked = [
        Question(question_id=n, category=("talk", "math")[n % 2], turns=[f"Q{n}a", f"Q{n}b"][: 1 + n % 2])
        for n in range(questions)
    ]
    answers = {
        model: {q.question_id: [f"{model} turn {t}: worth {worth}" for t in range(len(q.turns))] for q in asked}
        for model, worth in (worths or {"x": 3, "y": 2, "z": 1}).items()
    }
    return Bench(**{"questions": asked, "answers": answers, "prompts": own_prompts()} | changes)


def nothing(_: int) -> None:
    pass


@pytest.fixture
def log(tmp_path: Path) -> RecordLog[Battle]:
    return RecordLog(tmp_path / "battles.jsonl", Battle)


def remembering(judge: Scripted, tmp_path: Path) -> RememberingJudge:
    return RememberingJudge(judge, tmp_path / "memory")


def test_a_fair_judge_finds_the_better_model(log: RecordLog[Battle], tmp_path: Path) -> None:
    judge, told = Scripted(fair), []
    cost = judge_battles(bench(), remembering(judge, tmp_path), log, told.append)
    battles = log.read()
    assert len(battles) == battles_to_judge(bench()) == sum(told) == 9 * 3  # 6 first turns, 3 second ones, 3 pairs
    assert {(b.turns, b.verdict) for b in battles} == {(1, "a"), (2, "a")}, "x before y before z, in either order"
    assert (cost.asked, cost.remembered, cost.prompt_tokens, cost.answer_tokens) == (54, 0, 540, 108)
    assert {(b.judge, b.order) for b in battles} == {("scripted", "both")}
    assert battles[0].style_a is not None and battles[0].style_a.tokens == 6


def test_both_orders_are_shown(log: RecordLog[Battle], tmp_path: Path) -> None:
    judge = Scripted(fair)
    judge_battles(bench(1, {"x": 1, "y": 1}), remembering(judge, tmp_path), log, nothing)
    first, second = (messages[-1]["content"] for messages in judge.asked)
    assert first.index("x turn") < first.index("y turn") and second.index("y turn") < second.index("x turn")


def test_an_always_first_judge_gives_everyone_half(log: RecordLog[Battle], tmp_path: Path) -> None:
    judge_battles(bench(10), remembering(Scripted(lambda _: "[[A]]"), tmp_path), log, nothing)
    battles = log.read()
    assert {battle.verdict for battle in battles} == {"tie"}
    found = rate(battles)
    assert all(row.win_rate == 0.5 and row.rating.value == pytest.approx(1000) for row in found.rows)
    bias = position_bias(battles)
    assert bias is not None and (bias.consistent, bias.first, bias.second) == (0, 1, 0)


def test_a_judge_that_mostly_looks_at_the_place_is_unbiased(log: RecordLog[Battle], tmp_path: Path) -> None:
    """7 of 10 verdicts go to the first place, the others are drawn: no model gains."""

    def decide(shown: str) -> str:
        drawn = random.Random(zlib.crc32(shown.encode()))
        return "[[A]]" if drawn.random() < 0.7 else drawn.choice(["[[A]]", "[[B]]"])

    judge_battles(bench(90), remembering(Scripted(decide), tmp_path), log, nothing)
    battles = log.read()
    found = rate(battles)
    assert all(row.rating.low < 1000 < row.rating.high and abs(row.win_rate - 0.5) < 0.06 for row in found.rows)
    bias = position_bias(battles)
    assert bias is not None and bias.first == pytest.approx(0.85**2, abs=0.04) and bias.second < 0.05
    once = [b.model_copy(update={"verdict": b.first}) for b in battles]
    assert abs(rate(once).rows[0].win_rate - 0.5) > 0.2, "one order alone favours whoever stands first"


@pytest.mark.parametrize("breaks_after", [0, 1, 7, 31, 40, 53])
def test_the_file_is_the_same_after_an_interruption(tmp_path: Path, breaks_after: int) -> None:
    whole = RecordLog(tmp_path / "whole.jsonl", Battle)
    judge_battles(bench(), RememberingJudge(Scripted(fair), tmp_path / "other"), whole, nothing)
    log = RecordLog(tmp_path / "battles.jsonl", Battle)
    broken, mended = Scripted(fair, breaks_after), Scripted(fair)
    with pytest.raises(GraftError, match="the line is dead"):
        judge_battles(bench(), remembering(broken, tmp_path), log, nothing)
    cost = judge_battles(bench(), remembering(mended, tmp_path), RecordLog(log.path, Battle), nothing)
    assert log.path.read_bytes() == whole.path.read_bytes()
    assert len(broken.asked) + len(mended.asked) == 54 and cost.asked == 54 - breaks_after, "nothing is asked twice"


KILLED = """
import sys, time
from pathlib import Path
from tests.unit.evaluation.arena import judging_test as here

def slowly(shown):
    time.sleep(0.01)
    return here.fair(shown)

folder = Path(sys.argv[1])
log = here.RecordLog(folder / "battles.jsonl", here.Battle)
here.judge_battles(here.bench(40), here.remembering(here.Scripted(slowly), folder), log, here.nothing)
"""


def test_the_file_is_the_same_after_kills(tmp_path: Path) -> None:
    """Killed amid its work, then left alone."""
    whole = RecordLog(tmp_path / "whole.jsonl", Battle)
    judge_battles(bench(40), RememberingJudge(Scripted(fair), tmp_path / "other"), whole, nothing)
    file = tmp_path / "battles.jsonl"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(["src", "."])}
    for lines in (60, None):
        judging = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], env=environment, cwd=ROOT)
        while lines is not None and (not file.exists() or file.read_bytes().count(b"\n") < lines):
            assert judging.poll() is None
            time.sleep(0.005)
        if lines is not None:
            judging.kill()
        assert judging.wait() == (-signal.SIGKILL if lines is not None else 0)
    assert file.read_bytes() == whole.path.read_bytes()


def test_a_cut_line_is_judged_again_for_nothing(tmp_path: Path, log: RecordLog[Battle]) -> None:
    judge_battles(bench(), remembering(Scripted(fair), tmp_path), log, nothing)
    whole = log.path.read_bytes()
    log.path.write_bytes(whole[: len(whole) // 2])
    cost = judge_battles(bench(), remembering(Scripted(fair, 0), tmp_path), RecordLog(log.path, Battle), nothing)
    assert log.path.read_bytes() == whole and cost.asked == 0 < cost.remembered


def test_only_battles_with_the_baseline(log: RecordLog[Battle], tmp_path: Path) -> None:
    judge_battles(bench(), remembering(Scripted(fair), tmp_path), log, nothing, baseline="y")
    assert {(b.model_a, b.model_b) for b in log.read()} == {("x", "y"), ("y", "z")}
    assert battles_to_judge(bench(), "y") == 18


def test_references_are_shown_where_mt_bench_shows_them(log: RecordLog[Battle], tmp_path: Path) -> None:
    references = {0: ["R0a"], 1: ["R1a", "R1b"], 3: ["R3a"]}  # 0 is talk; 3 lacks its second turn; 5 has none
    judge, some = Scripted(fair), bench(references=references)
    judge_battles(some, remembering(judge, tmp_path), log, nothing)
    shown = [messages[-1]["content"] for messages in judge.asked]
    assert all(("R1a" in text) == ("Q1a" in text) and "R0a" not in text for text in shown)
    assert all(("R1b" in text) == ("Q1b" in text) for text in shown)
    assert all(("R3a" in text) == ("Q3a" in text and "Q3b" not in text) for text in shown)
    assert some.unreferenced == 2


def test_a_judge_without_a_verdict_is_counted_not_rated(log: RecordLog[Battle], tmp_path: Path) -> None:
    def decide(shown: str) -> str:
        return "I cannot say." if "Q0a" in shown and shown.index("x turn") > shown.index("y turn") else fair(shown)

    judge_battles(bench(4, {"x": 2, "y": 1}), remembering(Scripted(decide), tmp_path), log, nothing)
    odd = [battle for battle in log.read() if battle.verdict == "unreadable"]
    assert [(battle.question_id, battle.first, battle.second) for battle in odd] == [(0, "a", "unreadable")]
    bias = position_bias(log.read())
    assert bias is not None and bias.unreadable == pytest.approx(1 / 6)


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        ("a", "a", "a"), ("b", "b", "b"), ("tie", "tie", "tie"), ("a", "b", "tie"), ("b", "a", "tie"),
        ("a", "tie", "tie"), ("tie", "b", "tie"),
        ("a", "unreadable", "unreadable"), ("unreadable", "tie", "unreadable"),
    ],
)  # fmt: skip
def test_a_win_needs_both_orders(first: str, second: str, verdict: str) -> None:
    assert agreed(first, second) == verdict  # type: ignore[arg-type]


def test_reviews_with_two_scores_make_battles(log: RecordLog[Battle], tmp_path: Path) -> None:
    prompt = JudgePrompt("r", "pairwise", "", "{question} {answer_a} | {answer_b}", "scores")

    def decide(shown: str) -> str:
        one, other = NUMBER.findall(shown)
        return f"{one} {other}\nwell done"

    some = Bench([Question(question_id=0, turns=["Q"])], bench(1).answers, [prompt])
    judge_battles(some, remembering(Scripted(decide), tmp_path), log, nothing)
    assert [battle.verdict for battle in log.read()] == ["a", "a", "a"]


@pytest.mark.skipif(not (SHARED / "mt_bench").is_dir(), reason="MT-bench's prompts are not here")
def test_the_prompts_of_mt_bench_judge_both_turns_with_references(log: RecordLog[Battle], tmp_path: Path) -> None:
    judge = Scripted(fair)
    prompts = read_prompts(SHARED / "mt_bench" / "judge_prompts.jsonl")
    references = {n: [f"R{n}a", f"R{n}b"] for n in range(6)}
    judge_battles(bench(prompts=prompts, references=references), remembering(judge, tmp_path), log, nothing)
    assert all(battle.verdict == "a" for battle in log.read())
    systems = {messages[0]["content"][:60] for messages in judge.asked}
    assert all(text.startswith("Please act as an impartial judge") for text in systems)
    shown = [messages[1]["content"] for messages in judge.asked]
    assert sum("[The Start of Reference Answer]" in text for text in shown) == 3 * 3 * 2
    assert sum("<|The Start of Reference Answer|>" in text for text in shown) == 3 * 3 * 2


def test_missing_answers_stop_before_anything_is_asked() -> None:
    whole = bench()
    with pytest.raises(DataError, match="1 of 6 questions"):
        Bench(whole.questions, {"x": {n: said for n, said in whole.answers["x"].items() if n != 3}}, own_prompts())


def grade_all(tmp_path: Path, decide: Callable[[str], str]) -> list[Grade]:
    log = RecordLog(tmp_path / "grades.jsonl", Grade)
    judge_grades(bench(), remembering(Scripted(decide), tmp_path), log, nothing)
    return log.read()


def test_grades_and_the_score_of_mt_bench(tmp_path: Path) -> None:
    """z is worth 1: 2 points in first turns, and 3 more in second ones, of which each math question has one."""

    def decide(shown: str) -> str:
        return f"Rating: [[{int(NUMBER.findall(shown)[-1]) * 2 + 3 * ('turn 1' in shown)}]]"

    grades = grade_all(tmp_path, decide)
    assert len(grades) == grades_to_give(bench()) == 27
    rows = grade_rows(grades)
    assert [row.model for row in rows] == ["x", "y", "z"]
    worst = rows[-1]
    assert worst.mean.value == pytest.approx((6 * 2 + 3 * 5) / 9) and worst.mean.low < 3 < worst.mean.high
    assert worst.turns == {1: 2, 2: 5} and worst.categories == {"math": 3.5, "talk": 2}
    battles = grade_battles(grades)
    assert len(battles) == 27 and {battle.verdict for battle in battles} == {"a"}


def test_grading_goes_on_where_it_stopped(tmp_path: Path) -> None:
    whole = grade_all(tmp_path, lambda _: "[[5]]")
    file = tmp_path / "grades.jsonl"
    text = file.read_bytes()
    file.write_bytes(text[: len(text) * 2 // 3])
    assert grade_all(tmp_path, lambda _: "[[5]]") == whole and file.read_bytes() == text


def test_answers_without_a_grade_are_counted(tmp_path: Path) -> None:
    grades = grade_all(tmp_path, lambda shown: "no" if "Q0a" in shown and "x turn" in shown else "[[5]]")
    assert {row.model: row.ungraded for row in grade_rows(grades)} == {"x": 1, "y": 0, "z": 0}
    verdicts = [battle.verdict for battle in grade_battles(grades)]
    assert verdicts.count("unreadable") == 2 and verdicts.count("tie") == 25
    with pytest.raises(DataError, match="the judge gave it no grade"):
        grade_rows([grade.model_copy(update={"grade": None}) for grade in grades])
