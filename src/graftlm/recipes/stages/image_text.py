"""A text tower trained to a frozen vision tower, so that images and texts find each other.

The frozen tower looks at every image once, before training; what it saw is kept, and only the text tower, the two
projections and the temperature learn.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from graftlm.core.console import say
from graftlm.core.errors import DataError
from graftlm.core.files import atomic_folder
from graftlm.core.receipts import Receipt
from graftlm.data.annotated import AnnotatedStore, Notebook
from graftlm.data.encode_annotated import encode_classified
from graftlm.data.packing import PackingPlan
from graftlm.data.samples import Captioned, Classified
from graftlm.evaluation.encoder import read_documents
from graftlm.evaluation.image_text import recall
from graftlm.evaluation.statistics import estimate
from graftlm.inference.cached import evaluation_mode
from graftlm.models.image_text import (
    freeze_vision,
    image_vectors,
    load_dual_encoder,
    load_image_processor,
    save_dual_encoder,
    text_vectors,
)
from graftlm.objectives.image_text import ContrastivePairs, Pictures
from graftlm.recipes.image_rows import SeenImages, read_captions, see_images, split_captions
from graftlm.recipes.stage_settings import ImageTextStage
from graftlm.recipes.stages.context import StageContext, require_one_process
from graftlm.recipes.stages.outcome import Loaded, save_format, write_receipt
from graftlm.recipes.stages.tuning import fit, settle_budget
from graftlm.recipes.tokenise import TokenisedBlock
from graftlm.training.memory import reset_peak
from graftlm.training.objective import Objective


@dataclass(frozen=True)
class CaptionBlock:
    """A block's captions, encoded, and the rows they came from."""

    train: AnnotatedStore
    held_out: AnnotatedStore
    train_rows: list[Captioned]
    held_out_rows: list[Captioned]


def run(stage: StageContext) -> Receipt:
    settings = stage.settings
    assert isinstance(settings, ImageTextStage)
    require_one_process(stage)
    reset_peak(stage.device)
    torch.manual_seed(stage.recipe.seed)  # new projections are random
    model: Any = load_dual_encoder(
        stage.start.where, settings.vision, projection=settings.projection, dtype=torch.float32, device=stage.device
    )
    freeze_vision(model)
    processor = load_image_processor(settings.vision or stage.start.where)
    blocks, seen = read_blocks(stage, settings, model, processor)
    stage = replace(
        stage, blocks={name: TokenisedBlock(one.train.store, one.held_out.store) for name, one in blocks.items()}
    )
    parameters = count_parameters(model)
    loaded = Loaded(model, parameters, settle_budget(stage, model.text_model, parameters))
    judge = Judge(stage, settings, blocks, seen)
    before = judge.figures(model)

    def objective(model: torch.nn.Module, plans: list[PackingPlan]) -> Objective:
        stores = [one.train for one in blocks.values()] + [one.held_out for one in blocks.values()]
        return ContrastivePairs(Notebook(stores), pictures_of(blocks, seen))

    trainer, mixture = fit(stage, loaded, objective)
    after = judge.figures(model)
    with atomic_folder(stage.model_folder) as folder:
        save_dual_encoder(model, stage.tokenizer, processor, folder, save_format(stage))
    receipt = write_receipt(stage, loaded, trainer, mixture)
    figures = {f"{name} before": value for name, value in before.items()} | {
        f"{name} after": value for name, value in after.items()
    }
    say("  " + say_recall(figures) if figures else "  no image was kept back: recall is not known (raise held_out)")
    return receipt.model_copy(update={"figures": figures})


def read_blocks(
    stage: StageContext, settings: ImageTextStage, model: Any, processor: Any
) -> tuple[dict[str, CaptionBlock], SeenImages]:
    """Captions and images of all blocks.

    Raises:
        DataError: a block has no usable pair to train on.
    """
    read = {name: read_captions(name, stage.recipe.data[name]) for name in settings.blocks}
    paths = dict.fromkeys(sample.image for samples, _, _ in read.values() for sample in samples)
    seen = see_images(model, processor, list(paths), stage.device)
    blocks = {}
    for name, (samples, rows, refused) in read.items():
        kept = [sample for sample in samples if sample.image in seen.place]
        train, held_out = split_captions(kept, stage.recipe.data[name].held_out)
        if len(train) < 2:
            raise DataError("fewer than two images with captions are left", where=f"data.{name}", fix="give more rows")
        counts = {"read": rows, "refused": refused + len(samples) - len(kept)}
        blocks[name] = CaptionBlock(
            encode_captions(stage, settings, train, counts),
            encode_captions(stage, settings, held_out, {}),
            train,
            held_out,
        )
    return blocks, seen


