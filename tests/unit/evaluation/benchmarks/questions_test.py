"""The strings that are asked, against what the formats' authors write out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graftlm.core.errors import DataError
from graftlm.evaluation.benchmarks.items import Item, Source
from graftlm.evaluation.benchmarks.plan import PlannedTask
from graftlm.evaluation.benchmarks.questions import Question, ask
from graftlm.evaluation.benchmarks.run import prepare
from graftlm.evaluation.benchmarks.task_file import TaskFile
from graftlm.evaluation.text_subject import Open, Options, Passage
from tests.unit.evaluation.benchmarks.conftest import write_rows

Make = Callable[..., TaskFile]


def item(**row: Any) -> Item:
    return Item(row, {**row, "row": row}, "", "exam.jsonl:1")


def choice(task: TaskFile, **row: Any) -> Options:
    found = ask(task, item(**row))
    assert isinstance(found, Options)
    return found


def test_mmlu_as_its_authors_write_it(make_task: Make, tmp_path: Path) -> None:
    """arXiv 2009.03300's evaluation: header, examples parted by an empty line, "Answer:", letters after a space."""
    rows = [{"q": f"Q{n}?", "a": "w", "b": "x", "c": "y", "d": "z", "answer": "BADC"[n]} for n in range(4)]
    write_rows(tmp_path / "sky_test.jsonl", rows[:1])
    write_rows(tmp_path / "sky_dev.jsonl", rows[1:])
    subject = "{{ file.split('_')[0] }}"
    task = make_task(
        data={"files": "*_test.jsonl", "subject": subject},
        fewshot={"shots": 2, "files": "*_dev.jsonl", "subject": subject},
        description="About {{ subject }}.\n\n",
        prompt="{{ q }}\nA. {{ a }}\nB. {{ b }}\nC. {{ c }}\nD. {{ d }}\nAnswer:",
        choices=["A", "B", "C", "D"],
    )
    [found] = prepare(PlannedTask("exam", task, 2), Source(tmp_path)).questions
    options = "\nA. w\nB. x\nC. y\nD. z\nAnswer:"
    assert isinstance(found, Options)
    assert found.contexts[0] == f"About sky.\n\nQ1?{options} A\n\nQ2?{options} D\n\nQ0?{options}"
    assert found.continuations == (" A", " B", " C", " D")
    assert found.right == (1,)


@pytest.mark.parametrize(
    ("answer", "how", "right"),
    [
        (2, "auto", 2), ("2", "auto", 2), ("C", "auto", 2), (" c ", "auto", 2), ("dark blue", "auto", 2),
        ("2", "index", 2), ("C", "letter", 2), ("dark blue ", "text", 2), ("2", "harness", 2), (True, "auto", 1),
    ],
)  # fmt: skip
def test_an_answer_is_a_place_a_letter_or_a_text(make_task: Make, answer: Any, how: str, right: int) -> None:
    task = make_task(answer="{{ answer }}", answer_is=how)
    assert choice(task, question="?", options=["red", "green", "dark blue"], answer=answer).right == (right,)


@pytest.mark.parametrize(
    ("answer", "how"),
    [("D", "auto"), (3, "auto"), ("blue", "auto"), ("C", "index"), ("2", "letter"), ("1", "text"), ([], "auto")],
)
def test_an_answer_that_is_no_choice_is_a_fault(make_task: Make, answer: Any, how: str) -> None:
    with pytest.raises(DataError, match=r"none of 3 choices|no choice is right"):
        choice(make_task(answer_is=how), question="?", options=["red", "green", "dark blue"], answer=answer)


def test_numbers_that_are_choices_are_read_as_texts_unless_said(make_task: Make) -> None:
    row = {"question": "?", "options": ["3", "2", "1", "0"], "answer": "1"}
    assert choice(make_task(), **row).right == (2,)
    assert choice(make_task(answer_is="index"), **row).right == (1,)


def test_options_are_listed_shuffled_and_followed(make_task: Make) -> None:
    task = make_task(
        options="{{ [right] + wrong }}", shuffle=True, choices="letters",
        prompt="{{ question }}\n{{ options | lettered }}", answer=0,
    )  # fmt: skip
    places = set()
    for number in range(20):
        found = choice(task, question="?", right="yes", wrong=[f"no {number}", "perhaps", "never"])
        assert found.choices == ("A", "B", "C", "D")
        [place] = found.right
        assert f"{'ABCD'[place]}. yes" in found.contexts[0]
        places.add(place)
    assert places == {0, 1, 2, 3}


def test_text_of_an_option_is_found_behind_letters(make_task: Make) -> None:
    task = make_task(options="{{ options }}", choices="letters", answer="{{ answer }}")
    assert choice(task, question="?", options=["red", "green"], answer="green").right == (1,)


def test_several_right_ones(make_task: Make) -> None:
    task = make_task(choices="{{ good + bad }}", answer="{{ range(good | length) | list }}", metrics=["mc2"])
    assert choice(task, question="?", good=["a", "b"], bad=["c"]).right == (0, 1)


def test_winogrande_scores_what_follows_the_choice(make_task: Make) -> None:
    """Partial evaluation (arXiv 1806.02847): the choice stands in the context, the rest of the sentence is scored."""
    task = make_task(
        contexts=["{{ before }}{{ a }}", "{{ before }}{{ b }}"], choices="{{ after }}", prompt="", answer="{{ answer }}"
    )
    found = choice(task, before="The trophy does not fit in the case because the ", a="trophy", b="case",
                   after="is too big.", answer=0)  # fmt: skip
    assert found.contexts[1].endswith("because the case")
    assert found.continuations == (" is too big.", " is too big.")
    assert found.choices == found.contexts
    assert found.right == (0,)


def test_worked_solutions_as_examples(make_task: Make, tmp_path: Path) -> None:
    rows = [{"question": f"{n}+1?", "solution": f"count on\n#### {n + 1}", "answer": n + 1} for n in range(3)]
    write_rows(tmp_path / "exam.jsonl", rows)
    task = make_task(
        request="generate", metrics=["exact_match"], choices=None, prompt="Q: {{ question }}\nA:",
        fewshot={"shots": 1, "answer": "{{ solution }}"},
    )  # fmt: skip
    found = prepare(PlannedTask("exam", task, 1), Source(tmp_path)).questions[1]
    assert found == Open("Q: 0+1?\nA: count on\n#### 1\n\nQ: 1+1?\nA:", ("2",), "count on\n#### 2")


def test_a_list_of_accepted_texts(make_task: Make) -> None:
    task = make_task(request="generate", metrics=["exact_match"], choices=None, answer="{{ answers }}")
    found: Question = ask(task, item(question="?", answers=["one", 1]))
    assert isinstance(found, Open)
    assert found.answers == ("one", "1")


def test_likelihood_and_rolling(make_task: Make) -> None:
    likely = make_task(request="likelihood", metrics=["acc"], choices=None)
    assert choice(likely, question="The sky is", answer="blue").continuations == (" blue",)
    rolling = make_task(request="rolling", metrics=["bits_per_byte"], choices=None, answer=None, prompt="{{ page }}")
    assert ask(rolling, item(page="a page")) == Passage("a page")


def test_in_a_chat_the_choice_follows_without_delimiter(make_task: Make) -> None:
    found = ask(make_task(), item(question="?", options=["a", "b"], answer=1), "shown\n", lambda text: f"<{text}>")
    assert isinstance(found, Options)
    assert found.contexts == ("<shown\n?>", "<shown\n?>")
    assert found.continuations == ("a", "b")
