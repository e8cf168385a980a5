"""The same equivalences on a CUDA device, in bf16, where the fast kernels run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from graftlm.alignment.credit import ValueCredit
from graftlm.alignment.feed import RolloutFeed, RolloutSettings
from graftlm.alignment.objective import PolicyObjective
from graftlm.alignment.policy import Policy
from graftlm.alignment.prompts import encode_prompts
from graftlm.alignment.rewards.model import RewardModelReward
from graftlm.data.encode import Encoded
from graftlm.data.mixing import mix
from graftlm.data.packing import PackingPlan, pack
from graftlm.data.samples import Origin, Prompt, Turn
from graftlm.data.store import TokenStore
from graftlm.data.templates import tokenizer_template
from graftlm.evaluation.language_model import language_model
from graftlm.inference.decoding import Decoding
from graftlm.inference.generation import generate
from graftlm.models.adapters import make_trainable
from graftlm.models.loading import load_model, load_tokenizer
from graftlm.models.reward import load_reward_model
from graftlm.models.trunk import causal_lm, prepare_trunk
from graftlm.objectives.causal_lm import CausalLM
from graftlm.objectives.preference import DPO
from graftlm.objectives.reference import reference_log_probabilities
from graftlm.training.trainer import Trainer, TrainingSettings

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def tiny(kv_heads: int = 2) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
    )
    model = LlamaForCausalLM(config).cuda()
    prepare_trunk(model)
    return model


def plan_of(folder: Path, *, group: int = 1, row_tokens: int = 128) -> PackingPlan:
    random = np.random.default_rng(0)
    lengths = random.integers(3, 40, 24)
    tokens = [1 + (random.integers(127) + 7 * np.arange(n)) % 127 for n in lengths]  # each follows from the one before
    documents = [Encoded(line.astype(np.uint32), np.arange(len(line)) > len(line) // 3) for line in tokens]
    store = TokenStore.write(folder / "store", documents, group=group)
    return pack(mix({"a": store}, {"a": 1.0}, int(lengths.sum()), "hybrid", 0), row_tokens=row_tokens)


@pytest.mark.parametrize("bf16", [False, True])
def test_packed_loss_is_padded_loss(tmp_path: Path, bf16: bool) -> None:
    model, plan = tiny(), plan_of(tmp_path)
    assert causal_lm(model).graft_packs
    losses = {}
    for packs in (True, False):
        model.graft_packs = packs
        with torch.autocast("cuda", torch.bfloat16, enabled=bf16):
            rows = [plan.row(number, pad_to=plan.row_tokens).to(torch.device("cuda")) for number in range(plan.rows)]
            losses[packs] = sum(float(CausalLM()(model, row).total) for row in rows)
    assert losses[True] == pytest.approx(losses[False], rel=1e-5 if not bf16 else 3e-3)


def test_training_lowers_the_loss_and_counts_padding(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    settings = TrainingSettings(learning_rate=1e-2, bf16=True, log_every=1, pad_rows=True)
    trainer = Trainer(tiny(), CausalLM(), plan, settings)
    losses = [entry["loss"] for entry in trainer.fit().losses]
    assert losses[-1] < losses[0]
    assert trainer.meter.all == plan.rows * plan.row_tokens
    assert trainer.meter.all - trainer.meter.padding == int(plan.mixture.lengths.sum())


@pytest.mark.parametrize("method", ["full", "lora"])
def test_ppo_in_bf16_acts_as_it_is_trained(method: str) -> None:
    """Engine and trainer run other kernels: their log p may differ by a few bf16 roundings, the ratio starts at 1."""
    device, tokenizer = torch.device("cuda"), load_tokenizer("rootstock")
    frozen = torch.bfloat16 if method == "lora" else torch.float32
    model = make_trainable(load_model("rootstock", dtype=frozen, device=device), method)  # type: ignore[arg-type]
    subject = language_model(causal_lm(model), tokenizer, tokenizer_template(tokenizer))
    questions = [Prompt((Turn("user", f"What is {n} + 4?"),), Origin("test", n)) for n in range(16)]
    policy = Policy(model, value=True)
    feed = RolloutFeed(
        policy,
        subject,
        [encode_prompts(subject, questions, 512)[0]] * 2,
        lambda prompts, answers: [float(len(answer)) for answer in answers],
        ValueCredit(0.05, None, True, 1.0, 0.95),
        RolloutSettings(2, 2, 2, 16, 512, 50.0, None, bf16=True, seed=0),
    )
    settings = TrainingSettings(learning_rate=1e-4, bf16=True, log_every=1, pad_rows=True)
    objective = PolicyObjective(feed.current, 0.2, value_weight=0.1)
    losses = Trainer(policy, objective, feed, settings).fit().losses
    assert losses[0]["ratio"] == pytest.approx(1, abs=1e-6)
    assert losses[0]["clip_fraction"] == 0
    assert feed.history[0]["engine_gap"] < 0.15
    assert feed.history[0]["kl"] == pytest.approx(0, abs=1e-4 if method == "full" else 1e-2)


@pytest.mark.parametrize("bf16", [False, True])
def test_rewards_do_not_depend_on_the_row(bf16: bool) -> None:
    device = torch.device("cuda")
    model = load_reward_model("rootstock", dtype=torch.float32, device=device)
    torch.nn.init.normal_(model.score.weight, std=0.02)
    reward = RewardModelReward(model, load_tokenizer("rootstock"), tokenizer_template(load_tokenizer("rootstock")))
    questions = [Prompt((Turn("user", f"What is {n} + 4?"),), Origin("test", n)) for n in range(12)]
    answers = [str(n) * (1 + n % 3) for n in range(12)]
    with torch.autocast("cuda", torch.bfloat16, enabled=bf16):
        together = reward(questions, answers)
        alone = [reward([question], [answer])[0] for question, answer in zip(questions, answers, strict=True)]
    assert together == pytest.approx(alone, abs=1e-4 if not bf16 else 2e-2)
    assert len(set(together)) > 6


def test_dpo_starts_at_ln_2_in_bf16(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, group=2)
    model = tiny()
    objective = DPO(0.1, reference_log_probabilities(model, [plan], pad_rows=True, bf16=True))
    settings = TrainingSettings(learning_rate=1e-3, bf16=True, log_every=1, pad_rows=True)
    first = Trainer(model, objective, plan, settings).fit().losses[0]
    assert first["loss"] == pytest.approx(np.log(2), abs=1e-6)


def test_batched_cached_generation_is_naive() -> None:
    model = tiny()
    prompts = [[5, 6, 7], [9], [3, 4, 5, 6, 7, 8, 9, 10]]
    found = generate(model, prompts, Decoding(greedy=True, max_new_tokens=6), stop_ids=[], pad_id=0)
    for prompt, completion in zip(prompts, found, strict=True):
        tokens = list(prompt)
        for _ in range(6):
            logits = model(torch.tensor([tokens], device="cuda")).logits[0, -1]
            tokens.append(int(logits.argmax()))
        assert list(completion.tokens) == tokens[len(prompt) :]
