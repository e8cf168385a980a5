"""The score of a reward model as the reward of an answer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase as Tokenizer

from graftlm.core.errors import DataError
from graftlm.data.encode import Encoded, encode_answers, encode_question_answers
from graftlm.data.packing import pack_samples
from graftlm.data.samples import Prompt, Turn
from graftlm.data.store import TokenStore
from graftlm.data.templates import ChatTemplate
from graftlm.inference.cached import evaluation_mode, model_device, position_limit
from graftlm.models.reward import document_rewards, is_encoder
from graftlm.models.shared_trunk import SharedTrunk


class RewardModelReward:
    """Scores answers, in rows of `row_tokens` tokens.

    A prompt that is too long for the row or the model loses its beginning; an answer is never cut.

    Args:
        model: from `load_reward_model`; its training state is left as it is.
        tokenizer, template: the model's own; an encoder takes question and answer without the template.
        row_tokens: tokens that run together, and the most that one document may have.
    """

    def __init__(
        self, model: torch.nn.Module, tokenizer: Tokenizer, template: ChatTemplate, *, row_tokens: int = 4096
    ) -> None:
        self.model, self.tokenizer, self.template = model, tokenizer, template
        self.row_tokens = row_tokens
        # An encoder's tokenizer knows best: RoBERTa states 514 positions, of which a text can use 512.
        most = tokenizer.model_max_length if is_encoder(model) else row_tokens
        self.max_tokens = min(row_tokens, most, position_limit(model) or row_tokens)

    def __call__(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[float]:
        """One reward for each prompt with its answer, in order.

        Raises:
            DataError: an answer alone is longer than a document may be.
        """
        if not prompts:
            return []
        pairs = zip(prompts, answers, strict=True)
        documents = self._encode([(prompt.prompt, answer) for prompt, answer in pairs])
        plan = pack_samples(TokenStore.in_memory(documents), self.row_tokens)
        device = model_device(self.model)
        found = torch.zeros(len(documents))
        with evaluation_mode(self.model), torch.no_grad():
            for batch in plan.all_rows(pad=False):
                found[batch.document] = document_rewards(self.model, batch.to(device)).cpu()
        return found.tolist()

    def _encode(self, pairs: list[tuple[Sequence[Turn], str]]) -> list[Encoded]:
        if is_encoder(self.model):
            documents = encode_question_answers(self.tokenizer, pairs, max_tokens=self.max_tokens)
        else:
            whole = encode_answers(self.tokenizer, self.template, pairs)
            documents = [_without_beginning(one, self.max_tokens, self.tokenizer.bos_token_id) for one in whole]
        longest = max(len(one.tokens) for one in documents)
        if longest > self.max_tokens:
            raise DataError(
                f"an answer takes {longest} tokens, the reward model can read {self.max_tokens}",
                where="reward model",
                fix="raise `row_tokens`, let answers be shorter, or use a reward model that reads more",
            )
        return documents


class SharedTrunkReward(RewardModelReward):
    """The score of a reward model that shares the trunk of the policy that it judges."""

    def __init__(self, shared: SharedTrunk, tokenizer: Tokenizer, template: ChatTemplate) -> None:
        super().__init__(shared.reward_model, tokenizer, template)
        self._shared = shared

    def __call__(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[float]:
        with self._shared.active():
            return super().__call__(prompts, answers)


def _without_beginning(document: Encoded, max_tokens: int, bos: int | None) -> Encoded:
    """The document without what is too much of its prompt; a bos stays. The answer is left whole."""
    excess = len(document.tokens) - max_tokens
    if excess <= 0:
        return document
    head = int(document.tokens[0] == bos)
    prompt = int(document.targets.argmax()) if document.targets.any() else len(document.targets)
    cut = np.arange(head, min(head + excess, prompt))
    return Encoded(np.delete(document.tokens, cut), np.delete(document.targets, cut), document.value)
