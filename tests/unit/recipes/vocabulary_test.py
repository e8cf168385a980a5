"""graft vocab and the stage vocabulary: figures, advice, errors, and the tokenizer of the stages that follow."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoTokenizer

from graftlm.core.errors import DataError, GraftError, RecipeError
from graftlm.models.loading import load_model, load_tokenizer
from graftlm.recipes.check import check_recipe
from graftlm.recipes.loading import load_recipe
from graftlm.recipes.pipeline import run_stage
from graftlm.recipes.schema import Block, Recipe
from graftlm.recipes.stages.context import Grown
from graftlm.recipes.vocabulary import PART, extend_vocabulary, gather, vocabulary_settings
from graftlm.recipes.vocabulary_figures import LEAST_SAVING, Cost, Measured, TextFigures

RECIPES = Path(__file__).parents[3] / "recipes"

TREE: dict[str, Any] = {
    "name": "a",
    "base": "rootstock",
    "device": "cpu",
    "data": {"clinic": {"world": "clinic", "part": "documents", "count": 500}},
    "stages": {
        "words": {"stage": "vocabulary", "blocks": ["clinic"], "pieces": 40, "ascii": True},
        "pretrain": {"stage": "pretrain", "blocks": ["clinic"], "tokens": 600, "row_tokens": 256},
    },
}


def settings(**changes: Any) -> Any:
    options = {"pieces": 40, "source": None, "kind": "auto", "init": "mean", "ascii_pieces": True, "multiple": 1}
    return vocabulary_settings(**(options | changes))


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """Text of a ward, with words that the rootstock spells in parts."""
    lines = [f"Bed {n}: thrombophlebitis, echocardiogram {n}; electroencephalogram done.\n" for n in range(600)]
    file = tmp_path / "notes.txt"
    file.write_text("".join(lines), encoding="utf-8")
    return file


def test_the_command_writes_model_tokenizer_and_figures(notes: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    extend_vocabulary("rootstock", out, [notes], settings())
    said, figures = capsys.readouterr().out, json.loads((out / "vocabulary.json").read_text(encoding="utf-8"))
    old, new = load_tokenizer("rootstock"), load_tokenizer(str(out))
    model = load_model(str(out), dtype=torch.float32, device=torch.device("cpu"))
    assert model.get_input_embeddings().weight.shape[0] == len(new) == len(old) + figures["new pieces"]
    text = "Bed 7: thrombophlebitis"
    assert len(new(text)["input_ids"]) < len(old(text)["input_ids"])
    assert figures["largest change of an old logit"] == 0
    assert figures["tokens saved"] > 0.3 and "worth it" in said and "tokens saved" in said
    with pytest.raises(GraftError, match="exists"):
        extend_vocabulary("rootstock", out, [notes], settings())


def test_figures_against_a_count_by_hand(notes: Path, tmp_path: Path) -> None:
    extend_vocabulary("rootstock", tmp_path / "out", [notes], settings())
    figures = json.loads((tmp_path / "out/vocabulary.json").read_text(encoding="utf-8"))
    held_out = gather({"notes": Block(path=str(notes), held_out=0)}, {}).held_out
    for name, folder in (("before", "rootstock"), ("after", str(tmp_path / "out"))):
        tokens = sum(len(load_tokenizer(folder)(text, add_special_tokens=False)["input_ids"]) for text in held_out)
        shown = figures[f"tokens a character {name}"]
        assert shown == pytest.approx(tokens / sum(map(len, held_out)), abs=1e-4)
    # 3,072 tied rows of 256, and 40 more: they are the head, too.
    assert figures["parameters after"] - figures["parameters before"] == figures["new pieces"] * 256
    ratio = figures["parameters after"] / figures["parameters before"]
    assert figures["multiplications a token, over before"] == pytest.approx(ratio, abs=1e-4)


def test_held_out_text_is_not_learnt_from(notes: Path) -> None:
    material = gather({"notes": Block(path=str(notes), held_out=0)}, {})
    whole = notes.read_text(encoding="utf-8")
    assert sum(map(len, material.held_out + material.learnt_from)) == len(whole)
    assert not set(material.held_out) & set(material.learnt_from)
    assert len(material.held_out) == pytest.approx(len(whole) / PART / 10, abs=1)


def measured(**changes: Any) -> Measured:
    known: dict[str, Any] = {
        "pieces": 4,
        "domain": TextFigures(1.0, 0.5, 0.0),
        "general": TextFigures(1.0, 1.0, 1.0),
        "seen": [100, 100, 100, 0],
        "cost": Cost(100, 110, 80, 88, 20),
        "logit_change": 0.0,
    }
    return Measured(**(known | changes))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"domain": TextFigures(1.0, 1.01 - LEAST_SAVING, 0.0)}, "fewer tokens"),
        ({"cost": Cost(100, 200, 80, 160, 20)}, "multiplications"),
        ({"seen": [100, 49, 49, 0]}, "only 1 of 4"),
    ],
)
def test_advice(changes: dict[str, Any], reason: str | None) -> None:
    found = measured(**changes)
    if reason is None:
        assert found.advice.startswith("worth it") and found.text_cost == pytest.approx(0.55)
    else:
        assert found.advice.startswith("not worth it") and reason in found.advice


def test_the_next_stage_reads_with_the_new_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "cache"))
    recipe, device = Recipe.model_validate(TREE), torch.device("cpu")
    grown = {"base": Grown("rootstock", "base-key")}
    for name in recipe.stages:
        grown[name] = run_stage(recipe, name, tmp_path / name, grown, device)
    old, new = load_tokenizer("rootstock"), AutoTokenizer.from_pretrained(grown["pretrain"].where)
    assert len(new) > len(old) and new.chat_template == old.chat_template
    receipt = json.loads((tmp_path / "words/receipt.json").read_text(encoding="utf-8"))
    assert receipt["figures"]["new pieces"] == len(new) - len(old) and "worth it" in receipt["figures"]["advice"]
    table = load_model(grown["pretrain"].where, dtype=torch.float32, device=device).get_input_embeddings().weight
    start = load_model(grown["words"].where, dtype=torch.float32, device=device).get_input_embeddings().weight
    assert len(table) == len(new) and not torch.equal(table[len(old) :], start[len(old) :])  # new rows were trained


def test_errors_name_what_to_mend(tmp_path: Path) -> None:
    short = tmp_path / "short.txt"
    short.write_text("too short", encoding="utf-8")
    with pytest.raises(DataError, match="too little"):
        extend_vocabulary("rootstock", tmp_path / "out", [short], settings())
    with pytest.raises(GraftError, match="--kind"):
        settings(kind="wordpiece")
    with pytest.raises(GraftError, match="--pieces"):
        settings(pieces=0)


def test_check_says_that_the_sentencepiece_model_is_missing(tmp_path: Path) -> None:
    words = TREE["stages"]["words"] | {"sentencepiece": "./nowhere.model"}
    file = tmp_path / "a.yaml"
    file.write_text(yaml.safe_dump(TREE | {"stages": {"words": words}}), encoding="utf-8")
    found = check_recipe(load_recipe(file), "rootstock")
    assert any("no such file" in str(error) and str(tmp_path / "nowhere.model") in str(error) for error in found.errors)
    file.write_text(yaml.safe_dump(TREE | {"stages": {"words": words | {"general": ["typo"]}}}), encoding="utf-8")
    with pytest.raises(RecipeError, match="typo"):
        load_recipe(file)


def test_another_sentencepiece_model_makes_another_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "cache"))
    file = piece_model(tmp_path)
    words = TREE["stages"]["words"] | {"sentencepiece": str(file)}
    recipe = Recipe.model_validate(TREE | {"stages": {"words": words}})

    def grow() -> Grown:
        base = {"base": Grown("rootstock", "base-key")}
        return run_stage(recipe, "words", tmp_path / "words", base, torch.device("cpu"))

    first = grow()
    assert grow().key == first.key
    assert "Ġplaintiff" in load_tokenizer(first.where).get_vocab()
    file.write_bytes(file.read_bytes().replace(b"plaintiff", b"defendant"))
    assert grow().key != first.key


@pytest.mark.parametrize("name", ["vocabulary-billa", "vocabulary-chinese-llama"])
def test_the_shipped_recipes_pass_the_check_once_their_paths_exist(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the rootstock as base, short texts, and a SentencePiece model of a few pieces in their places."""
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "cache"))
    file = tmp_path / f"{name}.yaml"
    shutil.copy(RECIPES / file.name, file)
    for folder in ("chinese-text", "english-text", "translation", "chinese-held-out", "english-held-out"):
        (tmp_path / "data" / folder).mkdir(parents=True)
        for number in range(60):
            text = f"{folder} {number}: the court of {number * 7} said 人民法院第{number}号判决。\n"
            (tmp_path / "data" / folder / f"{number}.txt").write_text(text, encoding="utf-8")
    for chats in ("tasks-explained", "conversations", "instructions"):
        rows = [{"instruction": f"{n} + {n}?", "input": "", "output": f"It is {2 * n} ({chats})."} for n in range(60)]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"data/{chats}.jsonl").write_text(lines, encoding="utf-8")
    shutil.copy(piece_model(tmp_path), tmp_path / "data/chinese_sp.model")
    recipe = load_recipe(file, ["base=rootstock", "device=cpu"])
    assert not check_recipe(recipe, "rootstock").errors


def piece_model(folder: Path) -> Path:
    """A SentencePiece model of three pieces: field 1 holds pieces (1 text, 2 score, 3 kind), as in its .proto."""

    def piece(text: str, kind: int) -> bytes:
        name = text.encode()
        inner = b"\x0a" + bytes([len(name)]) + name + b"\x15" + struct.pack("<f", -1.0) + b"\x18" + bytes([kind])
        return b"\x0a" + bytes([len(inner)]) + inner

    file = folder / "few.model"
    file.write_bytes(piece("<unk>", 2) + piece("人民", 1) + piece("法院", 1) + piece("▁plaintiff", 1))
    return file
