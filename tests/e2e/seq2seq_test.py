"""An encoder–decoder from a recipe to its answers: gap sentences, then summaries of one's own rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from graftlm.core.errors import ModelError, RecipeError
from graftlm.core.files import read_json
from graftlm.inference.decoding import PRESETS
from graftlm.recipes.loading import load_recipe
from graftlm.recipes.pipeline import run_recipe
from graftlm.recipes.talking import answer_file, load_speaker

RECIPE = """
name: pairs
base:
  architecture: {model_type: t5, d_model: 32, d_kv: 16, d_ff: 64, num_layers: 1, num_heads: 2}
  vocabulary: 400
  tokenizer_blocks: [rows]
offline: true
data:
  texts: {world: general, part: text, count: 60}
  rows: {path: rows.jsonl, columns: {instruction: text, output: summary}, held_out: 0.2}
stages:
  gaps: {stage: seq2seq, task: gap_sentences, blocks: [texts], tokens: 3000, row_tokens: 256, max_target: 48}
  summaries:
    {stage: seq2seq, from: gaps, blocks: [rows], epochs: 30, learning_rate: 1.e-2, row_tokens: 256, max_target: 16}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    colours = ["red", "green", "blue", "black"]
    rows = [
        {"text": f"The {thing} in the hall was painted {colour} by somebody.", "summary": colour}
        for thing in ("door", "chair", "table", "lamp", "wall", "floor", "shelf", "desk", "stool", "gate")
        for colour in colours
    ]
    lines = [json.dumps(row) for row in rows] + ['{"text": "nothing follows", "summary": ""}']
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "recipe.yaml").write_text(RECIPE)
    return run_recipe(load_recipe(folder / "recipe.yaml", [f"output={folder / 'out'}"]))


def test_summaries_are_learnt_and_the_receipt_says_how_well(run: Path) -> None:
    receipt = read_json(run / "02-summaries" / "receipt.json")
    figures = receipt["figures"]
    assert figures["ROUGE-1 after"] > figures["ROUGE-1 before"] + 0.5
    assert figures["ROUGE-1 low"] <= figures["ROUGE-1 after"] <= figures["ROUGE-1 high"]
    assert receipt["accounting"]["rows"]["refused"] == 1
    assert read_json(run / "01-gaps" / "receipt.json")["figures"]["held out"] > 0


def test_a_file_is_answered(run: Path, tmp_path: Path) -> None:
    source, output = tmp_path / "ask.txt", tmp_path / "told.jsonl"
    pairs = (("door", "blue"), ("lamp", "red"))
    lines = [f"The {thing} in the hall was painted {colour} by somebody." for thing, colour in pairs]
    source.write_text("\n".join(lines))
    answer_file(str(run), source, output, PRESETS["greedy"], "own", None, raw=False)
    told = [json.loads(line)["answer"] for line in output.read_text().splitlines()]
    assert told == ["blue", "red"]


def test_it_does_not_chat(run: Path) -> None:
    with pytest.raises(ModelError, match="does not chat"):
        load_speaker(str(run), "own")


def test_a_language_model_is_no_start(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"instruction": "a", "output": "b"}\n' * 4)
    text = "name: x\nbase: rootstock\ndata: {rows: {path: rows.jsonl}}\nstages: {s: {stage: seq2seq, blocks: [rows]}}\n"
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(RecipeError, match="1 error"):
        run_recipe(load_recipe(tmp_path / "recipe.yaml", [f"output={tmp_path / 'out'}"]))
