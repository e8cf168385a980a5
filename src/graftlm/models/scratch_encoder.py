"""A new small encoder: its WordPiece tokenizer trained on the user's text, its weights at random."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForMaskedLM, PreTrainedModel, PreTrainedTokenizerFast

from graftlm.core.errors import ModelError
from graftlm.core.seeds import seed_everything
from graftlm.models.encoder import is_encoder_config
from graftlm.models.scratch import check_names

HEAD, INSIDE = "▁", "##"
PAD, UNKNOWN, CLS, SEP, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"


def is_encoder_architecture(architecture: dict[str, Any]) -> bool:
    """Whether transformers' `model_type` is that of an encoder; no for one that it does not know."""
    try:
        return is_encoder_config(AutoConfig.for_model(str(architecture.get("model_type"))))
    except ValueError:
        return False


def train_wordpiece(texts: Iterable[str], vocabulary: int, *, max_tokens: int) -> PreTrainedTokenizerFast:
    """BERT's tokenizer (arXiv 1810.04805) of `vocabulary` pieces, its five marks first; Chinese characters one by one,
    letters as they are written. More pieces only where the text has more characters.
    """
    marks = [PAD, UNKNOWN, CLS, SEP, MASK]
    pieces = list(dict.fromkeys([*marks, *_pieces(texts, vocabulary)]))
    singles = sum(len(piece.removeprefix(INSIDE)) == 1 for piece in pieces)
    kept = pieces[: max(vocabulary, len(marks) + singles)]
    rust = RustTokenizer(models.WordPiece({piece: number for number, piece in enumerate(kept)}, unk_token=UNKNOWN))
    rust.normalizer, rust.pre_tokenizer = _normaliser(), pre_tokenizers.BertPreTokenizer()
    rust.decoder = decoders.WordPiece()
    rust.add_special_tokens(marks)
    rust.post_processor = processors.TemplateProcessing(
        single=f"{CLS} $A {SEP}",
        pair=f"{CLS} $A {SEP} $B:1 {SEP}:1",
        special_tokens=[(mark, rust.token_to_id(mark)) for mark in (CLS, SEP)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=rust,
        pad_token=PAD,
        unk_token=UNKNOWN,
        cls_token=CLS,
        sep_token=SEP,
        mask_token=MASK,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        model_max_length=max_tokens,
    )


def _normaliser() -> normalizers.Normalizer:
    return normalizers.BertNormalizer(lowercase=False, strip_accents=False)


def _pieces(texts: Iterable[str], vocabulary: int) -> list[str]:
    """All characters, at the head of a word and inside, then merged pieces, the most useful first.

    The Rust WordPiece trainer numbers the inner pieces by chance, and ties go by number: no two runs would give one
    vocabulary. So words are merged by the trainer of byte pairs, which is exact, with a sign at their head.
    """
    rust = RustTokenizer(models.BPE())
    rust.normalizer = _normaliser()
    rust.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.BertPreTokenizer(), pre_tokenizers.Metaspace(replacement=HEAD, prepend_scheme="always")]
    )
    rust.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=vocabulary, show_progress=False))
    numbers = rust.get_vocab()
    found = sorted(numbers, key=numbers.__getitem__)
    singles = [piece for piece in found if len(piece) == 1 and piece != HEAD]
    merged = [piece[1:] if piece[0] == HEAD else INSIDE + piece for piece in found if len(piece) > 1]
    return [*singles, *(INSIDE + piece for piece in singles), *merged]


def new_encoder(architecture: dict[str, Any], tokenizer: PreTrainedTokenizerFast, seed: int) -> PreTrainedModel:
    """An encoder of transformers' `model_type` with random weights and a head for masked words.

    Raises:
        ModelError: one of the sizes does not fit.
    """
    sizes = dict(architecture)
    kind = sizes.pop("model_type")
    check_names(AutoConfig.for_model(kind), sizes)
    seed_everything(seed)
    try:
        config = AutoConfig.for_model(kind, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **sizes)
        model: PreTrainedModel = AutoModelForMaskedLM.from_config(config, dtype=torch.float32)
    except Exception as error:  # each architecture complains about wrong sizes in its own way
        raise ModelError(
            f"no encoder can be made: {str(error)[:300]}",
            where="base.architecture",
            fix="see transformers' configuration of this model_type",
        ) from error
    return model
