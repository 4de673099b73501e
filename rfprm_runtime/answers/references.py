r"""What a right answer may be given as: text, numbers, whole solutions, several acceptable answers.

A reference is taken as it stands. Only what its writer marked (``#### 72``, ``\boxed{72}``) is cut
out of it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from numbers import Integral, Rational, Real
from typing import Any

from rfprm_runtime.answers.extraction import final_answer
from rfprm_runtime.answers.rules import AnswerRules
from rfprm_runtime.errors import InvalidArgumentError
from rfprm_runtime.ground.arguments import is_nothing, shown

_FIELDS = (
    "target", "targets", "answer", "answers", "ground_truth", "label", "value", "solution",
    "expected_answer", "aliases", "text",
)  # fmt: skip
_MARKED = AnswerRules(format="marked")
_DEEPEST = 4
_OPENED = re.compile(r"^[\s$]*\\+f?boxed\s?\{")
"""A box that was cut off by whoever copied the reference."""


def acceptable_answers(reference: Any) -> list[str]:
    """The answers that are right, in the reference's order without repetition; none if it says none
    (None, NaN, NA, blank, or a collection of such).

    A string is one answer, or a solution whose marked answer counts. Numbers, also numpy's, are
    taken by value. A list, tuple, set or array holds answers of which each is right, and a mapping
    has them under ``target``, ``answer`` or the like.

    Raises :class:`InvalidArgumentError` for a mapping without such a field, for bytes and for other
    things.
    """
    return list(dict.fromkeys(_answers(reference, 0)))


def _answers(reference: Any, depth: int) -> Iterator[str]:
    item = getattr(reference, "tolist", None)  # numpy and pandas, scalars too
    if item is not None and not isinstance(reference, str):
        reference = item()
    if isinstance(reference, str):
        if reference.strip():
            yield _of_text(reference.strip())
    elif isinstance(reference, Mapping):
        yield from _of_mapping(reference, depth)
    elif isinstance(reference, (list, tuple, set, frozenset)) and depth < _DEEPEST:
        for one in (
            reference if not isinstance(reference, (set, frozenset)) else sorted(reference, key=str)
        ):
            yield from _answers(one, depth + 1)
    elif not is_nothing(reference):
        yield _of_scalar(reference)


def _of_text(text: str) -> str:
    is_solution = "####" in text or "\\boxed" in text or "\\fbox" in text
    return (final_answer(text, _MARKED) or _OPENED.sub("", text)) if is_solution else text


def _of_mapping(reference: Mapping[Any, Any], depth: int) -> Iterator[str]:
    known = [name for name in _FIELDS if name in reference]
    if not known:
        raise InvalidArgumentError(
            f"a right answer is a mapping with the fields {list(map(str, reference))[:8]}; "
            f"expected one of {list(_FIELDS)}, or pass the answer itself"
        )
    # "aliases" adds to the answer; of the others the first that says something counts.
    for name in [name for name in known if name != "aliases"] or known:
        found = list(_answers(reference[name], depth + 1))
        if found:
            yield from found
            break
    if "aliases" in known:
        yield from _answers(reference["aliases"], depth + 1)


def _of_scalar(number: Any) -> str:
    if isinstance(number, bool):
        return str(number)
    if isinstance(number, Integral):
        return str(int(number))
    if isinstance(number, Rational):
        return f"{number.numerator}/{number.denominator}"
    if isinstance(number, Real):
        return _of_float(float(number))
    spelled = type(number).__name__ == "Decimal"
    if spelled:
        return str(number)
    raise InvalidArgumentError(
        f"a right answer is {shown(number)}; expected text, a number, or a list or mapping of them"
    )


def _of_float(number: float) -> str:
    """By value: 1625.0 is 1625, and 0.1 + 0.2 keeps its 17 digits, which compare as 0.3 does."""
    if math.isinf(number):
        return r"\infty" if number > 0 else r"-\infty"
    return str(int(number)) if number == int(number) and abs(number) < 2**53 else repr(number)
