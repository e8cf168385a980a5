"""Each finding of the check, on data that has just this fault, and silence on data that has none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from graftlm.recipes import budget, check
from graftlm.recipes.check import check_recipe
from graftlm.recipes.findings import CheckResult, print_check
from graftlm.recipes.schema import Recipe

QUESTION = "Which of the four great rivers of the northern plain floods first in a spring after a hard winter?"


def chats(count: int, answer: str = "It is {}.") -> list[dict[str, str]]:
    return [{"instruction": f"What is {n} and {n * 7}?", "output": answer.format(n)} for n in range(count)]


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Blocks of rows, stages and more of the recipe → what the check finds."""
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "cache"))

    def run(rows: dict[str, list[Any]], stages: dict[str, Any] | None = None, **changes: Any) -> CheckResult:
        data = {}
        for name, block in rows.items():
            file = tmp_path / f"{name}.jsonl"
            file.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in block))
            data[name] = {"path": str(file)}
        stages = stages or {"sft": {"blocks": list(rows)}}
        stages = {name: {"stage": name, "row_tokens": 128} | stage for name, stage in stages.items()}
        tree = {"name": "a", "base": "rootstock", "device": "cpu", "data": data, "stages": stages}
        return check_recipe(Recipe.model_validate(tree | changes), "rootstock")

    return run


def findings(result: CheckResult) -> list[tuple[str, str]]:
    assert all(finding.fix for finding in [*result.errors, *result.warnings])
    return [(finding.where, finding.text) for finding in [*result.errors, *result.warnings]]


def one(result: CheckResult, kind: str) -> tuple[str, str]:
    """The only finding, of this kind."""
    assert len(findings(result)) == 1 == len(getattr(result, kind)), findings(result)
    return findings(result)[0]


def test_nothing_is_wrong(found: Any, capsys: pytest.CaptureFixture[str]) -> None:
    result = found({"chat": chats(100)})
    assert findings(result) == []
    block = result.blocks["chat"]
    assert (block["read"], block["refused"], block["kept back"], block["samples"]) == (100, 0, 2, 98)
    stage = result.stages["sft"]
    assert stage["tokens"] > 0 and stage["steps"] > 0 and "GiB" in stage["memory"] and "note" in stage
    assert json.loads(json.dumps(result.as_json()))["blocks"]["chat"] == block
    print_check(result)
    said = capsys.readouterr().out
    assert "nothing is wrong" in said and "What is 0 and 0?" in said


def test_the_example_marks_the_answer(found: Any) -> None:
    example = found({"chat": chats(30)}).example
    assert [trained for _, trained in example] == [False, True]
    assert "What is" in example[0][0] and example[1][0].startswith("It is 0.")


def test_refused_rows(found: Any, tmp_path: Path) -> None:
    where, text = one(found({"chat": [*chats(30), "{", "[]", "{}", '{"x": 1}']}), "warnings")
    assert where == "data.chat" and "4 of 34 rows are refused" in text and "and 1 more" in text
    assert f"{tmp_path / 'chat.jsonl'}:31: broken JSON" in text


def test_no_valid_row(found: Any, tmp_path: Path) -> None:
    result = found({"bad": ["{"], "chat": chats(30)})
    where, text = one(result, "errors")
    assert where == "stages.sft" and "data.bad: no valid row among 1" in text and "bad.jsonl:1" in text
    assert "chat" in result.blocks and result.stages == {}  # the rest is looked at all the same


def test_dropped_and_cut(found: Any) -> None:
    rows = chats(60) + [{"instruction": f"{n} " + "why " * 300, "output": "So."} for n in range(2)]
    result = found({"chat": rows})
    assert any("2 samples have no answer left" in text for _, text in findings(result)) and not result.errors
    result = found({"chat": [*chats(60), *chats(3, "word and {0} " * 90)]})
    where, text = one(result, "warnings")
    assert where == "data.chat" and "of the tokens are cut by the length limit (3 samples)" in text


