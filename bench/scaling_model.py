"""What a step costs on 8 to 1,024 GPUs, on paper: traffic, time, memory. Prints the tables of docs/scaling.md.

No GPU is needed and nothing is measured. What is assumed stands in `Cluster`; the formulas are those of FSDP
(Zhao et al., arXiv 2304.11277) and of ring collectives (a ring of n moves (n−1)/n of the data past each member).

    python bench/scaling_model.py            # the page's tables
    python bench/scaling_model.py --json     # the same as JSON, one line
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass

GB = 1e9
ROWS = (16_384, 8_192, 4_096, 2_048)
"""Tokens of one row on a GPU; the largest that fits is taken, without recomputation if that fits at all."""


@dataclass(frozen=True)
class Model:
    """A LLaMA-2 shape (34B: Code Llama)."""

    name: str
    hidden: int
    inner: int
    layers: int
    key_values: int
    vocabulary: int = 32_000

    @property
    def layer(self) -> int:
        """Parameters of a layer; norms are left out."""
        return 2 * self.hidden**2 + 2 * self.hidden * self.key_values + 3 * self.hidden * self.inner

    @property
    def root(self) -> int:
        """Parameters that stay gathered from forward to backward: embedding and head."""
        return 2 * self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        return self.layers * self.layer + self.root


MODELS = (
    Model("7B", 4_096, 11_008, 32, 4_096),
    Model("13B", 5_120, 13_824, 40, 5_120),
    Model("34B", 8_192, 22_016, 48, 1_024),
    Model("70B", 8_192, 28_672, 80, 1_024),
)


@dataclass(frozen=True)
class Cluster:
    """What is assumed of the machines.

    Attributes:
        peak: dense bf16 FLOP/s of a GPU.
        reached: share of it that the arithmetic alone reaches (no transfers).
        inside: bytes/s that a GPU sends to others of its machine.
        outside: bytes/s that a machine sends to others.
        bus: share of those that collectives reach.
        hop: seconds that a ring loses at each member.
        steal: seconds of arithmetic lost for each second of transfers beside it: both want the GPU's memory and cores.
        memory: bytes of a GPU that a run may fill.
    """

    name: str
    peak: float = 989e12
    reached: float = 0.50
    gpus: int = 8
    inside: float = 450 * GB
    outside: float = 400 * GB
    bus: float = 0.80
    hop: float = 4e-6
    steal: float = 0.15
    memory: float = 74 * GB


FAST = Cluster("8 × H100, NVLink 450 GB/s a GPU, 8 × 400 Gb/s a machine")
SLOW = Cluster("8 × H100, NVLink 450 GB/s a GPU, 1 × 100 Gb/s a machine", outside=12.5 * GB)


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        rows, row: rows a GPU, tokens of each.
        gathered, reduced, copied: GB that a GPU takes in for weights (both passes), for gradients, and for bringing the
            copies of HSDP together.
        compute, transfer: seconds, each as if it were alone; `seconds`: with what overlaps.
        efficiency: compute ÷ seconds.
        memory: GB a GPU.
    """

    model: str
    method: str
    gpus: int
    copies: int
    rows: int
    row: int
    recompute: bool
    gathered: float
    reduced: float
    copied: float
    compute: float
    transfer: float
    seconds: float
    efficiency: float
    tokens: float
    memory: float


def ring(size: float, members: int, cluster: Cluster, *, crossing: bool) -> float:
    """Seconds to gather or reduce-scatter `size` bytes over a ring.

    A ring inside a machine is as fast as a GPU's own link. Between machines each of a machine's network cards carries a
    part of every ring, so all of them together are the limit, unless the links inside are slower.
    """
    if members == 1:
        return 0.0
    speed = min(cluster.inside, cluster.outside) if crossing else cluster.inside
    return size * (members - 1) / members / (speed * cluster.bus) + members * cluster.hop


def memory(model: Model, method: str, shards: int, row: int, *, recompute: bool) -> float:
    """Bytes a GPU: its part of the state, what is gathered at a time, and what the backward pass needs.

    Full: fp32 weights, gradients and two moments (16 bytes a parameter). LoRA: bf16 weights; the adapter is left out.
    Activations as graft's memory plan counts them, in bf16.
    """
    state = (16 if method == "full" else 2) * model.parameters / shards
    gathered = 2 * model.root + 2 * 2 * model.layer  # the root, the layer that runs and the next one, in bf16
    gradients = 4 * (model.root + model.layer) if method == "full" else 0
    values = 8 * model.hidden + model.hidden + 2 * model.key_values + 4 * model.inner
    kept = model.layers * model.hidden + values if recompute else model.layers * values
    return state + gathered + gradients + 2 * row * kept + 3 * 64 * 2**20


def choose_row(model: Model, method: str, shards: int, cluster: Cluster) -> tuple[int, bool] | None:
    """(tokens of a row, recompute) that fit, or None."""
    for recompute in (False, True):
        for row in ROWS[: 3 if not recompute else 4]:
            if memory(model, method, shards, row, recompute=recompute) <= cluster.memory:
                return row, recompute
    return None


