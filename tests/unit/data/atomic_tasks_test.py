"""Tasks made of gold annotations: read back, the gold outputs are the annotation again, whatever was drawn."""

from __future__ import annotations

import pytest

from graftlm.core.errors import DataError
from graftlm.data.atomic_tasks import KINDS, AtomicTask, TaskPlan, build_tasks
from graftlm.data.atomic_tasks.classes import CLASS_TASKS, PAIR_TASKS
from graftlm.data.atomic_tasks.reading import Found, read_list, read_spans_by_type, read_typed_spans, read_values
from graftlm.data.atomic_tasks.spans import SPAN_TASKS
from graftlm.data.samples import Classified, Entity, Origin, Sample, Tagged
from graftlm.data.worlds import generate

ORIGIN = Origin("rows.jsonl", 1)
ZH = {"brand": "品牌", "colour": "颜色", "product": "商品", "size": "大小", "model": "型号"}
TITLES = ("product title", "商品标题")


def tagged(text: str, **spans: str) -> Tagged:
    """The row in which each span bears the named label."""
    found = [Entity(text.index(span), text.index(span) + len(span), label) for label, span in spans.items()]
    return Tagged(text, tuple(sorted(found)), ORIGIN)


EN_ROW = tagged("Tavovik red hat, 25 cm", brand="Tavovik", colour="red", product="hat", size="25 cm")
ZH_ROW = tagged("塔伏维红色帽子", brand="塔伏维", colour="红色", product="帽子")
ROWS = [EN_ROW, ZH_ROW, tagged("K20", model="K20")]


def numbered(part: str, count: int) -> list[Sample]:
    return list(generate("shop", part, count=count))


def gold_of(row: Tagged, plan: TaskPlan, task: AtomicTask) -> Found:
    return frozenset((row.text[one.start : one.end], plan.name(one.kind, task.language)) for one in row.entities)


@pytest.mark.parametrize("part", ["titles", "descriptions", "opinions"])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_chain_of_gold_outputs_is_the_gold_annotation(part: str, seed: int) -> None:
    """Detection gives the spans that typing is given, detected types give the questions of extraction: three ways."""
    plan = TaskPlan(chain=True, seed=seed, names={"zh": ZH})
    made = build_tasks(numbered(part, 60), plan)
    assert not made.faults
    for row in numbered(part, 60):
        assert isinstance(row, Tagged)
        steps = [task for task, origin in made.tasks if origin == row.origin]
        first = {step.kind: step for step in reversed(steps)}
        detection, typing, types = (first[kind] for kind in ("span_detection", "span_typing", "type_detection"))
        gold = gold_of(row, plan, detection)
        spans = read_list(detection, detection.output)
        assert set(spans) == {span for span, _ in gold}
        assert typing.given[1][1] == detection.output
        assert read_typed_spans(typing, typing.output) == gold
        full = first["entity_extraction"]
        assert read_spans_by_type(full, full.output) == gold
        names = read_list(types, types.output)
        assert set(names) == {name for _, name in gold}
        values = [step for step in steps if step.kind == "value_extraction"]
        assert len(values) == len(names)
        assert read_values((name, step, step.output) for name, step in zip(names, values, strict=True)) == gold


