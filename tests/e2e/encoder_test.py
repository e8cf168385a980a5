"""Encoders from the command line: train, score, predict; bad rows are named and counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import pipeline

BASE = {
    "architecture": {
        "model_type": "bert", "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 1,
        "num_attention_heads": 4, "max_position_embeddings": 96, "initializer_range": 0.1,
    },
    "vocabulary": 500,
    "tokenizer_blocks": ["notes"],
}  # fmt: skip
TRAIN = {"stage": "encoder", "learning_rate": 3e-3, "row_tokens": 512, "max_tokens": 96}


EXAM = {"exam": {"world": "clinic", "part": "exam", "metric": "choice", "side": "domain"}}


def write(folder: Path, **parts: Any) -> Path:
    tree = {"name": "encoder", "offline": True, "device": "cpu", "output": str(folder / "out"), "base": BASE} | parts
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def run(nursery: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run: words, then classes and tags, from one small encoder."""
    folder = tmp_path_factory.mktemp("encoder")
    rows = [
        {"text": f"{word}，第{n}天", "label": kind}
        for n in range(60)
        for kind, word in (("heart", "心悸"), ("skin", "皮疹"))
    ]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    lines[5:5] = ['{"text": "", "label": "skin"}', '{"text": "no class"}', "{broken"]
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    recipe = write(
        folder,
        data={
            "notes": {"world": "clinic", "part": "ward_notes", "count": 300, "held_out": 0.1},
            "text": {"world": "clinic", "part": "documents", "count": 100, "held_out": 0.1},
            "rows": {"path": "rows.jsonl", "held_out": 0.2, "kind": "classified"},
        },
        stages={
            "words": TRAIN | {"task": "mlm", "blocks": ["text"], "epochs": 1},
            "classes": TRAIN | {"task": "classify", "blocks": ["rows"], "from": "words", "epochs": 8},
            "names": TRAIN | {"task": "tag", "blocks": ["notes"], "from": "words", "epochs": 8},
        },
    )
    done = nursery.run(folder, "run", recipe)
    assert done.code == 0, done.said
    (folder / "said.txt").write_text(done.said, encoding="utf-8")
    return folder


def receipt(run: Path, stage: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "out" / stage / "receipt.json").read_text(encoding="utf-8"))
    return found


def test_each_task_gets_better_on_rows_that_were_kept_back(run: Path) -> None:
    words, classes, names = (receipt(run, stage) for stage in ("01-words", "02-classes", "03-names"))
    assert words["figures"]["after high"] < words["figures"]["before low"]
    assert classes["figures"]["after"] > 0.95 and classes["figures"]["held out"] == 24
    assert classes["figures"]["commonest class"] == pytest.approx(0.5, abs=0.1)
    assert (
        names["figures"]["metric"] == "entity F1" and names["figures"]["after low"] > 0.5 > names["figures"]["before"]
    )
    assert classes["inputs"]["model"] == words["key"] and classes["held_out"][-1]["accuracy"] > 0.95


def test_bad_rows_are_named_and_counted(run: Path) -> None:
    said = (run / "said.txt").read_text(encoding="utf-8")
    assert "3 of 123 rows are refused" in said
    assert "rows.jsonl:6: text is empty" in said and "rows.jsonl:7:" in said and "rows.jsonl:8:" in said
    counts = receipt(run, "02-classes")["accounting"]["rows"]
    assert (counts["read"], counts["refused"], counts["samples"]) == (123, 3, 96)


