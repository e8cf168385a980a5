"""Files of records: appended, cut off by a kill, mended, refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from graftlm.core.errors import DataError
from graftlm.evaluation.arena.battles import Battle, Grade
from graftlm.evaluation.arena.record_log import RecordLog


def battle(number: int) -> Battle:
    return Battle(
        question_id=number, category="c", model_a="x", model_b="y", verdict="a", judge="j", order="both", first="a",
        second="tie",
    )  # fmt: skip


def test_what_is_appended_is_read(tmp_path: Path) -> None:
    log = RecordLog(tmp_path / "new" / "battles.jsonl", Battle)
    assert log.read() == []
    log.append([battle(1), battle(2)])
    RecordLog(log.path, Battle).append([battle(3)])
    assert log.read() == [battle(1), battle(2), battle(3)]
    assert log.path.read_text().count("\n") == 3


@pytest.mark.parametrize("kept", range(1, 150, 7))
def test_a_line_cut_anywhere_is_left_out_and_removed(tmp_path: Path, kept: int) -> None:
    log = RecordLog(tmp_path / "battles.jsonl", Battle)
    log.append([battle(1), battle(2)])
    whole = log.path.read_bytes()
    first = whole.index(b"\n") + 1
    log.path.write_bytes(whole[: min(first + kept, len(whole) - 2)])
    again = RecordLog(log.path, Battle)
    assert again.read() == [battle(1)]
    again.append([battle(2)])
    assert log.path.read_bytes() == whole


def test_a_last_line_without_its_end_is_a_record_if_it_is_whole(tmp_path: Path) -> None:
    log = RecordLog(tmp_path / "battles.jsonl", Battle)
    log.append([battle(1)])
    log.path.write_bytes(log.path.read_bytes().rstrip(b"\n"))
    again = RecordLog(log.path, Battle)
    assert again.read() == [battle(1)]
    again.append([battle(2)])
    assert again.read() == [battle(1), battle(2)]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"question_id": 1}', "`category`"),
        ("no json", "Invalid JSON"),
        (battle(1).model_dump_json().replace('"a"', '"c"', 1), "`verdict`"),
        (battle(1).model_dump_json().replace('"y"', '"x"'), "x fights itself"),
        (battle(1).model_dump_json().replace('"judge"', '"jugde"'), "`judge`"),
    ],
)
def test_a_line_that_is_no_battle_is_named(tmp_path: Path, line: str, reason: str) -> None:
    file = tmp_path / "battles.jsonl"
    file.write_text(f"{battle(0).model_dump_json()}\n{line}\n")
    with pytest.raises(DataError) as error:
        RecordLog(file, Battle).read()
    assert error.value.where == f"{file}:2" and reason in error.value.reason


def test_a_grade_is_none_where_there_is_none(tmp_path: Path) -> None:
    log = RecordLog(tmp_path / "grades.jsonl", Grade)
    grades = [Grade(question_id=1, category="c", model="x", grade=value, judge="j") for value in (7.5, None)]
    log.append(grades)
    assert log.read() == grades


WRITER = """
import sys
from pathlib import Path
from graftlm.evaluation.arena.battles import Battle
from graftlm.evaluation.arena.record_log import RecordLog

log = RecordLog(Path(sys.argv[1]), Battle)
number = len(log.read())
print("started", flush=True)
while True:
    battle = {"question_id": number, "category": "c" * 2000, "model_a": "x", "model_b": "y", "verdict": "a"}
    log.append([Battle(**battle, judge="j", order="ab")])
    number += 1
"""


def test_a_killed_writer_goes_on_without_a_gap(tmp_path: Path) -> None:
    file = tmp_path / "battles.jsonl"
    for _ in range(2):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(file)], stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": "src"}
        )
        assert writer.stdout is not None and writer.stdout.readline() == b"started\n"
        before = file.stat().st_size if file.exists() else 0
        while not file.exists() or file.stat().st_size < before + 20_000:
            assert writer.poll() is None
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
    found = RecordLog(file, Battle).read()
    assert [one.question_id for one in found] == list(range(len(found))) and len(found) > 10