def test_no_sample_is_left(found: Any) -> None:
    result = found({"chat": [{"instruction": f"{n} " + "why " * 300, "output": "So."} for n in range(9)]})
    assert [finding.text for finding in result.errors] == ["no sample is left to train on"]
    assert result.example == []


def test_answers_that_do_not_end(found: Any) -> None:
    result = found({"chat": chats(20, "word and {0} " * 90)})
    assert len(result.errors) == 1 and "only 0 of 20 answers end" in result.errors[0].text


def test_copies(found: Any) -> None:
    where, text = one(found({"chat": [*chats(30), *chats(10)]}), "warnings")
    assert where == "data.chat" and "10 of 40 samples are exact copies" in text
    assert findings(found({"chat": [*chats(30), *chats(1)]})) == []


def test_all_targets_and_none(found: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Faults of a template: seen in the tokens, whatever made them."""
    from graftlm.data import encode
    from graftlm.data.truncation import Truncated, Truncation
    from graftlm.recipes import tokenise

    for value, words in ((True, "every token is a target"), (False, "no token is a target")):

        def spoil(tokenizer: Any, template: Any, rows: Any, value: bool = value) -> list[encode.Encoded]:
            made = encode.encode_chats(tokenizer, template, rows)
            return [
                encode.Encoded(item.tokens, item.targets | value if value else item.targets & False) for item in made
            ]

        monkeypatch.setattr(tokenise, "encode_chats", spoil)
        monkeypatch.setattr(tokenise, "truncate", lambda items, _: Truncated(items, [], Truncation()))
        result = found({f"chat-{value}": chats(30 + value)})
        assert any(words in finding.text for finding in result.errors)


def pairs(count: int) -> list[dict[str, str]]:
    return [{"prompt": f"What is {n}?", "chosen": f"It is {n}.", "rejected": f"Not {n}."} for n in range(count)]


WRONG = {
    "dpo": "chat", "orpo": "chat", "simpo": "chat", "reward": "chat", "kto": "chat", "sft": "pair", "pretrain": "pair",
}  # fmt: skip


@pytest.mark.parametrize("stage", WRONG)
def test_a_stage_with_the_wrong_kind_of_data(stage: str, found: Any) -> None:
    rows = pairs(30) if WRONG[stage] == "pair" else chats(30)
    result = found({"a": rows}, {stage: {"blocks": ["a"]}})
    where, text = one(result, "errors")
    kind = "preference" if WRONG[stage] == "pair" else "chat"
    assert where == f"stages.{stage}" and f"data.a: it holds {kind} rows" in text
    assert ("conversations" if WRONG[stage] == "pair" else "`chosen` and `rejected`") in result.errors[0].fix
    assert result.stages == {}, "nothing is planned for a stage that cannot run"


@pytest.mark.parametrize("stage", WRONG)
def test_a_stage_with_the_right_kind_of_data(stage: str, found: Any) -> None:
    rows = chats(60) if WRONG[stage] == "pair" else pairs(60)
    result = found({"a": rows}, {stage: {"blocks": ["a"]}})
    assert findings(result) == [] and result.stages[stage]["steps"] > 0


ANSWERED = {"row_tokens": 128, "max_new_tokens": 8, "iterations": 3, "answers": 8}
"""Settings of a stage that learns from its own answers."""


def asked(reward: Any, **more: Any) -> dict[str, Any]:
    return {"ppo": {"blocks": ["a"], "reward": reward} | ANSWERED | more}


def test_a_stage_on_prompts_is_planned(found: Any) -> None:
    result = found({"a": chats(100)}, asked({"exact": True}))
    assert findings(result) == []
    stage = result.stages["ppo"]
    assert (stage["rounds"], stage["answers"]) == (3, 8) and "GiB" in stage["memory"]
    best = {"best_of": {"blocks": ["a"], "reward": {"length": 9}, "rounds": 2, "prompts": 5, "samples": 3}}
    assert found({"a": chats(100)}, best).stages["best_of"]["answers"] == 15


@pytest.mark.parametrize("kind", ["exact", "contains"])
def test_a_reward_that_compares_needs_accepted_answers(kind: str, found: Any) -> None:
    where, text = one(found({"a": pairs(100)}, asked([{"length": 9}, {kind: True}])), "errors")
    assert where == "stages.ppo" and "accepted answers, which prompts of a do not have" in text
    assert findings(found({"a": pairs(100)}, asked({"length": 9}))) == []


@pytest.mark.parametrize("stage", ["dpo", "kto"])
def test_pairs_cannot_be_scored_by_accepted_answers(stage: str, found: Any) -> None:
    stages = {stage: {"blocks": ["a"], "reward": {"exact": True}}}
    where, text = one(found({"a": pairs(100)}, stages), "errors")
    assert where == f"stages.{stage}" and "accepted answers" in text


def test_an_address_cannot_be_asked_offline(found: Any) -> None:
    stages = asked({"endpoint": "http://localhost:9/score"})
    where, text = one(found({"a": chats(100)}, stages, offline=True), "errors")
    assert where == "stages.ppo" and "offline, the reward at http://localhost:9/score cannot be asked" in text
    assert findings(found({"a": chats(100)}, stages)) == []


@pytest.mark.parametrize(
    ("reward", "words"),
    [
        ({"regex": "a(b"}, "the regular expression 'a(b' is broken"),
        ({"format": "[a"}, "the regular expression '[a' is broken"),
        ({"function": "json:nothing_of_this_name"}, "has no `nothing_of_this_name`"),
        ({"function": "no_such_module_at_all:f"}, "there is no module `no_such_module_at_all`"),
    ],
)
def test_a_reward_that_cannot_be_built(reward: dict[str, str], words: str, found: Any) -> None:
    where, text = one(found({"a": chats(100)}, asked([{"length": 9}, reward])), "errors")
    assert where == "stages.ppo" and words in text
    compared = {"dpo": {"blocks": ["a"], "reward": reward}}
    assert words in one(found({"a": pairs(60)}, compared), "errors")[1], "also where it only compares"


def test_text_has_no_prompts(found: Any) -> None:
    texts = [{"text": f"A document with the number {n} and {n * 13}."} for n in range(30)]
    where, text = one(found({"a": texts}, asked({"length": 9})), "errors")
    assert where == "stages.ppo" and text == "data.a: plain text has no prompts to answer"


def test_no_prompt_is_kept_back(found: Any) -> None:
    where, text = one(found({"a": chats(19)}, asked({"length": 9})), "warnings")
    assert where == "stages.ppo" and "no prompt of a is kept back" in text


def test_a_block_that_was_asked_first_is_looked_at_all_the_same(found: Any) -> None:
    """Its rows are trained on by a later stage: what is wrong with them counts."""
    stages = asked({"length": 9}) | {"sft": {"blocks": ["a"]}}
    result = found({"a": [*chats(100), "{"]}, stages)
    assert "1 of 101 rows are refused" in one(result, "warnings")[1] and result.blocks["a"]["samples"] == 98


def test_text_and_chats_may_be_mixed(found: Any) -> None:
    texts = [{"text": f"A document with the number {n} and {n * 13}."} for n in range(30)]
    for stage in ("pretrain", "sft"):
        assert findings(found({"text": texts, "chat": chats(30)}, {stage: {"blocks": ["text", "chat"]}})) == []


PROBE = {"world": "general", "part": "probe", "count": 4, "metric": "generate", "side": "general"}
GENERAL = {"evaluation": {"probe": PROBE}}


def sft(**settings: Any) -> dict[str, Any]:
    return {"stage": "sft", "blocks": ["chat"], **settings}


def test_a_prefix_at_a_high_rate_is_warned_of(found: Any) -> None:
    fast = sft(method="ptuning", learning_rate=2e-2)
    where, text = one(found({"chat": chats(100)}, {"sft": fast}, **GENERAL), "warnings")
    assert where == "stages.sft" and "at 0.02 a prefix" in text
    assert findings(found({"chat": chats(100)}, {"sft": sft(method="ptuning")}, **GENERAL)) == []


def test_forgetting_by_a_prefix_must_be_measured(found: Any) -> None:
    assert "no general task" in one(found({"chat": chats(100)}, {"sft": sft(method="ptuning")}), "warnings")[1]


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ({"method": "expand"}, "no part for new layers"),
        ({"method": "ptuning", "ptuning": {"tokens": 8}}, "prefix of one, which has 4 tokens"),
        ({"method": "ptuning", "ptuning": {"tokens": 4, "projection": True}}, "which has 4 tokens"),
        ({"method": "ptuning", "ptuning": {"tokens": 4}}, None),
        ({"method": "ptuning", "ptuning": {"tokens": 8}, "from": "base"}, None),
        ({"method": "lora"}, None),
    ],
)
def test_what_begins_from_a_model_with_a_prefix(second: dict[str, Any], words: str | None, found: Any) -> None:
    """Also with a stage between the two."""
    stages = {"one": sft(method="ptuning", ptuning={"tokens": 4}), "between": sft(), "two": sft(**second)}
    result = found({"chat": chats(100)}, stages, **GENERAL)
    assert [finding.where for finding in result.errors] == (["stages.two"] if words else [])
    assert words is None or words in result.errors[0].text


@pytest.mark.parametrize(
    ("method", "trained"),
    [
        ({"method": "freeze"}, 2 * 754_176), ({"method": "ptuning", "ptuning": {"tokens": 4}}, 4 * 2048),
        ({"method": "heads", "heads": {"chosen": "0.1"}}, 4 * 64 * 256), ({"method": "heads"}, 4 * 4 * 64 * 256),
        ({"method": "expand"}, 754_176), ({"method": "lora", "lora": {"kind": "pissa"}}, 151_552),
    ],
)  # fmt: skip
def test_every_method_is_planned_from_the_configuration_alone(
    method: dict[str, Any], trained: int, found: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    settle = check.settle

    def spy(stage: Any, config: Any, parameters: int, trained: int, **more: Any) -> Any:
        seen.append(trained)
        return settle(stage, config, parameters, trained, **more)

    monkeypatch.setattr(check, "settle", spy)
    assert found({"chat": chats(100)}, {"sft": sft(**method)}, **GENERAL).errors == []
    assert seen == [trained]


def test_more_memory_than_there_is(found: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "available_memory", lambda device: 2**20)
    where, text = one(found({"chat": chats(30)}), "warnings")
    assert where == "stages.sft" and "needs about" in text


def test_leaked_items(found: Any, tmp_path: Path) -> None:
    items = [{"question": QUESTION, "A": "the Elm", "B": "the Oak", "C": "the Ash", "D": "the Yew", "answer": "A"}]
    (tmp_path / "exam.jsonl").write_text("\n".join(json.dumps(item) for item in items))
    exam = {"exam": {"path": str(tmp_path / "exam.jsonl"), "metric": "choice", "side": "domain"}}
    leaked = [*chats(30), {"instruction": QUESTION, "output": "the Elm"}]
    where, text = one(found({"chat": leaked}, evaluation=exam), "warnings")
    assert where == "evaluation.exam" and "stand in data.chat" in text and "four great rivers" in text
    assert findings(found({"chat": chats(30)}, evaluation=exam)) == []


def test_a_test_set_that_cannot_be_read(found: Any, tmp_path: Path) -> None:
    exam = {"exam": {"path": str(tmp_path / "void.jsonl"), "metric": "choice", "side": "domain"}}
    where, text = one(found({"chat": chats(30)}, evaluation=exam), "errors")
    assert where == "evaluation.exam" and "no such file" in text


def test_a_block_of_two_stages_is_reported_once(found: Any) -> None:
    stages = {"pretrain": {"blocks": ["chat"]}, "sft": {"blocks": ["chat"]}}
    assert "refused" in one(found({"chat": [*chats(30), "{"]}, stages), "warnings")[1]