def test_predictions_of_the_saved_folders(run: Path, nursery: Any) -> None:
    asked = run / "asked.jsonl"
    asked.write_text('{"text": "心悸，第3天"}\n{"text": ""}\n{"text": "皮疹，第70天"}\n', encoding="utf-8")
    folder = run / "out/02-classes/model"
    done = nursery.run(run, "predict", folder, asked, "--output", "told.jsonl")
    assert done.code == 0 and "2 of 3 rows, 1 refused" in done.out and "asked.jsonl:2: text is empty" in done.said
    told = [json.loads(line) for line in (run / "told.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(one["text"], one["label"]) for one in told] == [("心悸，第3天", "heart"), ("皮疹，第70天", "skin")]
    # transformers alone reads the folder and says the same.
    for one in told:
        [theirs] = pipeline("text-classification", model=str(folder))(one["text"])
        assert theirs["label"] == one["label"] and theirs["score"] == pytest.approx(one["probability"], abs=2e-4)


def test_predicted_names_stand_in_their_text(run: Path, nursery: Any) -> None:
    asked = run / "notes.jsonl"
    asked.write_text('{"text": "Patient Gubur came with Luwiven fever. There is dry cough."}\n', encoding="utf-8")
    done = nursery.run(run, "predict", run / "out", asked)  # a run folder: its last encoder that answers
    assert done.code == 0, done.said
    told = json.loads(done.out)
    assert told["entities"]
    assert all(told["text"][one["start"] : one["end"]] == one["text"] for one in told["entities"])


def test_a_masked_language_model_answers_nothing(run: Path, nursery: Any) -> None:
    done = nursery.run(run, "predict", run / "out/01-words/model", run / "rows.jsonl")
    assert done.code == 2 and "answers nothing by itself" in done.err and "Traceback" not in done.said


def test_options_are_learnt_and_chosen_in_any_order(nursery: Any, tmp_path: Path) -> None:
    colours = {"blood": "red", "grass": "green", "sky": "blue", "snow": "white"}
    names = list(colours.values())
    rows = []
    for n in range(160):
        thing = list(colours)[n % 4]
        options = names[n % 3 :] + names[: n % 3]
        rows.append(
            {"question": f"{n % 7} what colour is {thing}", "choices": options, "answer": options.index(colours[thing])}
        )
    words = [{"text": "yes no 0 1 2 3 4 5 6"}] * 30
    for name, lines in (
        ("rows", rows),
        ("words", words + [{"text": " ".join([row["question"], *row["choices"]])} for row in rows]),
    ):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    recipe = write(
        tmp_path,
        base=BASE | {"tokenizer_blocks": ["words"], "vocabulary": 310},
        data={"rows": {"path": "rows.jsonl", "held_out": 0.2}, "words": {"path": "words.jsonl"}},
        stages={"choose": TRAIN | {"task": "choice", "blocks": ["rows"], "epochs": 30}},
    )
    done = nursery.run(tmp_path, "run", recipe)
    assert done.code == 0, done.said
    found = json.loads((tmp_path / "out/01-choose/receipt.json").read_text())["figures"]
    assert found["after"] > 0.9 and found["held out"] == 32
    asked = tmp_path / "asked.jsonl"
    asked.write_text("\n".join(
        json.dumps({"question": "3 what colour is grass", "choices": order}) for order in (names, names[::-1], ["red"])
    ))  # fmt: skip
    done = nursery.run(tmp_path, "predict", "out", asked)
    first, second = map(json.loads, done.out.splitlines())
    assert first["answer"] == second["answer"] == "green" and first["probability"] == second["probability"]
    assert "asked.jsonl:3: fewer than two options" in done.said


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stages": {"x": TRAIN | {"task": "match", "blocks": ["notes"]}}}, "holds tagged rows"),
        ({"stages": {"x": TRAIN | {"task": "tag", "blocks": ["notes"], "method": "lora"}}}, "use method: full"),
        ({"stages": {"x": TRAIN | {"task": "name", "blocks": ["notes"]}}}, "'classify', 'match', 'tag'"),
        ({"base": "rootstock", "stages": {"x": TRAIN | {"task": "tag", "blocks": ["notes"]}}}, "no encoder"),
        ({"stages": {"x": TRAIN | {"task": "tag", "blocks": ["notes"]}}, "evaluation": EXAM}, "ask a language model"),
        ({"stages": {"y": {"stage": "sft", "blocks": ["notes"]}}}, "tagged rows"),
    ],
)
def test_what_cannot_be_trained_is_said(changes: dict[str, Any], words: str, nursery: Any, tmp_path: Path) -> None:
    notes = {"notes": {"world": "clinic", "part": "ward_notes", "count": 40}}
    done = nursery.run(tmp_path, "run", write(tmp_path, data=notes, **changes))
    assert done.code == 2 and words in done.said and "Traceback" not in done.said, done.said
