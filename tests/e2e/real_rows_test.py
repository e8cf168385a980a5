"""Real data files, quirks included: every row accounted for, the right layout found, the expected rows kept.

The files lie outside the repository (`../shared/data`, or where GRAFT_DATA points); licences are mixed. The
counts were found by reading the files without graft; where a file loses rows, the reason is written here.
"""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from graftlm.data.encode import encode_chats, encode_preferences
from graftlm.data.readers import Row, read_rows
from graftlm.data.records import detect, load_samples
from graftlm.data.samples import Chat, Labelled, Preference, Text, Unpaired
from graftlm.data.templates import named_template, tokenizer_template

DATA = Path(os.environ.get("GRAFT_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"no real data at {DATA}: set GRAFT_DATA")

# path, schema, sample type, rows, kept
FILES: list[tuple[str, str, type, int, int]] = [
    ("sft/medicalgpt/sft/medical_sft_1K_format.jsonl", "sharegpt", Chat, 1000, 1000),
    # three conversations end on a question, one is a question alone
    ("sft/medicalgpt/sft/sharegpt_zh_1K_format.jsonl", "sharegpt", Chat, 354, 350),
    ("sft/medicalgpt/grpo/sample.jsonl", "question_answer", Chat, 32, 32),
    ("sft/llamafactory/alpaca_en_demo.json", "alpaca", Chat, 999, 999),
    ("sft/llamafactory/alpaca_zh_demo.json", "alpaca", Chat, 1000, 1000),
    ("sft/llamafactory/identity.json", "alpaca", Chat, 91, 91),
    ("sft/llamafactory/glaive_toolcall_zh_demo.json", "sharegpt", Chat, 300, 300),
    ("sft/llamafactory/kto_en_demo.json", "kto", Unpaired, 300, 300),
    ("sft/llamafactory/dpo_en_demo.json", "conversation_pair", Preference, 300, 300),
    ("sft/llamafactory/dpo_zh_demo.json", "conversation_pair", Preference, 300, 300),
    ("sft/llamafactory/v1_sft_demo.jsonl", "messages", Chat, 500, 500),
    ("sft/llamafactory/v1_dpo_demo.jsonl", "shared_history", Preference, 10, 10),
    # every row holds a picture
    ("sft/llamafactory/v1_multimodal_demo.jsonl", "messages", Chat, 24, 0),
    ("sft/llamafactory/mllm_demo.json", "messages", Chat, 6, 0),
    ("sft/llamafactory/c4_demo.jsonl", "text", Text, 300, 300),
    ("sft/llamafactory/wiki_demo.txt", "text", Text, 1, 1),
    ("sft/firefly/dummy_data.jsonl", "firefly", Chat, 33, 33),
    ("sft/fastchat/dummy_conversation.json", "sharegpt", Chat, 500, 500),
    ("sft/chatdoctor/chatdoctor5k.json", "alpaca", Chat, 1645, 1645),
    ("sft/huatuo_bentsao/llama_data.json", "alpaca", Chat, 2679, 2679),  # JSON lines under a .json name
    ("sft/xtuner_examples/openai_sft.jsonl", "messages", Chat, 128, 128),  # a bare list a line
    # five rows hold pictures or films, two ask for no loss on an answer
    ("sft/xtuner_examples/qwen35_tokenize_data.jsonl", "messages", Chat, 17, 10),
    ("preference/medicalgpt/dpo_zh_500.jsonl", "conversation_pair", Preference, 500, 500),
    ("preference/medicalgpt/toolcall_dpo_zh_demo.jsonl", "conversation_pair", Preference, 11, 11),
    # five transcripts have two assistant turns in a row, one an empty answer
    ("preference/hh_rlhf/harmless-base/test.jsonl", "hh", Preference, 713, 707),
    ("preference/firefly/dummy_dpo.jsonl", "shared_history", Preference, 16, 16),
    ("preference/llmbar/LLMBar/Natural/dataset.json", "judged_pair", Preference, 100, 100),
    ("preference/truthfulqa_judge/finetune_truth.jsonl", "prompt_completion", Chat, 1599, 1599),
    ("pretrain/firefly/dummy_pretrain.jsonl", "text", Text, 45, 45),
    ("pretrain/tcm_ancient_books", "text", Text, 12, 12),
    ("pretrain/laws_zh", "text", Text, 133, 133),
    ("eval/mmlu/test/business_ethics_test.csv", "multiple_choice", Labelled, 100, 100),
    (
        "eval/mmlu/test/international_law_test.csv",
        "multiple_choice",
        Labelled,
        121,
        120,
    ),  # right option twice
    ("eval/cmmlu/test/astronomy.csv", "multiple_choice", Labelled, 165, 165),
    ("eval/agieval/v1/sat-math.jsonl", "multiple_choice", Labelled, 220, 220),
    ("eval/qwen_math/aqua/test.jsonl", "multiple_choice", Labelled, 254, 250),  # right option twice in four
]


def rows_counted_apart(path: Path) -> int:
    """Rows of a file, counted without graft's readers."""
    if path.is_dir():
        return sum(1 for file in path.rglob("*") if file.is_file())
    if path.suffix == ".txt":
        return 1
    text = path.read_bytes().decode("utf-8-sig")
    if path.suffix == ".csv":
        return len(list(csv.reader(text.splitlines(keepends=True)))) - 1
    if path.suffix == ".json":
        try:
            return len(json.loads(text))
        except ValueError:
            pass
    return sum(1 for line in text.split("\n") if line.strip())


@pytest.mark.parametrize(("name", "schema", "sample", "rows", "kept"), FILES, ids=[file[0] for file in FILES])
def test_every_row_is_accounted_for(name: str, schema: str, sample: type, rows: int, kept: int) -> None:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{path} is absent")
    loaded = load_samples(path)
    assert loaded.read == rows == rows_counted_apart(path)
    assert (len(loaded.samples), len(loaded.faults)) == (kept, rows - kept)
    assert {type(one) for one in loaded.samples} <= {sample}
    found = Counter(detect(row.values) for row in read_rows(path) if isinstance(row, Row))
    assert found == {schema: rows}
    for fault in loaded.faults:
        assert fault.origin.line > 0 and fault.reason and str(fault).startswith(fault.origin.path)


def alternates(messages: list[dict[str, Any]], user: str, assistant: str, key: str) -> bool:
    return [message[key] for message in messages] == [user, assistant] * (len(messages) // 2)


def test_sharegpt_rows_kept_are_those_that_alternate() -> None:
    path = DATA / "sft/medicalgpt/sft/sharegpt_zh_1K_format.jsonl"
    rows = [json.loads(line)["conversations"] for line in path.read_text(encoding="utf-8").splitlines()]
    good = [n for n, row in enumerate(rows, start=1) if alternates(row, "human", "gpt", "from")]
    loaded = load_samples(path)
    assert [one.origin.line for one in loaded.samples] == good
    contents = [[turn.content for turn in one.turns] for one in loaded.samples if isinstance(one, Chat)]
    assert contents == [[message["value"] for message in rows[n - 1]] for n in good]


def test_hh_answers_are_the_ends_of_their_transcripts() -> None:
    path = DATA / "preference/hh_rlhf/harmless-base/test.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    for one in load_samples(path).samples:
        assert isinstance(one, Preference)
        row = rows[one.origin.line - 1]
        for answer, transcript in ((one.chosen, row["chosen"]), (one.rejected, row["rejected"])):
            head, _, tail = transcript.rpartition("\n\nAssistant:")
            assert tail.strip() == answer
            assert head.count("\n\nHuman:") == sum(turn.role == "user" for turn in one.prompt)


def test_tool_calls_keep_their_turns_and_tools() -> None:
    path = DATA / "sft/llamafactory/glaive_toolcall_zh_demo.json"
    rows = json.loads(path.read_text(encoding="utf-8"))
    role = {"human": "user", "gpt": "assistant", "function_call": "assistant", "observation": "tool"}
    with_tools = 0
    for one, row in zip(load_samples(path).samples, rows, strict=True):
        assert isinstance(one, Chat)
        spoken = [turn for turn in one.turns if turn.role != "system"]
        assert [(turn.role, turn.content) for turn in spoken] == [
            (role[message["from"]], message["value"]) for message in row["conversations"]
        ]
        has_tools = bool(json.loads(row["tools"]))
        assert (one.turns[0].role == "system") == has_tools
        assert not has_tools or row["tools"] in one.turns[0].content
        with_tools += has_tools
    assert 0 < with_tools < 300


def test_kto_marks() -> None:
    loaded = load_samples(DATA / "sft/llamafactory/kto_en_demo.json")
    assert Counter(one.desirable for one in loaded.samples if isinstance(one, Unpaired)) == {
        True: 150,
        False: 150,
    }


def test_old_books_are_read_from_gb18030() -> None:
    for one in load_samples(DATA / "pretrain/tcm_ancient_books").samples:
        assert isinstance(one, Text)
        raw = Path(one.origin.path).read_bytes()
        assert one.text.rstrip("\n") == raw.decode("gb18030").replace("\r\n", "\n").rstrip("\n")
        assert sum("\u4e00" <= char <= "\u9fff" for char in one.text) > 0.6 * len(one.text)


def test_exam_answers() -> None:
    with (DATA / "eval/mmlu/test/business_ethics_test.csv").open(encoding="utf-8", newline="") as file:
        mmlu = [row[f"choice{row['answer']}"] for row in csv.DictReader(file)]
    with (DATA / "eval/cmmlu/test/astronomy.csv").open(encoding="utf-8", newline="") as file:
        cmmlu = [row[row["Answer"]] for row in csv.DictReader(file)]
    for name, right in (("mmlu/test/business_ethics_test", mmlu), ("cmmlu/test/astronomy", cmmlu)):
        loaded = load_samples(DATA / f"eval/{name}.csv")
        items = [one for one in loaded.samples if isinstance(one, Labelled)]
        assert [one.answers for one in items] == [(text,) for text in right]
        assert all(one.answers[0] in one.choices and len(one.choices) == 4 for one in items)
        assert {one.kind for one in items} == {Path(name).name.removesuffix("_test")}
    assert items[0].language == "zh"


@pytest.fixture(scope="module")
def real_tokenizer() -> Any:
    from transformers import PreTrainedTokenizerFast

    folder = DATA / "tokenizer/minimind_bpe_6400"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    return PreTrainedTokenizerFast.from_pretrained(str(folder))


def test_real_conversations_through_a_real_tokenizer(real_tokenizer: Any) -> None:
    """The targets, decoded, are the answers with their stop marker, unless a token lies across an edge."""
    chats = [one for one in load_samples(DATA / "sft/medicalgpt/sft").samples if isinstance(one, Chat)][
        :1200:4
    ]
    encoded = encode_chats(real_tokenizer, named_template("chatml"), chats)
    exact = 0
    for chat, one in zip(chats, encoded, strict=True):
        said = real_tokenizer.decode(one.tokens[one.targets].tolist(), clean_up_tokenization_spaces=False)
        wanted = "".join(f"{turn.content}<|im_end|>" for turn in chat.turns if turn.role == "assistant")
        # Nothing but answers is ever learnt; a token that begins before the answer takes its head along.
        assert len(said) <= len(wanted)
        exact += said == wanted
    assert exact >= 0.99 * len(chats)


def test_real_conversations_through_the_tokenizers_own_template(real_tokenizer: Any) -> None:
    template = tokenizer_template(real_tokenizer)
    chats = [one for one in load_samples(DATA / "sft/medicalgpt/sft").samples if isinstance(one, Chat)][
        :1200:8
    ]
    for chat in chats:
        rendered = template.render(chat.turns)
        answers = [turn.content for turn in chat.turns if turn.role == "assistant"]
        assert len(rendered.targets) == len(answers)
        for (start, end), answer in zip(rendered.targets, answers, strict=True):
            said = rendered.text[start:end]
            assert answer.strip() in said
            assert said.endswith("<|im_end|>") and said.count("<|im_end|>") == 1
            assert rendered.text[:start].endswith(("<|im_start|>assistant\n", "</think>\n\n", "<think>\n"))
    loaded = load_samples(DATA / "preference/medicalgpt/dpo_zh_500.jsonl", limit=50)
    pairs = [one for one in loaded.samples if isinstance(one, Preference)]
    for pair, (chosen, _) in zip(pairs, encode_preferences(real_tokenizer, template, pairs), strict=True):
        said = real_tokenizer.decode(
            chosen.tokens[chosen.targets].tolist(), clean_up_tokenization_spaces=False
        )
        assert pair.chosen.strip() in said and said.endswith("<|im_end|>")
