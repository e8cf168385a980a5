"""Python's garbage collector, held back while steps run."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

EVERY = 500
"""Steps between collections. nanochat saw pauses of about 500 ms when Python collects when it likes; over several
processes each pause stops all of them, at another moment each."""


class Collector:
    """Collects at fixed steps, the same in all processes; what the first step left is taken out of its sight."""

    def __init__(self) -> None:
        self._steps = 0

    def step(self) -> None:
        """Call after each step."""
        if self._steps == 0:
            gc.collect()
            gc.freeze()  # model, optimizer and compiled code: hundreds of thousands of objects that stay
            gc.disable()
        elif self._steps % EVERY == 0:
            gc.collect()
        self._steps += 1


@contextmanager
def collected_by_step() -> Iterator[Collector]:
    """Inside the block garbage is collected by `Collector.step` only; after it as before."""
    enabled = gc.isenabled()
    try:
        yield Collector()
    finally:
        gc.unfreeze()
        if enabled:
            gc.enable()
