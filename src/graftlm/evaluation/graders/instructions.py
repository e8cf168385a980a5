"""The 25 kinds of verifiable instruction of IFEval (Zhou et al. 2023, arXiv 2311.07911), a function each.

Each takes the response and the instruction's own arguments, and says whether the response follows it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from graftlm.evaluation.graders.languages import language_of
from graftlm.evaluation.graders.sentences import count_sentences, split_tokens

Arguments = Mapping[str, Any]
Check = Callable[[str, Arguments], bool]

_FENCES = ("```json", "```Json", "```JSON", "```")
_YES_NO = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
_WORD_ENDS = frozenset(".,?!'\"")


def _compares(count: int, relation: str, bound: int) -> bool:
    return count < bound if relation == "less than" else count >= bound


def _keywords_exist(text: str, given: Arguments) -> bool:
    return all(re.search(keyword, text, re.IGNORECASE) for keyword in given["keywords"])


def _keyword_frequency(text: str, given: Arguments) -> bool:
    found = re.findall(given["keyword"], text, re.IGNORECASE)
    return _compares(len(found), given["relation"], given["frequency"])


def _no_forbidden_word(text: str, given: Arguments) -> bool:
    return not any(re.search(rf"\b{word}\b", text, re.IGNORECASE) for word in given["forbidden_words"])


def _letter_frequency(text: str, given: Arguments) -> bool:
    count = text.lower().count(given["letter"].lower())
    return _compares(count, given["let_relation"], given["let_frequency"])


def _response_language(text: str, given: Arguments) -> bool:
    found = language_of(text)
    return found is None or found == given["language"]


def _number_sentences(text: str, given: Arguments) -> bool:
    return _compares(count_sentences(text), given["relation"], given["num_sentences"])


def _number_paragraphs(text: str, given: Arguments) -> bool:
    parts = _inner_parts(re.split(r"\s?\*\*\*\s?", text))
    return parts is not None and len(parts) == given["num_paragraphs"]


def _number_words(text: str, given: Arguments) -> bool:
    return _compares(len(re.findall(r"\w+", text)), given["relation"], given["num_words"])


def _nth_paragraph_first_word(text: str, given: Arguments) -> bool:
    paragraphs, nth = text.split("\n\n"), given["nth_paragraph"]
    count = sum(bool(paragraph.strip()) for paragraph in paragraphs)
    if count != given["num_paragraphs"] or nth > count or not paragraphs[nth - 1].strip():
        return False
    word = paragraphs[nth - 1].split()[0].lstrip("'").lstrip('"')
    end = next((place for place, letter in enumerate(word) if letter in _WORD_ENDS), len(word))
    return word[:end].lower() == given["first_word"].lower()


def _number_placeholders(text: str, given: Arguments) -> bool:
    return len(re.findall(r"\[.*?\]", text)) >= given["num_placeholders"]


def _postscript(text: str, given: Arguments) -> bool:
    marker = given["postscript_marker"].strip()
    patterns = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    return re.search(patterns.get(marker, marker.lower()), text.lower()) is not None


def _number_bullets(text: str, given: Arguments) -> bool:
    stars = re.findall(r"^\s*\*[^\*].*$", text, re.MULTILINE)
    dashes = re.findall(r"^\s*-.*$", text, re.MULTILINE)
    return len(stars) + len(dashes) == given["num_bullets"]


def _constrained_response(text: str, given: Arguments) -> bool:
    return any(answer in text for answer in _YES_NO)


def _number_highlights(text: str, given: Arguments) -> bool:
    """A doubly starred section counts once as itself; its inner stars match nothing that is not empty."""
    single = re.findall(r"\*([^\n\*]*)\*", text)
    double = re.findall(r"\*\*([^\n\*]*)\*\*", text)
    return sum(bool(part.strip()) for part in [*single, *double]) >= given["num_highlights"]


def _multiple_sections(text: str, given: Arguments) -> bool:
    marks = re.findall(rf"\s?{given['section_spliter']}\s?\d+\s?", text)
    return len(marks) >= given["num_sections"]


def _json_format(text: str, given: Arguments) -> bool:
    body = text.strip()
    for fence in _FENCES:
        body = body.removeprefix(fence)
    try:
        json.loads(body.removesuffix("```").strip())
    except ValueError:
        return False
    return True


def _title(text: str, given: Arguments) -> bool:
    return any(found.lstrip("<").rstrip(">").strip() for found in re.findall(r"<<[^\n]+>>", text))


def _two_responses(text: str, given: Arguments) -> bool:
    parts = _inner_parts(text.split("******"))
    return parts is not None and len(parts) == 2 and parts[0] != parts[1]


def _repeat_prompt(text: str, given: Arguments) -> bool:
    return text.strip().lower().startswith(given["prompt_to_repeat"].strip().lower())


def _end_phrase(text: str, given: Arguments) -> bool:
    return text.strip().strip('"').lower().endswith(given["end_phrase"].strip().lower())


def _capital_words(text: str, given: Arguments) -> bool:
    count = sum(word.isupper() for word in split_tokens(text))
    return _compares(count, given["capital_relation"], given["capital_frequency"])


def _english_capital(text: str, given: Arguments) -> bool:
    return text.isupper() and language_of(text) in ("en", None)


def _english_lowercase(text: str, given: Arguments) -> bool:
    return text.islower() and language_of(text) in ("en", None)


def _no_comma(text: str, given: Arguments) -> bool:
    return "," not in text


def _quotation(text: str, given: Arguments) -> bool:
    body = text.strip()
    return len(body) > 1 and body[0] == body[-1] == '"'


def _inner_parts(parts: list[str]) -> list[str] | None:
    """The parts without an empty first or last one; None where an inner part is empty."""
    stripped = [part.strip() for part in parts]
    if not all(stripped[1:-1]):
        return None
    return [part for part in stripped if part]


CHECKS: dict[str, Check] = {
    "keywords:existence": _keywords_exist,
    "keywords:frequency": _keyword_frequency,
    "keywords:forbidden_words": _no_forbidden_word,
    "keywords:letter_frequency": _letter_frequency,
    "language:response_language": _response_language,
    "length_constraints:number_sentences": _number_sentences,
    "length_constraints:number_paragraphs": _number_paragraphs,
    "length_constraints:number_words": _number_words,
    "length_constraints:nth_paragraph_first_word": _nth_paragraph_first_word,
    "detectable_content:number_placeholders": _number_placeholders,
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": _number_bullets,
    "detectable_format:constrained_response": _constrained_response,
    "detectable_format:number_highlighted_sections": _number_highlights,
    "detectable_format:multiple_sections": _multiple_sections,
    "detectable_format:json_format": _json_format,
    "detectable_format:title": _title,
    "combination:two_responses": _two_responses,
    "combination:repeat_prompt": _repeat_prompt,
    "startend:end_checker": _end_phrase,
    "change_case:capital_word_frequency": _capital_words,
    "change_case:english_capital": _english_capital,
    "change_case:english_lowercase": _english_lowercase,
    "punctuation:no_comma": _no_comma,
    "startend:quotation": _quotation,
}
