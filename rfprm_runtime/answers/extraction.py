r"""The final answer of a text: what it says last, whole, and nothing cut out of a formula.

Knows boxes, marks and statements; knows no mathematics. Takes linear time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from rfprm_runtime.answers.spelled_numbers import SIGNED_NUMBER
from rfprm_runtime.ground.thinking import parse_trace

_LONGEST = 2_000
"""In characters: a longer statement is no answer."""
_MOST_STATEMENTS = 8


_THOUGHT = re.compile(r"</?think(?:ing)?>", re.IGNORECASE)


class _Said(NamedTuple):
    """An answer and the place where its mark begins."""

    at: int
    answer: str


def final_answer(text: str) -> str | None:
    r"""The answer that a text states, or None.

    The last of its marks counts: ``\boxed{…}`` (several side by side are a list), ``<answer>``,
    ``#### …``, "the answer is …" in some languages. Without a mark it is the formula, or the lone
    quantity, of the last sentence. One number of several, or a number in a formula, is no answer: a
    policy would be rewarded for the bound of ``x > 5``.
    """
    text = _said_aloud(text)
    said = max((*_boxes(text), *_tags(text), *_hashes(text)), default=None)
    stated = max(_statements(text), default=None)
    if stated is not None and (said is None or (stated > said and _may_correct(stated.answer))):
        return _without_exclamation(_without_frame(stated.answer))
    return _without_frame(said.answer) if said is not None else _of_last_sentence(text)


def _said_aloud(text: str) -> str:
    """What follows the thoughts; a text without thoughts is all said."""
    return parse_trace(text).response if _THOUGHT.search(text) else text


def _may_correct(answer: str) -> bool:
    """Whether a statement says an answer, and does not merely speak of the one in the box."""
    return any(map(str.isdigit, answer)) or "\\" in answer or len(answer) <= 2


# --- boxes -----------------------------------------------------------------------------------

_BOX = re.compile(
    r"\\(?:begin)?f?boxed\s{0,9}(?:(?P<open>\{)|(?P<bare>[^\s{}$\\]{1,40}))|\\fbox\s{0,9}(?P<f>\{)"
)
_SPACE_BETWEEN_BOXES = re.compile(r"\\(?:q?quad|text|mathrm|[,;! ])|[\s{}$.\\]")
_LISTS_BOXES = {",", ";", "and", "or", ",and", ",or", "&"}


def _boxes(text: str) -> Iterator[_Said]:
    """The last box, or the last boxes if nothing but punctuation is between them."""
    group: list[str] = []
    start = end = 0
    closing = _closing_braces(text) if "boxed" in text or "fbox" in text else {}
    for found in _BOX.finditer(text):
        if found.start() < end:  # a box in a box
            continue
        if not found["bare"] and found.end() - 1 not in closing:
            continue  # cut off
        after = found.end() if found["bare"] else closing[found.end() - 1] + 1
        content = (found["bare"] or text[found.end() : after - 1]).strip()
        content = content.rstrip(".,;:!") if found["bare"] else content
        gap = text[end : found.start()]
        is_listed = len(gap) <= 60 and _SPACE_BETWEEN_BOXES.sub("", gap) in _LISTS_BOXES
        if not group or not is_listed:
            group, start = [], found.start()
        group.append(content)
        end = after
    if group and any(group):
        yield _Said(start, ", ".join(group))


def _closing_braces(text: str) -> dict[int, int]:
    """Where each opening brace is closed."""
    found, open_braces = {}, []
    for brace in re.finditer(r"[{}]", text):
        if brace[0] == "{":
            open_braces.append(brace.start())
        elif open_braces:
            found[open_braces.pop()] = brace.start()
    return found


# --- tags and hashes ---------------------------------------------------------------------------

_HASHES = re.compile(r"^[ \t]*####[ \t]*([^\n]+)$|(?<=\s)####[ \t]*([^\n]+)$", re.MULTILINE)


def _tags(text: str) -> Iterator[_Said]:
    end = _rfind("</answer>", text, len(text))
    start = -1 if end < 0 else _rfind("<answer>", text, end)
    inner = text[start + len("<answer>") : end].strip() if start >= 0 else ""
    if inner:
        yield _Said(start, (final_answer(inner) or inner) if len(inner) <= _LONGEST else inner)


def _rfind(tag: str, text: str, end: int) -> int:
    """The last place of ``tag`` before ``end``, in any case; -1 if there is none."""
    places = [text.rfind(spelled, 0, end) for spelled in (tag, tag.upper(), tag.title())]
    return max(places)


def _hashes(text: str) -> Iterator[_Said]:
    """GSM8K's mark. With words and no more than a step's number it is a heading."""
    end = len(text.rstrip())
    for found in _HASHES.finditer(text):
        content = (found[1] or found[2]).strip().strip("*").strip()
        is_last = found.end() >= end
        words = re.findall(r"[^\W\d_]{2,}", re.sub(r"\\[A-Za-z]+", "", content))
        if content and (is_last or (len(words) <= 1 and any(map(str.isdigit, content)))):
            yield _Said(found.start(), content)


# --- statements --------------------------------------------------------------------------------

_STATEMENT = re.compile(
    r"""
    (?:\b(?:final\s+)?answer|\bresult|\bréponse|\brespuesta|\bantwort|\brisposta|\bresposta
      |\bответ|答案|答|\bsolution\s+set)
    (?:\s{1,4}to\s{1,4}[^.\n]{1,80}?)?
    \s{0,4}\*{0,3}\s{0,4}
    (?:\b(?:is|are|would\s{1,4}be|will\s{1,4}be|should\s{1,4}be|must\s{1,4}be|est|es|ist|è|é)\b
      |:|：|=|是|为)
    \s{0,4}:?\s{0,4}\*{0,3}
    | ^[^\S\n]{0,20}A[^\S\n]{0,20}:[^\S\n]{0,20}
    """,
    re.VERBOSE | re.IGNORECASE | re.MULTILINE,
)
_END_OF_SENTENCE = re.compile(r"[.!?](?=\s|\**\s*$)|[。！？]|\n|<\|")
_NO_ANSWER = re.compile(
    r"(?:now\s+)?(?:clear|correct|obvious|wrong|incorrect|right|as follows|below|above|found|not\b"
    r"|unique|unknown|undefined by|therefore:|in\b|given below|shown|still|that\b|what\b|how\b)",
    re.IGNORECASE,
)
_FILLER = re.compile(
    r"(?:(?:also|now|thus|therefore|then|hence|so|simply|just|only|indeed|clearly|about|around|roughly"
    r"|approximately|exactly|precisely|equal\s+to|equals|given\s+by|found\s+to\s+be|the\s+number"
    r"|the\s+value|option|choice)[\s,:]+)+",
    re.IGNORECASE,
)
_AFTERTHOUGHT = re.compile(
    r"\s*(?:,\s*(?:altogether|in\s+total|as\s|since\s|because\s|so\s|which\s|where\s|when\s)[^$]*"
    r"|\s(?:since|because|altogether|as\s+(?:claimed|required|desired|expected|needed))\b[^$]*"
    r"|\((?:rounded|approximately|approx\.?|about|in|to)\b[^()]*\))$",
    re.IGNORECASE,
)
_COPULA = re.compile(
    r"\s(?:is|are|equals|est|es|ist)\s(?!\s*(?:not|the|a|an|at|in)\b)|应该是|等于|是|为(?!什么)",
    re.IGNORECASE,
)


def _statements(text: str) -> Iterator[_Said]:
    """The last statement of an answer; of many that say none only some are read."""
    places = [found.span() for found in _STATEMENT.finditer(text)]
    for start, end in places[: -1 - _MOST_STATEMENTS : -1]:
        answer = _stated(text, end)
        if answer is not None:
            yield _Said(start, answer)
            return


def _stated(text: str, at: int) -> str | None:
    """The answer that begins at ``at``: on the same line, or in the formula that follows."""
    rest = text[at : at + _LONGEST]
    block = _DISPLAY.match(rest.lstrip())
    if block is not None:
        return _inside(block)
    line = _first_sentence(rest.lstrip(" \t*"))
    if not line.strip(" *`$"):  # it stands on a line of its own
        line = _first_sentence(rest.lstrip().partition("\n")[0])
    content = _core(line)
    is_named = text[:at].rstrip(" *")[-1:] in ":：="
    if not content or (not is_named and _NO_ANSWER.match(content)):
        return None
    return content


def _first_sentence(text: str) -> str:
    """Up to the first end of a sentence that is in no formula."""
    spans = [found.span() for found in _MATH.finditer(text)]
    for found in _END_OF_SENTENCE.finditer(text):
        if not any(start < found.start() < end for start, end in spans[:40]):
            return text[: found.start()]
    return text


def _core(content: str) -> str:
    """What is said, without the words around it."""
    content = _without_frame(content)
    after = list(_COPULA.finditer(content))
    if after and not _is_quantity(content) and (len(content.split()) > 2 or not content.isascii()):
        content = content[after[-1].end() :].strip()
    content = _FILLER.sub("", content, count=1) if _FILLER.match(content) else content
    content = _without_frame(_AFTERTHOUGHT.sub("", content))
    formulas = list(_MATH.finditer(content))
    around = _MATH.sub(" ", content)
    if len(formulas) == 1 and not any(map(str.isdigit, around)):
        return _inside(formulas[0])
    return content


# --- the last sentence -------------------------------------------------------------------------

_DISPLAY = re.compile(
    r"\$\$\s*(?P<d>[^$]{1,2000}?)\s*\$\$|\\\[\s*(?P<b>.{1,2000}?)\s*\\\]", re.DOTALL
)
_MATH = re.compile(
    r"\$\$(?P<d>[^$]{1,2000})\$\$|(?<!\\)\$(?P<i>(?:[^$\n\\]|\\.){1,2000})(?<!\\)\$"
    r"|\\\((?P<p>.{1,2000}?)\\\)|\\\[(?P<b>.{1,2000}?)\\\]",
    re.DOTALL,
)
_QUANTITY = re.compile(
    rf"(?:[$€£¥]\s?)?{SIGNED_NUMBER.pattern}(?:\s\d+/\d+|/\d+)?\s?(?:%|\\%|°|[$€£¥])?"
)
_PART_OF_FORMULA = set("^_*/+<>≤≥≠±×÷·|()[]{}\\")
_SENTENCE = re.compile(
    r"(?<=[.!?])\s+|[。！？।۔]|\n|(?<=\$\$)\s+(?=[A-Z])"
    r"|(?<=[^,;:])\s+(?=(?:Therefore|Thus|Hence|Consequently|因此|所以|इसलिए)\b)"
)


def _of_last_sentence(text: str) -> str | None:
    before, _, _ = text.rstrip().rpartition("<|im_")  # a turn that was begun, and not by the text
    text = (before if before.strip() else text).rstrip()
    tail = text[-_LONGEST:]
    display = [found for found in _DISPLAY.finditer(tail) if not tail[found.end() :].strip(" .\n*")]
    if display:
        return _inside(display[-1])
    sentences = [part for part in _SENTENCE.split(tail) if part and part.strip(" .*")]
    if not sentences:
        return None
    whole = _MATH.fullmatch(sentences[-1].strip().strip("*").rstrip(".,;: "))
    if whole is not None:
        return _without_frame(_inside(whole))
    sentence = _without_exclamation(_without_frame(sentences[-1]))
    if len(sentences) == 1 and len(text) <= 200 and _is_all_answer(text, sentence):
        return sentence
    emphasised = _EMPHASISED.search(sentences[-1])
    if emphasised is not None and _is_quantity(_without_unit(emphasised[1])):
        return emphasised[1].strip()
    return _of_sentence(sentence)


def _is_all_answer(text: str, sentence: str) -> bool:
    """Whether a short text is nothing but an answer, with what is true of it: ``$x^2$ for $x > 0$``."""
    return _is_expression(sentence) or _MATH.match(text.strip()) is not None


def _without_unit(text: str) -> str:
    """A quantity and one word behind it: the quantity."""
    return re.sub(r"(?<=\d)\s?[^\W\d_]{1,20}$", "", text.strip())


def _of_sentence(sentence: str) -> str | None:
    sentence = re.sub(r"\*\*|__|`", "", sentence)
    formulas = list(_MATH.finditer(sentence))
    if formulas:
        last = formulas[-1]
        around = _MATH.sub(" ", sentence)
        behind = sentence[last.end() :].strip(" .,!;:*")
        ends_it = not any(map(str.isdigit, behind))
        is_lone = len(formulas) == 1 and not any(map(str.isdigit, around))
        is_named = _SAYS.search(sentence[: last.start()]) is not None
        return _inside(last) if is_lone or (is_named and ends_it) else None
    return _lone_quantity(sentence)


def _lone_quantity(sentence: str) -> str | None:
    left, equals, right = sentence.rpartition("=")
    quantities = list(_QUANTITY.finditer(right))
    if quantities and _is_said_at_last(right, quantities[-1]):
        left, equals, sentence = "", "", right
    elif equals and _is_computed(left):
        sentence = right
    quantities = list(_QUANTITY.finditer(sentence))
    if not quantities:
        return None
    found = quantities[-1]
    is_lone = len({quantity[0].strip() for quantity in quantities}) == 1
    if not is_lone and not _is_said_at_last(sentence, found):
        return None
    before, after = sentence[: found.start()].rstrip()[-1:], sentence[found.end() :].lstrip()[:1]
    if {before, after} & _PART_OF_FORMULA or (equals and not _is_computed(left)):
        return None
    touching = sentence[found.start() - 1 : found.start()] if found.start() else ""
    if (touching.isalpha() and touching.isascii()) or touching in (":", "'"):
        return None
    if _NO_VALUE.search(sentence[: found.start()]):
        return None
    return found[0].strip()


# Words that make the number behind them a bound, a place or what is denied.
_NO_VALUE = re.compile(
    r"(?:\b(?:not|never|isn['’]t|aren['’]t|least|most|than|between|over|under|up\s+to|below|above|within"
    r"|exceeds?|mod|modulo|step|equation|case|part|line|number|problem|question|or|either|base|versus)"
    r"|n['’]t)\s*\**\s*[#$€£¥]?$",
    re.IGNORECASE,
)
_EMPHASISED = re.compile(r"\*\*([^*\d]{0,3}\d[^*]{0,40})\*\*[^\d*]{0,20}$")
_SAYS = re.compile(
    r"(?:(?:\b(?:is|are|equals|be|was|est|es|ist|è|é)|\bit['’]s)(?:\s+(?:de|of|about|only|exactly))?|[:：是为为]|هو|هي|[一共]有)"
    r"\s*\**\s*[$€£¥]?$",
    re.IGNORECASE,
)


def _is_said_at_last(sentence: str, found: re.Match[str]) -> bool:
    """Whether a sentence ends with *is* and a quantity with its unit."""
    behind = sentence[found.end() :].strip(" .,!*")
    is_unit = len(behind.split()) <= 3 and not set(behind) & set("^=<>\\()[]")
    return is_unit and _SAYS.search(sentence[: found.start()]) is not None


def _is_computed(left: str) -> bool:
    """Whether what stands before an equals sign is arithmetic, or a name, and no equation."""
    if any(sign in left for sign in "^<>≤≥≠\\|") or re.search(r"\b(?:or|and)\b", left):
        return False
    left = re.sub(r"(?<=\d)\s*[xX]\s*(?=\d)", "*", left)  # times
    left = re.split(r"[.;:!?](?=\s)|=", left)[-1]
    letters = re.findall(r"[^\W\d_]+", left)
    has_numbers = any(map(str.isdigit, left))
    return not (has_numbers and any(len(word) == 1 for word in letters))


def _is_quantity(text: str) -> bool:
    return _QUANTITY.fullmatch(text.strip()) is not None


def _is_expression(text: str) -> bool:
    """Whether a text is nothing but a formula, a number or one word."""
    words = re.findall(r"[^\W\d_]{2,}", re.sub(r"\\(?:(?:begin|end)\{\w+\}|[A-Za-z]+)", "", text))
    return not words or text == words[0]


def _without_exclamation(text: str) -> str:
    """An exclamation mark behind a number in a sentence is no factorial."""
    return re.sub(r"(?<=[\w%)])!$", "", text)


def _inside(found: re.Match[str]) -> str:
    return next(group for group in found.groupdict().values() if group is not None).strip()


def _without_frame(text: str) -> str:
    """``text`` without emphasis, quotes, dollar signs around the whole, and its full stop."""
    text = text.strip()
    while len(text) <= _LONGEST:
        bare = text.strip().strip('*`"“”').rstrip(".,;:").strip()
        whole = _MATH.fullmatch(bare)
        bare = _inside(whole) if whole is not None else bare
        if bare == text:
            return text
        text = bare
    return text
