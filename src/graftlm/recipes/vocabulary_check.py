"""What would stop a vocabulary stage, said before the run."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedTokenizerBase as Tokenizer

from graftlm.core.errors import GraftError
from graftlm.models.vocabulary_pieces import sentencepiece_pieces
from graftlm.models.vocabulary_rules import read_rules
from graftlm.recipes.findings import CheckResult
from graftlm.recipes.stage_settings import VocabularyStage


def check_vocabulary(found: CheckResult, name: str, stage: VocabularyStage, tokenizer: Tokenizer) -> None:
    """Whether the tokenizer can be extended, and the SentencePiece model read."""
    try:
        read_rules(tokenizer)
        if stage.sentencepiece:
            sentencepiece_pieces(Path(stage.sentencepiece))
    except GraftError as error:
        found.error(f"stages.{name}", f"{error.where}: {error.reason}", error.fix or "")
