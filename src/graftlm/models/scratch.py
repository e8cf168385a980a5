"""A new small model: its byte-level BPE tokenizer trained on the user's text, its weights at random."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from typing import Any

import torch
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as RustTokenizer
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from graftlm.core.errors import ModelError
from graftlm.core.seeds import seed_everything
from graftlm.models.families.glm130b_config import MARKS, Glm130bConfig
from graftlm.models.trunk import prepare_trunk

SPECIALS = ("<|begin|>", "<|end|>", "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>")

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|' + message.role + '|>' }}"
    "{% if message.role == 'assistant' %}{% generation %}{{ message.content + eos_token }}{% endgeneration %}"
    "{% else %}{{ message.content + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

# Words with their leading space, digits one by one (so that numbers of any length are made of the same ten
# pieces), Han characters one by one (so that an invented name is split the same way wherever it stands), runs
# of other signs.
SPLIT = r"\p{Han}| ?[^\s\p{L}\p{N}\p{Han}]+| ?(?:(?!\p{Han})\p{L})+|\p{N}|\s+"


def train_tokenizer(
    texts: Iterable[str], vocabulary: int, *, max_tokens: int, marks: Sequence[str] = ()
) -> PreTrainedTokenizerFast:
    """Byte-level BPE of `vocabulary` pieces with the six chat marks first, then the `marks` of a family.

    These take the space before them along: what they stand for begins with it ("was [MASK] red" lacks " once").
    """
    taking_space = [AddedToken(mark, lstrip=True, special=True) for mark in marks]
    rust = RustTokenizer(models.BPE())
    rust.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    rust.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[*SPECIALS, *taking_space],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    rust.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=rust,
        bos_token=SPECIALS[0],
        eos_token=SPECIALS[1],
        pad_token=SPECIALS[2],
        additional_special_tokens=[*SPECIALS[3:], *taking_space],
        chat_template=CHAT_TEMPLATE,
        model_max_length=max_tokens,
    )


def marks_of(model_type: str | None) -> dict[str, str]:
    """The tokens that an architecture needs beside the chat's: the setting that holds the id, and the token."""
    return MARKS if model_type == Glm130bConfig.model_type else {}


def new_model(architecture: dict[str, Any], tokenizer: PreTrainedTokenizerFast, seed: int) -> PreTrainedModel:
    """A causal LM of transformers' `model_type` with random weights; the tokenizer decides vocabulary and
    marks.

    Raises:
        ModelError: transformers does not know the `model_type`, or one of the sizes does not fit.
    """

    def make(config: PretrainedConfig) -> PreTrainedModel:
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        prepare_trunk(model)
        return model

    marks = marks_of(architecture.get("model_type"))
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in marks.items()}
    return random_weights(make, architecture | ids, tokenizer, seed)


def random_weights(
    make: Callable[[PretrainedConfig], PreTrainedModel],
    architecture: dict[str, Any],
    tokenizer: PreTrainedTokenizerFast,
    seed: int,
) -> PreTrainedModel:
    """What `make` makes of an architecture's configuration, with the tokenizer's vocabulary and marks.

    Raises:
        ModelError: transformers does not know the `model_type`, or one of the sizes does not fit.
    """
    sizes = dict(architecture)
    kind = sizes.pop("model_type", None)
    try:
        check_names(AutoConfig.for_model(kind), sizes)
        config = AutoConfig.for_model(
            kind,
            vocab_size=len(tokenizer),
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **sizes,
        )
        seed_everything(seed)
        return make(config)
    except ModelError:
        raise
    except Exception as error:  # each architecture complains about wrong sizes in its own way
        raise ModelError(
            f"no model can be made: {str(error)[:300]}",
            where="base.architecture",
            fix="see transformers' configuration of this model_type",
        ) from error


def check_names(default: PretrainedConfig, sizes: dict[str, Any]) -> None:
    """transformers keeps names that it does not know and builds its default size, 7B perhaps: refuse them."""
    known = {*default.to_dict(), *default.attribute_map, "rope_theta", "rope_scaling"}
    for name in sizes:
        if name not in known:
            near = get_close_matches(name, known, 1)
            raise ModelError(
                f"{default.model_type} has no setting `{name}`",
                where="base.architecture",
                fix=f"did you mean `{near[0]}`?" if near else "see transformers' configuration of it",
            )
