"""Every mistake a user can make ends in a message with place, reason and fix, and never in a traceback."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from graftlm.cli import main

GOOD = {"instruction": "What is the capital of Norway?", "output": "The capital of Norway is Oslo."}
Said = Callable[..., str]


@pytest.fixture
def graft_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Said:
    """Arguments, the expected exit code → all that `graft` printed."""
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.chdir(tmp_path)

    def run(*args: object, code: int) -> str:
        monkeypatch.setattr(sys, "argv", ["graft", *(str(arg) for arg in args)])
        ended = 0
        try:
            main()
        except SystemExit as stop:
            ended = int(stop.code or 0)
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        assert ended == code, out + err
        return out + err

    return run


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[..., Path]:
    """Rows of a data file, changes of the recipe → a recipe with one SFT stage on that file."""

    def write(rows: list[Any] | str | None = None, stage: dict[str, Any] | None = None, **changes: Any) -> Path:
        if rows is not None:
            text = (
                rows if isinstance(rows, str) else "\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows)
            )
            (tmp_path / "rows.jsonl").write_text(text, encoding="utf-8")
        tree: dict[str, Any] = {
            "name": "small",
            "base": "rootstock",
            "device": "cpu",
            "offline": True,
            "data": {"chat": {"path": "rows.jsonl"}},
            "stages": {"sft": {"blocks": ["chat"], "tokens": 300, "row_tokens": 128} | (stage or {})},
        }
        file = tmp_path / "recipe.yaml"
        file.write_text(yaml.safe_dump(tree | changes, sort_keys=False), encoding="utf-8")
        return file

    return write


def many(count: int) -> list[dict[str, str]]:
    """Different good rows."""
    return [{"instruction": f"What is {n} plus {n + 1}?", "output": f"It is {2 * n + 1}."} for n in range(count)]


# --- the recipe ---------------------------------------------------------------------------------------------------


def test_an_unknown_key_names_line_and_nearest_name(graft_says: Said, recipe: Any) -> None:
    file = recipe([GOOD], {"learning_rat": 1e-4})
    line = 1 + next(n for n, text in enumerate(file.read_text().splitlines()) if "learning_rat" in text)
    said = graft_says("check", file, code=2)
    assert f"{file}:{line}: unknown key `stages.sft.learning_rat`" in said
    assert "did you mean `learning_rate`?" in said
    assert "did you mean `evaluation`?" in graft_says("check", recipe([GOOD], evaluations={}), code=2)


def test_a_missing_recipe(graft_says: Said, recipe: Any, tmp_path: Path) -> None:
    recipe([GOOD])
    said = graft_says("run", "recipes.yaml", code=2)
    assert "recipes.yaml: no such recipe" in said and "did you mean recipe.yaml?" in said
    assert "check the path" in graft_says("run", tmp_path / "void" / "clinic.yaml", code=2)


@pytest.mark.parametrize("command", ["check", "run"])
def test_a_missing_data_file(command: str, graft_says: Said, recipe: Any, tmp_path: Path) -> None:
    said = graft_says(command, recipe(), code=2)
    assert f"{tmp_path / 'rows.jsonl'}: there is no such file or folder" in said and "fix: " in said
    assert "recipe.yaml" in said  # what the folder holds


def test_unknown_base(graft_says: Said, recipe: Any) -> None:
    said = graft_says("check", recipe([GOOD], base="./no/model"), code=2)
    assert "no such model" in said and "no/model" in said and "fix: " in said
    said = graft_says("check", recipe([GOOD], base="rootstok"), code=2)
    assert "rootstok: no such model" in said and "`rootstock`" in said


def test_unknown_stage(graft_says: Said, recipe: Any, tmp_path: Path) -> None:
    file = recipe([GOOD], stages={"sftt": {"blocks": ["chat"]}})
    said = graft_says("check", file, code=2)
    assert "there is no stage `sftt`" in said and "did you mean `sft`?" in said and f"{file}:" in said


def test_a_block_that_data_does_not_have(graft_says: Said, recipe: Any) -> None:
    said = graft_says("check", recipe([GOOD], {"blocks": ["chats"]}), code=2)
    assert "stages.sft.blocks names `chats`" in said and "it has: chat" in said


@pytest.mark.parametrize(
    ("key", "value"),
    [("tokens", "many"), ("row_tokens", 0), ("warmup", 2), ("blocks", {"chat": -1}), ("blocks", []), ("method", "lor")],
)
def test_a_value_of_the_wrong_type(key: str, value: Any, graft_says: Said, recipe: Any) -> None:
    said = graft_says("check", recipe([GOOD], {key: value}), code=2)
    assert f"stages.sft.{key}" in said and "recipe.yaml:" in said and "fix: " in said


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("seed", "is not key=value"),
        ("name.x=1", "`name` holds a value"),
        ("stages.sft.tokens=[", "not valid YAML"),
        ("stages.sft.tokns=5", "did you mean `tokens`?"),
        ("seed=x", "seed"),
        ("stages=5", "`stages` must be a mapping"),
        ("data=5", "data"),
        ("data.chat=5", "data.chat"),
        ("evaluation=[1]", "evaluation"),
    ],
)
def test_a_bad_override(override: str, reason: str, graft_says: Said, recipe: Any) -> None:
    assert reason in graft_says("check", recipe([GOOD]), override, code=2)


@pytest.mark.parametrize(
    "text", ["", "- 1\n", "a: [1\n", "name: x\n  base: y\n", "\tname: x\n", "name: x\nname: y\n", "stages: {sft: }\n"]
)
def test_a_recipe_that_is_no_recipe(text: str, graft_says: Said, tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    said = graft_says("check", file, code=2)
    assert "bad.yaml" in said and "fix: " in said


def test_a_recipe_in_another_encoding(graft_says: Said, recipe: Any) -> None:
    file = recipe([GOOD])
    file.write_bytes(file.read_text().replace("name: small", "# 医院的配方\nname: small").encode("gb18030"))
    said = graft_says("check", file, code=2)
    assert str(file) in said and "UTF-8" in said


# --- the data -----------------------------------------------------------------------------------------------------


def test_one_broken_row_is_named_and_the_rest_is_used(graft_says: Said, recipe: Any, tmp_path: Path) -> None:
    rows = [*many(30), '{"instruction": "broken', *many(3), {"instruction": "no answer", "output": ""}]
    file = recipe(rows)
    said = graft_says("check", file, code=0)
    assert "2 of 35 rows are refused" in said
    assert f"{tmp_path / 'rows.jsonl'}:31: broken JSON" in said and f"{tmp_path / 'rows.jsonl'}:35: " in said
    graft_says("run", file, "output=out", code=0)
    counts = json.loads((tmp_path / "out/01-sft/receipt.json").read_text())["accounting"]["chat"]
    assert (counts["read"], counts["refused"], counts["samples"]) == (35, 2, 33)


def test_all_rows_broken(graft_says: Said, recipe: Any, tmp_path: Path) -> None:
    file = recipe(['{"instruction": ', "[1, 2]", '"text"'])
    said = graft_says("check", file, code=2)
    assert "no valid row among 3" in said and f"{tmp_path / 'rows.jsonl'}:1: broken JSON" in said
    assert "nothing was trained" in graft_says("run", file, "output=out", code=2)
    assert not (tmp_path / "out/01-sft").exists()


def test_an_empty_file(graft_says: Said, recipe: Any) -> None:
    assert "the file is empty" in graft_says("check", recipe(""), code=2)


def test_an_unknown_world_or_part(graft_says: Said, recipe: Any) -> None:
    for source in ({"world": "clinc", "part": "exam"}, {"world": "clinic", "part": "exams", "count": 3}):
        said = graft_says("check", recipe(data={"chat": source}), code=2)
        assert "data.chat" in said and "did you mean" in said


def test_no_token_is_a_target(graft_says: Said, recipe: Any, tmp_path: Path) -> None:
    """Questions so long that no answer is left within the length limit."""
    rows = [{"instruction": f"{n} " + "why and how " * 100, "output": "So."} for n in range(30)]
    said = graft_says("check", recipe(rows, {"row_tokens": 64}), code=2)
    assert "data.chat: no sample is left to train on" in said and "fix: raise max_tokens" in said
    assert "30 samples have no answer left" in said


def test_answers_that_never_end(graft_says: Said, recipe: Any) -> None:
    """A length limit that cuts off every stop token would teach the model never to stop."""
    rows = [{"instruction": f"Say {n}", "output": "word and word " * 200} for n in range(30)]
    said = graft_says("check", recipe(rows, {"row_tokens": 64}), code=2)
    assert "only 0 of 30 answers end in a" in said and "stop token" in said and "fix: " in said


def test_overlong_rows_are_warned_about(graft_says: Said, recipe: Any) -> None:
    long = [{"instruction": f"Tell {n}", "output": "word and word " * 200} for n in range(10)]
    said = graft_says("check", recipe([*many(40), *long], {"row_tokens": 128}), code=0)
    assert "of the tokens are cut by the length limit (10 samples)" in said


def test_test_items_among_the_training_data(graft_says: Said, recipe: Any, tmp_path: Path) -> None:
    question = "Which of the four great rivers of the northern plain floods first in a spring after a hard winter?"
    items = [{"question": question, "A": "the Elm", "B": "the Oak", "C": "the Ash", "D": "the Yew", "answer": "A"}]
    (tmp_path / "exam.jsonl").write_text("\n".join(json.dumps(item) for item in items))
    exam = {"exam": {"path": "exam.jsonl", "metric": "choice", "side": "domain"}}
    leaked = [*many(30), {"instruction": question, "output": "the Elm"}]
    said = graft_says("check", recipe(leaked, evaluation=exam), code=0)
    assert "100.0% of the items stand in data.chat" in said and "four great rivers" in said
    assert "stand in data" not in graft_says("check", recipe(many(30), evaluation=exam), code=0)


def test_test_items_cannot_be_trained_on(graft_says: Said, recipe: Any) -> None:
    rows = [{"question": "1 + 1?", "A": "1", "B": "2", "C": "3", "D": "4", "answer": "B"}]
    assert "labelled rows" in graft_says("check", recipe(rows), code=2)


def test_a_stage_that_cannot_use_its_data(graft_says: Said, recipe: Any) -> None:
    """Said by the check, not after hours of the stages before."""
    stages = {"dpo": {"blocks": ["chat"], "row_tokens": 128}}
    said = graft_says("check", recipe(many(30), stages=stages), code=2)
    assert "stages.dpo" in said and "pairs" in said
    pairs = [{"prompt": f"What is {n}?", "chosen": f"It is {n}.", "rejected": "No."} for n in range(30)]
    said = graft_says("check", recipe(pairs), code=2)
    assert "stages.sft" in said and "preference rows" in said


def test_copies_are_counted(graft_says: Said, recipe: Any) -> None:
    assert "19 of 49 samples are exact copies" in graft_says("check", recipe([*many(30), *many(19)]), code=0)


def test_more_memory_than_there_is(graft_says: Said, recipe: Any) -> None:
    said = graft_says("check", recipe(many(30), {"row_tokens": 1_000_000_000}), code=0)
    assert "stages.sft: needs about" in said and "lower row_tokens" in said


# --- other commands -----------------------------------------------------------------------------------------------


def test_other_commands(graft_says: Said, tmp_path: Path) -> None:
    assert "give either a prompt or --input" in graft_says("generate", "rootstock", code=2)
    assert "no such model" in graft_says("generate", "./nothing", "hello", code=2)
    assert "--top-p" in graft_says("generate", "rootstock", "hello", "--top-p", "3", code=2)
    assert "no decoding preset" in graft_says("chat", "rootstock", "--preset", "hot", code=2)
    assert "unknown world" in graft_says("world", "clinc", code=2)
    assert "No such command" in graft_says("rum", code=2)
    assert "No such option" in graft_says("run", "x.yaml", "--fast", code=2)
    assert "fix: " in graft_says("report", tmp_path / "void", code=2)
    assert "there is no such file" in graft_says("generate", "rootstock", "--input", "void.txt", code=2)
