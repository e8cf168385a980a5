"""README's commands work as they stand there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"```bash\n(.*?)```", re.DOTALL)
COMMANDS = [
    line
    for block in FENCE.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    for line in block.strip().splitlines()
    if line.startswith("graft ")
]
QUICK = [line for line in COMMANDS if line.split()[1] in ("world", "check")]
# `make` and `pip` lines set the environment up, which is what runs this test. The training lines are shortened.
SHORT = [
    "stages.pretrain.tokens=3000",
    "stages.sft.tokens=2000",
    "data.clinic-pairs.count=20",
    "evaluation={probe: {world: general, part: probe, count: 8, metric: generate, side: general}}",
]


@pytest.fixture
def graft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Run one line of README in an empty folder that holds the shipped recipes."""
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")

    def run(line: str, *more: str) -> str:
        words = [sys.executable, "-m", "graftlm", *shlex.split(line)[1:], *more]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, input="", timeout=300)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    return run


def test_looking_and_checking(graft) -> None:  # type: ignore[no-untyped-def]
    assert len(QUICK) >= 3
    for line in QUICK:
        assert graft(line).strip(), line


@pytest.mark.slow
def test_every_command_in_order(graft) -> None:  # type: ignore[no-untyped-def]
    assert {line.split()[1] for line in COMMANDS} >= {"run", "check", "report", "chat", "generate", "world"}
    # The reader has run the demo before coming to the later lines.
    for line in ["graft run recipes/clinic.yaml", *COMMANDS]:
        said = graft(line, *(SHORT if line.split()[1] == "run" else []))
        assert said.strip(), line
