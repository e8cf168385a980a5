"""The meter: tokens a second, counted three ways, and model FLOP/s utilisation with its formula."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from graftlm.core.receipts import Speed

PEAK_TFLOPS = {
    "H200": 989.0,
    "H100": 989.0,
    "A100": 312.0,
    "A800": 312.0,
    "L40S": 362.0,
    "4090": 165.0,
    "3090": 71.0,
}
"""Dense bf16 peak by the makers' data sheets."""

FULL_FORMULA = "6 · parameters (embedding lookup left out) · tokens/s ÷ peak"
LORA_FORMULA = (
    "4 · parameters (embedding lookup left out; frozen weights need no weight gradient) · tokens/s ÷ peak"
)


@dataclass
class Meter:
    """Counts while the clock runs; a resumed run goes on from the counts of its checkpoint."""

    seconds: float = 0.0
    all: int = 0
    padding: int = 0
    target: int = 0
    _since: float | None = None

    def resume(self) -> None:
        self._since = time.perf_counter()

    def pause(self) -> None:
        """Stop the clock (held-out loss, checkpoints)."""
        self.seconds, self._since = self._elapsed(), None

    def state(self) -> dict[str, float]:
        return {"seconds": self._elapsed(), "all": self.all, "padding": self.padding, "target": self.target}

    def restore(self, state: dict[str, float]) -> None:
        self.seconds, self._since = state["seconds"], None
        self.all, self.padding, self.target = (int(state[name]) for name in ("all", "padding", "target"))

    def rate(self) -> float:
        """Tokens a second so far, every position counted."""
        return self.all / max(self._elapsed(), 1e-9)

    def _elapsed(self) -> float:
        return self.seconds + (0.0 if self._since is None else time.perf_counter() - self._since)

    def count(self, *, tokens: int, padding: int, targets: int) -> None:
        self.all += tokens
        self.padding += padding
        self.target += targets

    def speed(self, *, matmul_parameters: int, lora: bool, device: torch.device) -> Speed:
        elapsed = max(self._elapsed(), 1e-9)
        rate = self.rate()
        peak = device_peak(device)
        mfu = rate * matmul_parameters * (4 if lora else 6) / peak if peak else None
        return Speed(
            all=rate,
            non_padding=(self.all - self.padding) / elapsed,
            target=self.target / elapsed,
            mfu=mfu,
            mfu_formula=(LORA_FORMULA if lora else FULL_FORMULA) if peak else None,
        )


def device_peak(device: torch.device) -> float | None:
    """Peak bf16 FLOP/s of a known GPU, else None (no utilisation is claimed for unknown hardware)."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak * 1e12 for key, peak in PEAK_TFLOPS.items() if key in name), None)
