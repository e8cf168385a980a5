"""A language model beside the tokenizer and template that its training rows were made with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from graftlm.data.encode import Encoded, encode_chats, encode_texts
from graftlm.data.samples import Sample, Text
from graftlm.data.templates import ChatTemplate
from graftlm.evaluation.memorisation import Floats
from graftlm.inference.likelihood import token_log_probability
from graftlm.models.loading import load_model, load_tokenizer
from graftlm.recipes.stages.context import choose_template

LONGEST = 2048
"""Tokens of a row that are looked at."""


@dataclass(frozen=True)
class Network:
    """A model with the tokenizer and template that its training rows were made with."""

    model: PreTrainedModel
    tokenizer: Tokenizer
    template: ChatTemplate

    @classmethod
    def load(cls, place: str, template: str) -> Network:
        """In bf16 on a GPU, in fp32 on a CPU."""
        tokenizer = load_tokenizer(place)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        model = load_model(place, dtype=dtype, device=device)
        return cls(model, tokenizer, choose_template(template, tokenizer))

    def encode(self, samples: Sequence[Sample]) -> list[Encoded]:
        """Documents as in training, cut to `LONGEST` tokens."""
        if isinstance(samples[0], Text):
            whole = encode_texts(self.tokenizer, samples)  # type: ignore[arg-type]
        else:
            whole = encode_chats(self.tokenizer, self.template, samples)  # type: ignore[arg-type]
        return [Encoded(one.tokens[:LONGEST], one.targets[:LONGEST]) for one in whole]

    def encode_text(self, texts: Sequence[str]) -> list[list[int]]:
        return [one.tokens.tolist() for one in encode_texts(self.tokenizer, texts)]

    def log_probabilities(self, documents: Sequence[Encoded]) -> list[Floats]:
        """log p of what is learnt of each document: every token of a text, the answers of a conversation."""
        found = token_log_probability(self.model, [one.tokens.tolist() for one in documents])
        return [log_p[one.targets[1:]] for log_p, one in zip(found, documents, strict=True)]
