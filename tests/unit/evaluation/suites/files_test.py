"""Every shipped task and suite file: valid, named once, and made of parts that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from graftlm.evaluation.benchmarks.dummies import oracle
from graftlm.evaluation.benchmarks.items import Source
from graftlm.evaluation.benchmarks.library import load_file, shipped_files
from graftlm.evaluation.benchmarks.plan import make_plan
from graftlm.evaluation.benchmarks.run import prepare, run_sheet
from graftlm.evaluation.benchmarks.suite_file import SuiteFile
from graftlm.evaluation.benchmarks.task_file import TaskFile
from graftlm.evaluation.graders.table import GRADERS

PAGE = (Path(__file__).parents[4] / "docs" / "suites.md").read_text(encoding="utf-8")
FILES = {path.stem: load_file(path) for path in shipped_files()}
TASKS = {name: file for name, file in FILES.items() if isinstance(file, TaskFile)}
SUITES = {name: file for name, file in FILES.items() if isinstance(file, SuiteFile)}

def test_names_are_unique_and_the_asked_suites_are_there() -> None:
    assert len(FILES) == len(list(shipped_files()))
    asked = {"open-llm-v1", "open-llm-v2", "llama2-groups", "zh", "law", "finance", "medical", "ecommerce"}
    assert asked | {"ifeval", "code", "maths", "reading", "pairs"} <= set(SUITES)


@pytest.mark.parametrize("name", sorted(SUITES))
def test_the_members_of_a_suite_are_there(name: str) -> None:
    suite = make_plan([name]).suites[0]
    assert list(suite.tasks())
    assert set(suite.absent).isdisjoint(FILES)  # what is absent has no file


@pytest.mark.parametrize("name", sorted(TASKS))
def test_a_task_says_where_it_comes_from_and_names_graders_that_exist(name: str) -> None:
    task = TASKS[name]
    assert task.source
    assert task.title
    assert task.data.patterns
    if task.request == "generate":
        assert {metric.name for metric in task.metrics} <= GRADERS.keys()


def members_of(name: str) -> list[tuple[str, int, tuple[str, ...]]]:
    return [(member.what.name, member.what.shots, member.metrics) for member in make_plan([name]).suites[0].members]


def test_the_first_leaderboard_is_the_published_one() -> None:
    assert members_of("open-llm-v1") == [
        ("arc_challenge", 25, ("acc_norm",)),
        ("hellaswag", 10, ("acc_norm",)),
        ("mmlu", 5, ("acc",)),
        ("truthfulqa_mc", 0, ("mc2",)),
        ("winogrande", 5, ("acc",)),
        ("gsm8k", 5, ("gsm8k_strict",)),
    ]


def test_the_second_leaderboard_is_the_published_one() -> None:
    assert members_of("open-llm-v2") == [
        ("ifeval_prompts", 0, ("ifeval_prompt_strict", "ifeval_instruction_strict")),
        ("bbh_mc", 3, ("acc_norm",)),
        ("math_level5", 4, ("math",)),
        ("gpqa", 0, ("acc_norm",)),
        ("musr", 0, ("acc_norm",)),
        ("mmlu_pro", 5, ("acc",)),
    ]
    assert SUITES["open-llm-v2"].pool == "normalised"


def test_llama_2_has_its_groups_and_shots() -> None:
    shots = {task.name: task.shots for task in make_plan(["llama2-groups"]).suites[0].tasks()}
    assert shots == {
        "humaneval": 0, "mbpp": 3, "piqa": 0, "siqa": 0, "hellaswag": 0, "winogrande": 0, "arc_easy": 0,
        "arc_challenge": 0, "openbookqa": 0, "commonsense_qa": 7, "nq_open": 5, "triviaqa": 5, "squad": 0, "quac": 0,
        "boolq": 0, "gsm8k": 8, "math": 4, "mmlu": 5, "bbh": 3, "agieval_en": 3,
    }  # fmt: skip
    assert len(make_plan(["llama2-groups"]).suites[0].members) == 8


def test_ecomgpt_has_thirteen_sets() -> None:
    suite = SUITES["ecommerce"]
    assert len(suite.members) + len(suite.absent) == 13


def test_lawbench_has_twenty() -> None:
    suite = SUITES["lawbench"]
    assert len(suite.members) + len(suite.absent) == 20


def test_the_page_names_every_task_suite_and_member_that_is_absent() -> None:
    assert {name for name in TASKS if f"| `{name}`" not in PAGE} == set()
    shown = {name for name in SUITES if f"**{name}**" in PAGE}
    assert {name for name in SUITES if all(member.task in TASKS for member in SUITES[name].members)} <= shown


def test_the_page_s_own_suite_runs(tmp_path: Path) -> None:
    blocks = re.findall(r"```yaml\n# (\S+)\n(.*?)```", PAGE, re.DOTALL)
    assert [name for name, _ in blocks] == ["wards.yaml", "hospital.yaml"]
    for name, text in blocks:
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "wards").mkdir()
    rows = [f'{{"ward": "east", "question": "Q{n}?", "options": ["yes", "no"], "right": "B"}}\n' for n in range(4)]
    for name in ("test", "dev"):
        (tmp_path / "wards" / f"{name}.jsonl").write_text("".join(rows), encoding="utf-8")
    tasks = make_plan([str(tmp_path / "hospital.yaml")]).suites[0].tasks()
    wards = next(task for task in tasks if task.name == "wards")
    assert run_sheet(oracle(), prepare(wards, Source(tmp_path))).result.value == 1
