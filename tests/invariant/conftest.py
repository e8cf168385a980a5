"""Interrupting a run inside the process, as a kill would, but at a step of one's choice."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from graftlm.training.trainer import Trainer


class Killed(Exception):
    """Stands for SIGKILL; tests/e2e/kill_test.py sends the real one."""


@pytest.fixture
def fit_until() -> Callable[[Trainer, int], None]:
    """trainer, step → trains up to the end of this step and breaks off."""

    def fit(trainer: Trainer, step: int) -> None:
        def on_step(done: int) -> None:
            if done == step:
                raise Killed

        with pytest.raises(Killed):
            trainer.fit(on_step)

    return fit
