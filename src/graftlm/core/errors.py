"""Errors that a user can mend. The command line prints them without a traceback and exits with code 2."""

from __future__ import annotations

from pathlib import Path


class GraftError(Exception):
    """A fault with its place, its reason and its fix.

    Args:
        reason: what is wrong, in one sentence.
        where: the file, `file:line`, or recipe key at fault.
        fix: what the user can do about it.
    """

    def __init__(self, reason: str, *, where: str | Path | None = None, fix: str | None = None) -> None:
        self.reason = reason
        self.where = str(where) if where is not None else None
        self.fix = fix
        super().__init__(str(self))

    def __str__(self) -> str:
        text = f"{self.where}: {self.reason}" if self.where else self.reason
        return f"{text}\n  fix: {self.fix}" if self.fix else text


class RecipeError(GraftError):
    """The recipe cannot be read, or asks for something that does not exist."""


class DataError(GraftError):
    """A data file, or a row of it, cannot be used."""


class ModelError(GraftError):
    """A model or tokenizer cannot be loaded or does not fit the work."""


class TrainingError(GraftError):
    """Training cannot go on (non-finite loss, no memory, a checkpoint of another run)."""
