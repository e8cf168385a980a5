"""`offline: true` opens no internet socket: not the run, not a base that only the hub has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

WATCH = '''
"""Python runs this file before anything else: it writes down every try to reach another machine."""
import os, socket, sys

NET = (socket.AF_INET, socket.AF_INET6)

def note(event, args):
    if event == "socket.__new__":
        tried = args[1] in NET
    elif event in ("socket.connect", "socket.sendto", "socket.bind"):
        tried = args[0].family in NET
    else:
        tried = event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr")
    if tried:
        with open(os.environ["WATCHED"], "a") as file:
            file.write(f"{event} {args[1:]}\\n")

sys.addaudithook(note)
'''


@pytest.fixture
def watched(tmp_path: Path, graft: Callable[..., Any]) -> Callable[..., tuple[Any, str]]:
    """Arguments → how `graft` ended, and every internet socket it made, connect and look-up it tried."""
    (tmp_path / "watch").mkdir()
    (tmp_path / "watch/sitecustomize.py").write_text(WATCH, encoding="utf-8")
    log = tmp_path / "tries.txt"

    def run(*args: object) -> tuple[Any, str]:
        done = graft(tmp_path, *args, PYTHONPATH=str(tmp_path / "watch"), WATCHED=str(log))
        return done, log.read_text(encoding="utf-8") if log.exists() else ""

    return run


def test_a_run_opens_no_socket(tmp_path: Path, watched: Any, small_recipe: Any) -> None:
    sizes: dict[str, Any] = {"stages.pretrain.tokens": 800, "stages.dpo.tokens": 600, "evaluation.probe.count": 2}
    done, tries = watched("run", small_recipe(tmp_path, sizes, leave_out=("stages.sft",)), "output=out")
    assert done.code == 0, done.said
    assert tries == ""


def test_a_base_that_only_the_hub_has(tmp_path: Path, watched: Any, small_recipe: Any) -> None:
    done, tries = watched("run", small_recipe(tmp_path, {"base": "nobody/no-such-model-anywhere"}), "output=out")
    assert done.code == 2
    assert "nobody/no-such-model-anywhere" in done.err and "fix: " in done.err and "Traceback" not in done.said
    assert "local folder" in done.err
    assert tries == ""


def test_data_that_only_the_hub_has(tmp_path: Path, watched: Any, small_recipe: Any) -> None:
    data = {"data.clinic-chat": {"hub": "nobody/no-such-data-anywhere"}}
    done, tries = watched("check", small_recipe(tmp_path, data), "output=out")
    assert done.code == 2
    assert "nobody/no-such-data-anywhere" in done.said and "fix: " in done.said and "Traceback" not in done.said
    assert tries == ""


def test_the_watch_sees_a_try(tmp_path: Path) -> None:
    """A watch that saw nothing would prove nothing."""
    import os
    import subprocess
    import sys

    (tmp_path / "sitecustomize.py").write_text(WATCH, encoding="utf-8")
    code = "import socket; s = socket.socket(); s.connect_ex(('127.0.0.1', 9)); socket.getaddrinfo('127.0.0.1', 9)"
    env = os.environ | {"PYTHONPATH": str(tmp_path), "WATCHED": str(tmp_path / "tries.txt")}
    subprocess.run([sys.executable, "-c", code], env=env, check=True)
    tries = (tmp_path / "tries.txt").read_text()
    assert all(event in tries for event in ("socket.__new__", "socket.connect", "socket.getaddrinfo"))
