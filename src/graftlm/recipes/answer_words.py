"""The words that a masked language model answers with, option by option."""

from __future__ import annotations

from transformers import PretrainedConfig
from transformers import PreTrainedTokenizerBase as Tokenizer

from graftlm.core.errors import ModelError
from graftlm.objectives.encoder_choice import AnswerWords

PAIRS = (("是", "非"), ("yes", "no"), ("▁yes", "▁no"), (" yes", " no"))
"""Yes and no; the first pair that the tokenizer has as single tokens. UniMC's are these, for Chinese and English."""


def choose_answer_words(tokenizer: Tokenizer, asked: tuple[str, str] | None) -> tuple[str, str]:
    """Raises ModelError when the words are no single tokens."""
    pairs = [asked] if asked else list(PAIRS)
    found = next((pair for pair in pairs if all(_token(tokenizer, word) is not None for word in pair)), None)
    if found is None:
        raise ModelError(
            f"the tokenizer has no single tokens for {' and '.join(pairs[0])}",
            where=str(tokenizer.name_or_path),
            fix="name two words of its vocabulary: answer_words: [yes, no]",
        )
    return found


def answer_ids(tokenizer: Tokenizer, words: tuple[str, str]) -> AnswerWords:
    yes, no = (_token(tokenizer, word) for word in words)
    assert yes is not None and no is not None
    return AnswerWords(yes, no)


def note_answer_words(config: PretrainedConfig, words: tuple[str, str]) -> None:
    """Write the words into the configuration, so that the folder says how it answers."""
    config.answer_words = list(words)


def noted_answer_words(config: PretrainedConfig) -> tuple[str, str] | None:
    """The words that a model was trained to choose options with; None for any other."""
    words = getattr(config, "answer_words", None)
    return (words[0], words[1]) if words else None


def _token(tokenizer: Tokenizer, word: str) -> int | None:
    """The id of a word that is one token, written as the vocabulary writes it or as text; None where it is several."""
    known = tokenizer.get_vocab().get(word)
    if known is not None:
        return int(known)
    ids = tokenizer(word, add_special_tokens=False)["input_ids"]
    return int(ids[0]) if len(ids) == 1 and ids[0] != tokenizer.unk_token_id else None
