"""People as judges: what keys mean, that sides are drawn, that a voter can come back."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from graftlm.core.errors import GraftError
from graftlm.evaluation.arena.battles import Battle
from graftlm.evaluation.arena.questions import Question
from graftlm.evaluation.arena.record_log import RecordLog
from graftlm.recipes.voting import showings, vote

TURNS = {"q1": ["Hello?", "And?"], "q2": ["2 + 3?"], "q3": ["天气？"]}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Three questions, one of two turns, and the answers of three models."""
    rows = {"questions": [{"question_id": name, "turns": asked} for name, asked in TURNS.items()]}
    for model in "xyz":
        rows[model] = [
            {"question_id": name, "model_id": model, "choices": [{"turns": [f"{model}:{turn}" for turn in asked]}]}
            for name, asked in TURNS.items()
        ]
    for name, some in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, some)), encoding="utf-8")
    return tmp_path


def typed(*keys: str) -> Callable[[str], str]:
    """A voter who presses these keys, then leaves."""
    left: Iterator[str] = iter(keys)

    def read(_: str) -> str:
        try:
            return next(left)
        except StopIteration:
            raise EOFError from None

    return read


def cast(files: Path, *keys: str, voter: str = "ada") -> list[Battle]:
    output = files / "votes.jsonl"
    vote(
        files / "questions.jsonl", [files / f"{model}.jsonl" for model in "xyz"], output, voter=voter, seed=0,
        read=typed(*keys),
    )  # fmt: skip
    return RecordLog(output, Battle).read()


def test_votes_are_stored_in_terms_of_models(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever prefers x wherever it stands, and else ties, makes x win always."""
    questions = [Question(question_id=f"q{n}", turns=["?"] * (2 if n == 1 else 1)) for n in (1, 2, 3)]
    keys = [{one.left: "a", one.right: "b"}.get("x", "t") for one in showings(questions, "xyz", "ada", 0)]
    battles = cast(files, *keys)
    assert len(battles) == 9 and {battle.judge for battle in battles} == {"ada"}
    assert all(battle.verdict == ("a" if battle.model_a == "x" else "tie") for battle in battles)
    assert {battle.order for battle in battles} == {"ab", "ba"}, "sides are drawn"
    assert {battle.turns for battle in battles if battle.question_id == "q1"} == {2}
    said = capsys.readouterr().out
    assert "9 battles judged, 0 left" in said
    names = said.replace("x:", "").replace("y:", "").replace("z:", "")
    assert not re.search(r"\b[xyz]\.jsonl|model", names), "no name is shown"


def test_a_voter_goes_on_where_they_left(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = cast(files, "a", "?", "", "s", "B ", "x", "q", "a")
    assert len(first) == 3, "an unknown key asks again, s skips, q ends"
    assert {battle.verdict for battle in first} >= {"both_bad"}
    capsys.readouterr()
    second = cast(files, *"tttttttttt")
    assert second[:3] == first and len(second) == 9
    assert "6 battles to judge" in capsys.readouterr().out
    assert len(cast(files, "a", voter="bob")) == 10, "another voter judges all anew"


def test_voters_see_different_orders(files: Path) -> None:
    questions = [Question(question_id=n, turns=["?"]) for n in range(20)]
    ada, bob = (showings(questions, "xy", voter, 0) for voter in ("ada", "bob"))
    assert ada == showings(questions, "yx", "ada", 0) and ada != bob != showings(questions, "xy", "bob", 1)
    assert 4 < sum(one.left == "x" for one in ada) < 16


def test_answers_of_one_model_are_no_arena(files: Path) -> None:
    with pytest.raises(GraftError, match="no pair of models"):
        vote(files / "questions.jsonl", [files / "x.jsonl"], files / "v.jsonl", voter="ada", seed=0, read=typed())
