"""What the check says of encoders' rows and towers before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from graftlm.models.loading import save_model
from graftlm.models.scratch_encoder import new_encoder, train_wordpiece
from graftlm.recipes.check import check_recipe
from graftlm.recipes.findings import CheckResult
from graftlm.recipes.schema import Recipe

CLASSIFY = {"stage": "encoder", "task": "classify"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("base")
    tokenizer = train_wordpiece(["a b c"], 310, max_tokens=32)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    save_model(new_encoder({"model_type": "bert"} | sizes, tokenizer, 0), tokenizer, folder)
    return str(folder)


def check(base: str, folder: Path, rows: list[dict[str, Any]], **stage: Any) -> CheckResult:
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    tree = {
        "name": "x", "base": base, "device": "cpu", "data": {"rows": {"path": str(folder / "rows.jsonl")}},
        "stages": {"s": {"blocks": ["rows"]} | stage},
    }  # fmt: skip
    return check_recipe(Recipe.model_validate(tree), base)


def test_rare_classes_copies_and_refused_rows_are_said(base: str, tmp_path: Path) -> None:
    rows = [{"text": f"a {n % 10}", "label": "often"} for n in range(30)]
    found = check(base, tmp_path, [*rows, {"text": "b", "label": "rare"}, {"text": "", "label": "rare"}], **CLASSIFY)
    said = [(one.where, one.text) for one in found.warnings]
    assert not found.errors
    assert ("stages.s", "fewer than 5 rows of rare (1)") in said
    [refused] = [text for where, text in said if where == "data.rows" and "refused" in text]
    assert refused.startswith("1 of 32 rows are refused:") and refused.endswith("rows.jsonl:32: text is empty")
    assert any("no row is kept back" in text for _, text in said)  # 2 % of 31 are none
    assert found.blocks["rows"]["samples"] == 31 and found.blocks["rows"]["copies"] == "20/31"
    assert "template" not in [where for where, _ in said]  # an encoder does not talk


@pytest.mark.parametrize(
    ("rows", "stage", "words"),
    [
        ([{"text": "a", "label": "x"}], CLASSIFY | {"task": "match"}, "there is no second text to match"),
        ([{"text": "a", "label": "x"}], CLASSIFY | {"task": "tag"}, "no valid row"),
        ([{"question": "a", "answer": "x"}], CLASSIFY | {"task": "choice"}, "no options to choose from"),
        ([{"text": "a", "label": "x"}], CLASSIFY | {"model": "rootstock"}, "which is no encoder"),
        ([{"text": "a", "label": "x"}], {"stage": "image_text"}, "has no vision tower"),
    ],
)
def test_what_cannot_be_learnt_is_an_error(
    rows: list[dict[str, Any]], stage: dict[str, Any], words: str, base: str, tmp_path: Path
) -> None:
    found = check(base, tmp_path, rows * 3, **stage)
    assert any(words in one.text for one in found.errors), found.errors