@pytest.mark.parametrize("seed", range(20))
def test_every_kind_says_of_one_row_what_the_gold_says(seed: int) -> None:
    plan = TaskPlan(prompts=99, seed=seed)
    made = [task for task, _ in build_tasks([*ROWS], plan).tasks]
    of_row = [task for task in made if EN_ROW.text in task.prompt]
    gold = dict(gold_of(EN_ROW, plan, of_row[0]))
    assert {task.kind for task in of_row} == set(SPAN_TASKS)
    found = {task.kind: task for task in of_row}
    quoted = {kind: found[kind].prompt.split('"')[1] for kind in ("span_type", "span_check")}
    assert found["span_type"].output == gold[quoted["span_type"]]
    right = gold[quoted["span_check"]] in found["span_check"].definition
    assert found["span_check"].output == ("Yes" if right else "No")
    asked = [label for label in gold.values() if label in found["type_check"].definition]
    assert found["type_check"].output == ("Yes" if asked else "No")
    choice = found["value_choice"]
    assert gold[choice.output] in choice.definition and choice.output in choice.options
    [label] = [label for label in (*gold.values(), "model") if f"the {label}" in found["value_extraction"].definition]
    values = read_list(found["value_extraction"], found["value_extraction"].output)
    assert set(values) == {span for span, own in gold.items() if own == label}
    assert set(read_list(found["type_detection"], found["type_detection"].output)) == set(gold.values())


def test_ner_output_has_a_line_for_each_type_and_none_where_it_is_absent() -> None:
    outputs: dict[tuple[str, int], AtomicTask] = {}
    for seed in range(30):  # until the label set is the whole one
        plan = TaskPlan(kinds=("entity_extraction",), names={"zh": ZH}, seed=seed)
        outputs |= {(task.given[0][1], len(task.options)): task for task, _ in build_tasks([*ROWS], plan).tasks}
    english, chinese = outputs[EN_ROW.text, 5], outputs[ZH_ROW.text, 5]
    assert sorted(english.output.split("\n")) == [
        "brand: Tavovik", "colour: red", "model: None", "product: hat", "size: 25 cm",
    ]  # fmt: skip
    assert sorted(chinese.output.split("\n")) == ["品牌：塔伏维", "商品：帽子", "型号：无", "大小：无", "颜色：红色"]
    assert [line.partition(": ")[0] for line in english.output.split("\n")] == list(english.options)
    assert english.prompt.endswith('Write a line for each type: "type: spans", joined by ", ", or None.')


def test_a_whole_prompt_in_english_and_in_chinese() -> None:
    plan = TaskPlan(kinds=("span_typing",), options=3, subject=TITLES, names={"zh": ZH}, wording="other")
    english, chinese = (task for task, _ in build_tasks([EN_ROW, ZH_ROW], plan).tasks)
    assert english.prompt == (
        "For each of the spans, choose its type in the product title.\n"
        f"One of: {', '.join(english.options)}\n"
        "Product title: Tavovik red hat, 25 cm\n"
        "Spans: Tavovik; red; hat; 25 cm\n".replace("; ", ", ")
        + 'Write a line for each: "span: type".'
    )
    assert english.output == "Tavovik: brand\nred: colour\nhat: product\n25 cm: size"
    assert chinese.prompt == (
        "商品标题中这些词分别是什么类型？\n"
        f"从中选：{'、'.join(chinese.options)}\n商品标题：塔伏维红色帽子\n词：塔伏维、红色、帽子\n每个写一行：“词：类型”。"
    )
    assert chinese.output == "塔伏维：品牌\n红色：颜色\n帽子：商品"


LEVELLED = [
    Classified("red hat", "clothes > hat", ORIGIN), Classified("blue coat", "clothes > coat", ORIGIN),
    Classified("green tea", "food > tea", ORIGIN), Classified("honey", "food > honey", Origin("rows.jsonl", 4)),
]  # fmt: skip


def test_coarse_then_fine_is_the_whole_class() -> None:
    for task_row in (0, 3):
        made = build_tasks([*LEVELLED], TaskPlan(chain=True, noun=("category", "类别"))).tasks
        steps = {task.kind: task for task, _ in made if f": {LEVELLED[task_row].text}\n" in task.prompt}
        coarse, fine = steps["coarse_classification"], steps["fine_classification"]
        assert f"{coarse.output} > {fine.output}" == LEVELLED[task_row].label == steps["classification"].output
        assert coarse.output in fine.definition
        known = {row.label.split(" > ")[1] for row in LEVELLED if row.label.startswith(coarse.output)}
        assert set(fine.options) == known


