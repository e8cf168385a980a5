"""A reward model as a reward: order, batches, limits, both kinds of model; and how encoders' pairs are encoded."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedTokenizerFast

from graftlm.alignment.rewards.model import RewardModelReward
from graftlm.core.errors import DataError
from graftlm.data.encode import encode_answers, encode_question_answers
from graftlm.data.samples import Origin, Prompt, Turn
from graftlm.data.templates import named_template
from graftlm.data.truncation import truncate
from graftlm.models.reward import is_encoder, load_reward_model
from graftlm.models.scratch import SPECIALS, train_tokenizer

CPU = torch.device("cpu")
WORDS = [f"w{number}" for number in range(60)]
MARKS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
CLS, SEP = 1, 2


def word(number: int) -> int:
    return len(MARKS) + number


def ask(text: str) -> Prompt:
    return Prompt((Turn("user", text),), Origin("x", 1))


PROMPTS = [ask(f"w{n} w{n + 1} " + "w3 " * (n % 4)) for n in range(12)]
ANSWERS = [" ".join(WORDS[n : n + 1 + n % 5]) for n in range(12)]


@pytest.fixture
def pair_tokenizer():
    rust = Tokenizer(models.WordLevel({text: place for place, text in enumerate([*MARKS, *WORDS])}, unk_token="[UNK]"))
    rust.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    rust.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=rust, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]"
    )


@pytest.fixture
def encoder(tmp_path, pair_tokenizer):
    """kind → (random model from files, tokenizer)."""

    def make(kind: str):
        torch.manual_seed(0)
        own = {"relative_attention": True, "position_biased_input": False, "pos_att_type": ["p2c", "c2p"]}
        config = AutoConfig.for_model(
            kind, vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=64, pad_token_id=0, num_labels=1, type_vocab_size=2 if kind == "bert" else 0,
            **(own if kind == "deberta-v2" else {}),
        )  # fmt: skip
        model = AutoModelForSequenceClassification.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim >= 2:
                    parameter.normal_(0, 0.2)
        model.save_pretrained(tmp_path / kind)
        return load_reward_model(str(tmp_path / kind), dtype=torch.float32, device=CPU), pair_tokenizer

    return make


@pytest.fixture
def decoder(plain_model, tmp_path):
    """family → (random model from files, tokenizer)."""

    def make(family: str):
        tokenizer = train_tokenizer([" ".join(WORDS)], 300, max_tokens=128)
        marks = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
        plain_model(family, vocab_size=len(tokenizer), **marks).save_pretrained(tmp_path / family)
        model = load_reward_model(str(tmp_path / family), dtype=torch.float32, device=CPU)
        torch.nn.init.normal_(model.score.weight)
        return model, tokenizer

    return make


@pytest.fixture
def made(encoder, decoder):
    def make(kind: str):
        return encoder(kind) if kind in ("bert", "deberta-v2") else decoder(kind)

    return make


TEMPLATE = named_template("llama2", bos=SPECIALS[0], eos=SPECIALS[1])


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2", "deberta-v2", "bert"])
def test_batches_do_not_change_the_scores(made, kind):
    model, tokenizer = made(kind)
    row_tokens = 64 if is_encoder(model) else 256
    together = RewardModelReward(model, tokenizer, TEMPLATE, row_tokens=row_tokens)
    scores = together(PROMPTS, ANSWERS)
    assert all(isinstance(score, float) for score in scores) and len({round(score, 3) for score in scores}) > 8
    alone = [together([prompt], [answer])[0] for prompt, answer in zip(PROMPTS, ANSWERS, strict=True)]
    assert scores == pytest.approx(alone, abs=1e-5)
    backwards = together(PROMPTS[::-1], ANSWERS[::-1])
    assert backwards[::-1] == pytest.approx(scores, abs=1e-5)
    assert together([], []) == []


@pytest.mark.parametrize("kind", ["deberta-v2", "bert"])
def test_an_encoder_scores_what_transformers_makes_of_the_pair(encoder, kind):
    model, tokenizer = encoder(kind)
    scores = RewardModelReward(model, tokenizer, TEMPLATE)(PROMPTS, ANSWERS)
    with torch.no_grad():
        for prompt, answer, score in zip(PROMPTS, ANSWERS, scores, strict=True):
            question = prompt.prompt[0].content
            pair = tokenizer(question, answer, return_tensors="pt", return_token_type_ids=kind == "bert")
            assert score == pytest.approx(float(model(**pair).logits[0, 0]), abs=1e-5)


def test_a_decoder_scores_what_the_template_makes_of_the_answer(decoder):
    model, tokenizer = decoder("llama")
    scores = RewardModelReward(model, tokenizer, TEMPLATE)(PROMPTS, ANSWERS)
    with torch.no_grad():
        for prompt, answer, score in zip(PROMPTS, ANSWERS, scores, strict=True):
            text = TEMPLATE.render([*prompt.prompt, Turn("assistant", answer)]).text
            ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
            assert score == pytest.approx(float(model(input_ids=ids).logits[0, 0]), abs=1e-5)


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_the_training_state_is_left_and_dropout_is_off(made, kind):
    model, tokenizer = made(kind)
    reward = RewardModelReward(model.train(), tokenizer, TEMPLATE)
    assert reward(PROMPTS, ANSWERS) == reward(PROMPTS, ANSWERS)
    assert model.training


@pytest.mark.parametrize("kind", ["llama", "deberta-v2"])
def test_a_long_prompt_loses_its_beginning_and_not_the_answer(made, kind):
    model, tokenizer = made(kind)
    long = ["w9 " * 70 + "w8 " * 200 for _ in range(2)]
    long[1] = long[1].replace("w9", "w7")
    reward = RewardModelReward(model, tokenizer, TEMPLATE, row_tokens=64)
    same, other = reward([ask(text) for text in long], ["w1 w2", "w1 w2"])
    assert same == pytest.approx(other, abs=1e-5), "the prompts differ only in what is cut"
    assert same != pytest.approx(reward([ask(long[0])], ["w1 w3"])[0], abs=1e-4), "the answer still counts"
    assert same != pytest.approx(reward([ask(long[0].replace("w8", "w4"))], ["w1 w2"])[0], abs=1e-4)


def test_a_cut_document_keeps_its_bos_and_its_answer(decoder):
    model, tokenizer = decoder("llama")
    reward = RewardModelReward(model, tokenizer, TEMPLATE, row_tokens=40)
    pair = ((Turn("user", "w5 " * 50),), "w1 w2")
    [cut] = reward._encode([pair])
    [whole] = encode_answers(tokenizer, TEMPLATE, [pair])
    assert len(whole.tokens) > 40 == len(cut.tokens)
    assert cut.tokens[0] == tokenizer.bos_token_id
    assert cut.tokens[1:].tolist() == whole.tokens[-39:].tolist()
    assert cut.targets.sum() == whole.targets.sum() > 1


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_an_answer_that_cannot_be_read_whole_is_an_error(made, kind):
    model, tokenizer = made(kind)
    reward = RewardModelReward(model, tokenizer, TEMPLATE, row_tokens=32)
    with pytest.raises(DataError, match=r"can read 32(?s:.*)fix: raise `row_tokens`"):
        reward([ask("w1"), ask("w1")], ["w1", "w2 " * 40])


def test_the_limit_is_the_smallest_of_row_model_and_tokenizer(decoder, encoder):
    assert RewardModelReward(*decoder("llama"), TEMPLATE).max_tokens == 128
    assert RewardModelReward(*decoder("llama"), TEMPLATE, row_tokens=50).max_tokens == 50
    model, tokenizer = encoder("bert")
    assert RewardModelReward(model, tokenizer, TEMPLATE).max_tokens == 64
    tokenizer.model_max_length = 20
    assert RewardModelReward(model, tokenizer, TEMPLATE).max_tokens == 20


def test_a_pair_is_question_and_answer_with_the_special_tokens(pair_tokenizer):
    single = (Turn("user", "w1 w2"),)
    several = (Turn("system", "w5"), Turn("user", "w6"))
    first, second = encode_question_answers(pair_tokenizer, [(single, "w3"), (several, "w4")])
    assert first.tokens.tolist() == [CLS, word(1), word(2), SEP, word(3), SEP]
    assert first.targets.tolist() == [False] * 5 + [True]
    role = [MARKS.index("[UNK]")] * 2  # `system` and `:`, `user` and `:`
    assert second.tokens.tolist() == [CLS, *role, word(5), *role, word(6), SEP, word(4), SEP]


def test_special_tokens_written_in_an_answer_are_plain_text(pair_tokenizer):
    [one] = encode_question_answers(pair_tokenizer, [((Turn("user", "w1 [SEP] w2"),), "w3 [SEP] w4")])
    assert one.tokens.tolist().count(SEP) == 2


def test_a_long_question_is_cut_from_the_left(pair_tokenizer):
    asked = (Turn("user", "w1 w2 w3 w4 w5"),)
    pairs = [(asked, "w6 w7"), (asked, "w6 w7 w8 w9"), (asked, "w6 w7 w8 w9 w10"), (asked, "w6")]
    cut, bare, over, whole = encode_question_answers(pair_tokenizer, pairs, max_tokens=7)
    assert cut.tokens.tolist() == [CLS, word(4), word(5), SEP, word(6), word(7), SEP]
    assert bare.tokens.tolist() == [CLS, SEP, *(word(n) for n in (6, 7, 8, 9)), SEP]
    assert len(over.tokens) == 8
    assert whole.tokens.tolist() == [CLS, word(3), word(4), word(5), SEP, word(6), SEP]
    assert all(one.targets.tolist() == [False] * (len(one.tokens) - 1) + [True] for one in (cut, bare, over, whole))
    kept = truncate([cut, bare, over, whole], 7)
    assert kept.kept == [0, 1, 3] and kept.truncation.samples_dropped == 1, "dropped and counted, never cut"
