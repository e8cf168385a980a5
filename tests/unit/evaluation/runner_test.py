from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest

from graftlm.core.errors import DataError, ModelError
from graftlm.data.samples import Labelled, Origin, Text, Turn
from graftlm.evaluation.results import TaskResult
from graftlm.evaluation.runner import run_tasks
from graftlm.evaluation.tasks import Task

Question = Callable[..., Labelled]


def run(subject: Any, **task: Any) -> TaskResult:
    [result] = run_tasks(subject, [Task(**{"name": "t", "side": "domain", **task})])
    return result


def test_an_oracle_scores_100(scripted: Any, items: list[Labelled]) -> None:
    result = run(scripted(score=lambda q, o: 0.0 if o in q else -9.0), kind="choice", items=items)
    assert (result.value, result.low, result.high, result.n) == (1, 1, 1, 400)
    assert result.metrics["answer_probability"].value > 0.99


def test_always_the_first_scores_the_share_of_firsts(scripted: Any, items: list[Labelled]) -> None:
    share = sum(item.choices[0] in item.answers for item in items) / len(items)
    result = run(scripted(score=lambda q, o: -1.0), kind="choice", items=items)
    assert result.value == pytest.approx(share)
    assert result.metrics["answer_probability"].value == pytest.approx(0.25)


def test_a_random_scorer_scores_chance(scripted: Any, items: list[Labelled]) -> None:
    generator = random.Random(3)
    result = run(scripted(score=lambda q, o: generator.random()), kind="choice", items=items)
    assert result.low <= 0.25 <= result.high
    assert 0.05 < result.high - result.low < 0.12
    assert set(result.kinds) == {"north", "south"}
    assert sum(kind.n for kind in result.kinds.values()) == 400


def test_choices_report_how_far_they_can_be_believed(scripted: Any, items: list[Labelled]) -> None:
    """Options alike: a quarter sure. Sure that the right one is wrong: a third for each of the others."""
    share = sum(item.choices[0] in item.answers for item in items) / len(items)
    unsure = run(scripted(score=lambda q, o: -1.0), kind="choice", items=items, headline="ece")
    assert unsure.metrics["brier"].value == pytest.approx(0.75)
    assert unsure.value == pytest.approx(abs(share - 0.25))
    assert not unsure.higher_is_better

    sure = run(scripted(score=lambda q, o: -99.0 * (o in q)), kind="choice", items=items)
    assert sure.metrics["ece"].value == pytest.approx(1 / 3, abs=1e-6)
    assert sure.metrics["brier"].value == pytest.approx(3 / 9 + 1)


def test_letters_are_shown_and_scored(scripted: Any, items: list[Labelled]) -> None:
    def oracle(question: str, option: str) -> float:
        first, *lines = question.splitlines()
        answer = first.split("which is it, ")[1].rstrip("?")
        return 0.0 if f"{option}. {answer}" in lines else -5.0

    subject = scripted(score=oracle)
    result = run(subject, kind="choice", items=items, style="letters")
    assert result.value == 1
    assert subject.asked[0].splitlines()[1:] == [
        *(f"{letter}. {choice}" for letter, choice in zip("ABCD", items[0].choices, strict=True)),
        "Answer with the letter only.",
    ]
    assert result.samples[0].answer in items[0].choices  # the sample shows the option, not its letter


def test_normalisation_by_characters(scripted: Any) -> None:
    item = Labelled((Turn("user", "?"),), ("a long answer",), Origin("f", 1), ("no", "a long answer"))
    subject = scripted(score=lambda q, o: -1.0 * len(o) if o == "a long answer" else -2.2)
    assert run(subject, kind="choice", items=[item]).value == 0
    assert run(subject, kind="choice", items=[item], normalisation="characters").value == 1


def test_generated_answers(scripted: Any, question: Question) -> None:
    items = [question("dose?", "5 mg", "five mg"), question("多久？", "每日两次"), question("x?", "yes")]
    said = {"dose?": "Five mg.", "多久？": "每日一次", "x?": "no " * 40}
    result = run(scripted(answer=said.__getitem__), kind="generate", items=items)
    assert result.metric == "exact_match"
    assert result.scores == [1, 0, 0]
    assert result.metrics["rouge_l"].value == pytest.approx((1 + 3 / 4 + 0) / 3)
    assert result.metrics["token_f1"].value == pytest.approx((1 + 3 / 4 + 0) / 3)
    assert result.metrics["stop_rate"].value == pytest.approx(2 / 3)
    assert [sample.right for sample in result.samples] == [True, False, False]
    other = run(scripted(answer=said.__getitem__), kind="generate", items=items, headline="rouge_l")
    assert other.value == result.metrics["rouge_l"].value


