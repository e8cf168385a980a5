"""The page is one file that loads nothing, shows what the board holds, and trusts no name; a browser drives it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from graftlm.evaluation.leaderboard.board import Board, build_board
from graftlm.evaluation.leaderboard.entries import Entry
from graftlm.evaluation.leaderboard.labels import remark_in_chinese
from graftlm.evaluation.leaderboard.page import render_page
from graftlm.evaluation.leaderboard.writing import billions, printable, short
from tests.unit.evaluation.leaderboard.conftest import HOSTILE, random_entries

Make = Callable[..., Entry]
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page(HTMLParser):
    """Tags with their attributes, the text, and the board's cells row by row."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.rows: list[list[dict[str, str | None]]] = []
        self.script = ""
        self._open = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        self._open = tag
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append(dict(attributes))

    def handle_data(self, data: str) -> None:
        if self._open == "script":
            self.script += data
        else:
            self.text.append(data)

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def board(make_entry: Make) -> Board:
    return build_board(random_entries(make_entry, 24))


def test_nothing_is_loaded_and_only_its_own_script_may_run(board: Board) -> None:
    html = render_page(board)
    page = Page(html)
    [policy] = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None and policy.startswith("default-src 'none'")
    digest = base64.b64encode(hashlib.sha256(page.script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert len(page.all("script")) == 1
    for tag, attributes in page.tags:
        assert tag not in ("link", "img", "iframe", "object", "base", "a")
        assert not {"src", "href", "style", "action"} & attributes.keys()
        assert not [name for name in attributes if name.startswith("on")]
    assert "url(" not in html and "@import" not in html
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", html)


def test_names_are_text_wherever_they_stand(board: Board) -> None:
    page = Page(render_page(board))
    text = "".join(page.text)
    for number, name in enumerate(HOSTILE):
        label = f"{name}-{number}"
        assert label in text
        assert any(cell.get("data-v") == label for row in page.rows for cell in row)
    assert "alert(1)" not in page.script
    assert "49" not in "".join(t for t in page.text if "{{" in t)  # {{ 7 * 7 }} is no template


def test_every_row_has_every_column_and_the_values(board: Board) -> None:
    page = Page(render_page(board))
    head, *rows = [row for row in page.rows if len(row) > 6]
    names = [cell["data-name"] for cell in head if "data-name" in cell]
    assert names == list(board.columns)
    assert len(rows) == len(board.rows)
    by_label = {row.label: row for row in board.rows}
    for cells in rows:
        assert len(cells) == len(head)
        row = by_label[str(cells[1]["data-v"])]
        for name, cell in zip(names, cells[2:], strict=False):
            kept = row.cells[str(name)]
            assert float(str(cell["data-v"])) == kept.value
            assert ("data-unranked" in cell) == (kept.places is None)


def test_the_table_can_be_read_out(board: Board) -> None:
    page = Page(render_page(board))
    head = next(row for row in page.rows if len(row) > 6)
    assert [cell["aria-sort"] for cell in head if "aria-sort" in cell] == ["descending"]
    assert all(cell["scope"] == "col" for cell in head)
    region = next(attributes for attributes in page.all("div") if attributes.get("role") == "region")
    assert region["tabindex"] == "0" and region["aria-labelledby"] in {a.get("id") for _, a in page.tags}
    assert {attributes.get("id") for attributes in page.all("input")} >= {"text"}
    labelled = [tag for tag, _ in page.tags if tag in ("label", "select", "input")]
    assert labelled.count("label") == len(page.all("select")) + len(page.all("input"))


def test_both_languages_stand_in_the_page(board: Board) -> None:
    page = Page(render_page(board))
    english = [a for a in page.all("span") if a.get("class") == "en"]
    chinese = [a for a in page.all("span") if a.get("class") == "zh"]
    assert len(english) == len(chinese) > 20
    assert sorted(str(a.get("lang")) for a in chinese) == ["en"] + ["zh"] * (len(chinese) - 1)  # the button: English


@pytest.mark.parametrize(("remark", "chinese"), [
    ("1 of 2 members", "缺项：2 项中有 1 项"), ("metric: acc_norm", "指标：acc_norm"), ("shots: 5", "示例数：5"),
    ("other items", "题目不同"), ("", ""), ("something else", "something else"),
])  # fmt: skip
def test_remarks_in_chinese(remark: str, chinese: str) -> None:
    assert remark_in_chinese(remark) == chinese


@pytest.mark.parametrize("count", [1, 2, 300])
def test_any_number_of_models(make_entry: Make, count: int) -> None:
    html = render_page(build_board(random_entries(make_entry, count)))
    assert html.count("<tr data-precision=") == count
    assert len(html) < 40_000 + count * 4_000


def test_names_and_numbers_in_a_terminal() -> None:
    assert printable("\x1b[31mred\x07 \u202eevil") == "�[31mred� �evil"
    assert short("a" * 100 + "-v2") == "a" * 24 + "…" + "a" * 20 + "-v2"
    assert short("llama-7b") == "llama-7b"
    assert [billions(n) for n in (None, 999, 135_000_000, 6_738_415_616, 70_600_000_000)] == [
        "", "999", "135M", "6.74B", "70.6B",
    ]  # fmt: skip


ACT = """<script>
window.addEventListener("load", () => {
  const table = document.getElementById("board"), told = {};
  const names = () => [...table.tBodies[0].rows].filter((r) => !r.hidden).map((r) => r.cells[1].dataset.v);
  const heads = [...table.tHead.rows[0].cells];
  const press = (name) => heads.find((head) => head.dataset.name === name).querySelector("button").click();
  const fill = (id, value) => {
    const field = document.getElementById(id);
    field.value = value;
    field.dispatchEvent(new Event("input"));
  };
  told.first = names();
  press("test-1"); told.falling = names();
  told.sort = heads.map((h) => h.getAttribute("aria-sort")).filter(Boolean);
  press("test-1"); told.rising = names();
  fill("text", "SCRIPT"); told.filtered = names(); told.status = document.getElementById("status").textContent;
  fill("text", ""); fill("precision", "int4"); told.int4 = names(); fill("precision", "");
  const boxes = [...table.querySelectorAll("input")].slice(0, 6);
  for (const box of boxes) { box.checked = true; box.dispatchEvent(new Event("change")); }
  told.chosen = boxes.filter((box) => box.checked).length;
  told.polygons = document.querySelectorAll("#radar polygon:not(.ring)").length;
  document.querySelector(".language").click();
  told.zh = [document.documentElement.lang, document.getElementById("status").textContent];
  told.ran = window.hacked === undefined;
  document.body.dataset.told = JSON.stringify(told);
});
</script>"""


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium")
def test_a_browser_sorts_filters_draws_and_translates(board: Board, tmp_path: Path) -> None:
    html = re.sub(r"<meta http-equiv=.Content-Security-Policy.*?>", "", render_page(board))
    file = tmp_path / "page.html"
    file.write_text(html.replace("</body>", f"{ACT}</body>"), encoding="utf-8")
    told = drive(file)
    column = board.columns["test-1"]
    values = {row.label: row.cells["test-1"].value for row in board.rows}
    assert told["first"] == [row.label for row in board.sorted_rows(next(iter(board.columns.values())))]
    assert column.higher_is_better and told["sort"] == ["descending"]
    falling = [values[name] for name in told["falling"]]
    assert falling == sorted(values.values(), reverse=True)
    assert [values[name] for name in told["rising"]] == falling[::-1]
    assert told["filtered"] and all("<script>" in name for name in told["filtered"])
    assert told["status"] == f"{len(told['filtered'])} of 24 models"
    assert set(told["int4"]) == {row.label for row in board.rows if row.precision == "int4"}
    assert (told["chosen"], told["polygons"]) == (5, 5)
    assert told["zh"] == ["zh", "24 个模型中的 24 个"]
    assert told["ran"]


def drive(file: Path) -> dict[str, Any]:
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--lang=en", "--virtual-time-budget=3000"]
    done = subprocess.run([*command, "--dump-dom", file.as_uri()], capture_output=True, text=True, timeout=120)
    body = next(attributes for tag, attributes in Page(done.stdout).tags if tag == "body")
    found: dict[str, Any] = json.loads(str(body["data-told"]))
    return found
