r"""The final answer of a text: what it says last, whole, and nothing cut out of a formula.

Knows where answers stand; knows no mathematics. Takes linear time.
"""

from __future__ import annotations

import re

from rfprm_runtime.answers.finding.frames import without_exclamation, without_frame
from rfprm_runtime.answers.finding.last_sentence import of_last_sentence
from rfprm_runtime.answers.finding.marks import boxes, hashes, tags
from rfprm_runtime.answers.finding.statements import statements
from rfprm_runtime.answers.rules import DEFAULT_RULES, AnswerRules
from rfprm_runtime.ground.thinking import parse_trace

_THOUGHT = re.compile(r"</?think(?:ing)?>", re.IGNORECASE)


def final_answer(text: str, rules: AnswerRules = DEFAULT_RULES) -> str | None:
    r"""The answer that a text states, or None.

    The last of its marks counts: ``\boxed{…}`` (several side by side are a list), ``<answer>``,
    ``#### …``, "the answer is …" in some languages. Without a mark it is the formula, or the lone
    quantity, of the last sentence. One number of several, or a number in a formula, is no answer: a
    policy would be rewarded for the bound of ``x > 5``. Thoughts (``<think>…</think>``) and a box
    that is empty or cut off say nothing. ``rules`` may ask for a box or any mark.
    """
    text = _said_aloud(text)
    boxed = max(boxes(text, rules.boxes), default=None)
    if rules.format == "boxed":
        return None if boxed is None else without_frame(boxed.answer)
    marked = [*([boxed] if boxed else []), *tags(text, final_answer), *hashes(text)]
    said = max(marked, default=None)
    stated = max(statements(text), default=None)
    if stated is not None and (said is None or (stated > said and _may_correct(stated.answer))):
        return without_exclamation(without_frame(stated.answer)) or None
    if said is not None:
        return without_frame(said.answer) or None
    if rules.format == "marked" or "\\boxed" in text:
        return None
    return of_last_sentence(text)


def _said_aloud(text: str) -> str:
    """What follows the thoughts; a text without thoughts is all said."""
    return parse_trace(text).response if _THOUGHT.search(text) else text


def _may_correct(answer: str) -> bool:
    """Whether a statement says an answer, and does not merely speak of the one in the box."""
    return any(map(str.isdigit, answer)) or "\\" in answer or len(answer) <= 2
