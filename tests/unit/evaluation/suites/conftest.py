"""The data folder that shipped suites expect: real data linked together, or a few invented rows."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).parents[5] / "shared" / "data"


@pytest.fixture(scope="session")
def real_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """eval's folders, and beside them those of the shops and of the pairs."""
    if not (SHARED / "eval").is_dir():
        pytest.skip("real data is not there")
    root = tmp_path_factory.mktemp("data")
    tests = [one for one in (SHARED / "eval").iterdir() if one.is_dir()]
    for folder in [*tests, SHARED / "sft" / "ecomgpt", SHARED / "preference"]:
        (root / folder.name).symlink_to(folder, target_is_directory=True)
    return root
