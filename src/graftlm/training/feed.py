"""Where the rows of each step come from: a plan made before the run, or answers that the model writes in it."""

from __future__ import annotations

from typing import Any, Protocol

from graftlm.data.packing import PackedBatch


class Feed(Protocol):
    """Rows for a trainer, step by step. `PackingPlan` is one; rollouts are another."""

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""

    def batches(self, step: int, *, pad: bool) -> list[PackedBatch]:
        """The rows of a step, in host memory; none when there is nothing to learn in it.

        Raises:
            StopTraining: training ends here.
        """

    def state(self) -> dict[str, Any]:
        """What a checkpoint has to remember beside the number of the next step: tensors and plain values."""

    def restore(self, state: dict[str, Any]) -> None: ...


class StopTraining(Exception):
    """Training is to end before its last step, in good order; the message is the reason."""
