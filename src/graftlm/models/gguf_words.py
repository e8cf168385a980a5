"""A byte-level BPE tokenizer as llama.cpp sees it: which of its fixed ways of cutting text into words fits.

llama.cpp does not read a tokenizer's own rules. It knows a list of named *pre-tokenizers*, each some regular
expressions (its file src/llama-vocab.cpp); the GGUF file names one. Which one fits is measured here, not guessed: the
tokenizer is given each way in turn and has to make the same tokens of many texts.
"""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass

from tokenizers import Tokenizer as RustTokenizer

from graftlm.core.errors import ModelError

_CONTRACTIONS = "'s|'t|'re|'ve|'m|'ll|'d"
_ANY_CASE = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_SIGNS_AND_SPACE = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT2 = rf"{_CONTRACTIONS}| ?\p{{L}}+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+|\s+(?!\S)"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+", rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
_SIGNS_AND_SLASH = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@dataclass(frozen=True)
class WordRule:
    """One of llama.cpp's pre-tokenizers: expressions applied one after the other, each to the pieces of the one
    before; with `whole_words` a word that is a token is one, whatever the merges say."""

    name: str
    expressions: tuple[str, ...]
    whole_words: bool = False


RULES = (
    WordRule("qwen2", (rf"{_ANY_CASE}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_SIGNS_AND_SPACE}",)),
    WordRule("gpt-2", (_GPT2,)),
    WordRule("llama-bpe", (rf"{_ANY_CASE}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_SIGNS_AND_SPACE}",), True),
    WordRule("dbrx", (rf"{_ANY_CASE}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_SIGNS_AND_SPACE}",)),
    WordRule("starcoder", (r"\p{N}", _GPT2)),
    WordRule("deepseek-coder", (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}")),
    WordRule(
        "deepseek-v3",
        (
            r"\p{N}{1,3}",
            "[一-龥぀-ゟ゠-ヿ]+",
            r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
            r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ),
    ),
    WordRule("tekken", (rf"{_CASED[0]}|{_CASED[1]}|\p{{N}}|{_SIGNS_AND_SLASH}",), True),
    WordRule(
        "gpt-4o", (rf"{_CASED[0]}{_ANY_CASE}?|{_CASED[1]}{_ANY_CASE}?|\p{{N}}{{1,3}}|{_SIGNS_AND_SLASH}",)
    ),
    WordRule("bloom", (r" ?[^(\s|.,!?…。，、।۔،)]+",)),
    WordRule("default", (r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
)


@dataclass(frozen=True)
class WordChoice:
    """The rule that fits; `exact` on every text, else on texts without runs of white space."""

    name: str
    exact: bool


def choose_words(tokenizer: RustTokenizer, name: str) -> WordChoice:
    """The rule under which llama.cpp makes this tokenizer's tokens.

    Raises:
        ModelError: none does; with the text on which the best one fails.
    """
    texts = probes(tokenizer)
    wanted = _tokens(tokenizer, texts)
    single = [place for place, text in enumerate(texts) if not re.search(r"\s\s", text)]
    nearest: tuple[int, str, str] = (len(texts) + 1, "", "")
    almost = None
    for rule in RULES:
        found = _tokens(under_rule(tokenizer, rule), texts)
        wrong = [place for place in range(len(texts)) if found[place] != wanted[place]]
        if not wrong:
            return WordChoice(rule.name, exact=True)
        wrong = [place for place in single if found[place] != wanted[place]]
        if not wrong:
            almost = almost or WordChoice(rule.name, exact=False)
            continue
        nearest = min(nearest, (len(wrong), rule.name, texts[wrong[0]]))
    if almost is not None:
        return almost
    raise ModelError(
        f"llama.cpp has no pre-tokenizer that cuts words as its tokenizer does; `{nearest[1]}` comes nearest and makes "
        f"other tokens of {nearest[0]} of {len(single)} texts, as of {nearest[2][:60]!r}",
        where=name,
        fix="export with --to hugging-face",
    )


def under_rule(tokenizer: RustTokenizer, rule: WordRule) -> RustTokenizer:
    """The same vocabulary and merges, words cut by the rule."""
    described = json.loads(tokenizer.to_str())
    splits = [
        {"type": "Split", "pattern": {"Regex": text}, "behavior": "Isolated", "invert": False}
        for text in rule.expressions
    ]
    as_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    described |= {
        "normalizer": None,
        "post_processor": None,
        "added_tokens": [],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*splits, as_bytes]},
    }
    described["model"]["ignore_merges"] = rule.whole_words
    return RustTokenizer.from_str(json.dumps(described))


def probes(tokenizer: RustTokenizer, count: int = 1500) -> list[str]:
    """Texts in many scripts, and random chains of the vocabulary's own pieces; normalised as the tokenizer does."""
    draw = random.Random(0)
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    ids = sorted(number for piece, number in tokenizer.get_vocab(with_added_tokens=False).items())
    pieces = [tokenizer.decode([draw.choice(ids)]) for _ in range(4 * count)]
    pieces = [piece for piece in pieces if piece and "\ufffd" not in piece]
    signs = [*"  \n\t.,!?:;'\"()[]{}/\\|@#$%^&*+-=_<>~`0123456789", "  ", "\n\n", "'s", "'ll", "。", "，", "é", "ß"]
    signs += [*"ЖдαΩあアー한글中文字体ไทยहि", "😀", "½", "²", "…", "—"]
    texts = list(_TEXTS)
    for _ in range(count):
        chain = [draw.choice(pieces if pieces and draw.random() < 0.6 else signs) for _ in range(draw.randint(2, 14))]
        texts.append("".join(chain))
    texts += [re.sub(r"\s{2,}", " ", text) for text in texts]
    if tokenizer.normalizer is not None:
        texts = [tokenizer.normalizer.normalize_str(text) for text in texts]
    return [text for text in texts if not any(token in text for token in special)]


def _tokens(tokenizer: RustTokenizer, texts: list[str]) -> list[list[int]]:
    return [found.ids for found in tokenizer.encode_batch(texts, add_special_tokens=False)]


_TEXTS = (
    "Hello, world! It's 12:30 and we've 1,234.50 dollars.",
    "don't DON'T I'll WE'RE she'd",
    "中文测试：今天天气很好，我们去公园吧。",
    "def f(x):\n    return x ** 2  # square\n\n\nprint(f(3))\n",
    "Ünïcödé façade naïve",
    "日本語のテスト カタカナ 한국어 시험 Русский текст ελληνικά العربية हिन्दी ไทย",
    "a  b   c    d\te\n f \n\n g ",
    " leading and trailing ",
    "2024年3月15日，血压120/80mmHg",
    "camelCaseHTTPRequest snake_case",
)
