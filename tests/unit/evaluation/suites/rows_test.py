"""Invented rows in the form of the published ones: each becomes the question that the test's own format asks."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from graftlm.core.errors import DataError
from graftlm.data.readers import Row
from graftlm.data.samples import Origin
from graftlm.evaluation.benchmarks.dummies import always_first, oracle
from graftlm.evaluation.benchmarks.items import Source
from graftlm.evaluation.benchmarks.plan import make_plan
from graftlm.evaluation.benchmarks.run import Sheet, prepare, run_sheet
from graftlm.evaluation.text_subject import Open, Options

Rows = list[dict[str, Any]]


def write(path: Path, rows: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, list(rows[0]))
            table.writeheader()
            table.writerows(rows)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    else:
        path.write_text(rows if isinstance(rows, str) else json.dumps(rows, ensure_ascii=False), encoding="utf-8")


def sheet_of(name: str, path: str, rows: Any, root: Path) -> Sheet:
    """A task without examples over one file of rows."""
    write(root / path, rows)
    task = make_plan([name], shots=0).tasks[0]
    data = task.file.data.model_copy(update={"files": path})
    return prepare(replace(task, file=task.file.model_copy(update={"data": data})), Source(root))


FOUR = {"choice0": "red", "choice1": "blue", "choice2": "green", "choice3": "grey"}
ZH = {"A": "红", "B": "蓝", "C": "绿", "D": "灰"}
LETTERS = (" A", " B", " C", " D")

CHOICES: list[tuple[str, str, Rows, str, tuple[str, ...], int]] = [
    (
        "mmlu", "mmlu/test/anatomy_test.csv", [{"question": "Blood is", **FOUR, "answer": "0"}],
        "about anatomy.\n\nBlood is\nA. red\nB. blue\nC. green\nD. grey\nAnswer:", LETTERS, 0,
    ),
    (
        "mmlu", "mmlu/test/all.jsonl",
        [{"question": "Blood is", "subject": "high_school_biology", "choices": [*FOUR.values()], "answer": 0}],
        "about high school biology.\n\nBlood is\nA. red\nB. blue\nC. green\nD. grey\nAnswer:", LETTERS, 0,
    ),
    (
        "cmmlu", "cmmlu/test/arts.csv", [{"": "0", "Question": "血是", **ZH, "Answer": "B"}],
        "题目：血是\nA. 红\nB. 蓝\nC. 绿\nD. 灰\n答案是：", ("A", "B", "C", "D"), 1,
    ),
    (
        "ceval", "ceval/val/law_val.csv", [{"id": "0", "question": "血是", **ZH, "answer": "D"}],
        "关于law考试的单项选择题，请选出其中的正确答案。\n\n血是\nA. 红\nB. 蓝\nC. 绿\nD. 灰\n答案：",
        ("A", "B", "C", "D"), 3,
    ),
    (
        "arc_challenge", "arc/challenge/test.jsonl",
        [{"question": "Ice is", "answerKey": "2",
          "choices": {"text": ["hot", "cold", "dry"], "label": ["1", "2", "3"]}}],
        "Question: Ice is\nAnswer:", (" hot", " cold", " dry"), 1,
    ),
    (
        "hellaswag", "hellaswag/validation.jsonl",
        [{"activity_label": "Ice", "ctx_a": "A boy [header] skates.", "ctx_b": "he", "label": "1",
          "endings": ["sinks.", "falls [step] down.", "flies.", "sleeps."]}],
        "Ice: A boy skates. He", (" sinks.", " falls down.", " flies.", " sleeps."), 1,
    ),
    (
        "winogrande", "winogrande/validation.jsonl",
        [{"sentence": "The cup fits no box since _ is small.",
          "option1": "the cup", "option2": "the box", "answer": "2"}],
        "The cup fits no box since the cup", (" is small.", " is small."), 1,
    ),
    (
        "piqa", "piqa/valid.jsonl", [{"goal": "Melt ice", "sol1": "heat it", "sol2": "cool it", "label": 0}],
        "Question: Melt ice\nAnswer:", (" heat it", " cool it"), 0,
    ),
    (
        "siqa", "siqa/dev.jsonl",
        [{"context": "Jo fell.", "question": "Why?",
          "answerA": "ice", "answerB": "fun", "answerC": "rain", "label": "3"}],
        "Q: Jo fell. Why?\nA:", (" ice", " fun", " rain"), 2,
    ),
    (
        "openbookqa", "openbookqa/test.jsonl",
        [{"question_stem": "Ice is", "choices": {"text": ["hot", "cold"], "label": ["A", "B"]}, "answerKey": "B"}],
        "Ice is", (" hot", " cold"), 1,
    ),
    (
        "commonsense_qa", "commonsense_qa/dev.jsonl",
        [{"question": "Ice?", "choices": {"text": ["hot", "cold"], "label": ["A", "B"]}, "answerKey": "B"}],
        "Question: Ice?\nA. hot\nB. cold\nAnswer:", (" A", " B"), 1,
    ),
    (
        "boolq", "boolq/dev.jsonl", [{"passage": "Ice melts.", "question": "does ice melt", "answer": True}],
        "Ice melts.\nQuestion: does ice melt?\nAnswer:", (" no", " yes"), 1,
    ),
    (
        "musr", "musr/object_placements.csv",
        [{"narrative": "A story.", "question": "Where?",
          "choices": "['box', \"Jo's cup\", 'bag']", "answer_index": "1"}],
        "A story.\n\nWhere?\n\n1 - box\n2 - Jo's cup\n3 - bag\nAnswer:", (" box", " Jo's cup", " bag"), 1,
    ),
    (
        "mmlu_pro", "mmlu_pro/test.jsonl",
        [{"question": "Ice", "options": ["a", "b", "c"], "answer": "C", "category": "x"}],
        "Ice\nA. a\nB. b\nC. c\nAnswer:", ("A", "B", "C"), 2,
    ),
    (
        "tnews", "fewclue/tnews/test_public.json", [{"sentence": "球队赢了", "label": 103}],
        "新闻标题：球队赢了\n类别：",
        ("故事", "文化", "娱乐", "体育", "财经", "房产", "汽车", "教育",
         "科技", "军事", "旅游", "国际", "股票", "农业", "电竞"), 3,
    ),
    (
        "truthfulqa_mc", "truthfulqa/all.jsonl",
        [{"question": "Is ice hot?", "mc2_targets": {"choices": ["No", "Never", "Yes"], "labels": [1, 1, 0]}}],
        "Q: Is ice hot?\nA:", (" No", " Never", " Yes"), 0,
    ),
]  # fmt: skip


@pytest.mark.parametrize(("name", "path", "rows", "end", "continuations", "right"), CHOICES)
def test_choices(
    name: str, path: str, rows: Rows, end: str, continuations: tuple[str, ...], right: int, tmp_path: Path
) -> None:
    sheet = sheet_of(name, path, rows, tmp_path)
    [question] = sheet.questions
    assert isinstance(question, Options)
    assert question.contexts[0].endswith(end)
    assert question.continuations == continuations
    assert question.right[0] == right
    assert run_sheet(oracle(), sheet).result.value == 1


def test_the_answers_of_gpqa_are_shuffled_and_the_right_one_follows(tmp_path: Path) -> None:
    wrong = {f"Incorrect Answer {n}": f"wrong {n}" for n in (1, 2, 3)}
    rows = [{"Question": f"Q{n}?", "Correct Answer": f"right {n}", **wrong} for n in range(40)]
    sheet = sheet_of("gpqa", "gpqa/gpqa_main.csv", rows, tmp_path)
    places = []
    for question in sheet.questions:
        assert isinstance(question, Options)
        assert question.continuations == (" (A)", " (B)", " (C)", " (D)")
        [right] = question.right
        assert f"{question.continuations[right].strip()} right" in question.contexts[0]
        places.append(right)
    assert set(places) == {0, 1, 2, 3}


def test_the_second_word_of_winogrande_makes_the_second_context(tmp_path: Path) -> None:
    _, path, rows, *_ = next(one for one in CHOICES if one[0] == "winogrande")
    [question] = sheet_of("winogrande", path, rows, tmp_path).questions
    assert isinstance(question, Options)
    assert [context.split()[-1] for context in question.contexts] == ["cup", "box"]


PASSAGE = {"context": "Ice melts at 0 °C.", "qas": [{"id": "1", "question": "When?", "answers": [{"text": "at 0 °C"}]}]}
SPANS = [{"type": "Brand", "term": "Dell"}, {"type": "Brand", "term": "HP"}, {"type": "Product", "term": "laptop"}]

FREE: list[tuple[str, str, Any, str, tuple[str, ...]]] = [
    ("nq_open", "a.jsonl", [{"question": "who", "answer": ["Jo", "Jo B"]}], "Q: who?\nA:", ("Jo", "Jo B")),
    (
        "triviaqa", "a.jsonl", [{"question": "Who?", "answer": {"value": "Jo", "aliases": ["J", "Joe"]}}],
        "Q: Who?\nA:", ("Jo", "J", "Joe"),
    ),
    ("squad", "a.json", {"data": [{"title": "x", "paragraphs": [PASSAGE]}]}, "Question: When?\nAnswer:", ("at 0 °C",)),
    (
        "squad_v2", "a.json",
        {"data": [{"title": "x", "paragraphs": [{"context": "Ice.", "qas": [{"question": "When?", "answers": []}]}]}]},
        "Question: When?\nAnswer:", (),
    ),
    (
        "gsm8k", "a.jsonl", [{"question": "1+1?", "answer": "1+1=2\n#### 2"}],
        "Question: 1+1?\nAnswer:", ("1+1=2\n#### 2",),
    ),
    (
        "math", "a.jsonl",
        [{"problem": "1+1", "solution": "It is $\\boxed{2}$.", "level": "Level 1", "type": "Algebra"}],
        "Problem:\n1+1\n\nSolution:", ("It is $\\boxed{2}$.",),
    ),
    (
        "jec_qa", "a.jsonl",
        [{"passage": None, "question": "谁？", "options": ["(A)甲", "(B)乙"], "label": ["A", "B"]}],
        "问题：谁？\n选项：(A)甲 (B)乙\n答案是", ("AB",),
    ),
    (
        "lawbench_3-4", "a.json", [{"instruction": "判刑期。", "question": "事实", "answer": "刑期:12个月"}],
        "判刑期。\n事实", ("刑期:12个月",),
    ),
    (
        "ecom_lenovo_ner", "a.json", [{"sentences": "Dell or HP laptop", "spans": SPANS}],
        "### Response:", ("Dell", "HP", "laptop"),
    ),
    (
        "ecom_coarse_class", "a.json", [{"sentences": "饼干", "labels": {"coarse": ["食品"]}}],
        "Candidates: 美妆洗护, 大服饰, 消费电子, 食品, 大百货\n### Response:", ("食品",),
    ),
]  # fmt: skip


LAW = {"instruction": "回答。", "question": "问"}
SENTENCE = {"sentences": "Dell or HP laptop", "spans": SPANS}

MORE: dict[str, tuple[str, Any]] = {
    **{
        f"lawbench_{number}": ("a.json", [{**LAW, "answer": "盗窃罪的构成"}])
        for number in ("1-1", "2-5", "2-7", "3-2", "3-8")
    },
    "lawbench_3-1": ("a.json", [{**LAW, "answer": "法条:刑法第264、266条"}]),
    "lawbench_3-5": ("a.json", [{**LAW, "answer": "刑期:12个月"}]),
    "lawbench_3-6": ("a.json", [{**LAW, "answer": "正确答案：B。"}]),
    "lawbench_3-7": ("a.json", [{**LAW, "answer": "上文涉及到的犯罪金额:352.0元。"}]),
    **{
        f"ecom_{name}": ("a.json", [SENTENCE])
        for name in ("attribute_spans", "lenovo_spans", "product_select", "title", "reddit_qa")
    },
    **{
        f"ecom_{name}": ("a.json", [{"sentences": "甲\n乙", "labels": {"en": ["match"], "zh": ["匹配"]}}])
        for name in ("item_align", "title_attribute")
    },
    "cmrc2018": ("a.json", {"data": [{"title": "x", "paragraphs": [PASSAGE]}]}),
    "quac": ("a.json", {"data": [{"title": "x", "paragraphs": [PASSAGE]}]}),
    "ceval_written": ("law_val.csv", [{"id": "0", "question": "血是", **ZH, "answer": "D"}]),
    "e_eval": ("law_val.csv", [{"id": "0", "question": "血是", **ZH, "answer": "D"}]),
    "arc_easy": (
        "a.jsonl", [{"question": "Ice", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "B"}],
    ),
}  # fmt: skip
"""Tasks whose questions are made as those of another one above."""


@pytest.mark.parametrize("name", sorted(MORE))
def test_the_accepted_answer_is_right_in_the_others_too(name: str, tmp_path: Path) -> None:
    path, rows = MORE[name]
    sheet = sheet_of(name, path, rows, tmp_path)
    assert len(sheet.questions) == 1
    assert run_sheet(oracle(), sheet).result.value == pytest.approx(1)
    assert run_sheet(always_first(), sheet).result.value == 0


@pytest.mark.parametrize(("name", "path", "rows", "end", "answers"), FREE)
def test_free_answers(name: str, path: str, rows: Any, end: str, answers: tuple[str, ...], tmp_path: Path) -> None:
    sheet = sheet_of(name, path, rows, tmp_path)
    [question] = sheet.questions
    assert isinstance(question, Open)
    assert question.prompt.endswith(end)
    assert question.answers == answers
    assert run_sheet(oracle(), sheet).result.value == 1


def test_the_level_and_the_answerable_are_chosen(tmp_path: Path) -> None:
    rows = [{"problem": "1+1", "solution": "$\\boxed{2}$", "level": f"Level {n}"} for n in (4, 5, 5)]
    assert len(sheet_of("math_level5", "a.jsonl", rows, tmp_path).items) == 2
    law = [
        {"passage": None, "question": "谁？", "options": ["(A)甲", "(B)乙"], "label": right}
        for right in (["A"], ["A", "B"], [])
    ]
    assert len(sheet_of("jec_qa", "a.jsonl", law, tmp_path).items) == 2
    assert len(sheet_of("jec_qa_single", "a.jsonl", law, tmp_path).items) == 1


def test_sets_of_the_hub_are_flat_and_their_configurations_are_the_sub_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str | None]] = []

    def hub(name: str, config: str | None = None) -> Iterator[Row]:
        asked.append((name, config))
        answers = {"text": ["now"], "answer_start": [0]}
        yield Row(Origin(f"hub:{name}", 1), {"context": "Ice.", "question": "When?", "answers": answers})

    monkeypatch.setattr("graftlm.evaluation.benchmarks.items.read_hub", hub)
    [question] = prepare(make_plan(["squad"]).tasks[0], Source(tmp_path, hub=True)).questions
    assert isinstance(question, Open)
    assert question.answers == ("now",)
    assert asked == [("rajpurkar/squad:validation", None)]

    def choices(name: str, config: str | None = None) -> Iterator[Row]:
        asked.append((name, config))
        yield Row(Origin(f"hub:{name}", 1), {"Question": f"{name}是", **ZH, "Answer": "B"})

    asked.clear()
    monkeypatch.setattr("graftlm.evaluation.benchmarks.items.read_hub", choices)
    sheet = prepare(make_plan(["cmmlu"], shots=1).tasks[0], Source(tmp_path, hub=True))
    assert len({item.subject for item in sheet.items}) == 67
    assert sheet.coverage == "67 of 11,528 items"
    assert ("haonan-li/cmmlu:dev", "virology") in asked


def test_the_leaderboard_counts_only_announced_numbers(tmp_path: Path) -> None:
    sheet = sheet_of("gsm8k", "a.jsonl", [{"question": "1+1?", "answer": "1+1=2\n#### 2"}], tmp_path)
    unannounced = run_sheet(replace(oracle(), write=lambda _: "It is 2."), sheet).metrics
    assert (unannounced["gsm8k"].value, unannounced["gsm8k_strict"].value) == (1, 0)
    announced = run_sheet(replace(oracle(), write=lambda _: "So\n#### 2"), sheet).metrics
    assert (announced["gsm8k"].value, announced["gsm8k_strict"].value) == (1, 1)


def test_lists_in_json_are_rows_of_the_named_columns(tmp_path: Path) -> None:
    [first, second] = sheet_of("finne", "a.json", [["涨停", "1.0"], ["亏损", "0.0"]], tmp_path).questions
    assert isinstance(first, Options)
    assert isinstance(second, Options)
    assert (first.choices[first.right[0]], second.choices[second.right[0]]) == ("积极", "消极")


def test_examples_stand_before_the_question_as_the_leaderboard_has_them(tmp_path: Path) -> None:
    """BBH: the paper's examples, of one file, without their reasoning; MMLU: those of the same subject."""
    write(tmp_path / "bbh/bbh/navigate.json", {"canary": "x", "examples": [{"input": "Turn. Back?", "target": "No"}]})
    examples = "canary\n-----\nFollow the steps.\n\n" + "\n\n".join(
        f"Q: Go {n}. Back?\nA: Let's think step by step.\nWe go {n}.\nSo the answer is {said}."
        for n, said in ((1, "Yes"), (2, "No"))
    )
    write(tmp_path / "bbh/cot-prompts/navigate.txt", examples)
    [short] = prepare(make_plan(["bbh_mc"]).tasks[0], Source(tmp_path)).questions
    assert isinstance(short, Options)
    shown = "Follow the steps.\n\nQ: Go 1. Back?\nA:Yes\n\nQ: Go 2. Back?\nA:No\n\n"
    assert short.contexts[0] == shown + "Q: Turn. Back?\nA:"
    [long] = prepare(make_plan(["bbh"]).tasks[0], Source(tmp_path)).questions
    assert isinstance(long, Open)
    assert long.prompt.startswith("Follow the steps.\n\nQ: Go 1. Back?\nA: Let's think step by step.\nWe go 1.")
    with pytest.raises(DataError, match="one row has 3"):
        prepare(make_plan(["bbh"], shots=2).tasks[0], Source(tmp_path))
    assert long.prompt.endswith("So the answer is No.\n\nQ: Turn. Back?\nA: Let's think step by step.\n")

    write(tmp_path / "mmlu/test/anatomy_test.csv", [{"question": "Blood is", **FOUR, "answer": "0"}])
    for subject, colour in (("anatomy", "Bile"), ("law", "Ink")):
        rows = [{"question": f"{colour} {n} is", **FOUR, "answer": "1"} for n in range(5)]
        write(tmp_path / f"mmlu/dev/{subject}_dev.csv", rows)
    [question] = prepare(make_plan(["mmlu"]).tasks[0], Source(tmp_path)).questions
    assert isinstance(question, Options)
    assert question.contexts[0].count("Answer: B\n\n") == question.contexts[0].count("Bile") == 5
    assert "Ink" not in question.contexts[0]


def test_a_suite_s_sub_tasks_that_are_there_are_run_and_counted(tmp_path: Path) -> None:
    for subject in ("college_law", "arts"):
        write(tmp_path / f"cmmlu/test/{subject}.csv", [{"": "0", "Question": "血是", **ZH, "Answer": "B"}])
    tasks = make_plan(["law"], shots=0).suites[0].tasks()
    sheet = prepare(next(task for task in tasks if task.file.name == "cmmlu"), Source(tmp_path))
    assert [item.subject for item in sheet.items] == ["college_law"]
    assert sheet.coverage == "1 of 5 sub-tasks"
