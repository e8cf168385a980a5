"""A prefix against peft's PrefixTuning, which loads the same file and shifts every position by the prefix's length."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from graftlm.models.adapters import Prefix, make_trainable
from graftlm.models.adapters.prefix_files import save_prefix
from graftlm.models.trunk import prepare_trunk

P, T = 5, 27
SIZES = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "pad_token_id": 0,
}  # fmt: skip


def random_model(family: str) -> PreTrainedModel:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **SIZES), dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0, 0.3)
    return model.eval()


@pytest.mark.parametrize("family", ["llama", "qwen3", "glm"])
def test_equal_where_the_shift_is_undone(family, parity, tmp_path):
    ours = random_model(family)
    assert prepare_trunk(ours)
    make_trainable(ours, Prefix(tokens=P, dropout=0.0)).eval()
    save_prefix(ours, tmp_path)
    assert list(load_file(tmp_path / "prefix" / "adapter_model.safetensors")) == ["prompt_embeddings"]
    theirs = PeftModel.from_pretrained(random_model(family), str(tmp_path / "prefix")).eval()
    tokens = torch.arange(3, 3 + T)[None]
    with torch.no_grad():
        own = ours(input_ids=tokens, use_cache=False).logits
        shifted = theirs(input_ids=tokens).logits
        undone = theirs(input_ids=tokens, position_ids=torch.arange(T)[None] - P).logits  # peft adds P to what it gets
    scale = float(own.abs().max())
    parity(f"{family} with a prefix", "peft's, position_ids = arange - P", float((own - undone).abs().max()), scale)
    parity.differs(f"{family} with a prefix", "peft's shifted positions", float((own - shifted).abs().max()))
