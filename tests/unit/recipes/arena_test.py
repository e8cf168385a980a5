"""`graft arena …` from the command line: files in, files and tables out, errors without tracebacks."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from graftlm import cli
from graftlm.evaluation.arena.battles import Battle, Grade, Style
from graftlm.evaluation.arena.record_log import RecordLog
from graftlm.evaluation.results import EvaluationResult, TaskResult

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Words behind `graft arena` → exit code, what was printed, what was complained of."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "cache"))

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["graft", "arena", *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
        told = capsys.readouterr()
        return int(end.value.code or 0), told.out, told.err

    return call


def lines(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Three questions, one of two turns, and the answers of three models."""
    turns = {"q1": ["Hello?", "And?"], "q2": ["2 + 3?"], "q3": ["天气？"]}
    rows = [{"question_id": name, "category": "talk", "turns": asked} for name, asked in turns.items()]
    lines(tmp_path / "questions.jsonl", *rows)
    for model in "xyz":
        answers = [
            {"question_id": name, "model_id": model, "choices": [{"turns": [f"{model}:{turn}" for turn in asked]}]}
            for name, asked in turns.items()
        ]
        lines(tmp_path / f"{model}.jsonl", *answers)
    return tmp_path


def battles_file(path: Path, *groups: tuple[str, str, str, int], **more: Any) -> Path:
    outcomes = [(a, b, verdict) for a, b, verdict, times in groups for _ in range(times)]
    RecordLog(path, Battle).append(
        [
            Battle(
                question_id=number, category=("talk", "law")[number % 2], model_a=a, model_b=b, verdict=verdict,
                judge="people", order="ab", **more,
            )
            for number, (a, b, verdict) in enumerate(outcomes)
        ]
    )  # fmt: skip
    return path


GROUPS = [("x", "y", "a", 30), ("x", "y", "b", 10), ("y", "z", "a", 30), ("y", "z", "b", 10), ("x", "z", "tie", 1)]


def test_the_table(run: Run, tmp_path: Path) -> None:
    battles_file(tmp_path / "battles.jsonl", *GROUPS)
    code, out, err = run("rate", "battles.jsonl", "--anchor", "z:800")
    assert code == 0 and not err
    head, *rows = out.splitlines()
    assert re.split(r"\s{2,}", head) == [
        "model",
        "rating",
        "95 % interval",
        "rank",
        "battles",
        "win rate",
        "online Elo",
    ]
    cells = [re.split(r"\s{2,}", row) for row in rows]
    assert [cell[0] for cell in cells] == ["x", "y", "z"] and cells[2][1:3] == ["800", "800 – 800"]
    assert cells[0][4:6] == ["41", "74.4%"] and [cell[3] for cell in cells] == ["1–2", "1–2", "3"]


def test_filters_repeats_and_unread_battles(run: Run, tmp_path: Path) -> None:
    file = battles_file(tmp_path / "battles.jsonl", *GROUPS, ("x", "y", "unreadable", 3))
    code, _, err = run("rate", str(file), str(file), "--category", "law")
    assert code == 0 and "84 lines repeat a battle" in err and "of 42 battles have no verdict" in err
    code, _out, err = run("rate", str(file), "--judge", "nobody")
    assert code == 2 and "no battle of this judge" in err and "people" in err


