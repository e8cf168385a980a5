"""Answers in a form that a JSON schema or a regular expression gives, by llguidance (an optional library).

Source: github.com/guidance-ai/llguidance, MIT licence: it finds the allowed tokens of a step in some 50 µs, whatever
the tokenizer, and needs nothing prepared for each schema.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from graftlm.core.errors import GraftError


class Grammar:
    """Rules over the tokens of one tokenizer; made once, since it reads the whole vocabulary.

    Args:
        tokenizer: a fast one of transformers.
        V: tokens that the model knows; may be more than the tokenizer has.
        stop_ids: tokens that end an answer.

    Raises:
        GraftError: llguidance is not installed, or cannot read this tokenizer; no token ends an answer.
    """

    def __init__(self, tokenizer: Any, V: int, stop_ids: Collection[int]) -> None:
        if find_spec("llguidance") is None:
            raise GraftError(
                "answers in the form of a JSON schema or a regular expression need llguidance",
                fix='pip install "graftlm[grammar]"',
            )
        if not stop_ids:
            raise GraftError("no token ends an answer, so that none could end where its form does", fix="name stop_ids")
        import llguidance.hf

        try:
            self._tokenizer = llguidance.hf.from_tokenizer(tokenizer, n_vocab=V, eos_token=sorted(stop_ids))
        except (TypeError, ValueError, AttributeError) as error:
            raise GraftError(
                f"llguidance cannot read {type(tokenizer).__name__}: {error}", fix="use a model with a tokenizer.json"
            ) from None

    def json_schema(self, schema: dict[str, Any]) -> GrammarRule:
        """Answers are JSON of this schema, in one line: a small model that may write blanks writes nothing else."""
        from llguidance import LLMatcher

        rules = LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides={"whitespace_flexible": False})
        return self._rule(rules, "JSON schema")

    def regex(self, pattern: str) -> GrammarRule:
        """Answers match this expression from beginning to end (Rust's syntax: no look-around, no back references)."""
        from llguidance import LLMatcher

        return self._rule(LLMatcher.grammar_from_regex(pattern), "regular expression")

    def _rule(self, grammar: str, kind: str) -> GrammarRule:
        from llguidance import LLMatcher

        matcher = LLMatcher(self._tokenizer, grammar, log_level=0)
        if matcher.is_error():
            raise GraftError(f"not a {kind} that can be followed: {matcher.get_error()}", where=kind, fix="simplify it")
        return GrammarRule(matcher)


class GrammarRule:
    """A `constraints.Constraint` by a matcher of llguidance; for one answer."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    def allowed(self, V: int) -> Tensor:
        words = torch.frombuffer(bytearray(self._matcher.compute_bitmask()), dtype=torch.uint8)
        bits = (words[:, None] >> torch.arange(8)) & 1  # the lowest bit is the first token
        found_V = torch.zeros(V, dtype=torch.bool)
        count = min(V, bits.numel())
        found_V[:count] = bits.flatten()[:count].bool()
        return found_V

    def push(self, token: int) -> None:
        if not self._matcher.consume_token(token):
            raise GraftError(f"the grammar took no token {token}: {self._matcher.get_error()}")

    @property
    def done(self) -> bool:
        return bool(self._matcher.is_stopped())
