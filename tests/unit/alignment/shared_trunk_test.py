"""A reward model on the policy's trunk: the same scores as by itself, whatever the policy has become."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from graftlm.alignment.rewards.model import RewardModelReward, SharedTrunkReward
from graftlm.data.samples import Origin, Prompt, Turn
from graftlm.data.templates import tokenizer_template
from graftlm.models.adapters import make_trainable, merge_adapter, save_adapter
from graftlm.models.loading import load_model, load_tokenizer
from graftlm.models.reward import load_reward_model, save_reward_model
from graftlm.models.shared_trunk import SharedTrunk

CPU = torch.device("cpu")
QUESTIONS = [Prompt((Turn("user", f"What is {n} + 4?"),), Origin("test", n)) for n in range(6)]
ANSWERS = [str(n) * (1 + n % 3) for n in range(6)]


@pytest.fixture(scope="module")
def reward_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA reward model on the rootstock whose adapter and head are far from nothing."""
    folder = tmp_path_factory.mktemp("reward")
    model = make_trainable(load_reward_model("rootstock", dtype=torch.float32, device=CPU), "lora", rank=4)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.1)
    save_adapter(model, str(folder / "adapter"))
    save_reward_model(merge_adapter(model), load_tokenizer("rootstock"), folder)
    return folder


def test_scores_are_those_of_the_model_by_itself(reward_folder: Path) -> None:
    tokenizer = load_tokenizer("rootstock")
    template = tokenizer_template(tokenizer)
    model = load_reward_model(str(reward_folder), dtype=torch.float32, device=CPU)
    alone = RewardModelReward(model, tokenizer, template)
    expected = alone(QUESTIONS, ANSWERS)
    policy = make_trainable(load_model("rootstock", dtype=torch.float32, device=CPU), "lora", rank=8)
    trained = {name for name, parameter in policy.named_parameters() if parameter.requires_grad}
    shared = SharedTrunkReward(SharedTrunk(policy, reward_folder, "reward"), tokenizer, template)
    assert shared(QUESTIONS, ANSWERS) == pytest.approx(expected, abs=1e-4)
    assert max(expected) - min(expected) > 0.1

    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if name in trained:
                parameter.normal_(std=0.1)
    tokens = torch.arange(5, 25)[None]
    before = policy(input_ids=tokens).logits
    assert shared(QUESTIONS, ANSWERS) == pytest.approx(expected, abs=1e-4), "the policy's adapter is switched off"
    assert {name for name, parameter in policy.named_parameters() if parameter.requires_grad} == trained
    assert torch.equal(policy(input_ids=tokens).logits, before), "and is on again afterwards"


def test_the_policy_is_saved_without_the_reward(reward_folder: Path, tmp_path: Path) -> None:
    policy = make_trainable(load_model("rootstock", dtype=torch.float32, device=CPU), "lora", rank=8)
    SharedTrunk(policy, reward_folder, "reward")
    save_adapter(policy, str(tmp_path / "adapter"))
    assert [path.name for path in (tmp_path / "adapter").rglob("*.safetensors")] == ["adapter_model.safetensors"]
