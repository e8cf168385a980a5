"""DeepSpeed's JSON files as keys of a recipe: what each of their keys becomes, and what has no counterpart.

graft trains with PyTorch's FSDP2. ZeRO's stages (Rajbhandari et al., arXiv 1910.02054) are settings of it: ZeRO-1 and 2
keep a layer gathered from its forward to its backward pass, ZeRO-3 gathers it twice. Nothing is lost silently: a key
is mapped, ignored with a reason, or refused.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rich.markup import escape
from rich.table import Table

from graftlm.core.console import say
from graftlm.core.errors import RecipeError
from graftlm.core.files import read_json

Fate = Literal["mapped", "ignored", "refused"]


@dataclass(frozen=True)
class Line:
    """One key of the file: what becomes of it, and why."""

    key: str
    value: Any
    fate: Fate
    becomes: str


@dataclass
class Mapping:
    """A file's lines, and the recipe keys they make: of the whole recipe, of `parallel`, and of every stage."""

    lines: list[Line] = field(default_factory=list)
    recipe: dict[str, Any] = field(default_factory=dict)
    parallel: dict[str, Any] = field(default_factory=dict)
    stages: dict[str, Any] = field(default_factory=dict)

    def add(self, key: str, value: Any, fate: Fate, becomes: str) -> None:
        self.lines.append(Line(key, value, fate, becomes))


FSDP = "FSDP2 overlaps and sizes its transfers by layers"
LOG = "graft writes its own log and report"
BATCH = "a step is counted in tokens: set step_tokens (samples × their mean length × processes) and row_tokens"
SCALE = "bf16 and fp32 need no loss scaling"
ZERO = "zero_optimization."

TRAVEL = """
allgather_partitions allgather_bucket_size overlap_comm reduce_scatter reduce_bucket_size contiguous_gradients
round_robin_gradients sub_group_size stage3_prefetch_bucket_size prefetch_bucket_size stage3_max_live_parameters
max_live_parameters stage3_max_reuse_distance max_reuse_distance stage3_param_persistence_threshold
param_persistence_threshold stage3_model_persistence_threshold memory_efficient_linear ignore_unused_parameters
zero_hpz_partition_size zero_quantized_weights zero_quantized_gradients zero_quantized_nontrainable_weights
mics_hierarchical_params_gather stage3_module_granularity_threshold stage3_use_all_reduce_for_fetch_params
elastic_checkpoint load_from_fp32_weights legacy_stage1
"""
"""Keys of zero_optimization that change how data travel, not what is learnt."""

IGNORED = dict.fromkeys(TRAVEL.split(), FSDP) | {
    f"stage3_gather_{bits}_weights_on_model_save": "the model is always saved whole; `save_as` is its format"
    for bits in ("16bit", "fp16")
}

TALK = """
steps_per_print wall_clock_breakdown dump_state tensorboard wandb csv_monitor comet flops_profiler comms_logger
monitor_config memory_breakdown
"""
SUMS = """
communication_data_type prescale_gradients gradient_predivide_factor sparse_gradients data_types
zero_allow_untested_optimizer zero_force_ds_cpu_optimizer seq_parallel_comm_dtype
"""

IGNORED_TOP: dict[str, str] = {
    **dict.fromkeys(TALK.split(), LOG),
    **dict.fromkeys(SUMS.split(), "gradients are summed in fp32"),
    **dict.fromkeys(("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"), BATCH),
    "disable_allgather": FSDP,
    "graph_harvesting": FSDP,
    "checkpoint": "graft writes its own checkpoints: save_every, keep",
    "activation_checkpointing": "turn it on with `recompute: full`",
    "aio": "nothing is moved to a disk",
}

REFUSED_TOP: dict[str, str] = {
    "amp": "graft has no apex: use bf16",
    "tensor_parallel": "weights are spread, single products are not",
    "sequence_parallel_size": "a row is not spread over processes",
    "pipeline": "layers are not spread as a pipeline",
    "elasticity": "the number of processes is fixed while they run; a run goes on with another number",
    "curriculum_learning": "the order of the data is the recipe's `mix`",
    "data_efficiency": "the order of the data is the recipe's `mix`",
    "compression_training": "graft does not compress while it trains",
    "sparse_attention": "attention is the model's own",
    "autotuning": "graft plans its memory itself",
    "hybrid_engine": "answers are written by graft's own engine",
}


