"""Imports inside the package go strictly downward: a lower layer never imports a higher one or a sibling."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "graftlm"

LAYERS = {
    "core": 0,
    "ops": 1,
    "data": 2,
    "models": 2,
    "inference": 3,
    "training": 3,
    "objectives": 4,
    "evaluation": 5,
    "retrieval": 5,
    "alignment": 6,
    "recipes": 7,
    "serving": 7,
    "cli": 8,
    "__main__": 9,
}


def room_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported_rooms(source: str) -> set[str]:
    """Every `graftlm.<room>` that a module imports, wherever in the file the import stands."""
    rooms = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the layer: write the full name"
            base = node.module or ""
            names = [f"graftlm.{alias.name}" for alias in node.names] if base == "graftlm" else [base]
        else:
            continue
        rooms |= {name.split(".")[1] for name in names if name.startswith("graftlm.")}
    return rooms - {"__version__"}


def faults(room: str, source: str) -> list[str]:
    return [
        f"{room} (layer {LAYERS[room]}) imports {other} (layer {LAYERS[other]})"
        for other in sorted(imported_rooms(source))
        if other != room and LAYERS[other] >= LAYERS[room]
    ]


MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_downward(path: Path) -> None:
    assert faults(room_of(path), path.read_text(encoding="utf-8")) == []


def test_an_upward_import_is_caught() -> None:
    assert faults("data", "from graftlm.recipes.schema import Recipe")
    assert faults("data", "def late():\n    import graftlm.models.loading")
    assert faults("training", "from graftlm import inference")
    assert not faults("recipes", "from graftlm.data.samples import Chat")
