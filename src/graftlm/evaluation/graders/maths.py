"""The final answer of a solution in mathematics, and whether two answers are the same.

GSM8K (arXiv 2110.14168): the number behind "####", else the last number. MATH (arXiv 2103.03874): the last \\boxed{}.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable

_NUMBER = re.compile(r"-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|-?\.\d+")
_MARKED = re.compile(r"####\s*(.+)")
_ANSWER_IS = re.compile(r"(?:final answer is|answer is|答案是|答案为)[:：]?\s*(.+?)(?:\.\s|\.?$|。|\n)", re.I | re.M)
_CHOICE = re.compile(r"(?:answer is|answer:|答案[是为:：]|故选[:：]?|选)\s*\(?([A-J])\b", re.IGNORECASE)
_LAST_LETTER = re.compile(r"(?<![A-Za-z])\(?([A-J])\)?(?![A-Za-z])")

_DROPPED = re.compile(r"\\left|\\right|\\[!,;: ]|\\displaystyle|\^\{?\\circ\}?|\\?[$]")
_UNIT = re.compile(r"(?<=.)\\(?:text|mbox)\{[^{}]*\}(?:\^\d)?$")
_ALIASES = (("dfrac", "frac"), ("tfrac", "frac"), ("\\%", "%"), ("\\ne{}", "\\neq"), ("−", "-"), ("√", "\\sqrt"))
_WORDS = re.compile(r"\\(?:text|mathrm|mathbf|textbf)\{([^{}]*)\}")
_FRACTION = re.compile(r"\\frac\{([^{}]*)\}\{([^{}]*)\}")
_SHORT_FRACTION = re.compile(r"\\frac(\w)(\w)")
_MIXED_FRACTION = re.compile(r"\\frac(\w)\{|\\frac\{([^{}]+)\}(\w)")
_MIXED_NUMBER = re.compile(r"(\d+)(\\frac\{\d+\}\{\d+\})")
_ROOT = re.compile(r"\\sqrt\{([^{}]*)\}")
_SHORT_ROOT = re.compile(r"\\sqrt(\d+|[a-z])")
_THOUSANDS = re.compile(r"(?<=\d),(?:\\!)?(?=\d{3}(?!\d))")
_PRODUCT = re.compile(r"(?<=[\d)])(?=\(|sqrt|pi)|(?<=pi)(?=\(|sqrt)")

_TOLERANCE = 1e-9  # 2010012/2010013 is an answer of MATH, and it is not 1
_LARGEST_POWER = 64

_OPERATORS: dict[type[ast.AST], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}


def last_number(text: str) -> str | None:
    """The last number of a text without thousands separators; None without one."""
    found = _NUMBER.findall(text)
    return found[-1].replace(",", "") if found else None


def gsm8k_answer(text: str) -> str | None:
    """The number behind the last "####" (the form of the data's own solutions), else the text's last number."""
    marked = _MARKED.findall(text)
    return last_number(marked[-1] if marked else text)


def boxed_answer(text: str) -> str | None:
    """The content of the last \\boxed{…} or \\fbox{…}, braces balanced; None without a closed one."""
    start = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    if start < 0:
        return None
    opened = text.find("{", start)
    bare = re.match(r"\\f?box(?:ed)? +([^$\s]+)", text[start:])
    if bare:
        return bare[1]
    depth = 0
    for place in range(opened, len(text)) if opened >= 0 else ():
        depth += (text[place] == "{") - (text[place] == "}")
        if depth == 0:
            return text[opened + 1 : place]
    return None


def math_answer(text: str) -> str | None:
    """The boxed answer, else what follows the last "answer is", else the last number."""
    boxed = boxed_answer(text)
    if boxed is not None:
        return boxed
    said = _ANSWER_IS.findall(text)
    return said[-1].strip() if said else last_number(text)


def choice_letter(text: str) -> str | None:
    """The letter that a solution settles on: behind the last "answer is" or 故选, else the last single letter A–J."""
    said = _CHOICE.findall(text) or _LAST_LETTER.findall(text)
    return said[-1].upper() if said else None


def same_answer(prediction: str | None, reference: str) -> bool:
    """Whether two answers agree: as normalised LaTeX, as numbers (to 1e-9 of their size), or part by part."""
    if prediction is None:
        return False
    left, right = plain_latex(prediction), plain_latex(reference)
    if left == right:
        return bool(left)
    first, second = _value(left), _value(right)
    if first is not None and second is not None:
        return math.isclose(first, second, rel_tol=_TOLERANCE, abs_tol=1e-9)
    return _same_parts(left, right)


def plain_latex(text: str) -> str:
    """An answer without what does not change its meaning: spaces, sizes, units, dollar signs, a leading `x =`."""
    text = text.strip().rstrip(".。").strip("$ ")
    for old, new in _ALIASES:
        text = text.replace(old, new)
    text = _WORDS.sub(r"\1", _UNIT.sub("", _DROPPED.sub("", text)))
    text = _THOUSANDS.sub("", re.sub(r"\s+", "", text))
    text = _SHORT_ROOT.sub(r"\\sqrt{\1}", _SHORT_FRACTION.sub(r"\\frac{\1}{\2}", text))
    text = _MIXED_FRACTION.sub(_braced, text)
    text = re.sub(r"^[a-zA-Z](?:=|\\in)(?=.)", "", text).replace("%", "")
    return re.sub(r"(?<![\d.])\.(?=\d)", "0.", text).strip()


def _braced(match: re.Match[str]) -> str:
    return f"\\frac{{{match[1]}}}{{" if match[1] else f"\\frac{{{match[2]}}}{{{match[3]}}}"


def _same_parts(left: str, right: str) -> bool:
    """Tuples and intervals by their parts, which must stand in the same brackets and order."""
    first, second = _parts(left), _parts(right)
    if len(first) != len(second) or len(first) < 2 or _brackets(left) != _brackets(right):
        return False
    return all(same_answer(a, b) for a, b in zip(first, second, strict=True))


def _brackets(text: str) -> tuple[str, str]:
    first, last = text[0], text[-1]
    return (first if first in "([" else "", last if last in ")]" else "")


def _parts(text: str) -> list[str]:
    inner = text[1:-1] if text[:1] in "([" and text[-1:] in ")]" and text else text
    parts, depth = [""], 0
    for letter in inner:
        depth += (letter in "({[") - (letter in ")}]")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _value(text: str) -> float | None:
    """The number that an answer denotes; None where it holds a variable or anything else than arithmetic."""
    text = _MIXED_NUMBER.sub(r"(\1+\2)", text)
    previous = ""
    while previous != text:
        previous = text
        text = _ROOT.sub(r"sqrt(\1)", _FRACTION.sub(r"((\1)/(\2))", text))
    text = text.replace("\\pi", "pi").replace("\\cdot", "*").replace("\\times", "*").replace("^", "**")
    text = text.replace("{", "(").replace("}", ")")
    if re.search(r"[^\d.+\-*/()piqrst]", text) or len(text) > 200:
        return None
    try:
        return _evaluate(ast.parse(_PRODUCT.sub("*", text), mode="eval").body)
    except (SyntaxError, ValueError, ArithmeticError, TypeError, RecursionError, MemoryError):
        return None


def _evaluate(node: ast.expr) -> float:
    """Arithmetic only; a power above 64 is refused, so that 9**9**9 costs nothing.

    Raises:
        ValueError: anything else.
    """
    match node:
        case ast.Constant(value=int() | float()):
            return float(node.value)  # type: ignore[arg-type]
        case ast.Name(id="pi"):
            return math.pi
        case ast.Call(func=ast.Name(id="sqrt"), args=[inner]):
            return math.sqrt(_evaluate(inner))
        case ast.UnaryOp(op=ast.USub()):
            return -_evaluate(node.operand)
        case ast.BinOp() if type(node.op) in _OPERATORS:
            left, right = _evaluate(node.left), _evaluate(node.right)
            if isinstance(node.op, ast.Pow) and abs(right) > _LARGEST_POWER:
                raise ValueError("the power is too large")
            return _OPERATORS[type(node.op)](left, right)
    raise ValueError("not arithmetic")
