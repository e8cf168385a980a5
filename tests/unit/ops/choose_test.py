"""Which attention is chosen: by measuring, where there is a choice."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from graftlm.ops import choose
from graftlm.ops.choose import Choice, attention_kernel

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def forget() -> None:
    attention_kernel.cache_clear()


def test_on_a_cpu_there_is_one_kernel_and_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "milliseconds", lambda work: pytest.fail("was measured"))
    assert attention_kernel(CPU, 4, 2, 64) == Choice("by_length", {})
    assert str(attention_kernel(CPU, 4, 2, 64, 7)) == "by_length"


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Milliseconds of kernels, or None for those that fail → the choice among them, and how often it was measured."""
    calls: list[str] = []

    def choice(times: dict[str, float | None], **options: Any) -> tuple[Choice, list[str]]:
        monkeypatch.setattr(choose, "TOKENS", 64)
        monkeypatch.setattr(choose, "kernels_for", lambda device, D: list(times))
        monkeypatch.setattr(choose, "lay_out", lambda boundaries, tokens, longest, name: name)

        def milliseconds(work: Any) -> float:
            name = work.__defaults__[0]
            calls.append(name)
            if times[name] is None:
                raise NotImplementedError(name)
            return times[name]  # type: ignore[return-value]

        monkeypatch.setattr(choose, "milliseconds", milliseconds)
        return attention_kernel(CPU, 4, 2, 8, **options), calls

    return choice


def test_the_fastest_is_chosen_once(measured: Any) -> None:
    times = {"documents": 2.0, "varlen": 1.5, "by_length": 9.0}
    choice, calls = measured(times)
    assert choice == Choice("varlen", times)
    assert str(choice) == "varlen (documents 2.00 ms, varlen 1.50 ms, by_length 9.00 ms)"
    assert measured(times)[0] is choice and calls == list(times), "the second answer comes from memory"
    measured(times, window=5)
    assert len(calls) == 6, "another shape is measured anew"


def test_a_kernel_that_cannot_run_here_is_left_out_with_its_reason(measured: Any) -> None:
    choice, _ = measured({"documents": None, "by_length": 9.0})
    assert choice == Choice("by_length", {"by_length": 9.0}, {"documents": "documents"})
    assert str(choice) == "by_length (by_length 9.00 ms, documents failed: documents)", "the receipt says why"
