"""Task files of lm-evaluation-harness: what is read, and what is refused (their numbers: tests/parity)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from graftlm.core.errors import DataError
from graftlm.evaluation.benchmarks.items import Source
from graftlm.evaluation.benchmarks.library import load_file
from graftlm.evaluation.benchmarks.plan import make_plan
from graftlm.evaluation.benchmarks.run import prepare
from graftlm.evaluation.benchmarks.suite_file import SuiteFile
from graftlm.evaluation.benchmarks.task_file import TaskFile
from graftlm.evaluation.text_subject import Options
from tests.unit.evaluation.benchmarks.conftest import exam_rows, write_rows

BASIC: dict[str, Any] = {
    "task": "exam",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "exam.jsonl"}},
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "question",
    "doc_to_choice": "options",
    "doc_to_target": "answer",
}


def write(folder: Path, file: str = "exam.yaml", text: str = "", **changes: Any) -> Path:
    tree = {key: value for key, value in (BASIC | changes).items() if value is not None}
    (folder / file).write_text(yaml.safe_dump(tree, sort_keys=False) + text, encoding="utf-8")
    return folder / file


def read(path: Path, *, trust: bool = False) -> TaskFile:
    found = load_file(path, trust=trust)
    assert isinstance(found, TaskFile)
    return found


def questions(path: Path, *, trust: bool = False) -> list[Options]:
    [task] = make_plan([str(path)], trust=trust).tasks
    found = prepare(task, Source(path.parent)).questions
    return [one for one in found if isinstance(one, Options)]


def test_columns_and_templates(tmp_path: Path) -> None:
    write_rows(tmp_path / "exam.jsonl", exam_rows(3))
    first = questions(write(tmp_path))[1]
    assert first.contexts[0] == "Question 1?"
    assert first.continuations[:2] == (" red", " green")
    assert first.right == (3,)
    asked = questions(write(tmp_path, doc_to_text="Q: {{question}}\nA:", doc_to_target="{{options[answer]}}"))[1]
    assert asked.contexts[0] == "Q: Question 1?\nA:"
    assert asked.right == (3,)
    constant = questions(write(tmp_path, doc_to_text="No such column", doc_to_choice=["{no}", "yes", "a", "b"]))[0]
    assert constant.contexts[0] == "No such column"
    assert constant.continuations[0] == " {no}"


def test_included_files_and_the_hub(tmp_path: Path) -> None:
    write(tmp_path, "_base.yaml", task=None, dataset_path="some/exam", dataset_kwargs=None, dataset_name="hard")
    (tmp_path / "exam.yaml").write_text("include: _base.yaml\ntask: exam\nnum_fewshot: 3\n")
    task = read(tmp_path / "exam.yaml")
    assert task.data.hub is not None
    assert (task.data.hub.name, task.data.hub.config, task.data.hub.split) == ("some/exam", "hard", "test")
    assert task.fewshot.shots == 3
    (tmp_path / "loop.yaml").write_text("include: loop.yaml\ntask: loop\n")
    with pytest.raises(DataError, match="includes itself"):
        read(tmp_path / "loop.yaml")


def test_generation_settings(tmp_path: Path) -> None:
    given = {"until": "\n", "do_sample": True, "temperature": 0.7, "max_gen_toks": 9, "top_p": 0.9}
    changes = {"output_type": "generate_until", "doc_to_choice": None, "repeats": 4}
    task = read(write(tmp_path, **changes, generation_kwargs=given))
    made = task.generation
    assert (made.until, made.temperature, made.max_tokens, made.top_p, made.samples) == (["\n"], 0.7, 9, 0.9, 4)
    greedy = read(write(tmp_path, output_type="generate_until", doc_to_choice=None)).generation
    assert (greedy.until, greedy.temperature, greedy.max_tokens) == (["\n\n"], 0, 256)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"process_results": "x"}, "scores are made by Python code"),
        ({"gen_prefix": "So"}, "begins the model's answer"),
        ({"doc_to_txt": "x"}, "unknown key `doc_to_txt`"),
        ({"output_type": "chat"}, "no output_type `chat`"),
        ({"metric_list": [{"metric": "brier_score"}]}, "metric `brier_score` is not supported"),
        ({"metric_list": [{"metric": "acc", "weights": 1}]}, "metric `acc` has no `weights`"),
        ({"test_split": None}, "neither test_split"),
        ({"doc_to_target": None}, "doc_to_target is missing"),
        ({"test_split": "dev"}, "data_files has no split `dev`"),
        ({"dataset_kwargs": None}, "without data_files"),
        ({"fewshot_config": {"sampler": "balanced"}}, "no sampler `balanced`"),
        ({"fewshot_config": {"indices": [1]}}, "indices is not supported"),
        ({"output_type": "generate_until"}, "doc_to_choice is not supported"),
        (
            {"output_type": "generate_until", "doc_to_choice": None, "generation_kwargs": {"num_beams": 2}},
            "num_beams is not supported",
        ),
        (
            {"output_type": "generate_until", "doc_to_choice": None,
             "filter_list": [{"name": "a", "filter": [{"function": "majority_vote"}]}]},
            "filter `majority_vote` is not supported",
        ),
    ],
)  # fmt: skip
def test_what_is_not_done_is_refused(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        read(write(tmp_path, **changes))


CODE = """
def louder(row):
    return row["question"].upper()