def step(model: Model, method: str, gpus: int, copies: int, rows: int, cluster: Cluster) -> Step | None:
    """A step's costs; None where the model does not fit.

    Of several rows each gathers the weights anew and sums its gradients over the shards (`reduce: row`); the copies
    are brought together once a step.
    """
    shards = gpus // copies
    chosen = choose_row(model, method, shards, cluster)
    if chosen is None:
        return None
    row, recompute = chosen
    attention = 2 * 2 * row / 2 * model.hidden * model.layers  # FLOPs a token of one forward pass; half by causality
    forward = (2 * (model.parameters - model.root / 2) + attention) * row / (cluster.peak * cluster.reached)
    backward = forward * ((2 if method == "full" else 1) + recompute)

    crossing = shards > cluster.gpus
    weights, gradients = 2.0 * model.parameters, 4.0 * model.parameters if method == "full" else 0.0
    calls = model.layers + 1
    gather = calls * ring(weights / calls, shards, cluster, crossing=crossing)
    reduce = calls * ring(gradients / calls, shards, cluster, crossing=crossing) if gradients else 0.0
    between = _between_copies(gradients / shards, copies, calls, cluster)

    first = gather / calls  # nothing runs yet that could hide it
    there = _beside(forward, gather, cluster)
    back = _beside(backward, gather + reduce, cluster)
    # the copies' sums use the machines' links: beside what stays inside, after what does not
    last = _beside(backward, gather + reduce + between if crossing else max(gather + reduce, between), cluster)
    seconds = first + rows * there + (rows - 1) * back + last
    compute, around = rows * (forward + backward), (shards - 1) / shards
    return Step(
        model=model.name,
        method=method,
        gpus=gpus,
        copies=copies,
        rows=rows,
        row=row,
        recompute=recompute,
        gathered=rows * 2 * weights * around / GB,
        reduced=rows * gradients * around / GB,
        copied=2 * gradients / shards * (copies - 1) / copies / GB,
        compute=compute,
        transfer=rows * (2 * gather + reduce) + between,
        seconds=seconds,
        efficiency=compute / seconds,
        tokens=rows * row / seconds,
        memory=memory(model, method, shards, row, recompute=recompute) / GB,
    )


def _beside(compute: float, transfer: float, cluster: Cluster) -> float:
    """Seconds of arithmetic and transfers that run side by side."""
    return max(compute + cluster.steal * min(compute, transfer), transfer)


def _between_copies(size: float, copies: int, calls: int, cluster: Cluster) -> float:
    """Seconds to all-reduce a GPU's part of the gradients over the copies; all GPUs of a machine do so at once."""
    if copies == 1 or not size:
        return 0.0
    speed = cluster.outside / cluster.gpus * cluster.bus
    return 2 * (size * (copies - 1) / copies / speed + calls * copies * cluster.hop)


CASES = {
    FAST: (
        *(("7B", "full", gpus, copies, 1) for gpus in (8, 64, 512, 1024) for copies in sorted({1, gpus // 8})),
        *(("13B", "full", gpus, copies, 1) for gpus in (8, 64, 512, 1024) for copies in sorted({1, gpus // 16 or 1})),
        *(("34B", "full", gpus, copies, 1) for gpus in (8, 32, 512, 1024) for copies in sorted({1, gpus // 32 or 1})),
        *(("70B", "full", gpus, copies, 1) for gpus in (8, 64, 512, 1024) for copies in sorted({1, gpus // 64 or 1})),
        *(("70B", "lora", gpus, copies, 1) for gpus in (8, 64, 1024) for copies in sorted({1, gpus // 8})),
    ),
    SLOW: (
        *(("7B", "full", 64, *case) for case in ((1, 1), (1, 16), (8, 1), (8, 16), (8, 64))),
        *(("70B", "full", 64, 1, rows) for rows in (1, 16)),
        *(("70B", "lora", 64, copies, 1) for copies in (1, 8)),
    ),
}


def table(cluster: Cluster) -> list[str]:
    """Markdown lines, one a case."""
    models = {model.name: model for model in MODELS}
    lines = [
        "| Model | GPUs: copies × shards | Rows × tokens | GB in: weights, gradients, copies | Compute, transfer: s "
        "| Step, s | Efficiency | Tokens/s a GPU | GB a GPU |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, method, gpus, copies, rows in CASES[cluster]:
        found = step(models[name], method, gpus, copies, rows, cluster)
        where = f"| {name} {method} | {gpus:,}: {copies} × {gpus // copies:,} "
        if found is None:
            lines.append(f"{where}| does not fit | | | | | | |")
            continue
        row = f"{rows} × {found.row:,}{', recomputed' if found.recompute else ''}"
        traffic = f"{found.gathered:.0f}, {found.reduced:.0f}, {found.copied:.1f}"
        lines.append(
            f"{where}| {row} | {traffic} | {found.compute:.2f}, {found.transfer:.2f} | {found.seconds:.2f} "
            f"| {found.efficiency:.0%} | {found.tokens:,.0f} | {found.memory:.0f} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of tables")
    if parser.parse_args().json:
        models = {model.name: model for model in MODELS}
        found = {
            cluster.name: [
                asdict(made)
                for name, *case in CASES[cluster]
                if (made := step(models[name], *case, cluster)) is not None
            ]
            for cluster in (FAST, SLOW)
        }
        print(json.dumps(found))
        return
    for cluster in (FAST, SLOW):
        print(f"{cluster.name}\n")
        print("\n".join(table(cluster)), end="\n\n")


if __name__ == "__main__":
    main()
