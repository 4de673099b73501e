"""The answer of a text without any mark: the formula or the lone quantity of its last sentence."""

from __future__ import annotations

import re
from itertools import pairwise

from rfprm_runtime.answers.finding.bounds import BOUNDS, DENIES, MAKES_ANOTHER, SUPPOSES
from rfprm_runtime.answers.finding.frames import (
    DISPLAY,
    LONGEST,
    MATH,
    inside,
    without_exclamation,
    without_frame,
)
from rfprm_runtime.answers.spelled_numbers import SIGNED_NUMBER

_QUANTITY = re.compile(
    rf"(?:[$€£¥]\s?)?(?:{SIGNED_NUMBER.pattern}(?:\s?[¼-¾⅐-⅞])?|-?[¼-¾⅐-⅞])(?:\s\d+/\d+|/\d+)?\s?(?:%|\\%|°|[$€£¥])?"
)
_LONGEST_OPTION = 200
_OPTION = re.compile(r"(?<!\w)(?:\([A-J]\)|[A-J][.:)])\s")
_LETTER = re.compile(
    r"(?:\b(?:is|choose|pick|select)|['’]s)\s(?:option\s|choice\s)?\(?([A-J])\)?[.!]?$"
)
_EMPHASISED = re.compile(r"\*\*([^*\d]{0,3}\d[^*]{0,40})\*\*[^\d*]{0,20}$")
_SAYS = re.compile(
    r"(?:(?:\b(?:is|are|equals|be|was|est|es|ist|è|é)|\bit['’]s)(?:\s+(?:de|of|about|only|exactly))?|[:：是为为]|هو|هي|[一共]有)"
    r"\s*\**\s*[$€£¥]?$",
    re.IGNORECASE,
)
_NAMES_A_CASE = re.compile(
    r"\b(?:for|when|at|with|where|für|bei|pour|quand|para|cuando|per)\s+[^\W\d_]\s*$", re.IGNORECASE
)
"""Before an equals sign: what follows may hold for this case only."""
_POWERS = re.compile(r"(?:^|[^\W\d_]{2,}[:,]?\s)\s*[(]?\d[\d\s().,^*/+-]*$")
_CLAUSE = 60
_NEAR = 40
"""In characters: how far before a number the words that bound it may begin."""
_PART_OF_FORMULA = set("^_*/+<>≤≥≠±×÷·|()[]{}\\!~≈≡∈–−½√∛∜π∞‰′″∕⁄²³¹⁰⁴⁵⁶⁷⁸⁹⁻ⁿ₀₁₂₃₄₅₆₇₈₉")
_SENTENCE = re.compile(
    r"(?<=[.!?])\s+|[。！？।۔]|\n|(?<=\$\$)\s+(?=[A-Z])"
    r"|(?<=[^,;:])\s+(?=(?:Therefore|Thus|Hence|Consequently|因此|所以|इसलिए)\b)"
)


def of_last_sentence(text: str) -> str | None:
    """The formula or the lone quantity that a text ends with, or the text if it is an answer."""
    text = text.replace("−", "-")
    before, _, _ = text.rstrip().rpartition("<|im_")  # a turn that was begun, and not by the text
    text = (before if before.strip() else text).rstrip()
    tail = text[-LONGEST:]
    display = [found for found in DISPLAY.finditer(tail) if not tail[found.end() :].strip(" .\n*")]
    if display:
        return inside(display[-1])
    if "\n" not in text and _is_one_option(text):
        return text
    sentences = [part for part in _SENTENCE.split(tail) if part and part.strip(" .*")]
    if not sentences or sentences[-1].rstrip(' "*').endswith(("?", "？")):
        return None
    whole = MATH.fullmatch(sentences[-1].strip().strip("*").rstrip(".,;: "))
    if whole is not None:
        return without_frame(inside(whole))
    sentence = without_exclamation(without_frame(sentences[-1]))
    if len(sentences) == 1 and len(text) <= 200 and _is_all_answer(text, sentence):
        return sentence
    emphasised = _EMPHASISED.search(sentences[-1])
    if emphasised is not None and is_quantity(_without_unit(emphasised[1])):
        return emphasised[1].strip()
    letter = _LETTER.search(sentence)
    if letter is not None and not DENIES.search(sentence, sentence.rfind(",") + 1):
        return letter[1]
    return _of_sentence(sentence)


def _is_all_answer(text: str, sentence: str) -> bool:
    """Whether a short text is an answer and perhaps what is true of it: ``$x^2$ for $x > 0$``."""
    return _is_expression(sentence) or MATH.match(text.strip()) is not None


def _is_one_option(text: str) -> bool:
    """``A. 12``, and no list of the options."""
    return (
        len(text) <= _LONGEST_OPTION
        and len(_OPTION.findall(text)) == 1
        and (_OPTION.match(text) is not None)
    )