class Page(HTMLParser):
    """Whether tags close in order, and what would be loaded from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "br", "link", "img"):
            self.open.append(tag)
        values = dict(attrs)
        self.loads += [str(values[name]) for name in ("src", "href") if name in values and values[name][:1] != "#"]  # type: ignore[index]
        self.loads += [tag] * (tag in ("script", "link"))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_loads_nothing(run: Run, tmp_path: Path) -> None:
    groups = [(f"<{a}> $1$", f"<{b}> $1$", verdict, times) for a, b, verdict, times in GROUPS[:4]]
    style = {"style_a": Style(tokens=100), "style_b": Style(tokens=50, lists=2)}
    battles_file(tmp_path / "battles.jsonl", *groups, **style)
    code, out, _ = run("rate", "battles.jsonl", "--page", "arena.html", "--style-control", "--bootstraps", "100")
    assert code == 0 and "points a standard deviation" in out
    page = (tmp_path / "arena.html").read_text(encoding="utf-8")
    reader = Page()
    reader.feed(page)
    assert not reader.open and not reader.loads and "<x>" not in page and "&lt;x&gt; $1$" in page
    assert page.count("<svg") == 1 and "What style is worth" in page
    assert re.findall(r'class="(win|loss)"[^>]*>(\d+)<', page) == [
        ("win", "75"),
        ("loss", "25"),
        ("win", "75"),
        ("loss", "25"),
    ]
    assert page.count("<td>–</td>") == 5, "the diagonal, and x against z"
    run("rate", "battles.jsonl", "--page", "again.html", "--style-control", "--bootstraps", "100")
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == page


def test_notes_reach_the_reader(run: Run, tmp_path: Path) -> None:
    battles_file(tmp_path / "battles.jsonl", ("x", "y", "a", 3))
    code, _, err = run("rate", "battles.jsonl", "--page", "arena.html")
    assert code == 0 and "infinite" in err and "infinite" in (tmp_path / "arena.html").read_text(encoding="utf-8")


def test_grades_are_rated_too(run: Run, tmp_path: Path) -> None:
    grades = [
        Grade(question_id=n, category="c", model=model, grade=grade, judge="j")
        for n in range(20)
        for model, grade in (("x", 5.0 + n % 3), ("y", 6.0))
    ]
    RecordLog(tmp_path / "grades.jsonl", Grade).append(grades)
    code, out, _ = run("rate", "grades.jsonl")
    assert code == 0 and re.search(r"y +1009 .* 20 +52\.5%", out), "x wins 6, ties 7, loses 7: 400 lg(10.5 / 9.5) apart"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["rate", "none.jsonl"], "does not exist"),
        (["rate", "questions.jsonl"], "questions.jsonl:1"),
        (["rate", "empty.jsonl"], "no battle in it"),
        (["rate", "apart.jsonl"], "never met: a, b | c, d"),
        (["rate", "apart.jsonl", "--category", "sports"], "take one of: law, talk"),
        (["vote", "questions.jsonl", "x.jsonl"], "no pair of models"),
        (["vote", "questions.jsonl", "x.jsonl", "x.jsonl"], "a second file of answers by x"),
        (["vote", "none.jsonl", "x.jsonl", "y.jsonl"], "does not exist"),
        (["vote", "questions.jsonl", "x.jsonl", "short.jsonl"], "short: 2 of 3 questions"),
        (["judge", "questions.jsonl", "x.jsonl", "y.jsonl", "--judge", "m", "--url", "nowhere"], "no http address"),
        (
            ["judge", "questions.jsonl", "x.jsonl", "--judge", "m", "--url", "http://127.0.0.1:9/v1"],
            "no pair of models",
        ),
        (["exam", "questions.jsonl"], "not valid JSON"),
        (["exam", "none.json"], "does not exist"),
        (["answer", "rootstock", "none.jsonl"], "does not exist"),
        (["answer", "rootstock", "questions.jsonl", "--output", "x.jsonl"], "holds answers of x, not of rootstock"),
    ],
)
def test_user_errors(run: Run, files: Path, words: list[str], says: str) -> None:
    (files / "empty.jsonl").write_text("")
    battles_file(files / "apart.jsonl", ("a", "b", "a", 2), ("c", "d", "b", 2))
    lines(files / "short.jsonl", {"question_id": "q2", "model_id": "short", "choices": [{"turns": ["5"]}]})
    code, _, err = run(*words)
    assert code == 2 and says in err and "fix:" in err and "Traceback" not in err


def test_a_judge_that_cannot_be_reached(run: Run, files: Path) -> None:
    words = [
        "judge",
        "questions.jsonl",
        "x.jsonl",
        "y.jsonl",
        "--judge",
        "m",
        "--url",
        "http://127.0.0.1:9/v1",
        "--retries",
        "0",
    ]
    code, _, err = run(*words)
    assert code == 2 and "no usable reply in 1 attempts" in err and not (files / "battles.jsonl").exists()


def test_the_rootstock_answers_and_judges(run: Run, files: Path) -> None:
    code, out, _ = run("answer", "rootstock", "questions.jsonl", "--name", "own", "--max-new-tokens", "5")
    assert code == 0 and "3 questions, 3 answered now by own: own.jsonl" in out
    _, out, _ = run("answer", "rootstock", "questions.jsonl", "--name", "own", "--max-new-tokens", "5")
    assert "0 answered now" in out
    words = ["judge", "questions.jsonl", "x.jsonl", "own.jsonl", "--judge", "rootstock", "--max-tokens", "5"]
    code, out, _ = run(*words)
    assert (
        code == 0 and "8 judgements asked for, 0 remembered" in out and "4 battles by rootstock: battles.jsonl" in out
    )
    (files / "battles.jsonl").unlink()
    _, out, _ = run(*words)
    assert "0 judgements asked for, 8 remembered" in out


def task(scores: list[float]) -> TaskResult:
    return TaskResult(
        name="law", side="domain", metric="accuracy", higher_is_better=True, value=0, low=0, high=0, n=len(scores),
        metrics={}, kinds={}, scores=scores, weights=[1.0] * len(scores), samples=[], items_hash="h", seconds=0,
    )  # fmt: skip


def test_an_exam_from_files(run: Run, tmp_path: Path) -> None:
    for model, scores in {"x": [1.0, 1.0, 0.0], "y": [0.0, 1.0, 1.0], "z": [0.0, 1.0, 0.0]}.items():
        result = EvaluationResult(
            model=model, model_hash=model, parameters=1, precision="fp32", started="", seconds=0, machine="",
            settings={}, versions={}, tasks=[task(scores)], groups=[],
        )  # fmt: skip
        (tmp_path / f"{model}.json").write_text(result.model_dump_json(), encoding="utf-8")
    code, out, _ = run("exam", "x.json", "y.json", "z.json")
    assert code == 0 and "9 battles of 3 models, 9 of them new: battles.jsonl" in out
    assert "0 of them new" in run("exam", "x.json", "y.json", "z.json")[1]
    assert run("rate", "battles.jsonl")[0] == 0
