"""Errors, hashes, random states and receipts."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from graftlm.core.errors import DataError, GraftError, ModelError, RecipeError, TrainingError
from graftlm.core.hashing import hash_file, hash_folder, hash_value
from graftlm.core.receipts import Receipt, versions
from graftlm.core.seeds import random_state, restore_random_state, seed_everything


def test_errors_say_where_what_and_what_to_do():
    error = DataError("no answer", where=Path("a.jsonl:3"), fix="add one")
    assert str(error) == "a.jsonl:3: no answer\n  fix: add one"
    assert (error.reason, error.where, error.fix) == ("no answer", "a.jsonl:3", "add one")
    assert str(GraftError("broken")) == "broken"
    assert str(GraftError("broken", fix="mend")) == "broken\n  fix: mend"
    assert all(issubclass(kind, GraftError) for kind in (RecipeError, DataError, ModelError, TrainingError))


def test_equal_values_have_one_hash_in_any_key_order():
    one = hash_value({"a": 1, "b": {"c": [1, 2], "d": "中"}})
    assert one == hash_value({"b": {"d": "中", "c": [1, 2]}, "a": 1})
    assert len(one) == 16
    assert int(one, 16) >= 0


@pytest.mark.parametrize(
    "other", [{"a": 1.5}, {"a": "1"}, {"a": [1]}, {"a": None}, {"b": 1}, {"a": True}, {}]
)
def test_other_values_have_another_hash(other):
    assert hash_value(other) != hash_value({"a": 1})


def test_a_hash_is_the_same_in_another_process():
    value = "{'a': [1, 'x', None], 'b': 2.5}"
    code = f"from graftlm.core.hashing import hash_value; print(hash_value({value}))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == hash_value({"b": 2.5, "a": [1, "x", None]})


@pytest.mark.parametrize("value", [{"a": {1, 2}}, object(), [lambda: 0]])
def test_values_without_a_stable_text_are_refused(value):
    with pytest.raises(TypeError, match="stably"):
        hash_value(value)
    assert hash_value(Path("a/b")) == hash_value("a/b")


def test_file_and_folder_hashes_see_names_and_bytes(tmp_path):
    (tmp_path / "d" / "e").mkdir(parents=True)
    file = tmp_path / "d" / "e" / "f"
    file.write_bytes(b"1")
    first = hash_file(file), hash_folder(tmp_path)
    file.write_bytes(b"2")
    second = hash_file(file), hash_folder(tmp_path)
    file.rename(file.with_name("g"))
    assert len({first[0], second[0]}) == 2
    assert len({first[1], second[1], hash_folder(tmp_path)}) == 3


def draws() -> list[float]:
    return [random.random(), random.gauss(0, 1), *torch.rand(3).tolist()]


def test_random_state_goes_back(tmp_path):
    seed_everything(3)
    random.gauss(0, 1)  # leaves a second value waiting inside the generator
    torch.save(random_state(), tmp_path / "state.pt")
    expected = draws()
    assert draws() != expected
    restore_random_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert draws() == expected


def test_seeds():
    seed_everything(1)
    one = draws()
    seed_everything(2)
    assert draws() != one
    seed_everything(1)
    assert draws() == one


def test_a_receipt_is_json_and_strict():
    fields = {"stage": "s", "kind": "sft", "key": "k", "seed": 0, "seconds": 1.5, "started": "now"}
    receipt = Receipt(**fields, versions=versions())
    assert Receipt.model_validate_json(receipt.model_dump_json()) == receipt
    assert receipt.versions["torch"] == torch.__version__
    with pytest.raises(ValidationError):
        Receipt(**fields, versions={}, unknown=1)
