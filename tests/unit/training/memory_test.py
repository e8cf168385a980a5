"""The memory plan against what a process takes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from transformers import LlamaConfig

from graftlm.training.memory import GIB, MemoryPlan, available_memory, peak_memory, plan_memory, reset_peak

RUN = """
import json, sys
import numpy as np, torch
torch.set_num_threads(1)
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM
from graftlm.data.encode import Encoded
from graftlm.data.mixing import mix
from graftlm.data.packing import pack
from graftlm.data.store import TokenStore
from graftlm.models import adapters
from graftlm.models.adapters import make_trainable, parameter_counts, recompute_activations
from graftlm.models.trunk import prepare_trunk
from graftlm.objectives.causal_lm import CausalLM
from graftlm.training.memory import peak_memory, plan_memory
from graftlm.training.trainer import Trainer, TrainingSettings

folder, options = Path(sys.argv[1]), json.loads(sys.argv[2])
config = LlamaConfig(**options["config"])
random = np.random.default_rng(0)
lengths = np.array([64, 448, 192, 320] * 4)  # two full rows of 2,048
draw = lambda n: random.integers(0, config.vocab_size, n).astype(np.uint32)
documents = [Encoded(draw(n), np.ones(n, bool)) for n in lengths]
store = TokenStore.write(folder / "store", documents)
plan = pack(mix({"a": store}, {"a": 1}, int(lengths.sum()), "hybrid", 0), row_tokens=options["row_tokens"])
model = LlamaForCausalLM(config)
prepare_trunk(model)
how = options["method"]
model = make_trainable(model, how if how in ("full", "lora") else eval("adapters." + how))
if options["recompute"]:
    recompute_activations(model)
counts = parameter_counts(model)
predicted = plan_memory(
    config, parameters=counts["all"], trained=counts["trained"], row_tokens=options["row_tokens"],
    compute_bytes=4, frozen_bytes=4, recompute=options["recompute"], on_cpu=True,
    layers=adapters.layers_with_gradient(model),
    adapter="dora" if "dora" in how else "lora" if "lora" in how.lower() else "none",
)
Trainer(model, CausalLM(), plan, TrainingSettings(learning_rate=1e-4)).fit()
measured = peak_memory(torch.device("cpu"))
print(json.dumps({"predicted": predicted.total, "measured": measured, "plan": str(predicted)}))
"""

SMALL = {
    "vocab_size": 3072,
    "hidden_size": 256,
    "intermediate_size": 688,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}


OTHERS = ("Freeze(last=2)", "Prefix(tokens=32)", "Heads(((5, 0), (6, 3)))", "Expand(2)", "Lora(kind='dora')")


@pytest.mark.parametrize(
    ("config", "method", "recompute"),
    [
        (SMALL, "full", False),
        pytest.param(SMALL | {"num_hidden_layers": 8}, "full", True, marks=pytest.mark.slow),
        pytest.param(SMALL | {"num_key_value_heads": 2}, "lora", False, marks=pytest.mark.slow),
        *(pytest.param(SMALL | {"num_hidden_layers": 8}, how, False, marks=pytest.mark.slow) for how in OTHERS),
    ],
)
def test_predicted_is_near_what_a_training_process_takes(tmp_path, config, method, recompute):
    options = {"config": config, "row_tokens": 2048, "method": method, "recompute": recompute}
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(tmp_path), json.dumps(options)],
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    ratio = found["predicted"] / found["measured"]
    print(
        f"\n{method}, recompute {recompute}: measured {found['measured'] / GIB:.2f} GiB, "
        f"predicted {found['plan']}, ratio {ratio:.3f}"
    )
    assert 0.85 < ratio < 1.15


def plan(**changes) -> MemoryPlan:
    options = {
        "parameters": 1000, "trained": 1000, "row_tokens": 2048, "compute_bytes": 4, "frozen_bytes": 4,
        "recompute": False, "on_cpu": False,
    }  # fmt: skip
    return plan_memory(LlamaConfig(**SMALL), **(options | changes))


def test_the_parts_answer_to_what_makes_them():
    full, lora = plan(), plan(trained=10, frozen_bytes=2)
    assert (full.weights, full.gradients, full.optimizer) == (4000, 4000, 8000)
    assert plan(compute_bytes=2).weights == 6000, "autocast keeps a copy"
    kinds = [plan(trained=10, adapter=kind, on_cpu=True).activations for kind in ("none", "lora", "dora")]
    assert kinds == sorted(set(kinds))
    assert plan(layers=2).activations < plan(layers=3).activations < full.activations == plan(layers=4).activations
    assert (lora.weights, lora.gradients, lora.optimizer) == (10 * 4 + 990 * 2, 40, 80)
    assert plan(row_tokens=4096).activations > 1.5 * full.activations
    assert plan(recompute=True).activations < full.activations
    assert plan(compute_bytes=2).activations < full.activations
    assert plan(on_cpu=True).runtime > full.runtime == 0
    assert full.total == full.weights + full.gradients + full.optimizer + full.activations
    assert f"{full.total / GIB:.2f} GiB" in str(full)


def test_a_stage_does_not_count_the_peak_of_the_stage_before_it():
    cpu = torch.device("cpu")
    reset_peak(cpu)
    start = peak_memory(cpu)
    ballast = torch.ones(2**26)  # 256 MiB
    with_ballast = peak_memory(cpu)
    assert 0.95 < (with_ballast - start) / 2**28 < 1.3
    del ballast
    assert peak_memory(cpu) == pytest.approx(with_ballast, rel=0.02)
    reset_peak(cpu)
    assert peak_memory(cpu) < with_ballast - 2**27
    assert with_ballast < available_memory(cpu)