def test_two_texts_of_one_class_are_alike() -> None:
    labels = {sample.text: sample.label for sample in numbered("reviews", 40) if isinstance(sample, Classified)}
    answers = set()
    for task, _ in build_tasks(numbered("reviews", 40), TaskPlan(kinds=("same_class",))).tasks:
        first, second = (labels[text] for _, text in task.given)
        assert (task.output in ("Yes", "是")) == (first == second)
        answers.add(task.output)
    assert answers == {"Yes", "No", "是", "不是"}


def test_the_partner_is_found_among_others() -> None:
    pairs = [Classified(f"query {n}", "match", ORIGIN, f"title {n}") for n in range(6)]
    other = Classified("query 9", "mismatch", ORIGIN, "title 0")
    made = build_tasks([*pairs, other], TaskPlan(match="match", prompts=9))
    chosen = [task for task, _ in made.tasks if task.kind == "match_selection"]
    assert len(chosen) == 6  # none of the mismatch
    for task in chosen:
        candidates = dict(task.given[1:])
        assert candidates[task.output] == task.given[0][1].replace("query", "title")
        assert len(set(candidates.values())) == len(candidates) >= 2


@pytest.mark.parametrize("part", ["titles", "categories", "reviews", "queries", "aspects"])
@pytest.mark.parametrize("options", [1, 3, 20])
def test_label_sets_hold_the_gold_and_no_label_twice(part: str, options: int) -> None:
    samples = numbered(part, 60)
    orders = set()
    for task, _ in build_tasks(samples, TaskPlan(prompts=9, options=options)).tasks:
        assert len(set(task.options)) == len(task.options)
        if task.kind in ("classification", "pair_classification", "span_type", "coarse_classification"):
            assert task.output in task.options and task.options.count(task.output) == 1
            orders.add(task.options.index(task.output))
        if task.kind == "entity_extraction":
            assert {line.split("：" if task.language == "zh" else ": ")[0] for line in task.output.split("\n")} == set(
                task.options
            )
    assert len(orders) > 1  # shuffled: the gold label does not stand in one place


@pytest.mark.parametrize("part", ["titles", "descriptions", "categories", "queries", "aspects"])
def test_an_oracle_scores_100_however_labels_are_drawn(part: str) -> None:
    """It knows each row's annotation and reads the options of the prompt, never the gold output."""
    samples, label_sets, asked = numbered(part, 30), dict[str, set[tuple[str, ...]]](), 0
    for seed in range(4):
        plan = TaskPlan(prompts=9, seed=seed, names={"zh": ZH})
        for task, origin in build_tasks(samples, plan).tasks:
            answer = oracle(samples[origin.line - 1], task, plan)
            label_sets.setdefault(f"{origin} {task.kind}", set()).add(task.options)
            if answer is not None:
                asked += 1
                assert (answer,) == task.item(origin).answers, task.prompt
    assert asked >= 30
    assert max(map(len, label_sets.values())) > 1, "the label sets did not change with the seed"


def oracle(row: Sample, task: AtomicTask, plan: TaskPlan) -> str | None:
    """The answer by the annotation alone; None for kinds whose question is not read here."""
    join = task.separator
    if isinstance(row, Classified):
        levels = plan.name(row.label, task.language).split(" > ")
        told = {"coarse_classification": levels[0], "fine_classification": levels[-1]}
        told |= dict.fromkeys(("classification", "pair_classification"), " > ".join(levels))
        return told.get(task.kind)
    assert isinstance(row, Tagged)
    gold = {row.text[one.start : one.end]: plan.name(one.kind, task.language) for one in row.entities}
    none, colon = ("None", ": ") if task.language == "en" else ("无", "：")
    spans_of = {name: join.join(s for s, own in gold.items() if own == name) or none for name in task.options}
    if task.kind == "span_type":
        return gold[task.definition.replace("“", '"').replace("”", '"').split('"')[1]]
    return {
        "span_detection": join.join(gold) or none,
        "span_typing": "\n".join(f"{span}{colon}{name}" for span, name in gold.items()),
        "type_detection": join.join(name for name in task.options if name in gold.values()) or none,
        "entity_extraction": "\n".join(f"{name}{colon}{spans}" for name, spans in spans_of.items()),
    }.get(task.kind)


