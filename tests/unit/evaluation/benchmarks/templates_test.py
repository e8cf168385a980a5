from __future__ import annotations

from typing import Any

import pytest

from graftlm.core.errors import DataError
from graftlm.evaluation.benchmarks.templates import evaluate, render


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("{{ a }}", "5"),
        ("{{ [a, 2] }}", ["5", 2]),
        ("{{ a | int + 1 }}", 6),
        ("{{ a }} b", "5 b"),
        ("{{ a }}{{ a }}", "55"),
        ("plain", "plain"),
        ("{% if a %}yes{% endif %}", "yes"),
        ("{{ '}}' }}", "}}"),
        ("{{ row['odd name'] }}", "x"),
        ("{{ a | regex_replace('[0-9]', 'n') }}", "n"),
        ("{{ 'ab12' | regex_search('b([0-9]+)') }}", "12"),
        ("{{ 'ab12' | regex_search('z') }}", ""),
        ("{{ ['x', 'y'] | lettered }}", "A. x\nB. y"),
        ("{{ letters[2] }}", "C"),
    ],
)
def test_a_template_that_is_one_expression_keeps_its_value(template: str, value: Any) -> None:
    assert evaluate(template, {"a": "5", "row": {"odd name": "x"}}, "here") == value


def test_text_keeps_its_last_line_break() -> None:
    assert render("{{ a }}\n", {"a": 1}, "here") == "1\n"


@pytest.mark.parametrize(
    "template", ["{{ b }}", "{{ a", "{{ b }} ", "{{ ''.__class__.__mro__ }}", "{{ a | nothing }}x",
                 "{{ a.update(x=1) }}", "{{ 1 / 0 }}"]
)  # fmt: skip
@pytest.mark.parametrize("how", [evaluate, render])
def test_faults_name_row_and_template(template: str, how: Any) -> None:
    with pytest.raises(DataError, match="template") as fault:
        how(template, {"a": {}}, "exam.jsonl:3")
    assert fault.value.where == "exam.jsonl:3"


def test_a_list_with_something_undefined_is_a_fault() -> None:
    with pytest.raises(DataError, match="'b' is undefined"):
        evaluate("{{ [a, b] }}", {"a": 1}, "here")
