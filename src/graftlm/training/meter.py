"""The meter: tokens a second, counted three ways, and model FLOP/s utilisation with its formula."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from transformers import PretrainedConfig

from graftlm.core.receipts import Speed
from graftlm.data.packing import PackedBatch

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

FULL_FORMULA = (
    "(6 · parameters (embedding lookup left out) + 12 · layers · heads · head size · mean context) · tokens/s ÷ peak"
)
LORA_FORMULA = (
    "(4 · parameters (embedding lookup left out; frozen weights need no weight gradient) "
    "+ 12 · layers · heads · head size · mean context) · tokens/s ÷ peak"
)
"""Mean context: tokens that a position attends to, itself included, inside its document. A pair of positions costs 4
operations a head and head size forward (scores, values) and 8 backward. Recomputing and windows are left out."""


COUNTS = ("all", "padding", "target", "pairs")


@dataclass
class Meter:
    """Counts: positions, those of padding, those with a target, and pairs of positions one of which attends to the
    other. A resumed run goes on from the counts of its checkpoint."""

    seconds: float = 0.0
    all: int = 0
    padding: int = 0
    target: int = 0
    pairs: int = 0
    _since: float | None = None

    def resume(self) -> None:
        self._since = time.perf_counter()

    def pause(self) -> None:
        """Stop the clock (held-out loss, checkpoints)."""
        self.seconds, self._since = self._elapsed(), None

    def state(self) -> dict[str, float]:
        counts = {name: getattr(self, name) for name in COUNTS}
        return {"seconds": self._elapsed(), **counts}

    def restore(self, state: dict[str, float]) -> None:
        self.seconds, self._since = state["seconds"], None
        for name in COUNTS:
            setattr(self, name, int(state[name]))

    def rate(self) -> float:
        """Tokens a second so far, every position counted."""
        return self.all / max(self._elapsed(), 1e-9)

    def _elapsed(self) -> float:
        return self.seconds + (0.0 if self._since is None else time.perf_counter() - self._since)

    def count(self, *, tokens: int, padding: int, targets: int, pairs: int) -> None:
        self.all += tokens
        self.padding += padding
        self.target += targets
        self.pairs += pairs

    def speed(
        self, *, matmul_parameters: int, lora: bool, device: torch.device, attention_width: int = 0
    ) -> Speed:
        """
        Args:
            attention_width: layers · heads · head size; 0 leaves attention out of the operations counted.
        """
        elapsed = max(self._elapsed(), 1e-9)
        rate = self.rate()
        peak = device_peak(device)
        operations = self.all * matmul_parameters * (4 if lora else 6) + 12 * attention_width * self.pairs
        return Speed(
            all=rate,
            non_padding=(self.all - self.padding) / elapsed,
            target=self.target / elapsed,
            mfu=operations / elapsed / peak if peak else None,
            mean_context=self.pairs / max(self.all - self.padding, 1),
            mfu_formula=(LORA_FORMULA if lora else FULL_FORMULA) if peak else None,
        )


def attended_pairs(row: PackedBatch) -> int:
    """Σ n (n + 1) / 2 over the documents of n tokens of a row in host memory, padding left out."""
    lengths_N = row.boundaries.diff()[: row.documents].long()
    return int((lengths_N * (lengths_N + 1)).sum()) // 2


def attention_width(config: PretrainedConfig) -> int:
    """Layers · heads · head size."""
    text = config.get_text_config()
    heads = getattr(text, "num_attention_heads", None) or 0
    size = getattr(text, "head_dim", None) or text.hidden_size // max(heads, 1)
    return int(text.num_hidden_layers * heads * size)


def device_peak(device: torch.device) -> float | None:
    """Peak bf16 FLOP/s of a known GPU, else None (no utilisation is claimed for unknown hardware)."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak * 1e12 for key, peak in PEAK_TFLOPS.items() if key in name), None)