def map_deepspeed(config: dict[str, Any]) -> Mapping:
    """What each key of a DeepSpeed configuration becomes. `auto` leaves the choice to the recipe."""
    made = Mapping()
    for key, value in config.items():
        if value == "auto":
            made.add(key, value, "ignored", "the recipe's own setting, or its default")
        elif key == "zero_optimization":
            _map_zero(made, value)
        elif key in ("bf16", "bfloat16", "fp16"):
            _map_precision(made, key, value)
        elif key == "gradient_clipping":
            made.stages["clip"] = float(value) or 1e9  # 0 means never
            made.add(key, value, "mapped", f"clip: {made.stages['clip']:g}")
        elif key == "optimizer":
            _map_optimizer(made, value)
        elif key == "scheduler":
            _map_scheduler(made, value)
        elif key in IGNORED_TOP:
            made.add(key, value, "ignored", IGNORED_TOP[key])
        elif key in REFUSED_TOP:
            made.add(key, value, *(("refused", REFUSED_TOP[key]) if _active(value) else ("ignored", "switched off")))
        else:
            known = [*IGNORED_TOP, *REFUSED_TOP, "zero_optimization", "optimizer", "scheduler", "gradient_clipping"]
            near = difflib.get_close_matches(key, known, n=1)
            made.add(key, value, "refused", f"unknown; did you mean {near[0]}?" if near else "unknown to graft")
    return made


def _active(value: Any) -> bool:
    return bool(value.get("enabled", True)) if isinstance(value, dict) else value not in (False, None, 0, 1)


def _map_zero(made: Mapping, section: dict[str, Any]) -> None:
    for name, value in section.items():
        key = ZERO + name
        if name == "stage":
            found = ZERO_STAGES.get(value)
            if found is None:
                made.add(key, value, "refused", "ZeRO's stages are 0, 1, 2 and 3")
                continue
            made.parallel |= found
            made.add(key, value, "mapped", _written("parallel", found))
        elif name == "mics_shard_size" and isinstance(value, int) and value > 0:
            made.parallel["shard"] = value
            made.add(key, value, "mapped", _written("parallel", {"shard": value}))
        elif name in ("offload_optimizer", "offload_param", "cpu_offload", "cpu_offload_params"):
            device = value.get("device", "none") if isinstance(value, dict) else "cpu" if value else "none"
            if device == "none":
                made.add(key, value, "ignored", "switched off")
            else:
                why = f"nothing is moved to {device}: use more GPUs or `method: lora`, and delete this key"
                made.add(key, value, "refused", why)
        elif name in IGNORED or name == "mics_shard_size" or value == "auto":
            made.add(key, value, "ignored", IGNORED.get(name, FSDP))
        else:
            near = difflib.get_close_matches(name, [*IGNORED, "stage", "offload_optimizer", "offload_param"], n=1)
            made.add(key, value, "refused", f"unknown; did you mean {near[0]}?" if near else "unknown to graft")


ZERO_STAGES: dict[Any, dict[str, Any]] = {
    0: {"shard": 1},
    1: {"regather": False, "reduce": "step"},
    2: {"regather": False, "reduce": "row"},
    3: {"regather": True, "reduce": "row"},
}
"""ZeRO-2 and 3 keep only a part of the gradient on each GPU, so they sum it after each row."""


def _map_precision(made: Mapping, key: str, section: dict[str, Any]) -> None:
    enabled = section.get("enabled", False)
    if enabled == "auto":
        made.add(f"{key}.enabled", enabled, "ignored", "the recipe's `precision`")
    elif enabled and key == "fp16":
        made.recipe.setdefault("precision", "auto")
        made.add(f"{key}.enabled", enabled, "mapped", "precision: auto (bf16 where the GPU has it, else fp32; no fp16)")
    elif enabled:
        made.recipe["precision"] = "bf16"
        made.add(f"{key}.enabled", enabled, "mapped", "precision: bf16")
    else:
        made.add(f"{key}.enabled", enabled, "ignored", "switched off")
    for name, value in section.items():
        if name != "enabled":
            made.add(f"{key}.{name}", value, "ignored", SCALE)


