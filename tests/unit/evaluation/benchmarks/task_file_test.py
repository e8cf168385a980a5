from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graftlm.core.errors import DataError
from graftlm.evaluation.benchmarks.library import find_file, load_file
from graftlm.evaluation.benchmarks.suite_file import SuiteFile
from graftlm.evaluation.benchmarks.task_file import TaskFile

Make = Callable[..., TaskFile]


def test_an_unknown_key_names_file_line_and_the_nearest(make_task: Make, tmp_path: Path) -> None:
    with pytest.raises(DataError) as fault:
        make_task(metrix=["acc"], metrics=None)
    assert fault.value.where == f"{tmp_path / 'exam.yaml'}:8"
    assert fault.value.fix == "did you mean `metrics`?"


def test_a_fault_inside_a_list_names_its_line(make_task: Make, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"unknown key `metrics\.1\.filter`") as fault:
        make_task(metrics=["acc", {"name": "acc_norm", "filter": []}])
    assert fault.value.where == f"{tmp_path / 'exam.yaml'}:11"
    assert fault.value.fix == "did you mean `filters`?"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"metrics": ["acc", "acc"]}, "two metrics are called `acc`"),
        ({"metrics": ["f7"]}, "no metric `f7` for `choice`"),
        ({"request": "likelihood", "metrics": ["perplexity", "acc"]}, "cannot stand first"),
        ({"choices": None}, "needs `choices` or `options`"),
        ({"answer": None}, "needs `answer`"),
        ({"shuffle": True}, "need `options`"),
        ({"data": {}}, "needs `files` or `hub`"),
        ({"request": "generate", "metrics": ["exact_match"], "generation": {"samples": 3}}, "are the same"),
        ({"metrics": []}, "at least 1"),
    ],
)
def test_what_does_not_fit_is_said(make_task: Make, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        make_task(**changes)


def test_short_forms(make_task: Make) -> None:
    task = make_task(version=2.1, metrics=["acc", {"name": "acc_norm", "label": "by length"}])
    assert task.version == "2.1"
    assert [metric.shown for metric in task.metrics] == ["acc", "by length"]
    assert task.headline == "acc"


def test_file_and_name_must_agree(tmp_path: Path) -> None:
    file = tmp_path / "other.yaml"
    file.write_text("name: exam\nmembers: [mmlu]\n")
    with pytest.raises(DataError, match="name: exam"):
        load_file(file)


def test_suites(tmp_path: Path) -> None:
    file = tmp_path / "some.yaml"
    file.write_text("name: some\nmembers: [mmlu, {task: arc, shots: 25, metric: acc_norm}, {suite: bbh}]\n")
    suite = load_file(file)
    assert isinstance(suite, SuiteFile)
    assert [member.name for member in suite.members] == ["mmlu", "arc", "bbh"]
    file.write_text("name: some\nmembers: [{task: a, suite: b}]\n")
    with pytest.raises(DataError, match="either a `task` or a `suite`"):
        load_file(file)
    file.write_text("name: some\nmembers: [{suite: b, shots: 3}]\n")
    with pytest.raises(DataError, match="belong to a task"):
        load_file(file)


def test_names_are_looked_for_beside_first(tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "mine.yaml").write_text("name: mine\n")
    assert find_file("mine", tmp_path) == tmp_path / "tasks" / "mine.yaml"
    with pytest.raises(DataError, match="no task or suite `nowhere_near_anything`"):
        find_file("nowhere_near_anything")
