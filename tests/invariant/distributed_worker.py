"""What the processes of distributed_test.py run; alone it gives the expected values.

A case is a plain dict, so that it can cross to other processes as JSON.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch.distributed.device_mesh import init_device_mesh
from transformers import AutoConfig, AutoModelForCausalLM

from graftlm.core.errors import TrainingError
from graftlm.core.seeds import seed_everything
from graftlm.data.mixing import mix
from graftlm.data.packing import PackingPlan, pack
from graftlm.data.store import TokenStore
from graftlm.models.adapters import (
    Adaptation,
    Expand,
    Freeze,
    Heads,
    Prefix,
    make_trainable,
    recompute_activations,
)
from graftlm.models.trunk import prepare_trunk
from graftlm.objectives.causal_lm import CausalLM
from graftlm.objectives.preference import DPO
from graftlm.objectives.reference import reference_log_probabilities
from graftlm.training import checkpoint_writer
from graftlm.training.distributed import ALONE, Sharding, World, gather_weights, join_world, shard_model
from graftlm.training.launch import end_process
from graftlm.training.objective import Objective
from graftlm.training.trainer import Trainer, TrainingSettings

SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
}

OTHERS: dict[str, Adaptation] = {
    "freeze": Freeze(last=1),
    "prefix": Prefix(tokens=3, dropout=0.0),
    "heads": Heads(((0, 1), (1, 2), (1, 3))),
    "expand": Expand(1),
}


class Stopped(Exception):
    """Breaks off a run at a step, as a kill would."""


def plan_of(folder: str, rows: int, rows_per_step: int) -> PackingPlan:
    store = TokenStore.open(Path(folder))
    plan = pack(
        mix({"a": store}, {"a": 1.0}, int(store.offsets[-1]), "hybrid", seed=5),
        row_tokens=32,
        rows_per_step=rows_per_step,
    )
    return replace(plan, row_edges=plan.row_edges[: rows + 1])


def make_model(case: dict[str, Any]) -> torch.nn.Module:
    seed_everything(11)
    sizes = SIZES | case.get("sizes", {})
    config = AutoConfig.for_model(case.get("family", "llama"), **sizes, tie_word_embeddings=case.get("tied", False))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0, 0.1)
    prepare_trunk(model)
    method = case.get("method", "full")
    adapted = make_trainable(model, OTHERS.get(method, method), rank=4, dropout=case.get("dropout", 0.0))
    if case.get("recompute"):
        recompute_activations(adapted)
    return adapted


def make_objective(case: dict[str, Any], model: torch.nn.Module, plans: list[PackingPlan], world: World) -> Objective:
    """Next tokens, or pairs against the reference that the model itself gives at its start."""
    if case.get("objective") != "dpo":
        return CausalLM()
    return DPO(0.1, reference_log_probabilities(model, plans, pad_rows=False, bf16=False, world=world))


def run_case(case: dict[str, Any], world: World = ALONE) -> dict[str, Any]:
    """Train as the case says; what happened, and the weights at the end."""
    device = torch.device("cuda", world.rank) if case.get("cuda") else torch.device("cpu")
    model = make_model(case)
    model = shard_model(model, world, bf16=case.get("bf16", False)) if world.size > 1 else model.to(device)
    settings = TrainingSettings(
        learning_rate=1e-2,
        warmup=0.1,
        log_every=1,
        evaluate_every=3,
        seed=7,
        save_every=case.get("save_every", 0),
        patience=case.get("patience", 0),
        bf16=case.get("bf16", False),
    )
    plan = plan_of(case["store"], case.get("rows", 23), case.get("rows_per_step", 3))
    held_out = plan_of(case["store"], 3, 1)
    trainer = Trainer(
        model,
        make_objective(case, model, [plan, held_out], world),
        plan,
        settings,
        held_out=held_out,
        folder=Path(case["folder"]) if "folder" in case else None,
        key="k",
        world=world,
    )
    write = checkpoint_writer.write_shards
    if "broken_disk" in case:
        checkpoint_writer.write_shards = _no_space

    def on_step(step: int) -> None:
        if step == case.get("stop_at"):
            raise Stopped

    error = ""
    try:
        trainer.fit(on_step)
    except Stopped:
        pass
    except TrainingError as found:
        error = str(found)
    checkpoint_writer.write_shards = write
    weights = gather_weights(trainer.trained, world)
    return {
        "record": asdict(trainer.record),
        "weights": weights,
        "meter": {name: n for name, n in trainer.meter.state().items() if name != "seconds"},
        "error": error,
    }


def _no_space(*_: Any) -> None:
    raise OSError("No space left on device")


def main(cases: dict[str, dict[str, Any]], folder: Path, joined: World) -> None:
    """Run every case over all processes; the first one writes the results."""
    for name, case in cases.items():
        if case.get("dies") == joined.rank:
            raise TrainingError("this one fails", where="a place", fix="a way out")
        sharding = Sharding(**case.get("sharding", {}))
        assert joined.mesh is not None
        mesh = init_device_mesh(
            joined.mesh.device_type, sharding.shape(joined.size), mesh_dim_names=("replicate", "shard")
        )
        host = init_device_mesh("cpu", sharding.shape(joined.size), mesh_dim_names=("replicate", "shard"))
        result = run_case(case, replace(joined, sharding=sharding, mesh=mesh, host_mesh=host))
        if joined.first:
            torch.save(result, folder / f"{name}.pt")
        joined.wait()


if __name__ == "__main__":
    torch.set_num_threads(1)
    try:
        given = json.loads(Path(sys.argv[1]).read_text())
        kind = "cuda" if any(case.get("cuda") for case in given.values()) else "cpu"
        with join_world(kind, Sharding()) as everyone:
            main(given, Path(sys.argv[1]).parent, everyone)
    except Exception as failure:
        end_process(failure, 2)
