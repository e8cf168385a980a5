"""What encoders are trained on: labels, options whose order does not count, masked words."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from graftlm.data.annotated import Annotated, AnnotatedStore, Note, Notebook, padded_documents
from graftlm.data.encode_annotated import encode_choice, encode_words
from graftlm.data.packing import PackedBatch, join, pack_samples
from graftlm.data.samples import Labelled, Origin, Text, Turn
from graftlm.models.encoder import load_encoder
from graftlm.models.loading import save_model
from graftlm.models.scratch_encoder import new_encoder, train_wordpiece
from graftlm.objectives.encoder_choice import AnswerWords, OptionChoice, choice_loss, option_logits
from graftlm.objectives.encoder_labels import LabelLoss
from graftlm.objectives.encoder_mlm import MaskedWords, Masking, number_words

O = Origin("rows.jsonl", 1)
IGNORE = -100
SIZES = {
    "model_type": "bert", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 64, "initializer_range": 0.3, "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
TEXTS = ["哪个科治心脏病？ cardiology surgery 外科 眼科 neurology unhappiness", "yes no 是 非 the heart of the matter"]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_wordpiece(TEXTS * 3, 310, max_tokens=64)


@pytest.fixture(scope="module")
def model(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    place: Path = tmp_path_factory.mktemp("encoder")
    save_model(new_encoder(SIZES, tokenizer, seed=3), tokenizer, place)
    return load_encoder(str(place), "choice", dtype=torch.float32, device=torch.device("cpu"))


def one_row(documents: list[Annotated]) -> tuple[PackedBatch, Notebook]:
    store = AnnotatedStore.of(documents, "any", {})
    [row] = pack_samples(store.store, 512).all_rows(pad=False)
    return row, Notebook([store])


def question(*choices: str, right: int = 0) -> Labelled:
    return Labelled((Turn("user", "哪个科治 heart？"),), (choices[right],), O, choices)


OPTIONS = ("cardiology", "外科", "眼科 the matter", "neurology")


# --- classes and tags


def test_the_loss_of_labels_is_the_mean_cross_entropy_of_those_that_are_asked() -> None:
    class Table(torch.nn.Module):
        """Logits by token id: [n, L, 3], or of the first token [n, 3]."""

        def __init__(self, tokens: bool) -> None:
            super().__init__()
            self.tokens, self.table = tokens, torch.randn(50, 3)
            self.config = type("Config", (), {"pad_token_id": 0, "type_vocab_size": 0})()

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
            logits = self.table[input_ids]
            return type("Output", (), {"logits": logits if self.tokens else logits[:, 0]})()

    tagged = [
        Annotated.of([2, 11, 12, 3], labels=[IGNORE, 0, 2, IGNORE]),
        Annotated.of([2, 13, 3], labels=[IGNORE, 1, IGNORE]),
    ]
    row, notebook = one_row(tagged)
    table = Table(tokens=True)
    loss = LabelLoss(notebook)(table, row)
    wanted = sum(-math.log(table.table[t].softmax(0)[c]) for t, c in ((11, 0), (12, 2), (13, 1)))
    assert loss.units == LabelLoss(notebook).units(row) == 3
    assert float(loss.total) == pytest.approx(wanted, rel=1e-5)

    classes = [Annotated.of([7, 11, 3], labels=[1, IGNORE, IGNORE]), Annotated.of([9] * 9, labels=[2] + [IGNORE] * 8)]
    row, notebook = one_row(classes)
    table = Table(tokens=False)
    loss = LabelLoss(notebook)(table, row)
    wanted = -math.log(table.table[7].softmax(0)[1]) - math.log(table.table[9].softmax(0)[2])
    assert loss.units == 2 and float(loss.total) == pytest.approx(wanted, rel=1e-5)


def test_notes_follow_their_documents_into_any_row() -> None:
    store = AnnotatedStore.of([Annotated.of([n] * (n + 2), groups=[n] * (n + 2)) for n in range(1, 7)], "any", {})
    notebook, plan = Notebook([store]), pack_samples(store.store, 12)
    rows = list(plan.all_rows(pad=False))
    assert plan.rows > 1
    for row in (*rows, join(rows), plan.row(0, pad_to=40)):
        real = len(row.tokens) - row.padding
        notes = notebook.of(row)
        assert (notes[:real, Note.GROUP] == row.tokens[:real]).all()
        assert (notes[real:, Note.LABEL] == IGNORE).all() and (notes[real:, Note.GROUP] == 0).all()
        parts = list(padded_documents(row, notes))
        assert sum(len(part.tokens_nL) for part in parts) == row.documents
        for part in parts:
            assert [n + 1 for n in part.document_n.tolist()] == part.tokens_nL[:, 0].tolist()


# --- options


def test_the_layout_of_options(tokenizer: Any) -> None:
    found = encode_choice(tokenizer, question("外科", "眼", right=1), longest=64)
    assert found is not None
    pieces = tokenizer.convert_ids_to_tokens(found.tokens.tolist())
    assert pieces[:9] == ["[CLS]", "[MASK]", "外", "科", "[MASK]", "眼", "[SEP]", "哪", "个"] and pieces[-1] == "[SEP]"
    n = len(pieces)
    assert found.notes[:, Note.POSITION].tolist() == [0, 1, 2, 3, 1, 2, *range(4, 4 + n - 6)]
    assert found.notes[:, Note.GROUP].tolist() == [0, 1, 1, 1, 2, 2, *[0] * (n - 6)]
    assert found.notes[:, Note.SEGMENT].tolist() == [0, 1, 1, 1, 1, 1, 1, *[0] * (n - 7)]
    assert {place: label for place, label in enumerate(found.notes[:, Note.LABEL].tolist()) if label != IGNORE} == {
        1: 0,
        4: 1,
    }


def test_a_long_question_loses_its_beginning_and_options_without_room_are_left_out(tokenizer: Any) -> None:
    asked = replace(question("外科", "眼科"), prompt=(Turn("user", "哪个科治心脏病？" * 3),))
    whole = encode_choice(tokenizer, asked, longest=64)
    assert whole is not None and whole.cut == 0
    cut = encode_choice(tokenizer, asked, longest=len(whole.tokens) - 1)
    assert cut is not None and cut.cut == 1
    assert cut.tokens.tolist() == [*whole.tokens[:8].tolist(), *whole.tokens[9:].tolist()]
    assert encode_choice(tokenizer, question("外" * 30, "眼" * 30), longest=64) is None


def scores(model: Any, tokenizer: Any, sample: Labelled, change: Any = lambda notes: notes) -> dict[str, float]:
    found = encode_choice(tokenizer, sample, longest=64)
    assert found is not None
    row, notebook = one_row([replace(found, notes=change(found.notes.copy()))])
    [part] = padded_documents(row, notebook.of(row))
    with torch.no_grad():
        logits_mV, _ = option_logits(model, part)
    yes = tokenizer.get_vocab()["是"]
    return dict(zip(sample.choices, logits_mV[:, yes].tolist(), strict=True))


def test_the_answer_does_not_hang_on_the_order_of_options(model: Any, tokenizer: Any) -> None:
    first = scores(model, tokenizer, question(*OPTIONS))
    assert max(first.values()) - min(first.values()) > 0.1
    for order in itertools.permutations(OPTIONS):
        assert scores(model, tokenizer, question(*order)) == pytest.approx(first, abs=1e-5)


def test_with_positions_in_order_it_does(model: Any, tokenizer: Any) -> None:
    def in_order(notes: np.ndarray) -> np.ndarray:
        notes[:, Note.POSITION] = np.arange(len(notes))
        return notes

    one, other = (scores(model, tokenizer, question(*order), in_order) for order in (OPTIONS, OPTIONS[::-1]))
    assert max(abs(one[name] - other[name]) for name in OPTIONS) > 1e-2


def test_options_that_see_each_other_cannot_be_told_apart(model: Any, tokenizer: Any) -> None:
    """Their masks stand at one position and see the same tokens: why the mask between options is needed."""

    def all_seeing(notes: np.ndarray) -> np.ndarray:
        notes[:, Note.GROUP] = 0
        return notes

    found = scores(model, tokenizer, question(*OPTIONS), all_seeing)
    assert max(found.values()) - min(found.values()) < 1e-5


def test_choice_loss_in_closed_form() -> None:
    words = AnswerWords(yes=4, no=6)
    torch.manual_seed(0)
    logits = torch.randn(5, 9, dtype=torch.float64)
    question_m, right_m = torch.tensor([0, 0, 1, 1, 1]), torch.tensor([1, 0, 0, 0, 1])
    total, hits = choice_loss(logits, question_m, right_m, words)
    log = logits.log_softmax(1)
    yes = logits[:, 4]
    first = -(log[0, 4] + log[1, 6]) / 2 - yes[:2].log_softmax(0)[0]
    second = -(log[2, 6] + log[3, 6] + log[4, 4]) / 3 - yes[2:].log_softmax(0)[2]
    torch.testing.assert_close(total, first + second)
    assert int(hits) == int(yes[0] > yes[1]) + int(yes[4] > yes[2:4].max())


def test_option_choice_adds_up_over_padded_groups(model: Any, tokenizer: Any) -> None:
    samples = [question(*OPTIONS), question("外科", "眼", right=1), question("no", "yes", "the")]
    documents = [encode_choice(tokenizer, sample, longest=64) for sample in samples]
    words = AnswerWords(tokenizer.get_vocab()["是"], tokenizer.get_vocab()["非"])
    row, notebook = one_row(documents)  # type: ignore[arg-type]
    together = OptionChoice(notebook, words)(model, row)
    assert together.units == OptionChoice(notebook, words).units(row) == 3
    alone = 0.0
    for document in documents:
        single, notes = one_row([document])  # type: ignore[list-item]
        alone += OptionChoice(notes, words)(model, single).total.item()
    assert together.total.item() == pytest.approx(alone, rel=1e-5)


# --- masked words


def words_row(tokenizer: Any, texts: list[str]) -> tuple[PackedBatch, Notebook]:
    return one_row(encode_words(tokenizer, [Text(text, O) for text in texts], longest=64))


def test_words_are_numbered_across_documents() -> None:
    groups, documents = np.array([0, 1, 1, 2, 0, 0, 2, 2, 0]), np.array([0, 0, 0, 0, 0, 1, 1, 1, 1])
    assert number_words(groups, documents).tolist() == [-1, 0, 0, 1, -1, -1, 2, 2, -1]
    # Two documents may meet without a mark between them, at words of the same number.
    assert number_words(np.array([1, 1]), np.array([0, 1])).tolist() == [0, 1]


def test_a_word_is_masked_whole_and_in_the_usual_shares() -> None:
    masking = Masking(mask=4, replacements=np.arange(100, 200), share=0.15, seed=1)
    words_T = np.repeat(np.arange(20_000), 3)
    tokens_T = 1000 + np.arange(60_000)
    masked_T, chosen_T = masking.of(tokens_T, words_T, [5])
    by_word = chosen_T.reshape(-1, 3)
    assert (by_word.all(1) | ~by_word.any(1)).all()
    assert by_word[:, 0].mean() == pytest.approx(0.15, abs=0.01)  # 4 standard errors
    assert (masked_T[~chosen_T] == tokens_T[~chosen_T]).all()
    hidden = masked_T[chosen_T]
    assert (hidden == 4).mean() == pytest.approx(0.8, abs=0.02)
    assert ((hidden >= 100) & (hidden < 200)).mean() == pytest.approx(0.1, abs=0.015)
    assert (hidden == tokens_T[chosen_T]).mean() == pytest.approx(0.1, abs=0.015)
    again, _ = masking.of(tokens_T, words_T, [5])
    other, _ = masking.of(tokens_T, words_T, [5, 6])
    assert (again == masked_T).all() and (other != masked_T).mean() > 0.2


def test_marks_are_never_masked_and_pieces_of_a_word_go_together(tokenizer: Any) -> None:
    row, notebook = words_row(tokenizer, ["cardiosurgery neurologist", "外科 yesno matterheart"] * 8)
    masking = Masking(tokenizer.mask_token_id, np.arange(5, len(tokenizer)), share=0.5)
    tokens_T, targets_T = MaskedWords(notebook, masking).masked(row)
    marks = torch.isin(row.tokens, torch.tensor([tokenizer.cls_token_id, tokenizer.sep_token_id]))
    assert (targets_T[marks] == IGNORE).all() and (tokens_T[marks] == row.tokens[marks]).all()
    chosen = targets_T != IGNORE
    assert 0.3 < chosen.float().mean() < 0.7 and (targets_T[chosen] == row.tokens[chosen]).all()
    pieces = tokenizer.convert_ids_to_tokens(row.tokens.tolist())
    inner = [place for place, piece in enumerate(pieces) if piece.startswith("##")]
    assert inner and all(chosen[place] == chosen[place - 1] for place in inner)


def test_the_loss_of_masked_words_is_that_of_transformers(model: Any, tokenizer: Any) -> None:
    row, notebook = words_row(tokenizer, TEXTS)
    objective = MaskedWords(notebook, Masking(tokenizer.mask_token_id, np.arange(5, len(tokenizer)), share=0.4))
    loss = objective(model, row)
    assert loss.units == objective.units(row) > 0
    tokens_T, targets_T = objective.masked(row)
    total = 0.0
    for start, end in itertools.pairwise(row.boundaries.tolist()):
        with torch.no_grad():
            logits = model(input_ids=tokens_T[None, start:end]).logits[0]
        total += float(F.cross_entropy(logits, targets_T[start:end], ignore_index=IGNORE, reduction="sum"))
    assert loss.total.item() == pytest.approx(total, rel=1e-5)


def test_a_long_text_goes_on_in_further_documents(tokenizer: Any) -> None:
    text = "外科" * 40
    parts = encode_words(tokenizer, [Text(text, O)], longest=32)
    inner = [token for part in parts for token in part.tokens[1:-1].tolist()]
    assert inner == tokenizer(text, add_special_tokens=False)["input_ids"] and max(len(p.tokens) for p in parts) == 32
