"""An encoder–decoder: texts made of texts (summaries, answers, translations), or gap sentences of plain text.

What it makes of held-out sources is compared with their targets before training and after, by ROUGE.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from graftlm.core.console import say
from graftlm.core.errors import DataError
from graftlm.core.files import atomic_folder
from graftlm.core.receipts import Receipt
from graftlm.data.encode_pairs import encode_pairs
from graftlm.data.gap_sentences import mask_sentences
from graftlm.data.samples import Chat, Sample, Text
from graftlm.data.store import TokenStore
from graftlm.evaluation.metrics import rouge_l, rouge_n, split_words
from graftlm.evaluation.statistics import Scores, estimate
from graftlm.inference.seq2seq import write_targets
from graftlm.models.loading import save_model
from graftlm.models.seq2seq import load_seq2seq
from graftlm.objectives.seq2seq import SourceToTarget
from graftlm.recipes.schema import Block
from graftlm.recipes.sources import held_out_places, read_source
from graftlm.recipes.stage_settings import Seq2SeqStage
from graftlm.recipes.stages.context import StageContext, require_one_process
from graftlm.recipes.stages.outcome import save_format, write_receipt
from graftlm.recipes.stages.tuning import fit, load_trainable
from graftlm.recipes.tokenise import TokenisedBlock

Pair = tuple[str, str]

METRICS: dict[str, Callable[[str, Sequence[str]], float]] = {
    "ROUGE-1": lambda found, wanted: rouge_n(found, wanted, 1),
    "ROUGE-2": lambda found, wanted: rouge_n(found, wanted, 2),
    "ROUGE-L": rouge_l,
}


@dataclass(frozen=True)
class PairRows:
    """Sources and targets of a block; `refused` counts rows that gave none."""

    train: list[Pair]
    held_out: list[Pair]
    read: int
    refused: int


def run(stage: StageContext) -> Receipt:
    settings = stage.settings
    assert isinstance(settings, Seq2SeqStage)
    require_one_process(stage)
    rows = {
        name: read_pairs(name, stage.recipe.data[name], settings, mask_of(stage)) for name in settings.blocks
    }
    stage = replace(stage, blocks={name: encode_rows(stage, settings, one) for name, one in rows.items()})

    def load(place: str, dtype: torch.dtype, device: torch.device) -> torch.nn.Module:
        return load_seq2seq(place, dtype=dtype, device=device)

    loaded = load_trainable(stage, load)
    asked = [pair for one in rows.values() for pair in one.held_out][: settings.compare]
    before = scores(stage, settings, loaded.model, asked)
    trainer, mixture = fit(stage, loaded, lambda model, plans: SourceToTarget())
    after = scores(stage, settings, loaded.model, asked)
    with atomic_folder(stage.model_folder) as folder:
        save_model(loaded.model, stage.tokenizer, folder, save_format(stage))
    receipt = write_receipt(stage, loaded, trainer, mixture)
    figures = figures_of(before, after, len(asked))
    say("  " + say_figures(figures))
    return receipt.model_copy(update={"figures": figures})


def mask_of(stage: StageContext) -> str:
    """What stands for a masked sentence: the tokenizer's mask, T5's first sentinel, or the unknown token."""
    tokenizer = stage.tokenizer
    sentinels = [token for token in tokenizer.all_special_tokens if token == "<extra_id_0>"]
    return str(tokenizer.mask_token or (sentinels[0] if sentinels else None) or tokenizer.unk_token or "___")


def read_pairs(name: str, block: Block, settings: Seq2SeqStage, mask: str) -> PairRows:
    """Raises DataError when no row gives a source and a target."""
    wanted = "text" if settings.task == "gap_sentences" else "chat"
    rows = read_source(name, block)
    pairs = [pair for sample in rows.samples if (pair := pair_of(sample, settings, mask)) is not None]
    if rows.kind != wanted or not pairs:
        found = f"it holds {rows.kind} rows" if rows.kind != wanted else "no text has two sentences"
        needs = "plain text" if wanted == "text" else "rows with a source and a target, as `instruction` and `output`"
        raise DataError(found, where=f"data.{name}", fix=f"task: {settings.task} learns from {needs}")
    spare = held_out_places(len(pairs), block.held_out)
    return PairRows(
        [pair for place, pair in enumerate(pairs) if place not in spare],
        [pairs[place] for place in sorted(spare)],
        rows.read,
        len(rows.faults) + len(rows.samples) - len(pairs),
    )


def pair_of(sample: Sample, settings: Seq2SeqStage, mask: str) -> Pair | None:
    """The source and target of a sample: all before the last answer, and that answer; or a text's gap sentences."""
    if isinstance(sample, Text):
        gaps = mask_sentences(sample.text, mask, settings.gap_share)
        return (gaps.source, gaps.target) if gaps else None
    if not isinstance(sample, Chat) or sample.turns[-1].role != "assistant":
        return None
    return "\n".join(turn.content for turn in sample.turns[:-1]), sample.turns[-1].content


def encode_rows(stage: StageContext, settings: Seq2SeqStage, rows: PairRows) -> TokenisedBlock:
    stores = []
    for pairs, counted in ((rows.train, {"read": rows.read, "refused": rows.refused}), (rows.held_out, {})):
        documents, cut = encode_pairs(
            stage.tokenizer, pairs, most_source=settings.most_source, most_target=settings.max_target
        )
        store = TokenStore.in_memory(documents, kind="chat")
        store.accounting.update(counted | {"samples": len(pairs)} | cut)
        stores.append(store)
    return TokenisedBlock(*stores)


def scores(
    stage: StageContext, settings: Seq2SeqStage, model: torch.nn.Module, asked: list[Pair]
) -> dict[str, Scores]:
    """ROUGE of what the model makes of each held-out source; nothing where none was kept back."""
    if not asked:
        return {}
    written = write_targets(
        model, stage.tokenizer, [source for source, _ in asked], max_new_tokens=settings.max_target,
        most_source=settings.most_source, beams=settings.beams,
    )  # fmt: skip
    pairs = [(found, target) for found, (_, target) in zip(written, asked, strict=True)]
    longer = [(found, target) for found, target in pairs if len(split_words(target)) > 1]  # a word has no pair of words
    return {
        name: Scores.of([metric(found, [target]) for found, target in (longer if name == "ROUGE-2" else pairs)])
        for name, metric in METRICS.items()
        if longer or name != "ROUGE-2"
    }


def figures_of(before: dict[str, Scores], after: dict[str, Scores], asked: int) -> dict[str, float | str]:
    figures: dict[str, float | str] = {"held out": float(asked)}
    for name, one in after.items():
        found = estimate(one)
        figures |= {f"{name} before": estimate(before[name]).value, f"{name} after": found.value}
        figures |= {f"{name} low": found.low, f"{name} high": found.high}
    return figures


def say_figures(figures: dict[str, float | str]) -> str:
    """One line: the held-out scores before and after."""
    if len(figures) == 1:
        return "no row was kept back: ROUGE is not known (raise held_out)"
    parts = [
        f"{name} {figures[f'{name} before']:.1%} before, {figures[f'{name} after']:.1%} after "
        f"({figures[f'{name} low']:.1%}–{figures[f'{name} high']:.1%})"
        for name in METRICS
        if f"{name} after" in figures
    ]
    return f"{figures['held out']:.0f} held-out rows: {'; '.join(parts)}"
