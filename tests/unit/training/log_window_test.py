"""The log's window: means a unit, one entry a window, and no loss that is not finite."""

from __future__ import annotations

import pytest
import torch

from graftlm.core.errors import TrainingError
from graftlm.training.log_window import LogWindow
from graftlm.training.objective import Loss


def step(*sums: float, norm: float = 1.0, units: int = 2) -> tuple[int, list[Loss], torch.Tensor]:
    """A step with a row for each sum; its metric is ten times the loss."""
    rows = [Loss(torch.tensor(total), 1, {"metric": torch.tensor(10 * total)}) for total in sums]
    return units, rows, torch.tensor(norm)


def test_an_entry_is_the_mean_a_unit() -> None:
    """Steps of 1 and 3 units: 1 + 2 + 9 over 4 units, not the mean of the steps' means."""
    window = LogWindow("a")
    window.add(*step(1.0, 2.0, norm=1.0, units=1))
    window.add(*step(9.0, norm=3.0, units=3))
    expected = {"step": 7, "loss": 3.0, "metric": 30.0, "gradient_norm": 2.0, "learning_rate": 0.5}
    assert window.entry(7, 0.5) == expected
    assert list(expected) == ["step", "loss", "metric", "gradient_norm", "learning_rate"]


def test_an_entry_ends_its_window() -> None:
    window = LogWindow("a")
    assert window.entry(1, 0.1) is None, "no step, no entry"
    window.add(*step(4.0))
    window.settle(1)
    window.add(*step(8.0))
    assert window.entry(2, 0.1) is not None and window.entry(2, 0.1) is None
    window.add(*step(6.0))
    entry = window.entry(3, 0.1)
    assert entry is not None and entry["loss"] == 3.0


def test_a_step_without_units_is_no_division_by_zero() -> None:
    window = LogWindow("a")
    window.add(*step(0.0, units=0))
    entry = window.entry(1, 0.1)
    assert entry is not None and entry["loss"] == 0.0


@pytest.mark.parametrize(("total", "norm"), [(float("nan"), 1.0), (float("inf"), 1.0), (1.0, float("nan"))])
def test_a_value_that_is_not_finite_is_an_error_with_the_step(total: float, norm: float) -> None:
    window = LogWindow("tuning")
    window.add(*step(total, norm=norm))
    with pytest.raises(TrainingError, match=r"tuning: .*not finite at or just before step 5(?s:.*)lower learning_rate"):
        window.settle(5)


def test_a_restored_window_goes_on_alike() -> None:
    whole, cut, resumed = LogWindow("a"), LogWindow("a"), LogWindow("a")
    for window in (whole, cut):
        window.add(*step(1.0, 3.0))
    cut.settle(1)
    resumed.restore(cut.state())
    for window in (whole, resumed):
        window.add(*step(5.0, units=1))
    assert whole.entry(2, 0.1) == resumed.entry(2, 0.1)
