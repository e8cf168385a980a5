"""Planting canaries, and how far a model exposes them: `graft canaries`, `graft memorisation --canaries`."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from pydantic import BaseModel

from graftlm.core.console import say
from graftlm.core.errors import DataError, GraftError
from graftlm.core.files import atomic_file
from graftlm.data.readers import Fault, read_rows
from graftlm.evaluation.canaries import Canary, chance_exposure, make_canaries, measure_exposure
from graftlm.evaluation.statistics import Estimate, Scores, estimate
from graftlm.recipes.networks import Network

REPEATS = (1, 4, 16, 64)


class CanaryExposure(BaseModel):
    """Canaries that stand equally often in the data: mean exposure in bits, of the base too where it is given."""

    repeats: int
    canaries: int
    exposure: Estimate
    base: Estimate | None
    most: float
    chance: float
    how: str


def write_canaries(output: Path, count: int, repeats: Sequence[int], digits: int, seed: int) -> None:
    """Write a jsonl file of canaries, `count` of them for each number of repeats; one row a repeat.

    Raises:
        GraftError: the file exists, or numbers below 1.
    """
    if output.exists():
        raise GraftError("it exists", where=output, fix="name a new file, or delete this one")
    if min(count, digits, *repeats) < 1:
        raise GraftError("count, repeats and digits are 1 or more", where="graft canaries", fix="see --help")
    made = make_canaries(count * len(repeats), digits, seed)
    times = [repeat for repeat in repeats for _ in range(count)]
    lines = [
        json.dumps({"text": canary.text, "canary": asdict(canary)}, ensure_ascii=False)
        for canary, repeat in zip(made, times, strict=True)
        for _ in range(repeat)
    ]
    random.Random(seed).shuffle(lines)
    with atomic_file(output) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    say(f"{len(made)} canaries in {len(lines)} rows: {output}\nadd it to the data of a text stage with `held_out: 0`")


def read_canaries(file: Path) -> dict[int, list[Canary]]:
    """Canaries by how often they stand in the file.

    Raises:
        DataError: a row has none.
    """
    counts: Counter[Canary] = Counter()
    for row in read_rows(file):
        if isinstance(row, Fault) or not isinstance(row.values.get("canary"), dict):
            raise DataError("no canary", where=str(row.origin), fix="give the file that `graft canaries` wrote")
        counts[Canary(**row.values["canary"])] += 1
    found: dict[int, list[Canary]] = {}
    for canary, repeats in counts.items():
        found.setdefault(repeats, []).append(canary)
    return found


def exposure_of(repeats: int, canaries: Sequence[Canary], network: Network, before: Network | None) -> CanaryExposure:
    found = [measure_exposure(network.model, canary, network.encode_text) for canary in canaries]
    first = [measure_exposure(before.model, canary, before.encode_text) for canary in canaries] if before else []
    return CanaryExposure(
        repeats=repeats,
        canaries=len(canaries),
        exposure=estimate(Scores.of([one.bits for one in found])),
        base=estimate(Scores.of([one.bits for one in first])) if first else None,
        most=found[0].most,
        chance=chance_exposure(canaries[0].space),
        how=", ".join(sorted({one.how for one in found})),
    )