def test_the_same_seed_gives_the_same_tasks_and_another_others() -> None:
    samples = numbered("titles", 40)
    first, again, other = (build_tasks(samples, TaskPlan(seed=seed)).tasks for seed in (0, 0, 1))
    assert first == again != other
    assert [len([1 for _, origin in first if origin == sample.origin]) for sample in samples] == [3] * 40
    for sample in samples:
        kinds = [task.kind for task, origin in first if origin == sample.origin]
        assert len(set(kinds)) == 3


def test_tests_ask_in_instructions_that_training_never_uses() -> None:
    for part in ("titles", "categories", "queries"):
        usual, other = (
            {task.definition for task, _ in build_tasks(numbered(part, 80), TaskPlan(prompts=9, wording=wording)).tasks}
            for wording in ("usual", "other")
        )
        assert usual and other and not usual & other


def test_kinds_are_those_of_three_sorts_of_rows() -> None:
    assert set(KINDS) == {*SPAN_TASKS, *CLASS_TASKS, *PAIR_TASKS}
    assert len(KINDS) == 17


def test_a_span_with_the_separator_is_read_back_and_one_that_cannot_be_is_left_out() -> None:
    commas = tagged("Tavovik hat, red, large", brand="Tavovik", product="hat, red")
    [(task, _)] = build_tasks([commas], TaskPlan(kinds=("span_detection",))).tasks
    assert task.separator == "; " and 'by "; "' in task.form
    assert read_list(task, task.output) == ("Tavovik", "hat, red")
    made = build_tasks([tagged("two\nlines", brand="two\nlines"), commas], TaskPlan(kinds=("span_detection",)))
    assert len(made.tasks) == 1 and len(made.faults) == 1
    assert "line break" in made.faults[0].reason


def test_rows_without_entities_are_asked_and_answered_with_none() -> None:
    plan = TaskPlan(prompts=99, names={"zh": ZH})
    made = [task for task, _ in build_tasks([Tagged("没有", (), Origin("rows.jsonl", 9)), *ROWS], plan).tasks]
    empty = {task.kind: task.output for task in made if "：没有\n" in task.prompt}
    assert empty["span_detection"] == empty["value_extraction"] == empty["type_detection"] == "无"
    assert empty["type_check"] == "不是"
    assert all(line.endswith("：无") for line in empty["entity_extraction"].split("\n"))
    assert "span_typing" not in empty


@pytest.mark.parametrize(
    ("plan", "reason"),
    [
        ({"kinds": ("span_typng",)}, "span_typng"),
        ({"prompts": 0}, "1 or more"),
        ({"names": {"en": {"a": "x", "b": "x"}}}, "two labels have the name 'x'"),
        ({"names": {"fr": {}}}, "'fr'"),
    ],
)
def test_a_wrong_plan_is_refused(plan: dict[str, object], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        TaskPlan(**plan)  # type: ignore[arg-type]


def test_other_rows_are_refused_by_name() -> None:
    with pytest.raises(DataError, match="labelled"):
        build_tasks(list(generate("shop", "exam", count=1)), TaskPlan())


def test_an_item_accepts_the_members_of_a_list_one_by_one() -> None:
    [(task, _)] = build_tasks([EN_ROW], TaskPlan(kinds=("span_detection",))).tasks
    assert task.item(ORIGIN).answers == ("Tavovik; red; hat; 25 cm".replace(";", ","),)
    assert task.item(ORIGIN, split=True).answers == ("Tavovik", "red", "hat", "25 cm")
    assert task.chat(ORIGIN).turns[1].content == task.output
