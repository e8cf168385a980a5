"""The main job: check, base, stages one after the other, an evaluation after each, and the report.

A run folder holds the resolved recipe, one folder a stage, `receipt.json` and `report.html`. A stage is keyed by its
settings and inputs: a finished stage is skipped when the recipe runs again, a killed one goes on from its last
checkpoint, and one whose settings changed starts anew, with all stages that build on it.
"""

from __future__ import annotations

import gc
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.markup import escape
from transformers import PreTrainedTokenizerBase as Tokenizer

import graftlm
from graftlm.core.console import log_to, say, silence
from graftlm.core.errors import RecipeError
from graftlm.core.files import read_json, write_json, write_text
from graftlm.core.hashing import hash_file, hash_value
from graftlm.core.offline import offline
from graftlm.core.receipts import Receipt
from graftlm.data.templates import ChatTemplate
from graftlm.evaluation.results import TaskResult
from graftlm.models.loading import load_tokenizer
from graftlm.recipes import converting
from graftlm.recipes.check import check_recipe
from graftlm.recipes.findings import print_check
from graftlm.recipes.launching import refuse_unshared, sharding_of
from graftlm.recipes.loading import save_recipe
from graftlm.recipes.quantisation_data import exam_inputs
from graftlm.recipes.report import write_report
from graftlm.recipes.schema import Recipe
from graftlm.recipes.sources import Prompts, read_prompts, source_key
from graftlm.recipes.stage_settings import (
    BaseStage,
    ComparedStage,
    EncoderStage,
    GradientStage,
    ImageTextStage,
    RewardStage,
    VocabularyStage,
    unsafe_blocks,
)
from graftlm.recipes.stages import (
    best_of,
    encoder,
    export,
    image_text,
    infill,
    merge,
    policy,
    preference,
    pretrain,
    prune_vocabulary,
    quantize,
    reward,
    seq2seq,
    sft,
    vocabulary,
)
from graftlm.recipes.stages.base import model_key, prepare_base, tokenizer_key
from graftlm.recipes.stages.context import Grown, StageContext, choose_bf16, choose_device, choose_template
from graftlm.recipes.stages.evaluate import evaluate, print_scores
from graftlm.recipes.stages.rewards import reward_inputs
from graftlm.recipes.tokenise import TokenisedBlock, form_of, tokenise
from graftlm.training.distributed import ALONE, World, join_world

RUN_STAGE: dict[str, Callable[[StageContext], Receipt]] = {
    "pretrain": pretrain.run,
    "infill": infill.run,
    "sft": sft.run,
    "reward": reward.run,
    "dpo": preference.run,
    "kto": preference.run,
    "orpo": preference.run,
    "simpo": preference.run,
    "ppo": policy.run,
    "grpo": policy.run,
    "best_of": best_of.run,
    "convert": converting.run,
    "quantize": quantize.run,
    "prune_vocabulary": prune_vocabulary.run,
    "encoder": encoder.run,
    "image_text": image_text.run,
    "merge": merge.run,
    "export": export.run,
    "vocabulary": vocabulary.run,
    "seq2seq": seq2seq.run,
}


def run_recipe(recipe: Recipe) -> Path:
    """Run a recipe from wherever it stands to its report; returns the run folder.

    Raises:
        RecipeError: the check found errors; nothing was trained.
    """
    folder = recipe.folder
    began = time.perf_counter()
    sharding = sharding_of(recipe.parallel)
    with join_world(choose_device(recipe).type, sharding) as world, told_by(world, folder), offline(recipe.offline):
        device = own_device(recipe, world)
        precision = "bf16" if choose_bf16(recipe, device) else "fp32"
        hardware = f"{world.size} × {device.type}" if world.size > 1 else device.type
        say(f"[bold]{recipe.name}[/bold] · {escape(str(folder))} · {hardware} · {precision} · seed {recipe.seed}")
        if world.size > 1:
            refuse_unshared(recipe)
        with world.first_goes_first():
            base = Grown(*prepare_base(recipe, folder / "00-base"))
        base = world.agreed(base)
        if world.first:
            save_recipe(recipe, folder / "recipe.yaml")
            check_before(recipe, base, folder)
        world.wait()
        run_stages(recipe, folder, base, device, world)
        if world.first:
            write_json(folder / "timing.json", {"seconds_of_last_call": time.perf_counter() - began})
            report = write_report(folder)
            say(f"report: {escape(str(report))}")
    return folder


@contextmanager
def told_by(world: World, folder: Path) -> Iterator[None]:
    """The first process tells the run's story, on the screen and in `log.txt`; the others are silent."""
    if not world.first:
        silence()
        yield
        return
    with log_to(folder / "log.txt"):
        yield


def own_device(recipe: Recipe, world: World) -> torch.device:
    device = choose_device(recipe)
    if device.type == "cpu" or world.size == 1:
        return device
    return torch.device("cuda", torch.cuda.current_device())


def check_before(recipe: Recipe, base: Grown, folder: Path) -> None:
    """Raises RecipeError when the check finds errors."""
    found = check_recipe(recipe, base.where)
    write_json(folder / "check.json", found.as_json())
    print_check(found, brief=True)
    if found.errors:
        raise RecipeError(
            f"the check found {len(found.errors)} error(s); nothing was trained",
            where=recipe.name,
            fix="mend them; `graft check` shows more",
        )


