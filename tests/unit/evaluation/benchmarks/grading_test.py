from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from graftlm.core.errors import DataError, ModelError
from graftlm.evaluation.benchmarks.filters import apply_filters
from graftlm.evaluation.benchmarks.grading import grade
from graftlm.evaluation.benchmarks.items import Item
from graftlm.evaluation.benchmarks.task_file import CutFilter, MapFilter, RegexFilter, RemoveFilter, TaskFile
from graftlm.evaluation.subject import Advance
from graftlm.evaluation.text_subject import Likelihood, Open, Options, Passage, Writing

Make = Callable[..., TaskFile]


class Fixed:
    """Gives the likelihoods, or the answers, that it was made with."""

    def __init__(
        self, log_ps: Sequence[Sequence[float]] = (), answers: Sequence[str] = (), greedy: bool = False
    ) -> None:
        self.log_ps, self.texts, self.greedy = log_ps, answers, greedy
        self.truncated = 0

    def continuation_likelihoods(self, questions: Sequence[Options], advance: Advance) -> list[list[Likelihood]]:
        return [[Likelihood(log_p, self.greedy) for log_p in row] for row in self.log_ps]

    def text_likelihoods(self, passages: Sequence[Passage], advance: Advance) -> list[float]:
        return [row[0] for row in self.log_ps]

    def completions(self, prompts: Sequence[Open], writing: Writing, advance: Advance) -> list[list[str]]:
        return [[text] * writing.samples for text in self.texts]


def items(count: int) -> list[Item]:
    return [Item({}, {}, "", f"exam.jsonl:{n}") for n in range(count)]


def scored(task: TaskFile, subject: Fixed, questions: Sequence[Any]) -> dict[str, float]:
    found = grade(subject, task, items(len(questions)), questions, 0, lambda _: None)
    return {name: scores.value for name, scores in found.metrics.items()}


def options(*choices: str, right: int | tuple[int, ...] = 0) -> Options:
    places = (right,) if isinstance(right, int) else right
    return Options(("?",) * len(choices), tuple(" " + one for one in choices), choices, places)


def test_lengths_are_characters_or_bytes_of_the_bare_choice(make_task: Make) -> None:
    """Per character the long one wins; per byte the one in Chinese, with three bytes a character."""
    task = make_task(metrics=["acc", "acc_norm", "acc_bytes"])
    question = options("ab", "a longer one", "中文字")
    log_ps = [[-4.0, -9.0, -3.3]]  # a character: -2, -.75, -1.1; a byte: -2, -.75, -.37
    assert scored(task, Fixed(log_ps), [question]) == {"acc": 0, "acc_norm": 0, "acc_bytes": 0}
    assert scored(task, Fixed(log_ps), [options(*question.choices, right=1)])["acc_norm"] == 1
    third = options(*question.choices, right=2)
    assert scored(task, Fixed(log_ps), [third]) == {"acc": 1, "acc_norm": 0, "acc_bytes": 1}


def test_the_first_of_equals_is_taken(make_task: Make) -> None:
    assert scored(make_task(), Fixed([[-1.0, -1.0]]), [options("a", "b", right=0)]) == {"acc": 1}
    assert scored(make_task(), Fixed([[-1.0, -1.0]]), [options("a", "b", right=1)]) == {"acc": 0}


def test_mc2_is_the_share_of_all_right_ones(make_task: Make) -> None:
    """arXiv 2109.07958: p of the true answers over p of all."""
    task = make_task(metrics=["mc2", "answer_probability"])
    log_ps = [math.log(p) - 700 for p in (0.2, 0.1, 0.3)]
    found = scored(task, Fixed([log_ps]), [options("a", "b", "c", right=(0, 1))])
    assert found["mc2"] == pytest.approx(0.5)


def test_likelihood_and_perplexity(make_task: Make) -> None:
    task = make_task(request="likelihood", metrics=["acc", "perplexity"], choices=None)
    found = scored(task, Fixed([[-1.0], [-3.0]], greedy=True), [options("a"), options("b")])
    assert found == {"acc": 1, "perplexity": 2}  # nats an answer; a result shows e to that


def test_bits_per_byte_over_all_bytes(make_task: Make) -> None:
    names = ["bits_per_byte", "word_perplexity", "byte_perplexity"]
    task = make_task(request="rolling", metrics=names, choices=None, answer=None)
    found = scored(task, Fixed([[-math.log(2) * 6], [-math.log(2) * 12]]), [Passage("一"), Passage("ab cd e")])
    assert found["bits_per_byte"] == pytest.approx(18 / 10)
    assert found["word_perplexity"] == pytest.approx(math.log(2) * 18 / 4)


def test_what_is_not_finite_names_the_row(make_task: Make) -> None:
    with pytest.raises(ModelError) as fault:
        scored(make_task(), Fixed([[-1.0, math.nan]]), [options("a", "b")])
    assert fault.value.where == "exam.jsonl:0"


def test_answers_go_through_filters_to_graders(make_task: Make) -> None:
    strict = {"name": "exact_match", "label": "strict", "filters": [{"regex": "#### ([0-9]+)"}]}
    loose = {"name": "exact_match", "filters": [{"regex": "[0-9]+", "pick": -1}]}
    task = make_task(request="generate", metrics=[strict, loose], choices=None)
    prompts = [Open("?", ("12",), "")] * 3
    assert scored(task, Fixed(answers=["#### 12", "7, so 12", "none"]), prompts) == {
        "strict": pytest.approx(1 / 3),
        "exact_match": pytest.approx(2 / 3),
    }


def test_a_grader_and_its_options_must_exist(make_task: Make) -> None:
    task = make_task(request="generate", metrics=["exact_mach"], choices=None)
    with pytest.raises(DataError, match="no grader `exact_mach`") as fault:
        scored(task, Fixed(answers=["a"]), [Open("?", ("a",), "")])
    assert fault.value.fix == "did you mean `exact_match`?"
    wrong = [{"name": "exact_match", "options": {"ignore_cas": True}}]
    task = make_task(request="generate", metrics=wrong, choices=None)
    with pytest.raises(DataError, match="no option `ignore_cas`"):
        scored(task, Fixed(answers=["a"]), [Open("?", ("a",), "")])


@pytest.mark.parametrize(
    ("text", "filters", "found"),
    [
        ("so 3, or 4", [RegexFilter(regex="[0-9]")], "3"),
        ("so 3, or 4", [RegexFilter(regex="[0-9]", pick=-1)], "4"),
        ("so 3", [RegexFilter(regex="[0-9]", pick=1)], "[invalid]"),
        ("x b", [RegexFilter(regex="(a)|( b)")], "b"),
        ("none", [RegexFilter(regex="([0-9])", fallback="?")], "?"),
        (" A.b ", ["strip", "lower", "punctuation"], "ab"),
        ("1,000", [RemoveFilter(remove=",")], "1000"),
        ("yes\nno. never", [CutFilter(until=[".", "\n"])], "yes"),
        ("yes", [MapFilter(map={"yes": "A"})], "A"),
        ("perhaps", [MapFilter(map={"yes": "A"}, default="B")], "B"),
    ],
)
def test_filters(text: str, filters: list[Any], found: str) -> None:
    assert apply_filters([text], filters) == (found,)


def test_first_keeps_one_of_several() -> None:
    assert apply_filters(["a", "b"], ["upper"]) == ("A", "B")
    assert apply_filters(["a", "b"], ["first", "upper"]) == ("A",)
