# ruff: noqa: E501  (a Chinese character counts double)
"""How tasks are put, in English and Chinese. The last wording of a definition is kept for tests (`wording: other`).

{s} is what the text is, {t} what the second text is, {n} what a label is, {l} a label, {x} a span.
"""

from __future__ import annotations

from typing import Literal

Language = Literal["en", "zh"]
SIDE: dict[Language, int] = {"en": 0, "zh": 1}

NONE: dict[Language, str] = {"en": "None", "zh": "无"}
YES_NO: dict[Language, tuple[str, str]] = {"en": ("Yes", "No"), "zh": ("是", "不是")}
COLON: dict[Language, str] = {"en": ": ", "zh": "："}
SEPARATORS: dict[Language, tuple[str, ...]] = {"en": (", ", "; ", " | ", " ## "), "zh": ("、", "；", " | ", " ## ")}

SPANS: dict[str, dict[Language, tuple[str, ...]]] = {
    "span_detection": {
        "en": ("List every span of the {s} that has a {n} of the list.", "Which words of the {s} have one of these {n} labels? List them.",
               "Copy from the {s} all words that a {n} below fits."),
        "zh": ("列出{s}中有下面{n}的词。", "{s}中哪些词有下面的{n}？全部列出。", "找出{s}中所有有{n}的词。"),
    },
    "span_typing": {
        "en": ("Say which {n} each span of the {s} has.", "Name the {n} of every span.", "For each of the spans, choose its {n} in the {s}."),
        "zh": ("说出{s}中每个词的{n}。", "给每个词选一个{n}。", "{s}中这些词分别是什么{n}？"),
    },
    "span_type": {
        "en": ("Which {n} does \"{x}\" have in the {s}?", "Choose the {n} of \"{x}\".", "In the {s}, what is the {n} of \"{x}\"?"),
        "zh": ("{s}中“{x}”是什么{n}？", "选出“{x}”的{n}。", "“{x}”在{s}中的{n}是哪个？"),
    },
    "value_choice": {
        "en": ("Which of these is the {l} in the {s}?", "Choose the span that is the {l}.", "Of the spans below, which one gives the {l}?"),
        "zh": ("下面哪个是{s}中的{l}？", "选出是{l}的词。", "这些词中，哪个是{l}？"),
    },
    "span_check": {
        "en": ("Is \"{x}\" the {l} in the {s}?", "Does \"{x}\" have the {n} {l}?", "Is it true that \"{x}\" is named as {l}?"),
        "zh": ("{s}中“{x}”是{l}吗？", "“{x}”的{n}是{l}吗？", "把“{x}”说成{l}，对吗？"),
    },
    "type_detection": {
        "en": ("Which {n} labels occur in the {s}?", "List each {n} that the {s} names.", "What kinds of {n} can be found in the {s}?"),
        "zh": ("{s}中有哪些{n}？", "列出{s}说到的{n}。", "从{s}中能找到哪几种{n}？"),
    },
    "type_check": {
        "en": ("Does the {s} name a {l}?", "Is there a {l} in the {s}?", "Can one find the {l} in this {s}?"),
        "zh": ("{s}说到{l}了吗？", "{s}中有{l}吗？", "从{s}中能找到{l}吗？"),
    },
    "value_extraction": {
        "en": ("Extract the {l} from the {s}.", "What is the {l} in the {s}?", "Find what the {s} says about the {l}."),
        "zh": ("找出{s}中的{l}。", "{s}中的{l}是什么？", "关于{l}，{s}说了什么？"),
    },
    "entity_extraction": {
        "en": ("Extract the spans of every {n} from the {s}.", "Fill in each {n} with words of the {s}.", "For all {n} labels, list what the {s} holds."),
        "zh": ("从{s}中找出每个{n}的词。", "用{s}中的词填写每个{n}。", "把{s}中的词用{n}分别列出。"),
    },
}
CLASSES: dict[str, dict[Language, tuple[str, ...]]] = {
    "classification": {
        "en": ("Which {n} does the {s} have?", "Choose the {n} of the {s}.", "What is the right {n} for this {s}?"),
        "zh": ("{s}是什么{n}？", "选出{s}的{n}。", "这个{s}的{n}是哪个？"),
    },
    "class_check": {
        "en": ("Is the {n} of the {s} {l}?", "Does the {n} {l} fit the {s}?", "Is it right to say {l} of this {s}?"),
        "zh": ("{s}的{n}是{l}吗？", "{n}{l}和{s}相同吗？", "把这个{s}说成{l}，对吗？"),
    },
    "coarse_classification": {
        "en": ("Which main {n} does the {s} have?", "Choose the main {n} of the {s}.", "To which large {n} does the {s} belong?"),
        "zh": ("{s}是什么大{n}？", "选出{s}的大{n}。", "{s}在哪个大{n}中？"),
    },
    "fine_classification": {
        "en": ("The main {n} is {l}. Which one exactly?", "Choose the exact {n} of the {s}; it is in {l}.", "Within {l}, what is the {n} of the {s}?"),
        "zh": ("大{n}是{l}，是哪个小{n}？", "在{l}中选出{s}的小{n}。", "{s}是{l}中的哪个？"),
    },
    "same_class": {
        "en": ("Do both have the same {n}?", "Is the {n} of the two the same?", "Are these two alike in their {n}?"),
        "zh": ("两个的{n}相同吗？", "两个是同一个{n}吗？", "这两个{n}一样吗？"),
    },
}  # fmt: skip
PAIRS: dict[str, dict[Language, tuple[str, ...]]] = {
    "pair_classification": {
        "en": ("Which {n} do the {s} and the {t} have?", "Choose the {n} of the {s} and the {t}.", "Of the {s} with the {t}, what is the {n}?"),
        "zh": ("{s}和{t}是什么{n}？", "选出{s}和{t}的{n}。", "对{s}和{t}，{n}是哪个？"),
    },
    "pair_check": {
        "en": ("Is the {n} of the {s} and the {t} {l}?", "Does {l} fit the {s} and the {t}?", "Is it right to say {l} of this {s} and this {t}?"),
        "zh": ("{s}和{t}的{n}是{l}吗？", "{s}和{t}是{l}吗？", "说{s}和{t}是{l}，对吗？"),
    },
    "match_selection": {
        "en": ("Which {t} belongs to the {s}?", "Choose the {t} that fits the {s}.", "For this {s}, which {t} is the right one?"),
        "zh": ("哪个{t}和{s}是一对？", "选出{s}的{t}。", "对这个{s}，哪个{t}是对的？"),
    },
}  # fmt: skip
DEFINITIONS: dict[str, dict[Language, tuple[str, ...]]] = SPANS | CLASSES | PAIRS
KINDS: tuple[str, ...] = tuple(DEFINITIONS)
"""Every kind of atomic task."""

OPTION_LINES: dict[Language, tuple[str, ...]] = {
    "en": ("Choose from: {o}", "Options: {o}", "One of: {o}"),
    "zh": ("可选：{o}", "几个选择：{o}", "从中选：{o}"),
}
SPANS_GIVEN: dict[Language, str] = {"en": "Spans", "zh": "词"}
FORMS: dict[str, dict[Language, str]] = {
    "label": {"en": "Answer with one of them only.", "zh": "只回答一个。"},
    "yes_no": {"en": "Answer Yes or No.", "zh": "回答是或不是。"},
    "list": {"en": 'Join them by "{j}"; if there is none, write None.', "zh": "用“{j}”连接，没有就写无。"},
    "typed_spans": {"en": 'Write a line for each: "span: {n}".', "zh": "每个写一行：“词：{n}”。"},
    "spans_by_type": {
        "en": 'Write a line for each {n}: "{n}: spans", joined by "{j}", or None.',
        "zh": "每个{n}写一行：“{n}：词”，用“{j}”连接，没有就写无。",
    },
}