def run_stages(recipe: Recipe, folder: Path, base: Grown, device: torch.device, world: World) -> None:
    grown = {"base": base}

    def judge(model: Grown, stage_folder: Path) -> list[TaskResult]:
        """By the first process; the others wait."""
        found = evaluate(recipe, model.where, model.key, stage_folder, device) if world.first else []
        world.wait()
        return found

    scores = {"base": judge(base, folder / "00-base")}
    for number, name in enumerate(recipe.stages, 1):
        started_from = recipe.start_of(name)
        say(f"\n[bold]\\[{number}/{len(recipe.stages)}] {name}[/bold] from {started_from}")
        stage_folder = folder / f"{number:02d}-{name}"
        grown[name] = run_stage(recipe, name, stage_folder, grown, device, world)
        if not recipe.stages[name].makes_language_model:
            continue
        scores[name] = judge(grown[name], stage_folder)
        print_scores(scores["base"], scores[name], name)


def run_stage(
    recipe: Recipe,
    name: str,
    folder: Path,
    models: Mapping[str, Grown],
    device: torch.device,
    world: World = ALONE,
) -> Grown:
    """Run one stage unless its receipt says that this very stage is done.

    Args:
        models: the run's models so far, by stage name.
    """
    settings = recipe.stages[name]
    start = models[recipe.start_of(name)]
    if isinstance(settings, RewardStage | EncoderStage | ImageTextStage) and settings.model:
        start = Grown(settings.model, model_key(settings.model))
    tokenizer = load_tokenizer(start.where)  # a stage may have changed it
    words = tokenizer_key(tokenizer, recipe.template)
    inputs = {"model": start.key, "tokenizer": words} | reward_inputs(settings, models)
    if isinstance(settings, ImageTextStage) and settings.vision:
        inputs["vision"] = model_key(settings.vision)
    inputs |= merge.merge_inputs(settings, models)
    inputs |= {block: source_key(recipe.data[block]) for block in settings.blocks}
    if isinstance(settings, VocabularyStage) and settings.sentencepiece:
        inputs["sentencepiece"] = hash_file(Path(settings.sentencepiece))
    inputs |= exam_inputs(recipe, settings)
    key = world.agreed(stage_key(recipe, settings, inputs, device))
    done = Grown(str(folder / "model"), key)
    if world.agreed(finished_key(folder) == key):
        say("  done before, skipped")
        return done
    if world.first:
        claim_folder(folder, key)
    template = choose_template(recipe.template, tokenizer)
    with world.first_goes_first():  # what it tokenises the others read
        blocks = tokenise_blocks(recipe, settings, start, tokenizer, template, words)
    context = StageContext(
        recipe=recipe,
        name=name,
        settings=settings,
        start=start,
        models=models,
        tokenizer=tokenizer,
        template=template,
        blocks=blocks,
        prompts=prompts_of_stage(recipe, settings),
        folder=folder,
        key=key,
        inputs=inputs,
        device=device,
        bf16=choose_bf16(recipe, device),
        world=world,
    )
    # Without gradients there is nothing to share: the first process does it alone.
    receipt = RUN_STAGE[settings.stage](context) if world.first or isinstance(settings, GradientStage) else None
    if world.first and receipt is not None:
        write_json(folder / "receipt.json", receipt.model_dump())
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    world.wait()
    if world.size > 1:
        gc.collect()  # a spread model is full of cycles; what they hold would stand in the way of the evaluation
    return done


def stage_key(recipe: Recipe, settings: BaseStage, inputs: dict[str, str], device: torch.device) -> str:
    """Identity of everything that a stage's result depends on."""
    order = getattr(settings, "mix", None) or recipe.mix
    made_of = [settings.model_dump(mode="json"), inputs, order, recipe.seed, choose_bf16(recipe, device)]
    return hash_value([graftlm.__version__, *made_of, recipe.save_as, device.type])


def tokenise_blocks(
    recipe: Recipe, settings: BaseStage, start: Grown, tokenizer: Tokenizer, template: ChatTemplate, words: str
) -> dict[str, TokenisedBlock]:
    """The data of a stage that trains on given data; nothing for one that answers prompts."""
    form = form_of(settings, start.where)
    if form is None:
        return {}
    assert isinstance(settings, GradientStage)
    return {
        block: tokenise(block, recipe.data[block], tokenizer, template, words, settings.longest, form)
        for block in settings.blocks
    }


def prompts_of_stage(recipe: Recipe, settings: BaseStage) -> dict[str, Prompts]:
    """The prompts that a stage answers, in training or to be compared."""
    if not isinstance(settings, ComparedStage):
        return {}
    unsafe = unsafe_blocks(settings)
    return {block: read_prompts(block, recipe.data[block], unsafe=block in unsafe) for block in settings.blocks}


def finished_key(folder: Path) -> str | None:
    """The key of the finished stage in a folder; a receipt is written last, so it means finished."""
    receipt = folder / "receipt.json"
    return Receipt.model_validate(read_json(receipt)).key if receipt.is_file() else None


def claim_folder(folder: Path, key: str) -> None:
    """Make the folder this stage's: what another recipe left there goes, what this very stage left there stays."""
    mark = folder / "key"
    if folder.exists() and not (mark.is_file() and mark.read_text() == key):
        shutil.rmtree(folder)
    write_text(mark, key)
