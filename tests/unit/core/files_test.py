"""Files and folders are whole or absent, whatever kills the writer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from graftlm.core.errors import GraftError
from graftlm.core.files import (
    atomic_file,
    atomic_folder,
    cache_folder,
    read_json,
    remove_folder,
    write_json,
    write_text,
)

KILLED = """
import os, shutil, signal, sys
from pathlib import Path
from graftlm.core import files
target, moment = Path(sys.argv[1]), sys.argv[2]

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

if moment == "file":
    with files.atomic_file(target) as path:
        path.write_text("half")
        die()
real = shutil.rmtree
if moment == "replacing":  # while the old folder is being deleted
    def rmtree(path, *args, **kwargs):
        next(Path(path).iterdir()).unlink()
        die()
    files.shutil.rmtree = rmtree
with files.atomic_folder(target) as folder:
    (folder / "a").write_text("new")
    if moment == "writing":
        die()
    (folder / "b").write_text("new")
"""


def run_killed(target: Path, moment: str) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(target), moment], check=False)
    assert done.returncode == -signal.SIGKILL


def contents(folder: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in folder.iterdir()}


@pytest.mark.parametrize("old", [None, "old"])
def test_a_file_is_untouched_by_an_exception(tmp_path, old):
    target = tmp_path / "deep" / "file"
    if old:
        write_text(target, old)
    with pytest.raises(KeyError), atomic_file(target) as path:
        path.write_text("half")
        raise KeyError
    assert (target.read_text() if target.exists() else None) == old
    assert list(target.parent.iterdir()) == ([target] if old else [])


def test_a_file_is_replaced_whole(tmp_path):
    write_text(tmp_path / "f", "old")
    with atomic_file(tmp_path / "f") as path:
        path.write_text("new")
        assert (tmp_path / "f").read_text() == "old"
    assert (tmp_path / "f").read_text() == "new"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_file_is_untouched_by_a_kill(tmp_path):
    write_text(tmp_path / "f", "old")
    run_killed(tmp_path / "f", "file")
    assert (tmp_path / "f").read_text() == "old"
    run_killed(tmp_path / "g", "file")
    assert not (tmp_path / "g").exists()


def test_a_folder_is_untouched_by_an_exception(tmp_path):
    target = tmp_path / "folder"
    with atomic_folder(target) as folder:
        (folder / "a").write_text("old")
    with pytest.raises(KeyError), atomic_folder(target) as folder:
        (folder / "a").write_text("half")
        raise KeyError
    assert contents(target) == {"a": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("moment", ["writing", "replacing"])
def test_a_folder_is_whole_or_absent_after_a_kill_and_the_next_writer_cleans_up(tmp_path, moment):
    target = tmp_path / "a[1]"  # a name with a glob sign in it
    with atomic_folder(target) as folder:
        (folder / "a").write_text("old")
        (folder / "b").write_text("old")
    run_killed(target, moment)
    assert not target.exists() or set(contents(target).values()) == {"old"}
    assert target.exists() == (moment == "writing")
    assert len(list(tmp_path.iterdir())) == 2, "the kill left something beside it"
    with atomic_folder(target) as folder:
        (folder / "a").write_text("new")
    assert contents(target) == {"a": "new"}
    assert list(tmp_path.iterdir()) == [target]


def test_what_a_living_process_is_writing_stays(tmp_path):
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        theirs = tmp_path / f".folder.{other.pid}.part"
        theirs.mkdir()
        with atomic_folder(tmp_path / "folder") as folder:
            (folder / "a").write_text("ours")
        assert theirs.is_dir()
    finally:
        other.kill()
        other.wait()
    with atomic_folder(tmp_path / "folder"):
        pass
    assert not theirs.exists()


def test_remove_folder(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    remove_folder(tmp_path / "a")
    remove_folder(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_json(tmp_path):
    write_json(tmp_path / "v.json", {"中": [1, 2.5, None]})
    assert read_json(tmp_path / "v.json") == {"中": [1, 2.5, None]}
    assert "中" in (tmp_path / "v.json").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "nan.json", float("nan"))
    assert not (tmp_path / "nan.json").exists()


def test_json_errors_name_file_and_line(tmp_path):
    with pytest.raises(GraftError, match=r"absent\.json: .*does not exist"):
        read_json(tmp_path / "absent.json")
    (tmp_path / "bad.json").write_text('{\n "a": 1,\n oops\n}')
    with pytest.raises(GraftError, match=r"bad\.json:3: not valid JSON"):
        read_json(tmp_path / "bad.json")


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("GRAFT_CACHE")
    assert cache_folder() == Path(os.path.expanduser("~")) / ".cache" / "graft"  # noqa: PTH111
