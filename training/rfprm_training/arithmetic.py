"""Arithmetic as solutions write it: numbers, expressions, and whether a result is plausible."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from fractions import Fraction

from rfprm_runtime.answers.spelled_numbers import to_fraction
from rfprm_runtime.errors import InvalidArgumentError

_OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


_SIGNS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
_LONGEST_EXPRESSION = 5_000
_MOST_BITS = 10_000
"""Of a value. Beyond about 14,000, Python does not write it out."""
_LONGEST_NUMBER = 30
"""In characters; a longer number is not one that people misread."""


def evaluate(expression: str) -> Fraction | None:
    """The exact value of an expression; None if it is not plain + − × ÷ on numbers, has more than
    5,000 characters, or a value of more than 3,000 digits."""
    if len(expression) > _LONGEST_EXPRESSION:
        return None
    try:
        tree = ast.parse(expression.replace(",", "").strip(), mode="eval")
        return _not_too_large(_evaluate_node(tree.body))
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError):
        return None


def evaluate_from_left_to_right(expression: str) -> Fraction | None:
    """The value of ``a ∘ b ∘ c`` without brackets if no operation takes precedence; None where
    :func:`evaluate` gives it."""
    if len(expression) > _LONGEST_EXPRESSION:
        return None
    first, *rest = re.split(r"([+\-*/])", expression.replace(" ", ""))
    value = evaluate(first)
    for sign, text in zip(rest[::2], rest[1::2], strict=False):
        operand = evaluate(text)
        if value is None or operand is None or (sign == "/" and not operand):
            return None
        value = _not_too_large(_SIGNS[sign](value, operand))
    return value


def _not_too_large(value: Fraction) -> Fraction | None:
    largest = max(value.numerator.bit_length(), value.denominator.bit_length())
    return value if largest <= _MOST_BITS else None


def _evaluate_node(node: ast.expr) -> Fraction:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return Fraction(str(node.value))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_evaluate_node(node.operand)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        left, right = _evaluate_node(node.left), _evaluate_node(node.right)
        return _OPERATORS[type(node.op)](left, right)
    raise InvalidArgumentError(f"{ast.unparse(node)} is not plain arithmetic")


def format_number(value: Fraction) -> str:
    """A number as a solution would write it: an integer, or at most two decimals."""
    if value.denominator == 1 or abs(value) >= 10**15:
        return str(round(value))
    return f"{float(value):.2f}".rstrip("0").rstrip(".")


def is_plausible(value: Fraction) -> bool:
    """Whether a solution could state it without giving the error away: positive, few decimals."""
    return 0 < value < 10**7 and (value * 100).denominator == 1


def near_misses(value: Fraction) -> list[Fraction]:
    """Wrong results as people make them: off by a little, by a carry, or by a factor of ten."""
    step = Fraction(1) if abs(value) < 20 else Fraction(10)
    misses = [value + step, value - step, value * 10, value / 10, value + 2, value * 2]
    misses += sorted(misreadings(format_number(value)))
    return [miss for miss in misses if miss != value and miss > 0] or [value + 1]


def misreadings(spelled: str) -> set[Fraction]:
    """Numbers it could be misread as: two neighbouring digits swapped, or one digit off by one."""
    readings = set()
    for i, digit in enumerate(spelled if len(spelled) <= _LONGEST_NUMBER else ""):
        if not digit.isdigit():
            continue
        after = spelled[i + 1 : i + 2]
        if after.isdigit():
            readings.add(spelled[:i] + after + digit + spelled[i + 2 :])
        for other in (int(digit) - 1, int(digit) + 1):
            if 0 <= other <= 9:
                readings.add(f"{spelled[:i]}{other}{spelled[i + 1 :]}")
    values = {to_fraction(reading) for reading in readings if not reading.startswith("0")}
    return {value for value in values if value} - {to_fraction(spelled) or Fraction(0)}
