from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from graftlm.core.errors import DataError
from graftlm.evaluation.benchmarks.items import Asked, NoData, Source, examples_for, read_task
from graftlm.evaluation.benchmarks.task_file import TaskFile
from tests.unit.evaluation.benchmarks.conftest import exam_rows, write_rows

Make = Callable[..., TaskFile]


def questions(asked: Asked) -> list[str]:
    return [item.fields["question"] for item in asked.items]


def test_rows_know_file_folder_and_subject(make_task: Make, tmp_path: Path) -> None:
    for name in ("law", "art"):
        write_rows(tmp_path / "test" / f"{name}_test.jsonl", exam_rows(5))
    subject = "{{ file | regex_replace('_test$', '') }}"
    task = make_task(data={"files": "test/*_test.jsonl", "subject": subject})
    asked = read_task(task, Source(tmp_path), shots=0)
    assert [item.subject for item in asked.items] == ["art"] * 5 + ["law"] * 5
    assert asked.items[0].fields["folder"] == "test"
    assert asked.items[6].where.endswith("law_test.jsonl:2")
    limited = read_task(task, Source(tmp_path), shots=0, limit=2)
    assert [item.subject for item in limited.items] == ["art", "art", "law", "law"]
    assert (limited.total, limited.subjects) == (10, 2)
    some = read_task(task, Source(tmp_path), shots=0, subjects=["law"])
    assert {item.subject for item in some.items} == {"law"}
    with pytest.raises(NoData, match="music"):
        read_task(task, Source(tmp_path), shots=0, subjects=["music"])


def test_a_csv_file_with_and_without_a_header(make_task: Make, tmp_path: Path) -> None:
    (tmp_path / "bare.csv").write_text('"1 + 1?",2,3,A\n"2 + 2?",5,4,B\n')
    (tmp_path / "headed.csv").write_text('frage,x,y,z\n"1 + 1?",2,3,A\n')
    columns = ["question", "a", "b", "answer"]
    bare = make_task(data={"files": "bare.csv", "header": False, "columns": columns})
    assert questions(read_task(bare, Source(tmp_path), shots=0)) == ["1 + 1?", "2 + 2?"]
    headed = make_task(data={"files": "headed.csv", "columns": columns})
    assert questions(read_task(headed, Source(tmp_path), shots=0)) == ["1 + 1?"]
    with pytest.raises(DataError, match="4 columns, the task file names 3"):
        read_task(make_task(data={"files": "headed.csv", "columns": columns[:3]}), Source(tmp_path), shots=0)


def test_nested_lists_unfold_and_rows_are_left_out(make_task: Make, tmp_path: Path) -> None:
    book = {"title": "b", "pages": [
        {"text": "one", "asks": [{"question": "q1", "hard": True}, {"question": "q2", "hard": False}]},
        {"text": "two", "asks": [{"question": "q3", "hard": True}]},
    ]}  # fmt: skip
    (tmp_path / "book.json").write_text(json.dumps({"version": 1, "data": [book]}))
    task = make_task(data={"files": "book.json", "unfold": ["pages", "asks"], "where": "{{ hard }}"})
    asked = read_task(task, Source(tmp_path), shots=0)
    assert [(item.fields["text"], item.fields["question"]) for item in asked.items] == [("one", "q1"), ("two", "q3")]
    with pytest.raises(DataError, match="`asks` is not a list"):
        read_task(make_task(data={"files": "book.json", "unfold": ["asks"]}), Source(tmp_path), shots=0)


def test_no_data_is_said_and_the_hub_is_asked_for(make_task: Make, tmp_path: Path) -> None:
    with pytest.raises(NoData, match=r"no file exam\.jsonl below") as fault:
        read_task(make_task(), Source(tmp_path), shots=0)
    assert "--data" in str(fault.value.fix)
    task = make_task(data={"files": "exam.jsonl", "hub": {"name": "some/exam"}})
    with pytest.raises(NoData, match="--hub reads some/exam"):
        read_task(task, Source(tmp_path), shots=0)


def test_a_broken_row_stops_the_test(make_task: Make, tmp_path: Path) -> None:
    (tmp_path / "exam.jsonl").write_text('{"question": "a"}\n{"question": \n')
    with pytest.raises(DataError, match="broken JSON") as fault:
        read_task(make_task(), Source(tmp_path), shots=0)
    assert str(fault.value.where).endswith("exam.jsonl:2")


def shown(task: TaskFile, asked: Asked, place: int, shots: int, seed: int = 0) -> list[str]:
    found = examples_for(asked.items[place], asked, task.fewshot, shots=shots, seed=seed)
    return [item.fields["question"] for item in found]


def test_examples_come_in_order_and_never_hold_the_question(make_task: Make, tmp_path: Path) -> None:
    write_rows(tmp_path / "exam.jsonl", exam_rows(6))
    task = make_task()
    asked = read_task(task, Source(tmp_path), shots=3)
    assert shown(task, asked, 5, 3) == ["Question 0?", "Question 1?", "Question 2?"]
    assert shown(task, asked, 1, 3) == ["Question 0?", "Question 2?", "Question 3?"]
    with pytest.raises(DataError, match="6 examples are asked for, 5 are there"):
        shown(task, asked, 1, 6)


def test_drawn_examples_depend_on_the_item_and_the_seed_only(make_task: Make, tmp_path: Path) -> None:
    write_rows(tmp_path / "exam.jsonl", exam_rows(40))
    task = make_task(fewshot={"shots": 4, "order": "random"})
    whole = read_task(task, Source(tmp_path), shots=4)
    part = read_task(task, Source(tmp_path), shots=4, limit=3)
    for place in range(3):
        drawn = shown(task, whole, place, 4)
        assert drawn == shown(task, part, place, 4)
        assert len(set(drawn)) == 4
        assert f"Question {place}?" not in drawn
    assert shown(task, whole, 0, 4) != shown(task, whole, 1, 4)
    assert shown(task, whole, 0, 4) != shown(task, whole, 0, 4, seed=1)


def test_examples_are_of_the_same_subject(make_task: Make, tmp_path: Path) -> None:
    for name in ("law", "art"):
        write_rows(tmp_path / f"{name}_test.jsonl", exam_rows(2))
        rows = [row | {"question": f"{name} {row['answer']}"} for row in exam_rows(4)]
        write_rows(tmp_path / f"{name}_dev.jsonl", rows)
    subject = "{{ file.split('_')[0] }}"
    task = make_task(
        data={"files": "*_test.jsonl", "subject": subject},
        fewshot={"shots": 2, "files": "*_dev.jsonl", "subject": subject},
    )
    asked = read_task(task, Source(tmp_path), shots=2)
    assert shown(task, asked, 3, 2) == ["law 0", "law 3"]
