"""Finds the equations in ordinary text, and checks whether they hold.

Exact, with fractions. Where prose is ambiguous (units between the numbers, per cent, rounding), an
equation is false only if every reading of it is false: a step that is called wrong must be wrong.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from fractions import Fraction

from rfprm_runtime.answers.spelled_numbers import SPELLED, to_fraction
from rfprm_training.arithmetic import evaluate

_MAX_CHARACTERS = 20_000
_MAX_TOKENS_OF_A_SIDE = 40
_MAX_UNIT_WORDS = 3
_NO_UNITS = {
    *("a", "an", "and", "as", "at", "because", "but", "by", "for", "from", "gives", "had", "has"),
    *("have", "he", "if", "in", "into", "is", "it", "making", "on", "or", "she", "since", "so"),
    *("than", "that", "the", "then", "they", "thus", "to", "was", "we", "when", "where", "which"),
    *("while", "with", "you"),
}
"""Words that are never units, so they end an expression."""

_LATEX = (
    (re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}"), r"((\1)/(\2))"),
    (re.compile(r"\\(?:text|mathrm|mbox)\s*\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"\\(?:times|cdot|ast)(?![A-Za-z])"), " * "),
    (re.compile(r"\\div(?![A-Za-z])"), " / "),
    (re.compile(r"\\(?:left|right|quad|qquad|,|;|!|:|\[|\]|\(|\))"), " "),
    (re.compile(r"\\boxed\s*\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"\\([$%])"), r"\1"),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"(?<![\d.,/])(\d+)(?:[ -]| and )(\d+)/(\d+)(?![\d./])"), r"(\1+\2/\3)"),  # 1 1/2
    (re.compile(r"\*\*"), " "),  # Markdown's bold
)
_SPELLED = (
    (re.compile(r"\b(?:times|multiplied by)\b", re.I), " * "),
    (re.compile(r"\bdivided by\b", re.I), " / "),
    (re.compile(r"\bplus\b", re.I), " + "),
    (re.compile(r"\bminus\b", re.I), " - "),
    (re.compile(r"\b(?:is equal to|equals)\b", re.I), " = "),
)
_TOKEN = re.compile(
    r"""
    (?P<number>(?:[$€£]\s*)?NUMBER)
    (?P<percent>\s*%)?
  | (?P<sign>[-+*/×÷·−–]|(?<=[\d)%\s$])[xX](?=\s*[$€£]?[\d(.]))
  | (?P<open>[(\[]) | (?P<close>[)\]])
  | (?P<equal>=)
  | (?P<of>\bof\b)
  | (?P<variable>(?<=\d)[A-Za-z](?![A-Za-z])|(?<![\w'’])[B-HJ-Zb-hj-z](?![\w'’])|\\[A-Za-z]+|[\^_])
  | (?P<word>[^\W\d_][\w'’/-]*)
  | (?P<break>[^\s$€£])
    """.replace("NUMBER", SPELLED),
    re.X,
)
_SIGNS = {"×": "*", "·": "*", "x": "*", "X": "*", "÷": "/", "−": "-", "–": "-"}


@dataclass(frozen=True)
class Equation:
    """``left = right`` as found in text."""

    left: str
    right: str
    holds: bool | None
    """None if unclear: a whole number for something that does not divide evenly, or a plain number
    or share on the left, which people equate with what it stands for."""


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    percent: bool = False
    glued: bool = False
    """Whether nothing separates it from the token before."""


def find_equations(text: str) -> list[Equation]:
    """Every equation between arithmetic expressions; a chain a = b = c gives neighbouring pairs.

    Reads the first 20,000 characters, and skips equations with a side of more than 40 tokens.
    """
    tokens = _tokenise(text[:_MAX_CHARACTERS])
    equals = [index for index, token in enumerate(tokens) if token.kind == "equal"]
    found = []
    for index in equals:
        left, right = _side_before(tokens, index), _side_after(tokens, index)
        if left and right:
            found.append(_compare(left, right))
    return [equation for equation in found if equation is not None]


def _tokenise(text: str) -> list[_Token]:
    for pattern, replacement in (*_LATEX, *_SPELLED):
        text = pattern.sub(replacement, text)
    tokens: list[_Token] = []
    end = -1
    for match in _TOKEN.finditer(text):
        kind, glued = match.lastgroup or "", match.start() == end
        end = match.end()
        if match.group("number"):
            spelled = match.group("number").lstrip("$€£ ")
            token = _Token("number", spelled, bool(match.group("percent")), glued)
        elif kind == "sign":
            token = _Token("sign", _SIGNS.get(match.group(), match.group()))
        else:
            token = _Token(kind, match.group(), glued=glued)
        if glued and tokens and _ends_a_value(tokens[-1]) and token.kind == "open":
            tokens.append(_Token("sign", "*"))  # 26(2)
        tokens.append(token)
    return tokens


def _side_before(tokens: list[_Token], equal: int) -> list[_Token]:
    """The expression that ends at an equals sign, without its units. Reads backwards."""
    side: list[_Token] = []
    index = equal - 1
    while index >= 0 and len(side) <= _MAX_TOKENS_OF_A_SIDE:
        token = tokens[index]
        if token.kind == "word":
            stop = _over_words(tokens, index, -1)
            # A word can be a unit within the expression: 3 boxes * 12 pencils = …
            is_unit = stop >= 0 and (
                tokens[stop].kind in ("number", "close") and (not side or side[0].kind == "sign")
            )
            if not is_unit:
                break
            index = stop
            continue
        if token.kind not in ("number", "sign", "open", "close", "of"):
            break
        if _ends_a_value(token) and side and _begins_a_value(side[0]):
            break  # two values side by side: the first belongs to the prose
        side.insert(0, token)
        index -= 1
    before = tokens[index].kind if index >= 0 else "break"
    if before == "variable" or (side and side[0].kind in ("sign", "of") and before == "word"):
        return []  # part of something that is not plain arithmetic
    while side and side[0].kind in ("sign", "of", "close") and side[0].text != "-":
        side.pop(0)
    return _balanced(side, from_end=True)


def _side_after(tokens: list[_Token], equal: int) -> list[_Token]:
    """The expression that begins after an equals sign."""
    side: list[_Token] = []
    index = equal + 1
    while index < len(tokens) and len(side) <= _MAX_TOKENS_OF_A_SIDE:
        token = tokens[index]
        if token.kind == "word":
            stop = _over_words(tokens, index, +1)
            is_unit = bool(side) and stop < len(tokens) and tokens[stop].kind in ("sign", "equal")
            if not is_unit:
                break
            index = stop
            continue
        if token.kind not in ("number", "sign", "open", "close", "of"):
            break
        if side and _ends_a_value(side[-1]) and _begins_a_value(token):
            break
        side.append(token)
        index += 1
    if index < len(tokens) and tokens[index].kind == "variable":
        return []
    while side and side[-1].kind in ("sign", "of", "open"):
        side.pop()
    return _balanced(side, from_end=False)


def _over_words(tokens: list[_Token], index: int, step: int) -> int:
    """The index after a run of at most three words, in the direction of ``step``."""
    for _ in range(_MAX_UNIT_WORDS):
        if 0 <= index < len(tokens) and tokens[index].kind == "word":
            if tokens[index].text.lower() in _NO_UNITS:
                break
            index += step
    return index


def _ends_a_value(token: _Token) -> bool:
    return token.kind in ("number", "close")


def _begins_a_value(token: _Token) -> bool:
    return token.kind in ("number", "open")


def _balanced(side: list[_Token], *, from_end: bool) -> list[_Token]:
    """The side without a bracket that belongs to the prose: (3 + 4 = 7)."""
    depth, kept = 0, []
    inward, outward = ("close", "open") if from_end else ("open", "close")
    for token in reversed(side) if from_end else side:
        depth += (token.kind == inward) - (token.kind == outward)
        if depth < 0:
            break
        kept.append(token)
    if depth > 0:
        return []
    return kept[::-1] if from_end else kept


def _compare(left: list[_Token], right: list[_Token]) -> Equation | None:
    if max(len(left), len(right)) > _MAX_TOKENS_OF_A_SIDE:
        return None
    values = _readings(left), _readings(right)
    if not values[0] or not values[1]:
        return None
    spelled = _spell(left), _spell(right)
    if any(a == b for a, b in itertools.product(*values)):
        return Equation(*spelled, True)
    is_share = [token.text for token in left[1:2]] == ["/"] and len(left) == 3
    if len(left) == 1 or (is_share and max(values[0]) < 1 <= max(values[1])):
        # 2 kg = 2 * 1000 g; 4/7 is equal to $24.
        return Equation(*spelled, None)
    judged = [_nearly(a, b, right) for a, b in itertools.product(*values)]
    if True in judged:
        return Equation(*spelled, True)
    return Equation(*spelled, None if None in judged else False)


def _nearly(left: Fraction, right: Fraction, spelled: list[_Token]) -> bool | None:
    """Whether ``right`` is ``left`` rounded; None if unclear, as for a rounded whole number."""
    if len(spelled) == 1 and "." in spelled[0].text:
        decimals = len(spelled[0].text.split(".")[1])
        # Allows truncation, and an error in the last digit from earlier rounding.
        return abs(left - right) <= Fraction(1, 10**decimals)
    if len(spelled) == 1 and left.denominator != 1 and abs(left - right) < 1:
        return None
    if right and abs(left - right) / abs(right) < Fraction(1, 200) and left.denominator != 1:
        return None
    return False


def _readings(side: list[_Token]) -> set[Fraction]:
    """The values an expression may have: 20 % is 0.2 or 20."""
    ways = (True, False) if any(token.percent for token in side) else (False,)
    values = {evaluate(_spell(side, as_share=way)) for way in ways}
    return {value for value in values if value is not None}


def _spell(side: list[_Token], *, as_share: bool = False) -> str:
    parts = []
    for token in side:
        if token.kind == "number":
            value = to_fraction(token.text)
            text = token.text.replace(",", "")
            if value is not None and value.denominator == 1 and "." not in text:
                text = str(value.numerator)  # Python does not parse 007
            parts.append(f"({text}/100)" if token.percent and as_share else text)
        else:
            parts.append({"of": "*", "[": "(", "]": ")"}.get(token.text.lower(), token.text))
    return " ".join(parts)
