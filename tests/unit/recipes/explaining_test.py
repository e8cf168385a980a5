"""`graft explain` tells the truth about the model, for a text in any script."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from graftlm.core.errors import GraftError
from graftlm.models import pico
from graftlm.models.loading import load_model, load_tokenizer
from graftlm.models.scratch import train_tokenizer
from graftlm.recipes.explaining import explain


def test_the_rootstock_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    explain(["The little dog ran to the"])
    said = capsys.readouterr().out
    model = load_model("rootstock", dtype=torch.float32, device=torch.device("cpu"))
    tokenizer = load_tokenizer("rootstock")
    tokens = [tokenizer.bos_token_id, *tokenizer.encode("The little dog ran to the", add_special_tokens=False)]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([tokens])).logits[0, -1]
    best = logits.topk(5).indices.tolist()
    shown = re.findall(r"^ +(\S+) +logit +(-?[\d.]+) +([\d.]+)%", said, re.MULTILINE)
    assert [piece for piece, _, _ in shown] == [tokenizer.decode([token]).replace(" ", "␣") for token in best]
    assert [float(logit) for _, logit, _ in shown] == pytest.approx(logits[best].tolist(), abs=0.006)
    assert [float(p) / 100 for _, _, p in shown] == pytest.approx(logits.softmax(-1)[best].tolist(), abs=6e-4)
    for words in ("Text becomes tokens", "Block 4 of 4", f"[4, {len(tokens)}, {len(tokens)}]", "head 4"):
        assert words in said


def test_weights_of_a_head_add_up(capsys: pytest.CaptureFixture[str]) -> None:
    explain(["The dog"])  # fewer tokens than a table shows
    table = capsys.readouterr().out.split("looks at")[1].split("   out")[0]
    rows = [[int(cell) for cell in re.findall(r"(\d+)%", line)] for line in table.splitlines()[1:]]
    sums = [sum(column) for column in zip(*(row for row in rows if row), strict=True)]
    assert len(sums) == 4
    assert all(97 <= total <= 103 for total in sums), sums


def test_every_block_can_be_shown_and_any_script_read(capsys: pytest.CaptureFixture[str]) -> None:
    explain(["小狗[bold]跑"], every_block=True)
    said = capsys.readouterr().out
    assert said.count("scores  ") == 4
    assert "小" in said
    assert "is a part of a character" in said
    explain(["小狗[bold]跑"])
    assert capsys.readouterr().out.count("scores  ") == 2


def test_a_gpt2_folder_says_what_the_numpy_one_computes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = train_tokenizer(["a b c d e f g " * 20], 280, max_tokens=32)
    torch.manual_seed(0)
    sizes = {"n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": 32, "initializer_range": 0.5}
    GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **sizes)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    explain([str(tmp_path), "a b c"])
    said = capsys.readouterr().out
    tokens = [tokenizer.bos_token_id, *tokenizer.encode("a b c", add_special_tokens=False)]
    logits = pico.forward(tokens, *pico.load(tmp_path))[-1]
    assert f"logit {logits.max():6.2f}" in said
    assert "q, k, v" in said


@pytest.mark.parametrize(
    ("words", "reason"),
    [(["a", "b", "c"], "a model and a text"), ([""], "empty"), (["word " * 1100], "do not fit the model's 1024 pos")],
)
def test_what_cannot_be_explained_is_said(words: list[str], reason: str) -> None:
    with pytest.raises(GraftError, match=reason):
        explain(words)
