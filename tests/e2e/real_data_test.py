"""Recipes on real files: every row accounted for, finite losses, and text of the trained domain read better.

The files lie outside the repository (`../shared/data`, or where GRAFT_DATA points); licences are mixed.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("GRAFT_DATA", ROOT.parent / "shared" / "data"))
RECIPES = Path(__file__).parent / "recipes"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"no real data at {DATA}: set GRAFT_DATA")

SMALL = ("data.laws.limit=60", "data.medicine.limit=250", "data.general.limit=250", "data.pairs.limit=60")
FULL = (
    "stages.pretrain.tokens=300_000", "stages.sft.tokens=100_000", "stages.dpo.tokens=60_000",
    "evaluation.law-exam.limit=108", "evaluation.virus-exam.limit=169",
)  # fmt: skip


def filled_in(name: str, here: Path) -> Path:
    """The recipe with its folders, in `here`."""
    text = (RECIPES / name).read_text(encoding="utf-8")
    file = here / name
    file.write_text(text.replace("DATA/", f"{DATA.resolve()}/").replace("HERE/", f"{here}/"), encoding="utf-8")
    return file


def split_statutes(here: Path) -> None:
    """Every tenth statute is kept for the test; the others are copied file by file."""
    (here / "laws").mkdir()
    kept = []
    for number, file in enumerate(sorted((DATA / "pretrain/laws_zh").rglob("*.md"))):
        text = file.read_text(encoding="utf-8")
        if number % 10 == 9:
            kept.append(text)
        else:
            (here / "laws" / f"{number:03d}.md").write_text(text, encoding="utf-8")
    (here / "laws_heldout.txt").write_text("\n\n".join(text[:2000] for text in kept), encoding="utf-8")


def split_wikipedia(here: Path) -> None:
    file = DATA / "pretrain/wikitext2/wikitext2_train_5k.txt"
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if len(line) > 100]
    (here / "wiki.txt").write_text("\n\n".join(lines[:400]), encoding="utf-8")
    (here / "wiki_heldout.txt").write_text("\n\n".join(lines[-40:]), encoding="utf-8")


def split_plays(here: Path) -> None:
    text = (DATA / "pretrain/tinyshakespeare/input.txt").read_text(encoding="utf-8")
    edge = text.rindex("\n\n", 0, int(len(text) * 0.95))
    (here / "plays.txt").write_text(text[:edge], encoding="utf-8")
    (here / "plays_heldout.txt").write_text(text[edge:].strip(), encoding="utf-8")


def receipts(run: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text(encoding="utf-8")) for file in sorted(run.glob("0[1-9]-*/receipt.json"))]


def scores(run: Path, stage: str) -> dict[str, float]:
    results = json.loads((run / stage / "scores.json").read_text(encoding="utf-8"))["results"]
    return {result["name"]: result["value"] for result in results}


def nothing_is_lost(run: Path, read: dict[str, int]) -> None:
    """Every row that was read is refused, kept back, trained on, or dropped for its length."""
    checked = json.loads((run / "check.json").read_text(encoding="utf-8"))
    assert not checked["errors"]
    seen = set()
    for receipt in receipts(run):
        assert receipt["losses"] and all(math.isfinite(entry["loss"]) for entry in receipt["losses"])
        assert all(math.isfinite(entry["loss"]) for entry in receipt["held_out"])
        for name, counts in receipt["accounting"].items():
            block = checked["blocks"][name]
            assert counts["read"] == read[name]
            assert counts["read"] == counts["refused"] + block["kept back"] + counts["samples"]
            if name not in ("laws", "wiki", "plays"):  # a long text is several documents
                assert block["samples"] == counts["samples"] - counts["dropped"]
            seen.add(name)
    assert seen == set(read)


def run_real(here: Path, nursery: Any, *overrides: str) -> Path:
    split_statutes(here)
    split_wikipedia(here)
    done = nursery.run(here, "run", filled_in("real.yaml", here), "output=out", *overrides)
    assert done.code == 0, done.said
    run = here / "out"
    base, read = scores(run, "00-base"), scores(run, "01-pretrain")
    print(*(scores(run, stage) for stage in ("00-base", "01-pretrain", "02-sft", "03-dpo")), sep="\n")
    assert read["laws"] < 0.9 * base["laws"] and read["wiki"] < base["wiki"]
    assert receipts(run)[2]["losses"][0]["loss"] == pytest.approx(math.log(2), abs=1e-4)
    return run


def test_statutes_patients_and_preferences(tmp_path: Path, nursery: Any) -> None:
    run = run_real(tmp_path, nursery, *SMALL)
    nothing_is_lost(run, {"laws": 60, "wiki": 400, "medicine": 250, "general": 250, "pairs": 60})


@pytest.mark.slow
def test_statutes_patients_and_preferences_in_full(tmp_path: Path, nursery: Any) -> None:
    run = run_real(tmp_path, nursery, *FULL)
    statutes = len(list((tmp_path / "laws").iterdir()))
    nothing_is_lost(run, {"laws": statutes, "wiki": 400, "medicine": 1000, "general": 1000, "pairs": 500})
    sft = receipts(run)[1]
    assert sft["held_out"][-1]["loss"] < sft["held_out"][0]["loss"]


def test_stories_go_on_to_shakespeare(tmp_path: Path, nursery: Any) -> None:
    split_plays(tmp_path)
    done = nursery.run(tmp_path, "run", filled_in("stories.yaml", tmp_path), "output=out")
    assert done.code == 0, done.said
    run = tmp_path / "out"
    paragraphs = sum(1 for part in (tmp_path / "plays.txt").read_text().split("\n\n") if part.strip())
    nothing_is_lost(run, {"plays": paragraphs})
    before, after = scores(run, "00-base")["plays"], scores(run, "01-pretrain")["plays"]
    print(before, after)
    assert after < 0.85 * before
    said = nursery.run(tmp_path, "generate", run, "--raw", "ROMEO:", "--max-new-tokens", "40")
    assert said.code == 0, said.said
    assert len(said.out.split()) > 5