def _without_unit(text: str) -> str:
    """A quantity and one word behind it: the quantity."""
    return re.sub(r"(?<=\d)\s?[^\W\d_]{1,20}$", "", text.strip())


def _of_sentence(sentence: str) -> str | None:
    sentence = re.sub(r"\*\*|__|`", "", sentence)
    formulas = list(MATH.finditer(sentence))
    if formulas:
        last = formulas[-1]
        around = MATH.sub(" ", sentence)
        behind = sentence[last.end() :].strip(" .,!;:*")
        ends_it = not any(map(str.isdigit, behind))
        if len(formulas) > 1 and _SAYS.search(sentence[: formulas[0].start()]) and not behind:
            listed = _listed(sentence, formulas)
            if listed is not None:
                return listed
        is_lone = len(formulas) == 1 and not any(map(str.isdigit, around))
        is_named = _SAYS.search(sentence[: last.start()]) is not None
        return inside(last) if is_lone or (is_named and ends_it) else None
    return lone_quantity(sentence)


def _listed(sentence: str, formulas: list[re.Match[str]]) -> str | None:
    """Formulas with nothing but commas and *and* between them, as a list."""
    gaps = [sentence[one.end() : other.start()].strip() for one, other in pairwise(formulas)]
    if not set(gaps) <= {",", "and", "or", ", and", ", or", "和", "、", "et", "und", "y", "e"}:
        return None
    return ", ".join(map(inside, formulas))


def lone_quantity(sentence: str) -> str | None:
    """The only quantity of a sentence, or the one that it ends with after *is*. None if the
    sentence bounds it, denies it, counts by it, or has it in a formula."""
    left, equals, right = sentence.rpartition("=")
    if SUPPOSES.search(left[-_CLAUSE:]) or DENIES.search(left[-_CLAUSE:]):
        return None
    quantities = list(_QUANTITY.finditer(right))
    if _NAMES_A_CASE.search(left[-_CLAUSE:]) and not _ends_with(right, quantities):
        return None
    if quantities and _is_said_at_last(right, quantities[-1]):
        left, equals, sentence = "", "", right
    elif equals and _is_computed(left):
        sentence = right
    quantities = list(_QUANTITY.finditer(sentence))
    if not quantities or (equals and not _is_computed(left)):
        return None
    found = quantities[-1]
    is_lone = len({quantity[0].strip() for quantity in quantities}) == 1
    if not is_lone and not _is_said_at_last(sentence, found):
        return None
    since = quantities[-2].end() if len(quantities) > 1 else 0
    return None if _is_no_value(sentence, found, since) else found[0].strip()


def _ends_with(text: str, quantities: list[re.Match[str]]) -> bool:
    """Whether a text ends with its only quantity, and perhaps a unit."""
    return len(quantities) == 1 and len(text[quantities[0].end() :].split()) <= 1


def _is_no_value(sentence: str, found: re.Match[str], since: int) -> bool:
    """Whether a quantity is part of a formula or a name, or is bounded or denied by the words since
    the quantity before it."""
    before, after = sentence[: found.start()], sentence[found.end() :]
    if {before.rstrip()[-1:], after.lstrip()[:1]} & _PART_OF_FORMULA:
        return True
    touching = before[-1:]
    if (touching.isalpha() and touching.isascii()) or touching in (":", "'"):
        return True
    if MAKES_ANOTHER.match(after) or BOUNDS.search(before[-_NEAR:]):
        return True
    return bool(DENIES.search(before, since) or SUPPOSES.search(before, since))


def _is_said_at_last(sentence: str, found: re.Match[str]) -> bool:
    """Whether a sentence ends with *is* and a quantity with its unit."""
    behind = sentence[found.end() :].strip(" .,!*")
    is_unit = len(behind.split()) <= 3 and not set(behind) & set("^=<>\\()[]")
    return is_unit and _SAYS.search(sentence[: found.start()]) is not None


def _is_computed(left: str) -> bool:
    """Whether what stands before an equals sign is arithmetic, or a name, and no equation."""
    if any(sign in left for sign in "<>≤≥≠\\|") or re.search(r"\b(?:or|and)\b", left):
        return False
    left = re.sub(r"(?<=\d)\s*[xX]\s*(?=\d)", "*", left)  # times
    left = re.split(r"[.;:!?](?=\s)|=", left)[-1]
    letters = re.findall(r"[^\W\d_]+", left)
    has_numbers = any(map(str.isdigit, left))
    if "^" in left:  # 2^10 is a number, 2^x is none yet
        return _POWERS.search(left) is not None
    return not (has_numbers and any(len(word) == 1 for word in letters))


def _is_expression(text: str) -> bool:
    """Whether a text is nothing but a formula, a number or one word."""
    words = re.findall(r"[^\W\d_]{2,}", re.sub(r"\\(?:(?:begin|end)\{\w+\}|[A-Za-z]+)", "", text))
    return not words or text == words[0]


def is_quantity(text: str) -> bool:
    return _QUANTITY.fullmatch(text.strip()) is not None
