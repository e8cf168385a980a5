"""A table of how far every family's logits are from an independent implementation's, printed after the tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

BOUND = 1e-4
"""Largest difference of a logit in fp32 where logits are of size 5: rounding gives 1e-6 to 1e-5."""


@dataclass
class ParityTable:
    rows: list[tuple[str, str, str, str]] = field(default_factory=list)

    def __call__(self, family: str, against: str, error: float, scale: float, *, bound: float = BOUND) -> None:
        """Note and check a family's largest difference.

        Args:
            against: what it is compared with.
            scale: the largest logit; below 1 a difference could hide.
        """
        self.rows.append((family, against, f"{error:.1e}", f"{scale:.1f}"))
        assert scale > 1, f"{family}: logits of at most {scale:.2g} prove nothing"
        assert error <= bound, f"{family} is {error:.1e} away from {against}"

    def differs(self, family: str, change: str, error: float, *, at_least: float = 10 * BOUND) -> None:
        """Note and check that a change to the model shows: a comparison that misses it proves nothing."""
        self.rows.append((family, f"must differ: {change}", f"{error:.1e}", ""))
        assert error >= at_least, f"{family} with {change} differs by {error:.1e} only"


TABLE = pytest.StashKey[ParityTable]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[TABLE] = ParityTable()


@pytest.fixture
def parity(request: pytest.FixtureRequest) -> ParityTable:
    table: ParityTable = request.config.stash[TABLE]
    return table


CORPUS = [
    "The patient has had a fever and a dry cough for three days.",
    "Take two tablets twice a day after meals; come back if it does not get better.",
    "philosophy asks what is; medicine asks what helps.",
    "高血压患者应当控制饮食，定期复查血压。",
    "问：感冒了怎么办？答：多喝水，多休息。",
    "The court finds for the plaintiff. 法院支持原告的诉讼请求。",
]


@pytest.fixture
def train_sentencepiece(tmp_path: Path) -> Callable[..., Path]:
    """A small BPE `tokenizer.model` with byte fallback; options go to sentencepiece's trainer."""
    sentencepiece = pytest.importorskip("sentencepiece")

    def train(file: Path, **options: object) -> Path:
        settings = {"vocab_size": 420, "model_type": "bpe", "byte_fallback": True, "hard_vocab_limit": False}
        settings |= {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
        settings |= {"character_coverage": 0.99, "minloglevel": 2} | options
        prefix = tmp_path / "sentencepiece"
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(CORPUS * 20), model_prefix=str(prefix), **settings
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        prefix.with_suffix(".model").rename(file)
        return file

    return train


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    rows = config.stash[TABLE].rows
    if not rows:
        return
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    terminalreporter.section("largest difference of a logit, and the largest logit")
    for row in sorted(rows):
        terminalreporter.write_line("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))