def test_extraction_is_micro_averaged(scripted: Any, question: Question) -> None:
    items = [question("1", "a1", "b1", "c1"), question("2", "d1")]
    said = {"1": "a1, b1", "2": "x1、d1"}
    result = run(scripted(answer=said.__getitem__), kind="extract", items=items)
    assert result.value == pytest.approx(2 * 3 / (4 + 4))
    assert result.metrics["precision"].value == pytest.approx(3 / 4)
    assert result.metrics["recall"].value == pytest.approx(3 / 4)
    assert result.metrics["exact_set"].value == 0


def test_silence_in_extraction_scores_zero(scripted: Any, question: Question) -> None:
    result = run(scripted(answer=lambda q: ""), kind="extract", items=[question("1", "a")])
    assert result.value == 0
    assert "precision" not in result.metrics  # nothing was listed: not defined, not invented


def test_abstention(scripted: Any, question: Question) -> None:
    items = [
        question("unknown 1", "I don't know."),
        question("unknown 2"),
        question("unknown 3", "我不知道。"),
        question("known 1", "Paris"),
        question("known 2", "Rome"),
        question("known 3", "Oslo"),
    ]
    said = {
        "unknown 1": "I do not know.",
        "unknown 2": "Surely 5 mg.",
        "unknown 3": "不清楚。",
        "known 1": "It is Paris.",
        "known 2": "I don't know",
        "known 3": "Madrid",
    }
    result = run(scripted(answer=said.__getitem__), kind="abstain", items=items)
    assert result.metric == "abstention_rate"
    assert result.value == pytest.approx(2 / 3)
    assert result.metrics["hallucination_rate"].value == pytest.approx(2 / 6)
    assert result.metrics["false_abstention_rate"].value == pytest.approx(1 / 3)
    assert [sample.right for sample in result.samples] == [True, False, True, True, False, False]
    worse = run(scripted(answer=said.__getitem__), kind="abstain", items=items, headline="hallucination_rate")
    assert not worse.higher_is_better


def test_bits_per_byte_weighs_by_bytes(scripted: Any, document: Callable[[str], Text]) -> None:
    subject = scripted(score=lambda t, _: -math.log(2) * (16 if t == "药" else 4))
    result = run(subject, kind="bits_per_byte", items=[document("药"), document("abcd")])
    assert result.value == pytest.approx(20 / 7)
    assert (result.scores, result.weights) == ([pytest.approx(16), pytest.approx(4)], [3, 4])
    assert not result.higher_is_better


def test_progress_samples_and_round_trip(scripted: Any, items: list[Labelled]) -> None:
    seen: list[tuple[str, int, int]] = []
    task = Task("exam", "general", "choice", items)
    subject = scripted(score=lambda q, o: 0.0)
    [result] = run_tasks(subject, [task], progress=lambda *step: seen.append(step), samples=3)
    assert seen[-1] == ("exam", 400, 400)
    assert len(result.samples) == 3
    assert TaskResult.model_validate_json(result.model_dump_json()) == result


def test_the_hash_follows_the_items(scripted: Any, items: list[Labelled]) -> None:
    subject = scripted(score=lambda q, o: 0.0)
    whole = run(subject, kind="choice", items=items)
    assert whole.items_hash == run(subject, kind="choice", items=list(items)).items_hash
    assert whole.items_hash != run(subject, kind="choice", items=items[::-1]).items_hash


@pytest.mark.parametrize(
    ("task", "named"),
    [
        ({"kind": "choice", "items": []}, "no items"),
        (
            {
                "kind": "choice",
                "items": [Labelled((Turn("user", "?"),), ("a",), Origin("f.csv", 7), ("b", "c"))],
            },
            "f.csv:7",
        ),
        (
            {"kind": "choice", "items": [Labelled((Turn("user", "?"),), ("a",), Origin("f.csv", 8), ("a",))]},
            "f.csv:8",
        ),
        (
            {"kind": "generate", "items": [Labelled((Turn("user", "?"),), (), Origin("f.csv", 9))]},
            "no accepted answer",
        ),
        ({"kind": "bits_per_byte", "items": [Text("", Origin("t.txt", 1))]}, "t.txt:1: the text is empty"),
        ({"kind": "generate", "items": [Text("x", Origin("t.txt", 2))]}, "t.txt:2"),
        (
            {
                "kind": "generate",
                "headline": "accuracy",
                "items": [Labelled((Turn("user", "?"),), ("a",), Origin("f", 1))],
            },
            "no metric 'accuracy'",
        ),
    ],
)
def test_bad_tasks_are_named(task: dict[str, Any], named: str) -> None:
    with pytest.raises(DataError, match=named):
        Task(**{"name": "t", "side": "domain", **task})


def test_bad_runs_are_named(scripted: Any, items: list[Labelled], question: Question) -> None:
    task = Task("exam", "general", "choice", items)
    with pytest.raises(DataError, match="exam"):
        run_tasks(scripted(), [task, task])
    with pytest.raises(ModelError, match=r"exam\.jsonl:1"):
        run_tasks(scripted(score=lambda q, o: float("nan")), [task])
    with pytest.raises(DataError, match="abstention_rate"):
        run(scripted(answer=lambda q: "x"), kind="abstain", items=[question("q", "known")])
