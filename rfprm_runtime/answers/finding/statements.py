"""Answers that are stated: *the answer is …*, in several languages."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rfprm_runtime.answers.finding.bounds import SUPPOSES
from rfprm_runtime.answers.finding.frames import DISPLAY, LONGEST, MATH, Said, inside, without_frame
from rfprm_runtime.answers.finding.last_sentence import is_quantity, lone_quantity
from rfprm_runtime.answers.meaning.units import number_words

_MOST_STATEMENTS = 8
_SENTENCE_BEFORE = 120
_LONGEST_PHRASE = 3
"""In words; what is longer is a sentence, in which one quantity may be the answer."""
_STATEMENT = re.compile(
    r"""
    (?:\b(?:final\s+)?answer|\bresult|\bcorrect\s+(?:option|choice)|\bsolution\s+set|\bréponse
      |\brespuesta|\bantwort|\brisposta|\bresposta|\brésultat|\bresultado|\bergebnis|\bответ
      |答案|答え|答|정답|답|उत्तर|الإجابة|الجواب|الناتج|\bantwoord|\bodpowiedź|\bcevap|\bđáp\ án)
    (?:\s{1,4}(?:final|finale|correcta?|correcte|exacte|richtige|النهائية|الصحيحة))?
    (?:\s{1,4}to\s{1,4}[^.\n]{1,80}?)?
    \s{0,4}\*{0,3}\s{0,4}
    (?:\b(?:is|are|would\s{1,4}be|will\s{1,4}be|should\s{1,4}be|must\s{1,4}be|est|es|ist|lautet|è|é|هو|هي|là)\b
      |:|：|=|->|→|是|为|は|은|는|है)
    \s{0,4}:?\s{0,4}\*{0,3}
    | \bsolutions?\s{1,4}(?:is|are)\s(?=\s{0,4}(?:[$(\\\d-]|[a-z]\s{0,4}=))
    | ^[^\S\n]{0,20}A[^\S\n]{0,20}:[^\S\n]{0,20}
    """,
    re.VERBOSE | re.IGNORECASE | re.MULTILINE,
)
_LETTER_IS = re.compile(
    r"(?<![\w(\\])\(?([A-J])\)?\*{0,2}\sis\s(?:the\s)?"
    r"(?:(?:right|correct)\b|(?:final\s)?(?:answer|choice)\b)(?!\sto\b)"
)
"""``B is the correct option``."""
_END_OF_SENTENCE = re.compile(r"(?:[.?]|!(?!\s?[-+*/=^<>]))(?=\s|\**\s*$)|[。！？।۔]|\n|<\||</")
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
    r"\s*(?:,\s*(?:altogether|in\s+total|as\s|since\s|because\s|so\s|which\s|where\s|when\s"
    r"|or\s+(?:about|approximately|roughly)\s|(?:i\.e\.|that\s+is),?\s)[^$]*"
    r"|\s(?:since|because|altogether|as\s+(?:claimed|required|desired|expected|needed))\b[^$]*"
    r"|\((?:rounded|approximately|approx\.?|about|in|to)\b[^()]*\))$",
    re.IGNORECASE,
)
_CONDITION = re.compile(r",?\s+(?:where|for|with|when|if|since|because|as)\b")
_DENIED = re.compile(r"[\s*]*(?:not|never|nicht|pas|не|non|não|不)\b", re.IGNORECASE)
_IN_WORDS_TOO = re.compile(r"(.*\d.*?)\s*\(([A-Za-z][A-Za-z\s-]{1,60})\)")
_COPULA = re.compile(
    r"\s(?:is|are|equals|est|es|ist)\s(?!\s*(?:not|the|a|an|at|in)\b)|应该是|等于|是|为(?!什么)",
    re.IGNORECASE,
)


def statements(text: str) -> Iterator[Said]:
    """The last statement of an answer; of many that say none only some are read."""
    places = [(found.span(), None) for found in _STATEMENT.finditer(text)]
    letters = [(found.span(), found[1]) for found in _LETTER_IS.finditer(text)]
    for (start, end), letter in sorted([*places, *letters])[: -1 - _MOST_STATEMENTS : -1]:
        answer = letter or _stated(text, end)
        if answer is not None:
            yield Said(start, answer)
            return


def _stated(text: str, at: int) -> str | None:
    """The answer that begins at ``at``: on the same line, or in the formula that follows."""
    rest = text[at : at + LONGEST]
    block = DISPLAY.match(rest.lstrip())
    if block is not None:
        return inside(block)
    line = _first_sentence(rest.lstrip(" \t*:："))
    if not line.strip(" *`$"):  # it stands on a line of its own
        line = _first_sentence(rest.lstrip().partition("\n")[0])
    if _DENIED.match(line) or _is_supposed(text, at, line):
        return None
    content = _core(line)
    is_named = text[:at].rstrip(" *")[-1:] in ":：="
    if not content or (not is_named and _NO_ANSWER.match(content)):
        return None
    return content


def _is_supposed(text: str, at: int, line: str) -> bool:
    """Whether the sentence asks, doubts or supposes that this is the answer."""
    before = re.split(r"[.!?\n。！？]", text[max(0, at - _SENTENCE_BEFORE) : at])[-1]
    end = text.find(line, at) + len(line)
    return SUPPOSES.search(before) is not None or text[end : end + 1] in ("?", "？")


def _in_words_too(content: str) -> str:
    """``42 (forty-two)`` without the words."""
    found = _IN_WORDS_TOO.fullmatch(content)
    spelled = number_words(found[2]) if found else None
    return found[1] if found and spelled is not None and not spelled[1].strip() else content


def _first_sentence(text: str) -> str:
    """Up to the first end of a sentence that is in no formula."""
    spans = [found.span() for found in MATH.finditer(text)]
    for found in _END_OF_SENTENCE.finditer(text):
        if not any(start < found.start() < end for start, end in spans[:40]):
            return text[: found.start()]
    return text


def _core(content: str) -> str:
    """What is said, without the words around it."""
    content = without_frame(_AFTERTHOUGHT.sub("", without_frame(content)))
    content = _in_words_too(content)
    after = list(_COPULA.finditer(content))
    if after and not is_quantity(content) and (len(content.split()) > 2 or not content.isascii()):
        content = content[after[-1].end() :].strip()
    content = _FILLER.sub("", content, count=1) if _FILLER.match(content) else content
    formulas = list(MATH.finditer(content))
    if formulas and formulas[0].start() == 0 and _CONDITION.match(content, formulas[0].end()):
        return inside(formulas[0])
    around = MATH.sub(" ", content)
    if len(formulas) == 1 and not any(map(str.isdigit, around)):
        return inside(formulas[0])
    if not formulas and len(content.split()) > _LONGEST_PHRASE and content[0] not in "([{":
        return lone_quantity(content) or content
    return content
