"""What a model has kept of its training rows: `graft memorisation`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel
from rich.table import Table

from graftlm.core.console import say
from graftlm.core.errors import DataError, GraftError
from graftlm.core.files import write_json
from graftlm.core.offline import offline
from graftlm.data.cleaning import normalise, text_of_sample
from graftlm.data.encode import Encoded
from graftlm.data.samples import Chat, Sample, Text
from graftlm.evaluation.memorisation import (
    PREFIX,
    SUFFIX,
    Floats,
    extracted,
    membership_auc,
    membership_signals,
)
from graftlm.evaluation.statistics import Estimate, Scores, estimate
from graftlm.recipes.canaries import CanaryExposure, exposure_of, read_canaries
from graftlm.recipes.loading import load_recipe
from graftlm.recipes.networks import Network
from graftlm.recipes.schema import Block, Recipe
from graftlm.recipes.sources import held_out_places, read_source
from graftlm.recipes.stages.base import prepare_base
from graftlm.recipes.talking import newest_model

ROWS = 200
"""Trained rows that are looked at, and unseen ones; as many as a block keeps back at most."""


class BlockMemory(BaseModel):
    """Of one block: membership by signal as AUC, and the shares of rows that come back verbatim."""

    name: str
    trained: int
    unseen: int
    membership: dict[str, Estimate]
    extraction: dict[str, Estimate]


class Memorisation(BaseModel):
    """All that was measured of a model."""

    model: str
    base: str | None
    blocks: list[BlockMemory]
    canaries: list[CanaryExposure]


def memorisation(
    place: str,
    *,
    trained: Path | None = None,
    unseen: Path | None = None,
    base: str | None = None,
    canaries: Path | None = None,
    rows: int = ROWS,
    prefix: int = PREFIX,
    suffix: int = SUFFIX,
    template: str = "own",
    output: Path | None = None,
) -> Memorisation:
    """Measure and print what a model has kept of its training rows.

    Args:
        place: a run folder (its blocks, their rows that were kept back, its base), or a model.
        trained, unseen: files of rows that it was, and was not, trained on, instead of a run's blocks.
        base: the model that it was trained from, for the likelihood ratio.
        canaries: the file that `graft canaries` wrote.
        rows: trained rows, and unseen ones, at most.
        prefix, suffix: tokens that are given and that must come back.
        output: JSON file.

    Raises:
        GraftError: nothing to look at.
        DataError: rows that a language model does not learn from, or no canary in the file.
    """
    recipe = load_recipe(Path(place) / "recipe.yaml", []) if (Path(place) / "recipe.yaml").is_file() else None
    pairs = _files(trained, unseen) if trained else _blocks(recipe, rows) if recipe and not canaries else {}
    planted = read_canaries(canaries) if canaries else {}
    if not pairs and not planted:
        raise GraftError("no rows", where="graft memorisation", fix="name a run, or give --trained or --canaries")
    if base is None and recipe is not None:
        base = prepare_base(recipe, Path(place) / "00-base")[0]
    with offline(recipe.offline if recipe else False):
        network = Network.load(newest_model(place), recipe.template if recipe else template)
        before = Network.load(base, recipe.template if recipe else template) if base else None
    result = Memorisation(
        model=place,
        base=base,
        blocks=[_memory(name, *pair, network, before, rows, prefix, suffix) for name, pair in pairs.items()],
        canaries=[exposure_of(repeats, some, network, before) for repeats, some in sorted(planted.items())],
    )
    print_memorisation(result, prefix, suffix)
    if output is not None:
        write_json(output, result.model_dump())
        say(f"written: {output}")
    return result


def _blocks(recipe: Recipe, rows: int) -> dict[str, tuple[list[Sample], list[Sample]]]:
    """(trained, kept back) rows of every block of text or conversations that the run trained on."""
    stages = [stage for stage in recipe.stages.values() if stage.stage in ("pretrain", "sft")]
    names = dict.fromkeys(name for stage in stages for name in stage.blocks)
    return {name: _split(name, recipe.data[name], rows) for name in names}


def _split(name: str, block: Block, rows: int) -> tuple[list[Sample], list[Sample]]:
    samples = read_source(name, block).samples
    kept_back = held_out_places(len(samples), block.held_out)
    step = max(1, len(samples) // (2 * rows))  # spread over the block
    trained = [samples[place] for place in range(0, len(samples), step) if place not in kept_back]
    return trained, [samples[place] for place in sorted(kept_back)]


def _files(trained: Path, unseen: Path | None) -> dict[str, tuple[list[Sample], list[Sample]]]:
    blocks = [Block.model_validate({"path": str(file), "split": "paragraph"}) for file in (trained, unseen) if file]
    read = [list(read_source(str(block.path), block).samples) for block in blocks] + [[]]
    return {trained.stem: (read[0], read[1])}


def _memory(
    name: str,
    trained: list[Sample],
    unseen: list[Sample],
    network: Network,
    before: Network | None,
    rows: int,
    prefix: int,
    suffix: int,
) -> BlockMemory:
    """What is told of one block; an unseen row that is a copy of a trained one is no unseen row."""
    if not all(isinstance(sample, Text | Chat) for sample in (*trained, *unseen)):
        raise DataError("rows that are neither text nor conversations", where=name, fix="give what was trained on")
    known = {normalise(text_of_sample(sample)) for sample in trained}
    unseen = [sample for sample in unseen if normalise(text_of_sample(sample)) not in known][:rows]
    trained = trained[:: max(1, len(trained) // rows)][:rows]
    documents = {sort: network.encode(some) for sort, some in (("trained", trained), ("unseen", unseen)) if some}
    membership = {}
    if trained and unseen:
        signals = [_signals(some, network, before) for some in (trained, unseen)]
        membership = {signal: membership_auc(signals[0][signal], signals[1][signal]) for signal in signals[0]}
    return BlockMemory(
        name=name,
        trained=len(trained),
        unseen=len(unseen),
        membership=membership,
        extraction=_extraction(documents, network, before, prefix, suffix),
    )


def _signals(samples: Sequence[Sample], network: Network, before: Network | None) -> dict[str, Floats]:
    log_ps = network.log_probabilities(network.encode(samples))
    reference = before.log_probabilities(before.encode(samples)) if before else None
    some = [place for place, log_p in enumerate(log_ps) if len(log_p)]
    texts = [_learnt(samples[place]) for place in some]
    return membership_signals(
        [log_ps[place] for place in some], texts, [reference[place] for place in some] if reference else None
    )


def _learnt(sample: Sample) -> str:
    """The text that the loss is on."""
    if isinstance(sample, Chat):
        return "\n".join(turn.content for turn in sample.turns if turn.role == "assistant")
    return text_of_sample(sample)


def _extraction(
    documents: dict[str, list[Encoded]], network: Network, before: Network | None, prefix: int, suffix: int
) -> dict[str, Estimate]:
    """Shares of trained rows, of unseen ones, and of trained ones by the base, among those that are long enough."""
    asked = [(sort, network, some) for sort, some in documents.items()]
    if before is not None and "trained" in documents:
        asked.append(("trained, base", before, documents["trained"]))
    found = {}
    for sort, model, some in asked:
        came = extracted(model.model, [one.tokens.tolist() for one in some], prefix=prefix, suffix=suffix)
        if judged := [float(one) for one in came if one is not None]:
            found[sort] = estimate(Scores.of(judged))
    return found


def print_memorisation(found: Memorisation, prefix: int, suffix: int) -> None:
    """Tables of blocks and canaries."""
    if found.blocks:
        signals = list(dict.fromkeys(signal for block in found.blocks for signal in block.membership))
        _print("membership, AUC (0.5: nothing is told)", ["block", "trained", "unseen", *signals], [
            [block.name, str(block.trained), str(block.unseen), *(_cell(block.membership.get(one)) for one in signals)]
            for block in found.blocks
        ])  # fmt: skip
        sorts = list(dict.fromkeys(sort for block in found.blocks for sort in block.extraction))
        _print(f"extraction: the {suffix} tokens behind the first {prefix} come back, all of them", ["block", *sorts], [
            [block.name, *(_cell(block.extraction.get(sort), counted=True) for sort in sorts)] for block in found.blocks
        ])  # fmt: skip
        if short := [block.name for block in found.blocks if not block.extraction]:
            say(f"not extracted: {', '.join(short)}: no row of {prefix + suffix} tokens; lower --prefix and --suffix")
    if found.canaries:
        _print("exposure of canaries, bits", ["repeats", "canaries", "exposure", "base", "chance", "most", "rank"], [
            [str(one.repeats), str(one.canaries), _cell(one.exposure), _cell(one.base), *_limits(one)]
            for one in found.canaries
        ])  # fmt: skip


def _limits(one: CanaryExposure) -> tuple[str, str, str]:
    return f"{one.chance:.2f}", f"{one.most:.1f}", one.how


def _print(title: str, columns: list[str], rows: list[list[str]]) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 1), title=title, title_justify="left")
    for column in columns:
        table.add_column(column, no_wrap=True)
    for row in rows:
        table.add_row(*row)
    say(table)


def _cell(found: Estimate | None, *, counted: bool = False) -> str:
    if found is None:
        return "–"
    return f"{found.value:.2f} ({found.low:.2f}–{found.high:.2f}{f', n {found.n}' if counted else ''})"