"""


def test_python_runs_only_when_trusted(tmp_path: Path) -> None:
    write_rows(tmp_path / "exam.jsonl", exam_rows(3))
    (tmp_path / "tools.py").write_text(CODE)
    file = write(tmp_path, doc_to_text=None, text="doc_to_text: !function tools.louder\n")
    with pytest.raises(DataError, match=r"runs Python that stands beside it: tools\.louder") as fault:
        read(file)
    assert "--trust" in str(fault.value.fix)
    assert questions(file, trust=True)[2].contexts[0] == "QUESTION 2?"
    file = write(tmp_path, doc_to_text=None, text="doc_to_text: !function tools.missing\n")
    with pytest.raises(DataError, match="no function `missing`"):
        read(file, trust=True)


def test_process_docs_changes_all_rows(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    write_rows(tmp_path / "exam.jsonl", exam_rows(4))
    (tmp_path / "tools.py").write_text(
        "def half(rows):\n    kept = rows.filter(lambda row: row['answer'] < 2)\n"
        "    return kept.map(lambda row: {'question': row['question'] + '!'})\n"
    )
    file = write(tmp_path, text="process_docs: !function tools.half\n")
    assert [one.contexts[0] for one in questions(file, trust=True)] == ["Question 0?!", "Question 3?!"]


def test_groups_find_tasks_tags_and_groups_beside_them(tmp_path: Path) -> None:
    write(tmp_path, "one.yaml", task="one", tag="pair")
    write(tmp_path, "two.yaml", task="two", tag=["pair"])
    inner = {"group": "inner", "task": ["one"]}
    (tmp_path / "inner.yaml").write_text(yaml.safe_dump(inner))
    rule = [{"metric": "acc_norm", "aggregation": "mean", "weight_by_size": False}]
    members = ["pair", "inner", {"task": "two", "num_fewshot": 2}]
    outer = {"group": "outer", "task": members, "aggregate_metric_list": rule}
    (tmp_path / "outer.yaml").write_text(yaml.safe_dump(outer))
    suite = load_file(tmp_path / "outer.yaml")
    assert isinstance(suite, SuiteFile)
    assert (suite.name, suite.pool) == ("outer", "mean")
    plan = make_plan([str(tmp_path / "outer.yaml")])
    assert [task.name for task in plan.tasks] == ["one", "two_0shot", "two_2shot"]
    assert [one.name for one in plan.all_suites()] == ["outer", "inner"]
    (tmp_path / "outer.yaml").write_text(yaml.safe_dump(outer | {"task": ["three"]}))
    with pytest.raises(DataError, match="no task, group or tag `three`"):
        load_file(tmp_path / "outer.yaml")
