"""Running the real command line in processes of its own, on recipes that take seconds."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

SINGLE = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "COLUMNS": "200", "NO_COLOR": "1"}

SMALL: dict[str, Any] = {
    "name": "small",
    "base": "rootstock",
    "offline": True,
    "device": "cpu",
    "data": {
        "general-text": {"world": "general", "part": "text", "count": 150, "start": 3_000_000},
        "clinic-text": {"world": "clinic", "part": "documents", "count": 150},
        "clinic-chat": {"world": "clinic", "part": "consultations", "count": 100},
        "clinic-pairs": {"world": "clinic", "part": "preferences", "count": 12, "held_out": 0},
    },
    "stages": {
        "pretrain": {
            "blocks": {"clinic-text": 0.6, "general-text": 0.4},
            "tokens": 6000, "learning_rate": 4e-4, "row_tokens": 256, "evaluate_every": 100,
        },
        "sft": {
            "blocks": ["clinic-chat"], "tokens": 3000, "learning_rate": 2e-4, "row_tokens": 256, "evaluate_every": 100,
        },
        "dpo": {"blocks": ["clinic-pairs"], "tokens": 1500, "learning_rate": 2e-5, "row_tokens": 256},
    },
    "evaluation": {
        "exam": {"world": "clinic", "part": "exam", "count": 6, "metric": "choice", "side": "domain"},
        "text": {
            "world": "clinic", "part": "documents_heldout", "count": 6, "metric": "bits_per_byte", "side": "domain",
        },
        "probe": {
            "world": "general", "part": "probe", "count": 4, "metric": "generate", "side": "general",
            "max_new_tokens": 8,
        },
    },
    "samples_in_report": 1,
}  # fmt: skip


@dataclass
class Finished:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        return self.out + self.err


@dataclass
class Running:
    """A command in a process of its own."""

    nursery: Nursery
    child: int
    out: Path
    err: Path
    code: int | None = None

    def kill(self) -> bool:
        """SIGKILL it; whether it still ran."""
        if self.ended(wait=False) is not None:
            return False
        os.kill(self.child, signal.SIGKILL)
        code = self.ended(wait=True)
        assert code in (0, -signal.SIGKILL), self.err.read_text()
        return code != 0

    def ended(self, *, wait: bool) -> int | None:
        """Its exit code, or None while it runs; a process can be asked for its end only once."""
        if self.code is None:
            self.code = self.nursery.ask({"child": self.child, "wait": wait})
        return self.code

    def wait(self) -> Finished:
        code = self.ended(wait=True)
        assert code is not None
        return Finished(code, self.out.read_text(encoding="utf-8"), self.err.read_text(encoding="utf-8"))


class Nursery:
    """Starts `graft` commands; see nursery.py."""

    def __init__(self, cache: Path) -> None:
        self.env = SINGLE | {"GRAFT_CACHE": str(cache)}
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("nursery.py"))],
            env=os.environ | self.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.answer() == "ready"

    def ask(self, what: dict[str, Any]) -> Any:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def answer(self) -> Any:
        assert self.process.stdout
        return json.loads(self.process.stdout.readline())

    def start(self, folder: Path, *args: object, **env: str) -> Running:
        out, err = folder / ".out", folder / ".err"
        asked = {"folder": str(folder), "out": str(out), "err": str(err), "env": env}
        return Running(self, self.ask(asked | {"args": [str(arg) for arg in args]}), out, err)

    def run(self, folder: Path, *args: object, **env: str) -> Finished:
        return self.start(folder, *args, **env).wait()

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(10)


@pytest.fixture(scope="session")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    made = Nursery(tmp_path_factory.mktemp("cache"))
    yield made
    made.close()


@pytest.fixture(scope="session")
def graft() -> Callable[..., Finished]:
    """folder, arguments → `python -m graftlm …`, exactly as a user starts it."""

    def run(folder: Path, *args: object, **env: str) -> Finished:
        done = subprocess.run(
            [sys.executable, "-m", "graftlm", *(str(arg) for arg in args)],
            cwd=folder,
            env=os.environ | SINGLE | {"GRAFT_CACHE": str(folder / "cache")} | env,
            capture_output=True,
            text=True,
            timeout=300,
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def small_recipe() -> Callable[..., Path]:
    """folder, changes as {"stages.sft.tokens": 100} → the recipe file of a run of a few seconds."""

    def write(folder: Path, changes: dict[str, Any] | None = None, *, leave_out: tuple[str, ...] = ()) -> Path:
        tree = deepcopy(SMALL)
        for key, value in (changes or {}).items():
            *parents, last = key.split(".")
            node = tree
            for parent in parents:
                node = node.setdefault(parent, {})
            node[last] = value
        for key in leave_out:
            *parents, last = key.split(".")
            node = tree
            for parent in parents:
                node = node[parent]
            del node[last]
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "recipe.yaml"
        file.write_text(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True), encoding="utf-8")
        return file

    return write


@pytest.fixture(scope="session")
def weights() -> Callable[[Path], dict[str, str]]:
    """run folder → hash of the weight files of every stage."""

    def read(run: Path) -> dict[str, str]:
        files = sorted(run.glob("*/model/**/*.safetensors"))
        return {str(file.relative_to(run)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}

    return read
