"""Using a model: decoding settings, which model of a run, answers to one prompt and to a file."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from graftlm.core.errors import GraftError
from graftlm.inference.decoding import PRESETS
from graftlm.recipes import talking
from graftlm.recipes.talking import Form, answer, answer_file, choose_decoding, newest_model, show_world, talk

GREEDY = choose_decoding(None, max_new_tokens=12)


def test_greedy_unless_something_is_chosen() -> None:
    assert choose_decoding(None).is_greedy and choose_decoding(None, seed=3, max_new_tokens=5).is_greedy
    assert choose_decoding(None, repetition_penalty=1.2).is_greedy
    for option in ({"temperature": 0.7}, {"top_p": 0.9}, {"top_k": 5}):
        assert not choose_decoding(None, **option).is_greedy
    assert choose_decoding(None, temperature=0.0).is_greedy
    assert choose_decoding("llama2", greedy=True).is_greedy and choose_decoding(None, greedy=True, top_p=0.9).is_greedy


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets(name: str) -> None:
    assert choose_decoding(name) == PRESETS[name]
    changed = choose_decoding(name, max_new_tokens=7, top_p=None)
    assert changed == PRESETS[name].model_copy(update={"max_new_tokens": 7})


@pytest.mark.parametrize(
    ("preset", "options", "where"),
    [
        ("hot", {}, "--preset"),
        (None, {"top_p": 0.0}, "--top-p"),
        (None, {"temperature": -1.0}, "--temperature"),
        (None, {"top_k": -1}, "--top-k"),
        ("llama2", {"max_new_tokens": 0}, "--max-new-tokens"),
        (None, {"repetition_penalty": 0.0}, "--repetition-penalty"),
    ],
)
def test_a_bad_setting_names_its_option(preset: str | None, options: dict[str, Any], where: str) -> None:
    with pytest.raises(GraftError) as error:
        choose_decoding(preset, **options)
    assert error.value.where == where and error.value.fix


def finish(run: Path, *stages: str) -> None:
    for stage in stages:
        (run / stage).mkdir(parents=True, exist_ok=True)
        (run / stage / "receipt.json").write_text("{}")


def test_the_newest_model_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("stages: {pretrain: {}, sft: {}, dpo: {}}\n")
    with pytest.raises(GraftError, match="no language model of this run is finished"):
        newest_model(str(tmp_path))
    finish(tmp_path, "01-pretrain", "02-sft")
    assert newest_model(str(tmp_path)) == str(tmp_path / "02-sft/model")
    finish(tmp_path, "03-dpo")
    assert newest_model(str(tmp_path)) == str(tmp_path / "03-dpo/model")
    (tmp_path / "03-dpo/receipt.json").write_text('{"kind": "reward"}')
    assert newest_model(str(tmp_path)) == str(tmp_path / "02-sft/model"), "a reward model has nothing to say"


def test_a_model_of_an_earlier_recipe_is_not_the_newest(tmp_path: Path) -> None:
    finish(tmp_path, "01-pretrain", "02-sft", "03-dpo")
    (tmp_path / "recipe.yaml").write_text("stages: {pretrain: {}, sft: {}}\n")
    assert newest_model(str(tmp_path)) == str(tmp_path / "02-sft/model")
    (tmp_path / "recipe.yaml").write_text("stages: {pretrain: {}, sft: {}, dpo: {}}\n")
    (tmp_path / "02-sft/receipt.json").unlink()  # killed while it was trained anew: dpo builds on the old one
    assert newest_model(str(tmp_path)) == str(tmp_path / "01-pretrain/model")


def test_what_is_no_run_stays(tmp_path: Path) -> None:
    assert newest_model("rootstock") == "rootstock" and newest_model("owner/name") == "owner/name"
    assert newest_model(str(tmp_path)) == str(tmp_path)


def test_prompts_of_a_file_are_answered_in_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = ["What is the capital of Norway?", "5 + 3 = ?", "世界上最大的海洋是什么？"]
    (tmp_path / "in.txt").write_text("\n\n".join(prompts) + "\n", encoding="utf-8")
    out = tmp_path / "deep" / "out.jsonl"
    answer_file("rootstock", tmp_path / "in.txt", out, GREEDY, "own", None, raw=False)
    assert "3 answers" in capsys.readouterr().out
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [row["prompt"] for row in rows] == prompts
    assert all(set(row) == {"prompt", "answer", "finish_reason"} and row["answer"] for row in rows)
    answer_file("rootstock", tmp_path / "in.txt", None, GREEDY, "own", None, raw=False)
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == rows
    answer("rootstock", prompts[0], GREEDY, "own", None, raw=False)
    assert capsys.readouterr().out == rows[0]["answer"] + "\n"  # streamed alone, the same


def test_columns_that_hold_a_prompt(tmp_path: Path) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text('{"question": "a"}\n{"instruction": "b", "output": "c"}\n', encoding="utf-8")
    assert talking._read_prompts(file) == ["a", "b"]
    for text, reason in (('{"x": 1}', "no prompt in this row"), ("{", "broken JSON"), ("", "empty")):
        file.write_text('{"prompt": "a"}\n' + text if text else "", encoding="utf-8")
        with pytest.raises(GraftError, match=reason) as error:
            talking._read_prompts(file)
        assert str(file) in str(error.value.where) and error.value.fix


def test_a_system_message_and_raw_text(capsys: pytest.CaptureFixture[str]) -> None:
    said = []
    for system, raw in ((None, False), ("Answer in one word.", False), (None, True)):
        answer("rootstock", "The capital of Norway", GREEDY, "own", system, raw=raw)
        said.append(capsys.readouterr().out)
    assert said[2] not in said[:2]


def test_a_stream_is_printed_as_it_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pieces = ["[bold]a[/bold]", " :smile:", "\n\tx = 1\n", "long " * 60, "终"]
    monkeypatch.setattr(talking, "stream", lambda *_, **__: iter(pieces))
    speaker = talking.load_speaker("rootstock", "own")
    capsys.readouterr()
    assert talking._print_stream(speaker, [talking.Turn("user", "x")], GREEDY) == "".join(pieces)
    assert capsys.readouterr().out == "".join(pieces) + "\n"


def test_a_talk_remembers_until_it_starts_over(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = []

    def reply(speaker: Any, turns: list[Any], decoding: Any) -> str:
        seen.append([turn.content for turn in turns])
        return "yes"

    monkeypatch.setattr(talking, "_print_stream", reply)
    monkeypatch.setattr("sys.stdin", io.StringIO("a\n\nb\n/new\nc\n/exit\nd\n"))
    talk("rootstock", GREEDY, "own", "Be kind.")
    assert seen == [["Be kind.", "a"], ["Be kind.", "a", "yes", "b"], ["Be kind.", "c"]]
    monkeypatch.setattr("sys.stdin", io.StringIO("a\n"))
    talk("rootstock", GREEDY, "own", None)  # the input's end ends it
    capsys.readouterr()


def test_a_world_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    show_world("clinic", None, 1)
    assert "consultations" in capsys.readouterr().out
    for part, mark in (("preferences", "better: "), ("exam", "choices: "), ("consultations", "user: ")):
        show_world("clinic", part, 2)
        assert capsys.readouterr().out.count(mark) >= 2


def test_an_answer_is_one_of_the_choices(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    choices = ("Oslo.", "Bergen.", "上海。")
    questions = ["What is the capital of Norway?", "5 + 3 = ?"]
    answer("rootstock", questions[0], GREEDY, "own", None, raw=False)
    assert capsys.readouterr().out.strip() not in choices
    for raw in (False, True):
        answer("rootstock", questions[0], GREEDY, "own", None, raw=raw, form=Form(choices=choices))
        assert capsys.readouterr().out.strip() in choices
    (tmp_path / "in.txt").write_text("\n".join(questions), encoding="utf-8")
    form = Form(choices=choices, draft=2)
    answer_file("rootstock", tmp_path / "in.txt", None, GREEDY, "own", None, raw=False, form=form)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 2 and all(row["answer"] in choices and row["finish_reason"] == "stop" for row in rows)


def test_an_answer_has_one_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(GraftError, match="one form"):
        Form(choices=("a",), regex="b")
    pytest.importorskip("llguidance")
    answer("rootstock", "5 + 3 = ?", GREEDY, "own", None, raw=False, form=Form(regex="[0-9]{2,3} mg"))
    assert re.fullmatch("[0-9]{2,3} mg\n", capsys.readouterr().out)
    (tmp_path / "schema.json").write_text('{"enum": ["yes", "no"]}')
    answer("rootstock", "Well?", GREEDY, "own", None, raw=False, form=Form(json_schema=tmp_path / "schema.json"))
    assert json.loads(capsys.readouterr().out) in ("yes", "no")


def test_an_answer_ends_before_a_stop_string(capsys: pytest.CaptureFixture[str]) -> None:
    answer("rootstock", "What is the capital of Norway?", GREEDY, "own", None, raw=False)
    whole = capsys.readouterr().out
    stop = whole[4:7]
    for draft in (0, 3):
        decoding = choose_decoding(None, stop=[stop])
        answer("rootstock", "What is the capital of Norway?", decoding, "own", None, raw=False, form=Form(draft=draft))
        assert capsys.readouterr().out.rstrip("\n") == whole.partition(stop)[0]