def encode_captions(
    stage: StageContext, settings: ImageTextStage, rows: list[Captioned], counts: dict[str, int]
) -> AnnotatedStore:
    limit = stage.tokenizer.model_max_length
    texts = [Classified(row.text, "", row.origin) for row in rows]
    documents = encode_classified(stage.tokenizer, texts, [], longest=min(settings.longest, limit))
    lost = {"cut": sum(one.cut > 0 for one in documents), "tokens_cut": sum(one.cut for one in documents)}
    return AnnotatedStore.of(
        documents, "captioned", counts | {"samples": len(rows), "dropped": 0, "targets_cut": 0} | lost
    )


def pictures_of(blocks: dict[str, CaptionBlock], seen: SeenImages) -> Pictures:
    rows = [one.train_rows for one in blocks.values()] + [one.held_out_rows for one in blocks.values()]
    captions = {text: number for number, text in enumerate(dict.fromkeys(row.text for part in rows for row in part))}
    return Pictures(
        seen.states,
        [torch.tensor([seen.place[row.image] for row in part], dtype=torch.long) for part in rows],
        [torch.tensor([captions[row.text] for row in part], dtype=torch.long) for part in rows],
    )


def count_parameters(model: torch.nn.Module) -> dict[str, int]:
    """`matmul` are those of the text tower: the frozen one has done its work before."""
    table = model.text_model.get_input_embeddings().weight.numel()  # type: ignore[operator,union-attr]
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {"all": sum(p.numel() for p in model.parameters()), "trained": trained, "matmul": trained - int(table)}


@dataclass(frozen=True)
class Judge:
    """Recall on the images that were kept back, among themselves."""

    stage: StageContext
    settings: ImageTextStage
    blocks: dict[str, CaptionBlock]
    seen: SeenImages

    def figures(self, model: Any) -> dict[str, float | str]:
        """Recall at 1 and 5, both ways, with its interval; nothing where no image is kept back."""
        rows = [row for block in self.blocks.values() for row in block.held_out_rows]
        if not rows:
            return {}
        texts, images = list(dict.fromkeys(row.text for row in rows)), list(dict.fromkeys(row.image for row in rows))
        relevant_TI = torch.zeros(len(texts), len(images), dtype=torch.bool)
        for row in rows:
            relevant_TI[texts.index(row.text), images.index(row.image)] = True
        store = encode_captions(self.stage, self.settings, [Captioned("", text, rows[0].origin) for text in texts], {})
        vectors = read_documents(
            model, store, lambda tower, part: list(text_vectors(tower, part.tokens_nL, part.real_nL)),
            row_tokens=self.settings.row_tokens, device=self.stage.device, bf16=self.stage.bf16,
        )  # fmt: skip
        with evaluation_mode(model), torch.no_grad():
            images_ID = image_vectors(model, self.seen.states[[self.seen.place[path] for path in images]])
            cosine_TI = (torch.stack(vectors) @ images_ID.T).cpu()
        found: dict[str, float | str] = {"texts": float(len(texts)), "images": float(len(images))}
        for way, cosine, relevant in (
            ("text to image", cosine_TI, relevant_TI), ("image to text", cosine_TI.T, relevant_TI.T),
        ):  # fmt: skip
            for k in (1, 5):
                one = estimate(recall(cosine, relevant, k))
                name = f"{way} recall@{k}"
                found |= {name: one.value, f"{name} low": one.low, f"{name} high": one.high}
        return found


def say_recall(figures: dict[str, float | str]) -> str:
    """One line: recall at 1 both ways, before and after."""
    parts = [
        f"{way} {figures[f'{way} recall@1 before']:.1%} → {figures[f'{way} recall@1 after']:.1%} "
        f"({figures[f'{way} recall@1 low after']:.1%}–{figures[f'{way} recall@1 high after']:.1%})"
        for way in ("text to image", "image to text")
    ]
    return (
        f"recall@1 on {figures['texts after']:.0f} texts and {figures['images after']:.0f} images: {', '.join(parts)}"
    )
