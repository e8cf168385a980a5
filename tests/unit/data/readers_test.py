"""Readers: every row is yielded or faulted, whatever the encoding and the damage."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from graftlm.core.errors import DataError
from graftlm.data.readers import Fault, Row, encodings, read_rows

CHINESE = "治疗高血压的药物，每日一次。"


def split_rows(path: Path, **options: object) -> tuple[list[Row], list[Fault]]:
    found = list(read_rows(path, **options))  # type: ignore[arg-type]
    return [r for r in found if isinstance(r, Row)], [f for f in found if isinstance(f, Fault)]


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "gb18030", "utf-32"]
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_text_encodings_and_line_breaks(tmp_path: Path, encoding: str, newline: str) -> None:
    text = f"{CHINESE}\nsecond line\n\n第三行 end"
    file = tmp_path / "a.txt"
    file.write_bytes(text.replace("\n", newline).encode(encoding))
    rows, faults = split_rows(file)
    assert [row.values["text"] for row in rows] == [text]
    assert faults == []


@pytest.mark.parametrize("encoding", ["utf-8", "gb18030", "utf-16"])
@pytest.mark.parametrize("head_bytes", [8, 1 << 20])
def test_jsonl_encodings_even_when_the_head_is_ascii(
    tmp_path: Path, encoding: str, head_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encodings, "HEAD_BYTES", head_bytes)
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in ("plain ascii first", CHINESE, "end")]
    file = tmp_path / "a.jsonl"
    file.write_bytes("\n".join(lines).encode(encoding))
    rows, faults = split_rows(file)
    assert [row.values["text"] for row in rows] == ["plain ascii first", CHINESE, "end"]
    assert faults == []


def test_western_bytes_are_a_fault_not_wrong_characters(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes("une journée très française, déjà vu à l'été".encode("cp1252"))
    rows, faults = split_rows(file)
    assert rows == [] and "encoding" in faults[0].reason
    rows, _ = split_rows(file, encoding="cp1252")
    assert rows[0].values["text"].startswith("une journée")


def test_split_of_text_files(tmp_path: Path) -> None:
    file = tmp_path / "a.md"
    file.write_text("one\ntwo\n\n\nthree\n  \nfour\n", encoding="utf-8")
    assert [(r.origin.line, r.values["text"]) for r in split_rows(file, split="paragraph")[0]] == [
        (1, "one\ntwo"), (5, "three"), (7, "four"),
    ]  # fmt: skip
    assert [r.values["text"] for r in split_rows(file, split="line")[0]] == ["one", "two", "three", "four"]
    assert split_rows(file)[0][0].values["text"] == "one\ntwo\n\n\nthree\n  \nfour"
    with pytest.raises(ValueError, match="split"):
        split_rows(file, split="word")


def test_bad_jsonl_lines_are_named_and_the_rest_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    good = [json.dumps({"text": f"{CHINESE}{i}"}, ensure_ascii=False).encode() for i in range(4)]
    lines = [good[0], b'{"text": "cut', good[1], b"", b"[1, 2]", b'"a string"', b"null", good[2],
             '{"text": "坏行"}'.encode("gb18030"), good[3]]  # fmt: skip
    file.write_bytes(b"\n".join(lines))
    rows, faults = split_rows(file)
    assert [row.origin.line for row in rows] == [1, 3, 8, 10]
    assert [fault.origin.line for fault in faults] == [2, 5, 6, 7, 9]
    assert [fault.reason.split(":")[0].split(" b")[0] for fault in faults] == [
        "broken JSON", "not an object", "not an object", "not an object", "wrong encoding",
    ]  # fmt: skip
    assert str(faults[0]).startswith(f"{file}:2: broken JSON")


def test_a_jsonl_line_may_be_a_list_of_messages(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    file.write_text(json.dumps(turns))
    assert split_rows(file)[0][0].values == {"messages": turns}


def test_jsonl_is_streamed(tmp_path: Path) -> None:
    """The second read of a huge file must not be needed for its first rows."""
    file = tmp_path / "a.jsonl"
    with file.open("w") as stream:
        for number in range(200_000):
            stream.write(f'{{"text": "row {number}"}}\n')
    rows: Iterator[Row | Fault] = read_rows(file)
    assert isinstance(next(rows), Row)
    file.write_bytes(b"")  # what was not read yet is gone
    assert sum(1 for _ in rows) < 100_000


@pytest.mark.parametrize(
    ("content", "texts", "reasons"),
    [
        ('[{"text": "a"}, {"text": "b"}]', ["a", "b"], []),
        ('{"version": 1, "data": [{"text": "a"}, {"text": "b"}]}', ["a", "b"], []),
        ('{"text": "one object"}', ["one object"], []),
        ('{"text": "a"}\n{"text": "b"}\n', ["a", "b"], []),
        ('{"text": "a"}\n{"text": \n{"text": "c"}', ["a", "c"], ["broken JSON"]),
        ('[{"text": "a"}, 5, {"text": "b"}]', ["a", "b"], ["not an object"]),
        ('[{"text": "a"}, {"text": "b"', ["a"], ["broken JSON"]),
        ('[{"text": "a"} {"text": "b"}]', ["a"], ["broken JSON"]),
        ("[]", [], ["empty"]),
        ("", [], ["empty"]),
        ("{nonsense", [], ["broken JSON"]),
    ],
)
def test_json_forms(tmp_path: Path, content: str, texts: list[str], reasons: list[str]) -> None:
    file = tmp_path / "a.json"
    file.write_text(content)
    rows, faults = split_rows(file)
    assert [row.values["text"] for row in rows] == texts
    assert len(faults) == len(reasons)
    assert all(reason in fault.reason for reason, fault in zip(reasons, faults, strict=True))


def test_one_conversation_in_a_json_file_is_one_row(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    record = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    file.write_text(json.dumps(record))
    assert [row.values for row in split_rows(file)[0]] == [record]


def test_csv_rows(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(
        b"question,answer,question\n"
        + b'a,"two\nlines, ""quoted""",x\n\n'
        + b"too,few\n"
        + f"{CHINESE},b,y\n".encode()
        + "坏,行,z\n".encode("gb18030")
        + b"last,c,w\n"
    )
    rows, faults = split_rows(file)
    assert [row.values for row in rows] == [
        {"question": "a", "answer": 'two\nlines, "quoted"', "question.2": "x"},
        {"question": CHINESE, "answer": "b", "question.2": "y"},
        {"question": "last", "answer": "c", "question.2": "w"},
    ]
    assert [row.origin.line for row in rows] == [1, 3, 5]
    assert [fault.origin.line for fault in faults] == [2, 4]
    assert "2 fields where the header has 3" in faults[0].reason and "encoding" in faults[1].reason


