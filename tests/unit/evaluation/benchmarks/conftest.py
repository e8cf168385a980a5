"""A little made-up exam in files, and the tasks that ask it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from graftlm.evaluation.benchmarks.library import load_file
from graftlm.evaluation.benchmarks.task_file import TaskFile

BASIC: dict[str, Any] = {
    "name": "exam",
    "data": {"files": "exam.jsonl"},
    "request": "choice",
    "prompt": "{{ question }}",
    "choices": "{{ options }}",
    "answer": "{{ answer }}",
    "metrics": ["acc"],
}

Rows = list[dict[str, Any]]


def write_rows(file: Path, rows: Rows) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file


def exam_rows(count: int, options: int = 4) -> Rows:
    texts = ["red", "green", "dark blue", "一种颜色", "grey", "pink", "white", "black"][:options]
    return [{"question": f"Question {n}?", "options": texts, "answer": n * 7 % options} for n in range(count)]


@pytest.fixture
def make_task(tmp_path: Path) -> Callable[..., TaskFile]:
    """A task file written, and read back; keywords change the basic one, None takes a key out."""

    def make(**changes: Any) -> TaskFile:
        tree = {key: value for key, value in (BASIC | changes).items() if value is not None}
        file = tmp_path / f"{tree['name']}.yaml"
        file.write_text(yaml.safe_dump(tree, allow_unicode=True, sort_keys=False), encoding="utf-8")
        found = load_file(file)
        assert isinstance(found, TaskFile)
        return found

    return make
