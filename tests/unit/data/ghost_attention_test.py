"""Ghost attention: where the instruction stands, and that the last answer alone bears loss."""

from __future__ import annotations

from typing import Any

import pytest

from graftlm.core.errors import DataError
from graftlm.data.encode import encode_chats
from graftlm.data.ghost_attention import ghost_chat, instruct_every_turn
from graftlm.data.samples import Chat, Origin, Turn
from graftlm.data.templates import ChatTemplate, named_template, tokenizer_template
from graftlm.models.loading import load_tokenizer

O = Origin("rows.jsonl", 3)
S, U, A, T = (lambda text, role=role: Turn(role, text) for role in ("system", "user", "assistant", "tool"))
RULE = "Answer in one word."
ZH = "始终用中文回答"


def test_the_instruction_stands_before_every_user_turn() -> None:
    turns = (S("s"), U("q"), A("a"), T("5 mg"), A("b"), U("r"))
    told = (S("s"), U(f"{RULE}\nq"), A("a"), T("5 mg"), A("b"), U(f"{RULE}\nr"))
    assert instruct_every_turn(turns, RULE) == told
    assert instruct_every_turn(told, f" {RULE}\n") == told  # and never twice
    assert instruct_every_turn([U(f"{ZH}你好")], ZH) == (U(f"{ZH}你好"),)
    assert instruct_every_turn([U("Be briefed")], "Be brief") == (U("Be brief\nBe briefed"),)
    assert instruct_every_turn([U(f"Please: {RULE}")], RULE) == (U(f"{RULE}\nPlease: {RULE}"),)


def test_training_sees_the_instruction_once() -> None:
    turns = (S("s"), U("q"), A("a"), U("r"), A("b"), U("t"), A("c"))
    ghost = Chat((S("s"), U(f"{RULE}\nq"), A("a"), U("r"), A("b"), U("t"), A("c")), O, last_only=True)
    assert ghost_chat(turns, RULE, O) == ghost
    assert ghost_chat(instruct_every_turn(turns, RULE), RULE, O) == ghost  # as it was sampled
    assert ghost_chat(ghost.turns, RULE, O) == ghost
    alone = (U("q"), A("a"), U(RULE), A("b"))  # a user who says just this: his turn must not become empty
    assert ghost_chat(alone, RULE, O).turns == (U(f"{RULE}\nq"), *alone[1:])
    assert ghost_chat((U(RULE), A("a")), RULE, O).turns == (U(RULE), A("a"))


REFUSED = [
    ((U("q"), A("a"), U("r")), RULE, "last turn is a user turn without an answer"),
    ((U("q"),), RULE, "no assistant turn"),
    ((), RULE, "no assistant turn"),
    ((S("s"), A("a")), RULE, "turn 2 is a assistant turn after a system turn"),
    ((U("q"), S("s"), A("a")), RULE, "turn 2 is a system turn"),
]


@pytest.mark.parametrize(("turns", "rule", "reason"), REFUSED)
def test_other_conversations_are_refused(turns: tuple[Turn, ...], rule: str, reason: str) -> None:
    with pytest.raises(DataError, match=reason) as caught:
        ghost_chat(turns, rule, O)
    assert caught.value.where == "rows.jsonl:3" and caught.value.fix


def test_an_empty_instruction_is_refused() -> None:
    with pytest.raises(DataError, match="empty"):
        ghost_chat((U("q"), A("a")), " \n", O)
    with pytest.raises(DataError, match="empty"):
        instruct_every_turn((U("q"),), "")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer("rootstock")


@pytest.mark.parametrize("name", ["own", "llama3", "chatml"])
@pytest.mark.parametrize("rule", [RULE, ZH])
def test_the_last_answer_alone_is_learnt(tokenizer: Any, name: str, rule: str) -> None:
    template, stop = template_and_stop(tokenizer, name)
    turns = (S("Du"), U("一 two?"), A("same answer"), U("three\n四"), A("五 mg"), U("end?"), A("same answer"))
    chat = ghost_chat(instruct_every_turn(turns, rule), rule, O)
    text = template.render(chat.turns).text
    assert text.count(rule) == 1

    [encoded] = encode_chats(tokenizer, template, [chat])
    # The oracle: the last answer's place is searched in the text; a token's place is the tokenizer's offset.
    start = text.rindex("same answer")
    end = start + len("same answer") + len(stop)
    assert text[start:end] == f"same answer{stop}"
    places = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    wanted = [start <= first < end for first, _ in places["offset_mapping"]]
    bos = [False] * (len(encoded.tokens) - len(wanted))
    assert encoded.targets.tolist() == [*bos, *wanted]
    assert encoded.tokens.tolist()[len(bos) :] == places["input_ids"]
    assert tokenizer.decode(encoded.tokens[encoded.targets].tolist()).strip() == f"same answer{stop}"

    [usual] = encode_chats(tokenizer, template, [chat.turns])
    assert usual.targets.sum() > encoded.targets.sum() > 0  # without the mark, every answer is learnt


def template_and_stop(tokenizer: Any, name: str) -> tuple[ChatTemplate, str]:
    if name == "own":
        return tokenizer_template(tokenizer), tokenizer.eos_token
    template = named_template(name, bos=tokenizer.bos_token, eos=tokenizer.eos_token)
    return template, {"chatml": "<|im_end|>", "llama3": "<|eot_id|>"}[name]
