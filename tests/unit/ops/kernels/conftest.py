"""Kernels run on a GPU in bf16, elsewhere in Triton's interpreter in fp32; without Triton there is nothing to test."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")


@pytest.fixture
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture
def kind(device: torch.device) -> torch.dtype:
    return torch.bfloat16 if device.type == "cuda" else torch.float32


@pytest.fixture
def close(kind: torch.dtype):
    """(found, wanted): whether they differ by no more than the format's rounding, in the norm."""
    bound = 1e-2 if kind == torch.bfloat16 else 1e-5

    def check(found: torch.Tensor, wanted: torch.Tensor) -> None:
        assert found.shape == wanted.shape
        assert (found.float() - wanted.float()).norm() <= bound * wanted.float().norm().clamp(min=1)

    return check
