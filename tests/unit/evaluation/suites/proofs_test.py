"""What scores mean on real rows: a perfect subject gets 100, a guessing one 0 above chance, a habit its share."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import pytest

from graftlm.evaluation.benchmarks.dummies import Dummy, always_first, oracle, uniform
from graftlm.evaluation.benchmarks.items import NoData, Source, local_files
from graftlm.evaluation.benchmarks.library import load_file, shipped_files
from graftlm.evaluation.benchmarks.plan import PlannedMember, PlannedSuite, PlannedTask, make_plan
from graftlm.evaluation.benchmarks.pooling import Group, pool_suite
from graftlm.evaluation.benchmarks.run import Sheet, TaskRun, prepare, run_sheet
from graftlm.evaluation.benchmarks.task_file import TaskFile
from graftlm.evaluation.graders.sandbox.run import sandbox_gaps
from tests.unit.evaluation.suites import rows_test

SEEDS = 5
LIMIT = 120  # items of a sub-task

CHOICE = [
    "afrimedqa", "agieval_en", "agieval_zh", "bbh_mc", "bustm", "cmmlu", "dpo_zh", "financeiq", "finfe", "finne",
    "hh_harmless", "jec_qa_single", "llmbar_natural", "medexqa", "mmlu", "openbookqa_adapters", "pubmedqa", "tnews",
    "truthfulqa_mc",
]  # fmt: skip
FREE = [
    "agieval_en_written", "agieval_math", "agieval_zh_written", "aqua", "bbh", "cmmlu_written", "cmrc2018_trial",
    "cn_middle_school", "ecom_attribute_values", "ecom_query_item", "ecom_review_topic", "gaokao_mathcloze",
    "gsm8k_train", "jec_qa", "lawbench_1-2", "lawbench_2-3", "lawbench_2-4", "lawbench_2-6", "math", "math_level5",
]  # fmt: skip
BY_HAND = {"ifeval_prompts", "ecom_lenovo_ner", "humaneval", "mbpp_rest"}
"""Without one right answer that could be written; with spans that overlap; programs, which other tests run."""


@lru_cache(maxsize=64)
def sheet_of(name: str, root: Path) -> Sheet:
    return prepare(make_plan([name]).tasks[0], Source(root), limit=LIMIT)


def score(name: str, root: Path, subject: Dummy) -> TaskRun:
    return run_sheet(subject, sheet_of(name, root))


def normalised(name: str, run: TaskRun) -> Group:
    planned = make_plan([name]).tasks[0]
    member = PlannedMember(planned, (planned.file.headline,))
    found = pool_suite(PlannedSuite("one", "", "normalised", (member,)), {name: run}, {})
    assert found is not None
    return found


def test_no_task_with_local_rows_is_left_out(real_data: Path) -> None:
    files = [file for file in map(load_file, shipped_files()) if isinstance(file, TaskFile)]
    here = {file.name for file in files if local_files(file.data, real_data)}
    assert here == {*CHOICE, *FREE, *BY_HAND, "mbpp"}  # mbpp: its local rows are not those of the test
    invented = {name for name, *_ in (*rows_test.CHOICES, *rows_test.FREE)} | {*rows_test.MORE, "gpqa", "mbpp_rest"}
    assert {file.name for file in files} - here <= invented
    assert {file.name for file in files if file.name in here and file.request == "choice"} == set(CHOICE)


@pytest.mark.parametrize("name", CHOICE)
def test_a_perfect_subject_gets_100_and_a_guessing_one_0(name: str, real_data: Path) -> None:
    """Guesses are taken of several seeds: a mean of n draws is off by more than twice the interval once in 10,000."""
    assert normalised(name, score(name, real_data, oracle())).result.value == pytest.approx(100)
    groups = [normalised(name, score(name, real_data, uniform(seed))).result for seed in range(SEEDS)]
    free = [group.unclipped for group in groups if group.unclipped is not None]
    assert len(free) == SEEDS
    half = sum(one.high - one.low for one in free) / 2 / SEEDS
    assert abs(sum(one.value for one in free) / SEEDS) < 2 * half / SEEDS**0.5
    assert all(group.value >= 0 for group in groups)  # clipped at chance, sub-task by sub-task: so a guess is above 0
    assert all(group.value >= one.value - 1e-9 for group, one in zip(groups, free, strict=True))


@pytest.mark.parametrize("name", FREE)
def test_the_accepted_answer_gets_100_and_silence_nothing(name: str, real_data: Path) -> None:
    assert score(name, real_data, oracle()).result.value == pytest.approx(1)
    assert score(name, real_data, always_first()).result.value < 0.05  # 2-6: some sentences have no entity


def rows_of(root: Path, pattern: str) -> dict[str, list[dict[str, str]]]:
    """The rows of every file, read by the standard library."""
    found: dict[str, list[dict[str, str]]] = {}
    for path in sorted(root.glob(pattern)):
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file) if path.suffix == ".csv" else map(json.loads, file)
            found[path.stem] = list(rows)
    return found


@pytest.mark.parametrize(
    ("name", "pattern", "key", "first"),
    [
        ("mmlu", "mmlu/test/*.csv", "answer", "0"),
        ("cmmlu", "cmmlu/test/*.csv", "Answer", "A"),
        ("financeiq", "financeiq/test/*.csv", "Answer", "A"),
        ("afrimedqa", "med_en/afrimedqa/*.jsonl", "answer_idx", "A"),
        ("pubmedqa", "med_en/pubmedqa/*.jsonl", "answer_idx", "A"),
        ("bustm", "fewclue/bustm/test_public.json", "label", "0"),
        ("openbookqa_adapters", "commonsense_llm_adapters/openbookqa/test.json", "answer", "answer1"),
    ],
)
def test_the_first_letter_every_time_gets_its_share(
    name: str, pattern: str, key: str, first: str, real_data: Path
) -> None:
    if name == "openbookqa_adapters":
        files = {"test": json.loads((real_data / pattern).read_text(encoding="utf-8"))}
    else:
        files = rows_of(real_data, pattern)
    shares = [mean(row[key].strip() == first for row in rows[:LIMIT]) for rows in files.values()]
    assert score(name, real_data, always_first()).result.value == pytest.approx(sum(shares) / len(shares))


def test_counting_objects_has_nineteen_options(real_data: Path) -> None:
    sheet = sheet_of("bbh_mc", real_data)
    counts = {
        item.subject: (len(question.choices), chance)
        for item, question, chance in zip(sheet.items, sheet.questions, sheet.chance, strict=True)
    }
    assert counts["object_counting"] == (19, 1 / 19)
    assert counts["boolean_expressions"] == counts["causal_judgement"] == (2, 1 / 2)
    assert counts["date_understanding"] == counts["ruin_names"] == (6, 1 / 6)


def test_ruin_names_leaves_out_two_rows_that_name_no_letter(real_data: Path) -> None:
    planned = replace(make_plan(["bbh_mc"]).tasks[0], subjects=("ruin_names",))
    assert len(prepare(planned, Source(real_data)).items) == 248


def all_local(name: str, root: Path, subject: Dummy) -> tuple[Group, dict[str, TaskRun]]:
    """A suite over those of its members whose rows are here."""
    plan = make_plan([name])
    runs, reasons = {}, {}
    for task in plan.tasks:
        try:
            runs[task.name] = run_sheet(subject, prepare(task, Source(root), limit=60))
        except NoData as missing:
            reasons[task.name] = missing.reason
    found = pool_suite(plan.suites[0], runs, reasons)
    assert found is not None
    return found, runs


@pytest.mark.parametrize(
    ("name", "members"), [("open-llm-v1", 2), ("zh", 3), ("finance", 3), ("medical", 4), ("law", 4), ("pairs", 3)]
)
def test_a_suite_of_right_answers_is_100_and_names_what_is_missing(name: str, members: int, real_data: Path) -> None:
    group, runs = all_local(name, real_data, oracle())
    assert group.result.value == pytest.approx(100)
    present = [one for one in group.result.members if one not in group.result.missing]
    assert len(present) == members
    assert all(group.result.missing.values())
    assert all(run.result.value == pytest.approx(1) for run in runs.values())


def test_guessing_gets_about_0_on_the_second_leaderboard(real_data: Path) -> None:
    group, runs = all_local("open-llm-v2", real_data, uniform(3))
    assert set(runs) == {"ifeval_prompts", "bbh_mc", "math_level5"}
    assert set(group.result.missing) == {"gpqa", "musr", "mmlu_pro"}
    free = group.result.unclipped
    assert free is not None
    assert free.low <= 0 <= free.high
    assert runs["bbh_mc"].result.coverage.startswith("5 of 24 sub-tasks")
    assert 0 <= group.result.value < 5


def answering(write: Callable[[str], str]) -> Dummy:
    return replace(oracle(), write=lambda prompt: write(prompt.prompt))


def test_gpt_4_gets_its_published_scores_on_ifeval(real_data: Path) -> None:
    folder = real_data / "ifeval"
    given = rows_of(folder, "input_response_data_gpt4_20231107_145030.jsonl")
    [answers] = [{row["prompt"]: row["response"] for row in rows} for rows in given.values()]
    [strict] = rows_of(folder, "test_output/eval_results_strict.jsonl").values()
    [loose] = rows_of(folder, "test_output/eval_results_loose.jsonl").values()
    sheet = prepare(make_plan(["ifeval_prompts"]).tasks[0], Source(real_data))
    metrics = run_sheet(answering(lambda prompt: answers[prompt]), sheet).metrics
    for level, rows in (("strict", strict), ("loose", loose)):
        by_prompt = [bool(row["follow_all_instructions"]) for row in rows]
        single = [bool(one) for row in rows for one in row["follow_instruction_list"]]
        assert abs(metrics[f"ifeval_prompt_{level}"].value - mean(by_prompt)) < 2.5 / len(by_prompt)
        assert abs(metrics[f"ifeval_instruction_{level}"].value - mean(single)) < 2.5 / len(single)


def mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)


def test_one_letter_is_not_enough_where_several_are_right(real_data: Path) -> None:
    """JEC-QA: all the right letters and no other; who always names one is right where one is right."""
    [rows] = rows_of(real_data, "agieval/v1/jec-qa-kd.jsonl").values()
    rows = [row for row in rows if row["label"]][:LIMIT]
    run = score("jec_qa", real_data, answering(lambda prompt: " A"))
    assert run.result.value == pytest.approx(mean(row["label"] == ["A"] for row in rows[: run.result.n]))


def test_overlapping_spans_cost_a_perfect_answer_little(real_data: Path) -> None:
    assert 0.97 < score("ecom_lenovo_ner", real_data, oracle()).result.value < 1


@pytest.mark.skipif(bool(sandbox_gaps()), reason="programs cannot be held on this machine")
@pytest.mark.parametrize("name", ["humaneval", "mbpp_rest"])
def test_the_reference_programs_pass_and_an_empty_answer_fails(name: str, real_data: Path) -> None:
    sheet = prepare(make_plan([name]).tasks[0], Source(real_data), limit=4)
    assert run_sheet(oracle(), sheet).result.value == 1
    assert run_sheet(always_first(), sheet).result.value == 0


def test_mbpp_s_local_rows_are_not_those_of_the_test(real_data: Path) -> None:
    task: PlannedTask = make_plan(["mbpp"]).tasks[0]
    with pytest.raises(NoData, match="where"):
        prepare(task, Source(real_data))
