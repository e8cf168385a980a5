"""Which language a text is written in: by script first, then by the letters and words only one of them has.

Enough for texts of a sentence or more in the 30 languages that IFEval asks for; no statistics, no model.
"""

from __future__ import annotations

import re
from collections import Counter

_SCRIPTS = {
    "Latin": r"A-Za-zÀ-ɏḀ-ỿ",
    "Cyrillic": r"Ѐ-ӿ",
    "Arabic": r"؀-ۿݐ-ݿ",
    "Devanagari": r"ऀ-ॿ",
    "he": r"֐-׿",
    "bn": r"ঀ-৿",
    "pa": r"਀-੿",
    "gu": r"઀-૿",
    "ta": r"஀-௿",
    "te": r"ఀ-౿",
    "kn": r"ಀ-೿",
    "ml": r"ഀ-ൿ",
    "th": r"฀-๿",
    "ko": r"가-힣ᄀ-ᇿ",
    "ja": r"぀-ヿ",
    "zh": r"一-鿿",
}
"""Characters of a script; a script of a single language bears that language's code."""

_PATTERNS = {name: re.compile(f"[{letters}]") for name, letters in _SCRIPTS.items()}

_SIGNS = {
    "Cyrillic": {"uk": r"[іїєґ]", "ru": r"[ыэё]", "bg": r"\b(?:и|на|се|са|със|към|който|което|от|за|ще)\b"},
    "Arabic": {"ur": r"[ٹڈڑںےھہ]", "fa": r"[پچژگکی]", "ar": r"[ةيكىأإ]"},
    "Devanagari": {
        "mr": r"ळ|(?<!\S)(?:आहे|आहेत|आणि|नाही|होते|मध्ये|च्या)(?!\S)",
        "ne": r"(?<!\S)(?:छ|छन्|र|हो|गर्न|भने|पनि|हुन्छ|थियो|लागि)(?!\S)|को(?!\S)",
        "hi": r"(?<!\S)(?:है|हैं|और|के|की|में|से|का|नहीं|यह|था|कि)(?!\S)",
    },
}

_WORDS = {
    "en": "the and of to in is that it for you with on are this be as was have not my your",
    "es": "el la los las de que y en un una es por con para no se del al su como pero más",
    "pt": "o a os as de que e em um uma é por com para não se do da no na mais seu você ao",
    "fr": "le la les des de et en un une est que pour dans ce qui ne pas au du vous sur je",
    "de": "der die das und ist in den von zu mit sich nicht ein eine auf für dem es ich des",
    "it": "il lo la gli le di che e in un una è per con non si del della sono i come nel mi",
    "sw": "ya na wa kwa ni katika za la kuwa hii cha hiyo yako yangu kama au hivyo sana pia",
    "fi": "ja on ei se että oli hän mutta kun tai myös ovat joka niin kuin sekä minä voi",
    "pl": "i w na się nie z do to że jest od po jak za ale co przez są dla o jego",
    "vi": "và của là có không được cho một với những các trong người để này đã tôi khi",
}
_WORD_SETS = {language: frozenset(words.split()) for language, words in _WORDS.items()}


def language_of(text: str) -> str | None:
    """The ISO 639-1 code of a text's language; None where nothing tells (no letters, no known word)."""
    counts = {name: len(pattern.findall(text)) for name, pattern in _PATTERNS.items()}
    # Japanese mixes kana with Chinese characters; a tenth of kana is already Japanese.
    if counts["ja"] > 0.1 * counts["zh"]:
        counts["ja"] += counts["zh"]
    script = max(counts, key=lambda name: counts[name])
    if not counts[script]:
        return None
    if script == "Latin":
        return _latin_language(text)
    if script in _SIGNS:
        return _most_signs(text.casefold(), script)
    return script


def _latin_language(text: str) -> str | None:
    words = Counter(re.findall(r"[^\W\d_]+", text.casefold()))
    hits = {language: sum(words[word] for word in known) for language, known in _WORD_SETS.items()}
    best = max(hits, key=lambda language: hits[language])
    return best if hits[best] else None


def _most_signs(text: str, script: str) -> str:
    """Letters that a language shares with a later one in the table are told apart by the earlier, rarer signs."""
    found = {language: len(re.findall(pattern, text)) for language, pattern in _SIGNS[script].items()}
    return max(found, key=lambda language: found[language])
