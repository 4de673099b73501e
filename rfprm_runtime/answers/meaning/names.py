r"""Names and what they are: ``x = 5`` says 5, ``2^x = 8`` says nothing, ``3 * 4 = 12`` says 12.

Reads tidy text (:mod:`~rfprm_runtime.answers.meaning.spelling`); knows no values.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from rfprm_runtime.answers.meaning.groups import items, split

_LABEL = re.compile(
    r"(?:(?:the |my )?(?:final |correct |right )?(?:answer|solution|result|value|reply)s?"
    r"(?: set)?(?: is| are|:)?|total|approximately|about|exactly|only)\s?[:=]?\s",
    re.IGNORECASE,
)
_SYMBOL = r"(?:\\?[A-Za-z]+(?:_(?:\{[^{}]{1,20}\}|\w))?'{0,3})"
_NAME = re.compile(
    rf"""(?:
      {_SYMBOL}(?:\s?\([^()=]{{1,40}}\))?                                   # x, a_{{37}}, f(x), AB
    | \\(?:angle|triangle|overline|vec|overrightarrow|hat|widehat)\s?\{{?\s?[A-Z]{{1,4}}\s?\}}?
    | m\s?\\angle\s?[A-Z]{{1,3}} | \|[A-Z]{{2}}\| | \[[A-Z]{{3,4}}\]
    | \\frac\s?\{{[A-Z]{{2}}\}}\s?\{{[A-Z]{{2}}\}}                           # a ratio of lengths
    | [A-Z]{{1,2}}\s?[:/]\s?[A-Z]{{1,2}}                                    # a ratio A:B
    | \({_SYMBOL}(?:,\s?{_SYMBOL}){{1,5}}\)                                 # (x, y)
    | \\(?:sin|cos|tan)\s?(?:[A-Za-z]|\\[a-z]+|\\angle\s?[A-Z]{{1,3}})
    | [A-Za-z]\^\{{?-1\}}?\([a-z]\) | \\text\{{[^{{}}]{{1,60}}\}}
    )""",
    re.VERBOSE,
)
_FUNCTION = re.compile(r"([A-Za-z])\(([a-z])\)")
_EQUALS = re.compile(r"(?<![<>!:])=(?!=)")
_APPROX = re.compile(r"\\approx(?![A-Za-z])\s?")
_MEMBER = re.compile(r"\s?\\in(?![A-Za-z])\s?")
_RELATION = re.compile(r"[<>]|\\(?:le|ge|ne|equiv|sim|cong|subset)(?![A-Za-z])")
_BINDS = re.compile(r"\\(?:lim|sum|prod|int|max|min|sup|inf|det)(?![A-Za-z])")
_COMMAND = re.compile(r"\\[A-Za-z]+")
_COMMA = re.compile(r"[,;]")


class Named(NamedTuple):
    """A value, and the name of what it is the value of, if there is one."""

    name: str
    value: str


def named(text: str) -> Named:
    r"""``x = 5``, ``5 = x``, ``x \in [1, 2]``, ``answer 5``: the name and the value. What is no
    assignment, such as an equation to solve, has no name."""
    text = _without_label(text)
    text = _exact_side(text)
    sides = [side.strip() for side in split(text, _EQUALS)]
    is_list = len(sides) > 2 and len(items(text)) > 1
    if len(sides) > 1 and all(sides) and not is_list and not _RELATION.search(text):
        if _NAME.fullmatch(sides[0]):
            return Named(sides[0], sides[-1])
        if len(sides) == 2 and _NAME.fullmatch(sides[1]):
            return Named(sides[1], sides[0])
    passes_a_name = len(sides) > 2 and any(_NAME.fullmatch(side) for side in sides[1:-1])
    if passes_a_name and all(sides) and not is_list and not variables(sides[-1]):
        return Named("", sides[-1])
    member = _MEMBER.search(text)
    if member is not None and _NAME.fullmatch(text[: member.start()].strip()):
        return Named(text[: member.start()].strip(), text[member.end() :].strip())
    return Named("", text)


def _without_label(text: str) -> str:
    bare = re.sub(r"^\\text\s?\{([^{}]*)\}", r"\1 ", text)
    label = _LABEL.match(bare)
    return bare[label.end() :].strip() if label else text


def same_name(one: Named, other: Named) -> bool:
    """Whether both are names of one thing: ``y`` and ``f(x)`` are, ``x`` and ``y`` are not."""
    first, second = (side.name.replace(" ", "") for side in (one, other))
    if first == second:
        return True
    found = [_FUNCTION.fullmatch(name) for name in (first, second)]
    if found[0] and found[1]:
        letters = {found[0][2], found[1][2]}
        used = variables(one.value) | variables(other.value)
        return found[0][1] == found[1][1] and (len(letters) == 1 or not letters & used)
    return any(found) and "y" in (first, second)


def computed(text: str) -> str | None:
    """What a chain such as ``3 * 4 = 12`` comes to: its last side, if no side has a variable. None
    for anything else, such as an equation to solve."""
    sides = [side.strip() for side in split(text, _EQUALS)]
    if len(sides) < 2 or not all(sides) or _RELATION.search(text) or _COMMA.search(text):
        return None
    free = [bool(variables(side)) for side in sides]
    is_bound = _BINDS.search(sides[0]) is not None and not any(free[1:])
    return sides[-1] if is_bound or not any(free) else None


def is_equation(text: str) -> bool:
    return len(split(text, _EQUALS)) > 1


def variables(text: str) -> set[str]:
    """The letters of a tidy text that are variables: ``e`` and ``i`` may be numbers."""
    return set(re.findall(r"(?<![A-Za-z])[A-Za-df-hj-zA-Z](?![A-Za-z])", _COMMAND.sub(" ", text)))


def _exact_side(text: str) -> str:
    r"""``\sqrt{2} \approx 1.41`` says what stands first, but ``x \approx 1.41`` says 1.41."""
    sides = [side.strip() for side in split(text, _APPROX)]
    if len(sides) < 2 or not all(sides):
        return text
    if _NAME.fullmatch(sides[0]):
        return f"{sides[0]}={sides[1]}"
    return sides[0]