def test_tsv_and_headerless_mmlu(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text('text\tmark\nhe said, ok\t1\n"x"\t2\n')
    assert [r.values["text"] for r in split_rows(tmp_path / "a.tsv")[0]] == ["he said, ok", "x"]
    (tmp_path / "b.csv").write_text("What is 1+1?,1,2,3,4,B\nAnd 2+2?,1,2,3,4,D\n")
    rows, _ = split_rows(tmp_path / "b.csv")
    assert rows[0].values == {
        "question": "What is 1+1?",
        "A": "1",
        "B": "2",
        "C": "3",
        "D": "4",
        "answer": "B",
    }
    assert len(rows) == 2


def test_parquet_and_gzip(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": ["a", "b"], "n": [1, 2]}), tmp_path / "a.parquet")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b'{"text": "c"}\n{"text": "d"}\n'))
    (tmp_path / "c.parquet.gz").write_bytes(gzip.compress((tmp_path / "a.parquet").read_bytes()))
    rows, faults = split_rows(tmp_path)
    assert [row.values["text"] for row in rows] == ["a", "b", "c", "d", "a", "b"]
    assert faults == []
    (tmp_path / "a.parquet").write_bytes(b"PAR1 nonsense")
    blob = gzip.compress("\n".join(f'{{"text": "{i}"}}' for i in range(50_000)).encode())
    (tmp_path / "b.jsonl.gz").write_bytes(blob[: len(blob) // 2])
    _, faults = split_rows(tmp_path)
    assert ["parquet" in faults[0].reason, "damaged" in faults[1].reason] == [True, True]


def test_folders_recurse_sorted_and_name_what_they_cannot_read(tmp_path: Path) -> None:
    for name in ("b/2.jsonl", "b/10.jsonl", "a.jsonl", ".hidden/x.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps({"text": name}))
    (tmp_path / "c.pdf").write_bytes(b"%PDF")
    (tmp_path / "d.txt").write_bytes(b"")
    rows, faults = split_rows(tmp_path)
    assert [row.values["text"] for row in rows] == ["a.jsonl", "b/10.jsonl", "b/2.jsonl"]
    assert [(Path(f.origin.path).name, f.origin.line) for f in faults] == [("c.pdf", 0), ("d.txt", 0)]
    globbed, _ = split_rows(tmp_path / "b" / "*.jsonl")
    assert len(globbed) == 2


def test_missing_paths_raise_with_a_fix(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("{}")
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "trian.jsonl", tmp_path / "*.csv", tmp_path / "empty"):
        with pytest.raises(DataError) as caught:
            list(read_rows(path))
        assert caught.value.fix
    with pytest.raises(DataError, match=r"train\.jsonl"):
        list(read_rows(tmp_path / "trian.jsonl"))


def test_hub_reads_saved_sets_and_says_how_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    one = datasets.Dataset.from_list([{"text": "a"}, {"text": "b"}])
    one.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": one, "test": one.select([1])}).save_to_disk(str(tmp_path / "both"))
    for path, texts in (
        (str(tmp_path / "one"), ["a", "b"]),
        (f"hub:{tmp_path / 'one'}", ["a", "b"]),
        (f"hub:{tmp_path / 'both'}", ["a", "b"]),
        (f"hub:{tmp_path / 'both'}:test", ["b"]),
    ):
        assert [row.values["text"] for row in read_rows(path) if isinstance(row, Row)] == texts
    with pytest.raises(DataError, match="train, test"):
        list(read_rows(f"hub:{tmp_path / 'both'}:dev"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match="pip install"):
        list(read_rows("hub:owner/name"))