def _map_optimizer(made: Mapping, section: dict[str, Any]) -> None:
    kind = str(section.get("type", "AdamW"))
    if kind.lower() in ("adamw", "adam"):
        made.add("optimizer.type", kind, "mapped", "AdamW, fused (graft's own)")
    else:
        made.add("optimizer.type", kind, "refused", "graft trains with AdamW")
    names = {"lr": "learning_rate", "weight_decay": "weight_decay"}
    for name, value in section.get("params", {}).items():
        key = f"optimizer.params.{name}"
        if value == "auto":
            made.add(key, value, "ignored", "the recipe's own setting, or its default")
        elif name in names:
            made.stages[names[name]] = float(value)
            made.add(key, value, "mapped", f"{names[name]}: {float(value):g}")
        elif name == "betas":
            made.add(key, value, "ignored", "always 0.9 and 0.95 (LLaMA 2's)")
        else:
            made.add(key, value, "ignored", "AdamW's ε is 1e-8; matrices decay, norms and biases do not")


def _map_scheduler(made: Mapping, section: dict[str, Any]) -> None:
    params = section.get("params", {})
    made.add("scheduler.type", section.get("type"), "ignored", "always: linear warm-up, then cosine to a tenth")
    warmup, total = params.get("warmup_num_steps"), params.get("total_num_steps")
    if all(isinstance(value, int | float) for value in (warmup, total)) and 0 <= warmup < total:
        made.stages["warmup"] = round(warmup / total, 4)
    for name, value in params.items():
        key = f"scheduler.params.{name}"
        if value == "auto":
            made.add(key, value, "ignored", "the recipe's own setting, or its default")
        elif name == "warmup_max_lr":
            made.stages["learning_rate"] = float(value)
            made.add(key, value, "mapped", f"learning_rate: {float(value):g}")
        elif name in ("warmup_num_steps", "total_num_steps") and "warmup" in made.stages:
            made.add(key, value, "mapped", f"warmup: {made.stages['warmup']:g} (a share of the steps)")
        else:
            made.add(key, value, "ignored", "steps follow from the data; `warmup` is a share of them")


def read_deepspeed(path: Path) -> Mapping:
    """Raises GraftError when the file is absent or no JSON, RecipeError when it is not a mapping."""
    config = read_json(path)
    if not isinstance(config, dict):
        raise RecipeError("a DeepSpeed configuration is a mapping of keys", where=path, fix="check the file")
    return map_deepspeed(config)


def apply_deepspeed(tree: dict[str, Any], path: Path) -> None:
    """Put what the file says into a recipe's tree, in place, wherever the recipe says nothing itself.

    Raises:
        RecipeError: the file asks for something that graft does not do.
    """
    made = read_deepspeed(path)
    refused = [line for line in made.lines if line.fate == "refused"]
    if refused:
        raise RecipeError(
            f"{refused[0].key}: {refused[0].becomes}" + (f" (and {len(refused) - 1} more)" if refused[1:] else ""),
            where=path,
            fix=f"`graft deepspeed {path}` shows every key; change the file, or leave it out and set `parallel`",
        )
    for target, found in _places(tree, made):
        for key, value in found.items():
            target.setdefault(key, value)


def _places(tree: dict[str, Any], made: Mapping) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    yield tree, made.recipe
    yield tree["parallel"], made.parallel
    for stage in (tree.get("stages") or {}).values():
        if isinstance(stage, dict):
            yield stage, made.stages


def show_deepspeed(path: Path) -> None:
    """Print a file key by key, and the recipe lines that say the same."""
    made = read_deepspeed(path)
    table = Table(box=None, pad_edge=False, padding=(0, 2))
    for column in ("key", "value", "", "in graft"):
        table.add_column(column, overflow="fold")
    for line in made.lines:
        value = line.value if not isinstance(line.value, dict) else "{…}"
        table.add_row(line.key, escape(str(value)), line.fate, escape(line.becomes))
    say(table)
    lines = [f"{key}: {value}" for key, value in made.recipe.items()]
    lines += [_written("parallel", made.parallel)] if made.parallel else []
    lines += [f"stages.NAME.{key}: {value:g}" for key, value in made.stages.items()]
    say("\nin a recipe:" if lines else "\nnothing of it belongs into a recipe")
    for text in lines:
        say(f"  {escape(text)}")


def _written(key: str, values: dict[str, Any]) -> str:
    inner = ", ".join(f"{name}: {str(value).lower()}" for name, value in values.items())
    return f"{key}: {{{inner}}}"
