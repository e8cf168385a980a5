"""Encoders of every family learn sixteen samples by heart, load again bit for bit, and say so when they cannot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForMaskedLM, AutoModelForSequenceClassification, PreTrainedModel

from graftlm.core.errors import ModelError
from graftlm.data.annotated import AnnotatedStore, Notebook
from graftlm.data.encode_annotated import encode_classified, encode_tagged
from graftlm.data.packing import pack_samples
from graftlm.data.samples import Classified, Entity, Origin, Tagged
from graftlm.data.tags import tag_names
from graftlm.evaluation.encoder import classes, read_documents, tags
from graftlm.models.encoder import encoder_logits, finished_labels, load_encoder, position_limit
from graftlm.models.loading import save_model
from graftlm.models.scratch_encoder import is_encoder_architecture, new_encoder, train_wordpiece
from graftlm.objectives.encoder_labels import LabelLoss

CPU = torch.device("cpu")
O = Origin("rows.jsonl", 1)
SMALL = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 64, "initializer_range": 0.15, "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "bert": SMALL,
    "megatron-bert": SMALL,
    "roberta": SMALL | {"type_vocab_size": 1},
    "deberta-v2": SMALL
    | {
        "relative_attention": True,
        "position_biased_input": False,
        "pos_att_type": ["c2p", "p2c"],
        "type_vocab_size": 0,
    },
    "roformer": SMALL | {"embedding_size": 32},
    "longformer": SMALL | {"attention_window": 8},
}
WORDS = ["王小明", "李雷", "Anna", "Bob Lee"]
ROWS = [Classified(f"{name}在{place}", f"class {(3 * n + m) % 4}", O) for n, name in enumerate(WORDS)
        for m, place in enumerate(["北京", "Berlin", "家", "Rom"])]  # fmt: skip
NAMES = [
    Tagged(row.text, (Entity(0, len(name), "PER"), Entity(len(name) + 1, len(row.text), "LOC")), O)
    for row in ROWS for name in WORDS if row.text.startswith(name)
]  # fmt: skip
LABELS = [f"class {n}" for n in range(4)]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_wordpiece([row.text for row in ROWS] * 3, 310, max_tokens=64)


def base(family: str, tokenizer: Any, folder: Path) -> str:
    model = new_encoder({"model_type": family} | FAMILIES[family], tokenizer, seed=1)
    save_model(model, tokenizer, folder / "base")
    return str(folder / "base")


def learn(model: PreTrainedModel, store: AnnotatedStore, steps: int) -> None:
    objective, plan = LabelLoss(Notebook([store])), pack_samples(store.store, 512)
    optimizer = torch.optim.AdamW(model.requires_grad_(True).parameters(), lr=3e-3)
    model.train()
    for step in range(steps):
        row = plan.row(step % plan.rows)
        loss = objective(model, row)
        assert loss.units == objective.units(row) > 0
        (loss.total / loss.units).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_classifier_learns_sixteen_rows_and_loads_again(family: str, tokenizer: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = load_encoder(base(family, tokenizer, tmp_path), "classify", LABELS, dtype=torch.float32, device=CPU)
    store = AnnotatedStore.of(encode_classified(tokenizer, ROWS, LABELS, longest=64), "classified", {})
    learn(model, store, 60)
    found = read_documents(model, store, classes, row_tokens=100, device=CPU, bf16=False)
    assert [LABELS[one.argmax()] for one in found] == [row.label for row in ROWS]

    save_model(model, tokenizer, tmp_path / "done")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "done")
    assert again.config.id2label == dict(enumerate(LABELS))
    assert all(torch.equal(one, again.state_dict()[name]) for name, one in model.state_dict().items())
    assert finished_labels(str(tmp_path / "done"), "classify") == LABELS
    # A finished head stays; transformers' own forward on one text says the same.
    kept = load_encoder(str(tmp_path / "done"), "classify", LABELS, dtype=torch.float32, device=CPU)
    with torch.no_grad():
        for row, probability in zip(ROWS, found, strict=True):
            asked = tokenizer(row.text, return_tensors="pt", return_token_type_ids=family != "roformer")
            logits = kept(**asked).logits[0]
            torch.testing.assert_close(logits.softmax(0), torch.from_numpy(probability), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["bert", "deberta-v2", "roformer"])
def test_a_tagger_learns_sixteen_rows(family: str, tokenizer: Any, tmp_path: Path) -> None:
    names = tag_names(["PER", "LOC"])
    torch.manual_seed(0)
    model = load_encoder(base(family, tokenizer, tmp_path), "tag", names, dtype=torch.float32, device=CPU)
    store = AnnotatedStore.of([one for one, _ in encode_tagged(tokenizer, NAMES, names, longest=64)], "tagged", {})
    learn(model, store, 60)
    for number, told in enumerate(read_documents(model, store, tags, row_tokens=100, device=CPU, bf16=False)):
        wanted = store.of_document(number)[:, 0]
        assert (told[wanted >= 0] == wanted[wanted >= 0]).all()


def test_a_pair_is_read_in_two_segments(tokenizer: Any, tmp_path: Path) -> None:
    """What is told of the second text by its segment alone must reach the model."""
    model = load_encoder(base("bert", tokenizer, tmp_path), "match", ["0", "1"], dtype=torch.float32, device=CPU)
    pair = encode_classified(tokenizer, [Classified("王小明", "1", O, "Anna 在家")], ["0", "1"], longest=64)
    theirs = tokenizer("王小明", "Anna 在家", return_tensors="pt")
    assert pair[0].tokens.tolist() == theirs["input_ids"][0].tolist()
    assert pair[0].notes[:, 1].tolist() == theirs["token_type_ids"][0].tolist()
    store = AnnotatedStore.of(pair, "classified", {})
    with torch.no_grad():
        expected = model(**theirs).logits[0].softmax(0)
        alone = model(input_ids=theirs["input_ids"], attention_mask=theirs["attention_mask"]).logits[0].softmax(0)
    found = torch.from_numpy(read_documents(model, store, classes, row_tokens=64, device=CPU, bf16=False)[0])
    torch.testing.assert_close(found, expected)
    assert (found - alone).abs().max() > 1e-5


def test_other_labels_make_a_new_head(tokenizer: Any, tmp_path: Path) -> None:
    first = load_encoder(base("bert", tokenizer, tmp_path), "classify", LABELS, dtype=torch.float32, device=CPU)
    save_model(first, tokenizer, tmp_path / "four")
    third = load_encoder(str(tmp_path / "four"), "classify", ["a", "b"], dtype=torch.float32, device=CPU)
    assert third.config.num_labels == 2 and third.classifier.weight.shape[0] == 2
    assert torch.equal(first.bert.embeddings.word_embeddings.weight, third.bert.embeddings.word_embeddings.weight)


def test_what_is_no_encoder_is_refused(tokenizer: Any, tmp_path: Path, plain_model: Any) -> None:
    plain_model("llama").save_pretrained(tmp_path / "llama")
    with pytest.raises(ModelError, match="`llama` is no encoder"):
        load_encoder(str(tmp_path / "llama"), "classify", LABELS, dtype=torch.float32, device=CPU)
    classifier = load_encoder(base("bert", tokenizer, tmp_path), "classify", LABELS, dtype=torch.float32, device=CPU)
    classifier.save_pretrained(tmp_path / "headless")
    with pytest.raises(ModelError, match="predicts masked words are missing"):
        load_encoder(str(tmp_path / "headless"), "mlm", dtype=torch.float32, device=CPU)


@pytest.mark.parametrize(
    ("family", "shared"),
    [
        ("bert", True),
        ("megatron-bert", True),
        ("roberta", True),
        ("deberta-v2", False),
        ("roformer", False),
        ("longformer", False),
    ],
)
def test_options_need_positions_that_can_be_shared(family: str, shared: bool, tokenizer: Any, tmp_path: Path) -> None:
    place = base(family, tokenizer, tmp_path)
    if shared:
        assert load_encoder(place, "choice", dtype=torch.float32, device=CPU).config.model_type == family
        return
    with pytest.raises(ModelError, match="the same positions"):
        load_encoder(place, "choice", dtype=torch.float32, device=CPU)


def test_positions_begin_behind_robertas_padding(tokenizer: Any, tmp_path: Path) -> None:
    place = base("roberta", tokenizer, tmp_path)
    assert position_limit(place) == 64 - tokenizer.pad_token_id - 1
    model = load_encoder(place, "mlm", dtype=torch.float32, device=CPU)
    tokens = torch.tensor([[2, 9, 11, 12, 3]])
    real = torch.ones_like(tokens, dtype=torch.bool)
    with torch.no_grad():
        given = encoder_logits(model, tokens, real, tokens * 0, positions_nL=torch.arange(5)[None])
        torch.testing.assert_close(given, model(input_ids=tokens).logits)


def test_an_architecture_is_known_by_its_type() -> None:
    assert is_encoder_architecture({"model_type": "megatron-bert"})
    assert not is_encoder_architecture({"model_type": "llama"})
    assert not is_encoder_architecture({"model_type": "bart"})  # it masks words, but writes answers
    assert not is_encoder_architecture({"model_type": "zen"})


def test_the_new_tokenizer_splits_chinese_characters_and_keeps_letters(tokenizer: Any, tmp_path: Path) -> None:
    ids = tokenizer("王小明 Anna")["input_ids"]
    pieces = tokenizer.convert_ids_to_tokens(ids)
    assert pieces[:4] == ["[CLS]", "王", "小", "明"] and pieces[-1] == "[SEP]"
    assert "".join(piece.removeprefix("##") for piece in pieces[4:-1]) == "Anna"
    config = AutoConfig.from_pretrained(base("bert", tokenizer, tmp_path))
    assert config.vocab_size == len(tokenizer) and config.pad_token_id == tokenizer.pad_token_id
    assert AutoModelForMaskedLM.from_pretrained(tmp_path / "base").config.architectures == ["BertForMaskedLM"]


def test_the_same_text_gives_the_same_tokenizer() -> None:
    """The Rust WordPiece trainer gives four different ones here."""
    texts = [f"{a}{b} {b}{a} 王{a}" for a in "abcdefgh" for b in "ijklmnop"]
    made = {train_wordpiece(texts, 301, max_tokens=9).backend_tokenizer.to_str() for _ in range(4)}
    assert len(made) == 1 and len(json.loads(made.pop())["model"]["vocab"]) <= 301


def test_every_character_of_the_text_has_a_piece(tokenizer: Any) -> None:
    for text in (*(row.text for row in ROWS), "eeb BnA 在明"):
        assert tokenizer.unk_token_id not in tokenizer(text)["input_ids"]
    assert tokenizer.unk_token_id in tokenizer("λ")["input_ids"]
