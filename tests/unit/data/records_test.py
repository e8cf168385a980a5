"""Layouts: one small row of each becomes the right sample; a row that breaks a rule is refused, with why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from graftlm.core.errors import RecipeError
from graftlm.data.readers import Row
from graftlm.data.records import SCHEMAS, RowError, detect, load_samples, to_sample
from graftlm.data.samples import (
    Captioned,
    Chat,
    Classified,
    Entity,
    Labelled,
    Origin,
    Preference,
    Prompt,
    Sample,
    Tagged,
    Text,
    Turn,
    Unpaired,
)

O = Origin("rows.jsonl", 3)
S, U, A, T = (lambda text, role=role: Turn(role, text) for role in ("system", "user", "assistant", "tool"))
SHAREGPT = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
OPENAI = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
Q, QA = (U("q"),), (U("q"), A("a"))
PAIR = Preference(Q, "good", "bad", O)
CALL = '{"name": "dose", "arguments": {"drug": "x"}}'

LAYOUTS: list[tuple[str, dict[str, Any], Sample]] = [
    ("text", {"text": "t"}, Text("t", O)),
    ("text", {"content": "t", "id": 7}, Text("t", O)),
    ("alpaca", {"instruction": "q", "input": "", "output": "a"}, Chat(QA, O)),
    ("alpaca", {"instruction": "q", "input": "x", "output": "a", "system": "s", "history": [["h", "i"]]},
     Chat((S("s"), U("h"), A("i"), U("q\nx"), A("a")), O)),
    ("alpaca", {"instruction": "q", "response": "a"}, Chat(QA, O)),
    ("alpaca", {"instruction": "q", "input": "", "output": "a", "text": "Below is ..."}, Chat(QA, O)),
    ("sharegpt", {"conversations": SHAREGPT}, Chat(QA, O)),
    ("sharegpt", {"conversations": [{"from": "system", "value": "s"}, *SHAREGPT]}, Chat((S("s"), *QA), O)),
    ("sharegpt", {"conversations": SHAREGPT, "system": "s", "tools": "[]"}, Chat((S("s"), *QA), O)),
    ("sharegpt", {"conversations": [SHAREGPT[0], {"from": "function_call", "value": CALL},
                                    {"from": "observation", "value": "5 mg"}, SHAREGPT[1]],
                  "tools": '[{"name": "dose"}]'},
     Chat((S('Tools:\n[{"name": "dose"}]'), U("q"), A(CALL), T("5 mg"), A("a")), O)),
    ("messages", {"messages": OPENAI}, Chat(QA, O)),
    ("messages", {"messages": [{"role": "system", "content": ""}, *OPENAI]}, Chat(QA, O)),
    ("messages", {"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}]},
                               {"role": "assistant", "content": [{"type": "text", "value": "a"}]}]},
     Chat(QA, O)),
    ("messages", {"messages": [OPENAI[0], {"role": "assistant", "content": None, "tool_calls": [
        {"type": "function", "function": {"name": "dose", "arguments": '{"drug": "x"}'}}]},
        {"role": "tool", "content": "5 mg"}, {"role": "tool", "content": "oral"}, OPENAI[1]]},
     Chat((U("q"), A(CALL), T("5 mg"), T("oral"), A("a")), O)),
    ("messages", {"messages": [OPENAI[0], {**OPENAI[1], "reasoning_content": "r"}]},
     Chat((U("q"), A("<think>\nr\n</think>\n\na")), O)),
    ("firefly", {"conversation_id": 1, "category": "c", "conversation": [
        {"human": "q", "assistant": "a"}, {"human": "r", "assistant": "b"}]}, Chat((*QA, U("r"), A("b")), O)),
    ("question_answer", {"query": "q", "response": "a"}, Chat(QA, O)),
    ("question_answer", {"question": "q", "answer": "a"}, Chat(QA, O)),
    ("question_answer", {"instruction": "i", "question": "q", "answer": "a"}, Chat((U("i\nq"), A("a")), O)),
    ("question_answer", {"input": "q", "target": "a"}, Chat(QA, O)),
    ("prompt_completion", {"prompt": "q", "completion": " a"}, Chat((U("q"), A(" a")), O)),
    ("prompt_completion", {"prompt": OPENAI[:1], "completion": OPENAI[1:]}, Chat(QA, O)),
    ("prompt", {"prompt": "q", "id": 1}, Prompt(Q, O)),
    ("verifiable", {"prompt": OPENAI[:1], "reward_model": {"ground_truth": "72"}, "ability": "math"},
     Labelled(Q, ("72",), O, kind="math")),
    # preferences
    ("conversation_pair", {"conversations": SHAREGPT[:1], "chosen": "good", "rejected": "bad"}, PAIR),
    ("conversation_pair", {"conversations": SHAREGPT[:1], "chosen": {"from": "gpt", "value": "good"},
                           "rejected": {"from": "gpt", "value": "bad"}}, PAIR),
    ("conversation_pair", {"messages": OPENAI[:1], "chosen": [{"role": "assistant", "content": "good"}],
                           "rejected": [{"role": "assistant", "content": "bad"}]}, PAIR),
    ("prompt_pair", {"prompt": "q", "chosen": "good", "rejected": "bad"}, PAIR),
    ("prompt_pair", {"instruction": "q", "input": "", "chosen": "good", "rejected": "bad"}, PAIR),
    ("prompt_pair", {"system": "s", "history": [["h", "i"]], "question": "q", "response_chosen": "good",
                     "response_rejected": "bad"},
     Preference((S("s"), U("h"), A("i"), U("q")), "good", "bad", O)),
    ("prompt_pair", {"question": "q", "response_j": "good", "response_k": "bad"}, PAIR),
    ("shared_history", {"prompt": "q", "chosen": [*OPENAI[:1], {"role": "assistant", "content": "good"}],
                        "rejected": [*OPENAI[:1], {"role": "assistant", "content": "bad"}]}, PAIR),
    ("shared_history", {"chosen_messages": [*OPENAI[:1], {"role": "assistant", "content": "good"}],
                        "rejected_messages": [*OPENAI[:1], {"role": "assistant", "content": "bad"}]}, PAIR),
    ("hh", {"chosen": "\n\nHuman: h\n\nAssistant: i\n\nHuman: q\n\nAssistant: good",
            "rejected": "\n\nHuman: h\n\nAssistant: i\n\nHuman: q\n\nAssistant: bad"},
     Preference((U("h"), A("i"), U("q")), "good", "bad", O)),
    ("judged_pair", {"input": "q", "output_1": "bad", "output_2": "good", "label": 2}, PAIR),
    ("prompt_pair", {"prompt": "q", "chosen": "good", "rejected": "bad", "strength": 3},
     Preference(Q, "good", "bad", O, 3.0)),
    ("prompt_pair", {"prompt": "q", "chosen": "good", "rejected": "bad", "score_chosen": 9.0, "score_rejected": 2.0},
     PAIR),
    # KTO
    ("kto", {"messages": OPENAI, "label": False}, Unpaired(Q, "a", False, O)),
    ("kto", {"instruction": "q", "input": "", "output": "a", "kto_tag": True}, Unpaired(Q, "a", True, O)),
    ("kto", {"prompt": "q", "completion": "a", "label": True}, Unpaired(Q, "a", True, O)),
    ("kto", {"conversations": SHAREGPT, "kto_tag": "false"}, Unpaired(Q, "a", False, O)),
    # multiple choice
    ("multiple_choice", {"question": "q", "choice0": "0", "choice1": "2", "choice2": "1", "choice3": "3",
                         "answer": "1"}, Labelled(Q, ("2",), O, ("0", "2", "1", "3"))),
    ("multiple_choice",
     {"": "0", "Question": "中文", "A": "甲", "B": "乙", "C": "丙", "D": "丁", "Answer": "C"},
     Labelled((U("中文"),), ("丙",), O, ("甲", "乙", "丙", "丁"), language="zh")),
    ("multiple_choice", {"id": 0, "question": "q", "A": "x", "B": "y", "C": "z", "D": "w", "answer": "D",
                         "explanation": ""}, Labelled(Q, ("w",), O, ("x", "y", "z", "w"))),
    ("multiple_choice", {"passage": "p", "question": "q", "options": ["(A)x", "(B)y"], "label": "B",
                         "answer": None}, Labelled((U("p\nq"),), ("y",), O, ("x", "y"))),
    ("multiple_choice", {"question": "q", "choices": ["x", "y"], "answer": 0, "subject": "law"},
     Labelled(Q, ("x",), O, ("x", "y"), kind="law")),
    ("multiple_choice",
     {"question": "q", "choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answerKey": "2"},
     Labelled(Q, ("y",), O, ("x", "y"))),
    ("multiple_choice", {"question": "q", "options": {"A": "x", "B": "y"}, "answer_idx": "A", "answer": "x"},
     Labelled(Q, ("x",), O, ("x", "y"))),
    ("multiple_choice", {"question": "q", "options": ["A)1", "B)2"], "correct": "B", "rationale": "r"},
     Labelled(Q, ("2",), O, ("1", "2"))),
    # rows for encoders: columns of no other layout, or asked for by their kind (tests/unit/data/annotated_test.py)
    ("classified", {"sentence1": "a", "sentence2": "b", "label": "1"}, Classified("a", "1", O, "b")),
    ("tagged", {"tokens": ["Anna", "lives"], "ner_tags": ["B-PER", "O"]},
     Tagged("Anna lives", (Entity(0, 4, "PER"),), O)),
    ("captioned", {"image": __file__, "caption": "c"}, Captioned(__file__, "c", O)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "row", "sample"), LAYOUTS, ids=[f"{i} {x[0]}" for i, x in enumerate(LAYOUTS)]
)
def test_layout_is_detected_and_read(name: str, row: dict[str, Any], sample: Sample) -> None:
    assert detect(row) == name
    assert to_sample(Row(O, row)) == sample
    assert to_sample(Row(O, row), schema=name) == sample


def test_every_schema_has_a_fixture() -> None:
    assert {name for name, _, _ in LAYOUTS} == set(SCHEMAS)


def turns(*pairs: tuple[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in pairs]}


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"text": "  "}, "text is empty"),
    ({"text": None}, "text is empty"),
    ({"text": 5.5, "x": {}}, ""),  # a number is spelled out
    ({"text": "half \ud83d"}, "surrogate"),
    ({"text": {"a": 1}}, "not text"),
    ({"foo": 1, "bar": 2}, "no known layout has these columns: foo, bar"),
    ({"instruction": "q", "input": "", "output": " "}, "output is empty"),
    ({"instruction": "", "input": "x", "output": "a"}, "instruction is empty"),
    ({"instruction": "q", "output": "a", "history": ["h"]}, "history entry 1"),
    (turns(("user", "q"), ("user", "r"), ("assistant", "a")), "turn 2 is a user turn after a user turn"),
    (turns(("assistant", "a"), ("user", "q"), ("assistant", "a")), "turn 1 is a assistant turn at the start"),
    (turns(("user", "q"), ("assistant", "a"), ("assistant", "b")), "turn 3"),
    (turns(("user", "q"), ("tool", "t"), ("assistant", "b")), "turn 2 is a tool turn after a user turn"),
    (turns(("user", "q")), "no assistant turn"),
    (turns(("user", "q"), ("assistant", "a"), ("user", "r")), "last turn is a user turn"),
    (turns(("user", "q"), ("system", "s"), ("assistant", "a")), "turn 2 is a system turn"),
    (turns(("user", "q"), ("assistant", "")), "message 2 (assistant) is empty"),
    (turns(("user", None), ("assistant", "a")), "message 1 (user) is empty"),
    (turns(("narrator", "q"), ("assistant", "a")), "no known role ('narrator'"),
    (turns(("user", [{"type": "image_url", "image_url": "x"}]), ("assistant", "a")), "reads text only"),
    ({**turns(("user", "q"), ("assistant", "a")), "images": ["x.png"]}, "'images': graft reads text only"),
    ({"messages": [OPENAI[0], {**OPENAI[1], "loss": False}]}, "asks for no loss"),
    ({"messages": []}, "empty"),
    ({"messages": "hello"}, "not a list"),
    ({"messages": [OPENAI[0], "a"]}, "message 2 is not an object"),
    (
        {"messages": [{"role": "system", "content": "s"}, *OPENAI], "system": "t"},
        "system column and a system",
    ),
    ({"conversation": [{"human": "q"}]}, "assistant of round 1 is empty"),
    ({"question": "q", "answer": ["a", "b"]}, "2 answers"),
    ({"prompt": "q", "chosen": "same", "rejected": "same"}, "the same"),
    ({"prompt": "q", "chosen": "", "rejected": "b"}, "chosen is empty"),
    ({"conversations": SHAREGPT, "chosen": "x", "rejected": "y"}, "does not end with a user turn"),
    ({"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: r\n\nAssistant: b"}, "do not share"),
    ({"chosen": [*OPENAI], "rejected": [{"role": "user", "content": "r"}, OPENAI[1]]}, "do not share"),
    ({"prompt": "q", "chosen": "x", "rejected": "y", "margin": 3.5}, "margin is 3.5: a number from 0 to 3"),
    ({"prompt": "q", "chosen": "x", "rejected": "y", "strength": "much"}, "one of significantly better, signif"),
    ({"messages": OPENAI, "kto_tag": "maybe"}, "neither true nor false"),
    ({"question": "q", "A": "x", "B": "y", "answer": "E"}, "names none of the options A, B"),
    ({"question": "q", "A": "x", "B": "x", "answer": "B"}, "listed twice"),
    ({"question": "q", "options": ["(A)x", "(B)y"], "label": ["A", "B"]}, "2 options are marked right"),
]


@pytest.mark.parametrize(("row", "reason"), REFUSED, ids=[f"{i}" for i in range(len(REFUSED))])
def test_a_row_that_breaks_a_rule_is_refused_with_its_reason(row: dict[str, Any], reason: str) -> None:
    if not reason:
        assert isinstance(to_sample(Row(O, row)), Text)
        return
    with pytest.raises(RowError) as caught:
        to_sample(Row(O, row))
    assert reason in str(caught.value)


def test_kinds_asked_for() -> None:
    both = {"instruction": "q", "output": "a", "text": "t"}
    assert isinstance(to_sample(Row(O, both), "text"), Text)
    assert isinstance(to_sample(Row(O, both), "chat"), Chat)
    open_chat = {"messages": [*OPENAI, {"role": "user", "content": "r"}]}
    assert to_sample(Row(O, open_chat), "prompt") == Prompt((*QA, U("r")), O)
    assert to_sample(Row(O, {"messages": OPENAI}), "prompt") == Prompt(Q, O)
    assert to_sample(Row(O, {"question": "q", "answer": [["a"], "b"]}), "labelled") == Labelled(
        Q, ("a", "b"), O
    )
    assert to_sample(Row(O, {"messages": OPENAI}), "labelled") == Labelled(Q, ("a",), O)
    pair = Row(O, {"prompt": "q", "chosen": "good", "rejected": "bad"})
    assert to_sample(pair, "chat") == Chat((U("q"), A("good")), O)
    assert to_sample(pair, "prompt") == Prompt(Q, O)
    thumbs = [Row(O, {"prompt": "q", "completion": "a", "label": mark}) for mark in (True, False)]
    assert to_sample(thumbs[0], "chat") == Chat(QA, O)
    bad_chat = Row(O, {"messages": OPENAI, "label": False})
    for row in (thumbs[1], bad_chat):  # an answer marked bad must never be trained on as a good one
        with pytest.raises(RowError, match="undesirable"):
            to_sample(row, "chat")
    with pytest.raises(RowError, match="gives text samples, which cannot become chat"):
        to_sample(Row(O, {"text": "t"}), "chat")


def test_columns_and_names() -> None:
    row = Row(O, {"题目": "q", "答案": "a", "text": "not this"})
    columns = {"instruction": "题目", "output": "答案"}
    assert to_sample(row, columns=columns) == Chat(QA, O)
    with pytest.raises(RowError, match="'回答' that `columns` names is missing"):
        to_sample(row, columns={"instruction": "题目", "output": "回答"})
    with pytest.raises(RecipeError, match="alpaca"):
        to_sample(row, schema="alpacka")
    with pytest.raises(RecipeError, match="chat"):
        to_sample(row, kind="chats")  # type: ignore[arg-type]
    joined = to_sample(Row(O, {"instruction": "q", "input": "x", "output": "a"}), input_join=" | ")
    assert joined == Chat((U("q | x"), A("a")), O)


def test_loading_accounts_for_every_row(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    good = json.dumps({"messages": OPENAI})
    lines = [good, '{"messages": [', json.dumps({"messages": OPENAI[:1]}), "", good, "[]", good]
    file.write_text("\n".join(lines))
    loaded = load_samples(file)
    assert (loaded.read, len(loaded.samples), len(loaded.faults)) == (6, 3, 3)
    assert [str(fault.origin) for fault in loaded.faults] == [f"{file}:{n}" for n in (2, 3, 6)]
    assert [sample.origin.line for sample in loaded.samples] == [1, 5, 7]
    limited = load_samples(file, limit=2)
    assert (limited.read, len(limited.samples), len(limited.faults)) == (4, 2, 2)
    assert load_samples(file, limit=0).read == 0
    with pytest.raises(RecipeError):
        load_samples(tmp_path / "missing.jsonl", schema="nonsense")


def test_malformed_rows_never_end_the_run(tmp_path: Path) -> None:
    """Every layout with every kind of nonsense in its columns: a fault or a sample, no other exception."""
    nonsense: list[Any] = [
        None,
        7,
        True,
        "",
        [],
        {},
        [[]],
        [None],
        [{}],
        {"text": 1},
        [["a"]],
        "x",
        [{"role": 3}],
    ]
    rows = [
        {key: (bad if key == broken else value) for key, value in row.items()}
        for _, row, _ in LAYOUTS
        for broken in row
        for bad in nonsense
    ]
    file = tmp_path / "a.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    for kind in (None, "chat", "preference", "labelled", "prompt", "unpaired", "text"):
        loaded = load_samples(file, kind=kind)  # type: ignore[arg-type]
        assert loaded.read == len(rows) == len(loaded.samples) + len(loaded.faults)
        assert loaded.faults


def test_the_subject_of_an_exam_file(tmp_path: Path) -> None:
    file = tmp_path / "virology_test.csv"
    file.write_text("question,choice0,choice1,choice2,choice3,answer\nq,a,b,c,d,3\n")
    assert load_samples(file).samples == [
        Labelled(Q, ("d",), Origin(str(file), 1), tuple("abcd"), "virology")
    ]


PAIR_LAYOUTS = [(name, row) for name, row, sample in LAYOUTS if isinstance(sample, Preference)]
STRENGTHS: list[tuple[Any, float | None]] = [
    (0, 0.0), (1.5, 1.5), ("3", 3.0), (" 0.5 ", 0.5), (None, None), ("", None),
    ("significantly better", 3.0), ("Significantly", 3.0), ("BETTER", 2.0), ("slightly_better", 1.0), ("slightly", 1.0),
    ("negligibly better", 0.0), ("Negligibly_Better", 0.0), ("negligibly", 0.0), ("unsure", 0.0),
]  # fmt: skip


@pytest.mark.parametrize("column", ["strength", "preference_strength", "margin"])
@pytest.mark.parametrize(("name", "row"), PAIR_LAYOUTS, ids=[f"{i} {x[0]}" for i, x in enumerate(PAIR_LAYOUTS)])
def test_every_pair_may_have_a_strength(name: str, row: dict[str, Any], column: str) -> None:
    plain = {key: value for key, value in row.items() if key != "strength"}
    for value, number in STRENGTHS:
        marked = {**plain, column: value}
        assert detect(marked) == name
        sample = to_sample(Row(O, marked))
        assert isinstance(sample, Preference) and sample.strength == number


@pytest.mark.parametrize("value", [-1, 3.01, float("nan"), float("inf"), 10**400, True, "much", "4", [2], {"a": 1}])
def test_other_strengths_are_refused(value: Any) -> None:
    pair = {"prompt": "q", "chosen": "good", "rejected": "bad", "margin": value}
    with pytest.raises(RowError, match=r"margin is .* a number from 0 to 3 .*unsure.*`columns`"):
        to_sample(Row(O, pair))
    # A margin that means something else is left out by naming the columns.
    assert to_sample(Row(O, pair), columns={name: name for name in ("prompt", "chosen", "rejected")}) == PAIR


def test_strength_can_be_mapped() -> None:
    row = Row(O, {"q": "q", "good": "good", "bad": "bad", "程度": "slightly better"})
    columns = {"prompt": "q", "chosen": "good", "rejected": "bad", "strength": "程度"}
    assert to_sample(row, columns=columns) == Preference(Q, "good", "bad", O, 1.0)
    assert all("strength" in schema.columns for schema in SCHEMAS.values() if schema.kind == "preference")
