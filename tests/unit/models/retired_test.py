"""Folders of architectures that are gone are refused with what serves instead."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from graftlm.core.errors import GraftError, ModelError
from graftlm.models.loading import load_config, load_tokenizer


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "transfo-xl"}, "Transformer-XL"),
        ({"architectures": ["TransfoXLLMHeadModel"]}, "Transformer-XL"),
        ({"model_type": "Deltalm", "architectures": ["DeltalmForConditionalGeneration"]}, "DeltaLM"),
        ({"model_type": "bert", "architectures": ["ZenForMaskedLM"]}, "ZEN"),
    ],
)
def test_gone_architectures(config: dict[str, Any], words: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    for load in (load_config, load_tokenizer):
        with pytest.raises(ModelError, match=words) as caught:
            load(str(tmp_path))
        assert caught.value.fix and "instead" in caught.value.fix


def test_others_pass(tmp_path: Path) -> None:
    AutoConfig.for_model("bert").save_pretrained(tmp_path)
    assert load_config(str(tmp_path)).model_type == "bert"
    (tmp_path / "config.json").write_text("{broken")
    with pytest.raises(GraftError, match=r"not valid JSON|cannot be loaded"):
        load_config(str(tmp_path))
