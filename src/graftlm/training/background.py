"""One job at a time beside the loop, on a thread that never keeps a process alive."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch


class Background:
    """Starts a job and hands its result, or its error, to whoever asks.

    The thread is a daemon: where one of several processes fails, its jobs may wait for the others for ever, and it has
    to end all the same.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._value: Any = None
        self._error: BaseException | None = None

    @property
    def busy(self) -> bool:
        """Whether a job was started whose result nobody has taken."""
        return self._thread is not None

    def start(self, job: Callable[[], Any]) -> None:
        assert self._thread is None, "the last job's result was not taken"
        gpu = torch.cuda.current_device() if torch.cuda.is_initialized() else None
        self._thread = threading.Thread(target=self._run, args=(job, gpu), daemon=True)
        self._thread.start()

    def result(self) -> Any:
        """Wait for the job; its value. Raises what the job raised."""
        assert self._thread is not None, "no job was started"
        self._thread.join()
        value, error = self._value, self._error
        self._thread = self._value = self._error = None
        if error is not None:
            raise error
        return value

    def abandon(self, patience: float | None) -> None:
        """Wait at most so many seconds (None: for as long as it takes), and forget the job, its value and its error."""
        if self._thread is not None:
            self._thread.join(patience)
        self._thread = self._value = self._error = None

    def _run(self, job: Callable[[], Any], gpu: int | None) -> None:
        try:
            if gpu is not None:  # a new thread is on GPU 0, and pinning memory there takes 500 MB of it
                torch.cuda.set_device(gpu)
            self._value = job()
        except BaseException as error:
            self._error = error
