"""The chat formats as data: what stands around each kind of turn.

"{bos}" and "{eos}" stand for the tokenizer's own tokens, "{round}" for the number of the user turn from 1.
No `answer_open` ends in a space: the space before an answer belongs to the answer (`answer_lead`), because
most tokenizers merge it into the answer's first token.
"""

from __future__ import annotations

from dataclasses import dataclass

ALPACA_INPUT = "\n\n### Input:\n"
"""Between instruction and input of an alpaca user turn; it selects the form with an input section."""

_ALPACA_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request."
)
_ALPACA_WITHOUT = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request."
)
VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


@dataclass(frozen=True, slots=True)
class Form:
    """One chat format.

    Attributes:
        user: what stands before and after a user's text.
        answer_open: opens an answer; the generation prompt ends with it.
        stop: closes an answer; learnt with it.
        answer_lead: between `answer_open` and the answer; learnt with it.
        answer_tail: after `stop`; not learnt.
        begin: before everything.
        system: around a system text that is a turn of its own; None puts it into the first user turn.
        system_in_user: around the system text inside the first user turn, where `system` is None.
        tool: around a tool result; None shows it as a user turn.
        default_system: the system text of a conversation that has none.
        default_system_with_input: the same where the first user turn has an alpaca input section.
        stop_opens_next: the stop marker is the role mark of the following turn (of `user`, at the end), which
            then does not repeat it.
    """

    user: tuple[str, str]
    answer_open: str
    stop: str
    answer_lead: str = ""
    answer_tail: str = ""
    begin: str = ""
    system: tuple[str, str] | None = None
    system_in_user: tuple[str, str] = ("", "\n\n")
    tool: tuple[str, str] | None = None
    default_system: str = ""
    default_system_with_input: str = ""
    stop_opens_next: bool = False


def _chatml(default_system: str = "", begin: str = "") -> Form:
    return Form(
        user=("<|im_start|>user\n", "<|im_end|>\n"),
        answer_open="<|im_start|>assistant\n",
        stop="<|im_end|>",
        answer_tail="\n",
        begin=begin,
        system=("<|im_start|>system\n", "<|im_end|>\n"),
        tool=("<|im_start|>tool\n", "<|im_end|>\n"),
        default_system=default_system,
    )


def _llama3(role: str) -> tuple[str, str]:
    return f"<|start_header_id|>{role}<|end_header_id|>\n\n", "<|eot_id|>"


_MISTRAL = Form(user=("[INST] ", " [/INST]"), answer_open="", answer_lead=" ", stop="{eos}", begin="{bos}")

FORMS: dict[str, Form] = {
    "alpaca": Form(
        user=("### Instruction:\n", "\n\n"),
        answer_open="### Response:",
        stop="{eos}",
        answer_tail="\n\n",
        system=("", "\n\n"),
        default_system=_ALPACA_WITHOUT,
        default_system_with_input=_ALPACA_WITH_INPUT,
    ),
    # Baichuan's own script has the user mark follow the answer and teaches eos in its place; as one text, eos
    # stands before the mark.
    "baichuan": Form(
        user=("<reserved_102>", ""), answer_open="<reserved_103>", stop="{eos}", system=("", "")
    ),
    "baichuan2": Form(
        user=("<reserved_106>", ""), answer_open="<reserved_107>", stop="{eos}", system=("", "")
    ),
    # ChatGLM's prefix [gMASK]sop is given as `bos`.
    "chatglm2": Form(
        user=("[Round {round}]\n\n问：", "\n\n"),
        answer_open="答：",
        stop="{eos}",
        answer_tail="\n\n",
        begin="{bos}",
        system=("", "\n\n"),
    ),
    "chatglm3": Form(
        user=("<|user|>\n ", ""),
        answer_open="<|assistant|>",
        answer_lead="\n ",
        stop="<|user|>",
        begin="{bos}",
        system=("<|system|>\n ", ""),
        tool=("<|observation|>\n ", ""),
        stop_opens_next=True,
    ),
    "chatml": _chatml(),
    "deepseek": Form(
        user=("User: ", "\n\n"),
        answer_open="Assistant:",
        answer_lead=" ",
        stop="{eos}",
        begin="{bos}",
        system=("", "\n\n"),
    ),
    "firefly": Form(
        user=("User: ", "\n"),
        answer_open="Assistant:",
        answer_lead=" ",
        stop=" {eos}",
        system=("System: ", "\n\n"),
    ),
    "gemma": Form(
        user=("<start_of_turn>user\n", "<end_of_turn>\n"),
        answer_open="<start_of_turn>model\n",
        stop="<end_of_turn>",
        answer_tail="\n",
        begin="{bos}",
    ),
    "internlm": Form(
        user=("<|User|>:", "\n"),
        answer_open="<|Bot|>:",
        stop="{eos}",
        answer_tail="\n",
        system=("<|System|>:", "\n"),
    ),
    "internlm2": _chatml(begin="{bos}"),
    "llama2": Form(
        user=("{bos}[INST] ", " [/INST]"),
        answer_open="",
        answer_lead=" ",
        stop=" {eos}",
        system_in_user=("<<SYS>>\n", "\n<</SYS>>\n\n"),
    ),
    "llama3": Form(
        user=_llama3("user"),
        answer_open=_llama3("assistant")[0],
        stop="<|eot_id|>",
        begin="{bos}",
        system=_llama3("system"),
        tool=_llama3("ipython"),
    ),
    "minicpm": Form(user=("<用户>", ""), answer_open="<AI>", stop="{eos}", begin="{bos}"),
    "mistral": _MISTRAL,
    "mixtral": _MISTRAL,
    "orion": Form(user=("Human: ", "\n\n"), answer_open="Assistant: {eos}", stop="{eos}", begin="{bos}"),
    "phi3": Form(
        user=("<|user|>\n", "<|end|>\n"),
        answer_open="<|assistant|>\n",
        stop="<|end|>",
        answer_tail="\n",
        system=("<|system|>\n", "<|end|>\n"),
    ),
    "qwen": _chatml(default_system="You are a helpful assistant."),
    "vicuna": Form(
        user=("USER: ", " "),
        answer_open="ASSISTANT:",
        answer_lead=" ",
        stop="{eos}",
        system=("", " "),
        default_system=VICUNA_SYSTEM,
    ),
    "xverse": Form(user=("Human: ", "\n\n"), answer_open="Assistant:", answer_lead=" ", stop="{eos}"),
    "yi": _chatml(),
    "zephyr": Form(
        user=("<|user|>\n", "{eos}\n"),
        answer_open="<|assistant|>\n",
        stop="{eos}",
        answer_tail="\n",
        system=("<|system|>\n", "{eos}\n"),
    ),
    "ziya": Form(user=("<human>:", "\n"), answer_open="<bot>:", stop="{eos}", answer_tail="\n"),
    "ziya2": Form(user=("<human>:", " "), answer_open="<bot>:", stop="{eos}"),
}
