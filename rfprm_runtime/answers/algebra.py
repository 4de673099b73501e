r"""Whether two formulas are the same, by math-verify's parser and comparison.

Runs in a child process, because computer algebra cannot be stopped. What the parser would misread
it never sees: it takes every letter of an unknown word for a factor.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import Any

from rfprm_runtime.answers.meaning.quantities import is_near
from rfprm_runtime.answers.meaning.words import is_no_product

_READ_COMMANDS = (
    "frac sqrt cdot pi infty pm mp le ge ne in cup cap emptyset mathbb text circ sin cos tan "
    "cot sec csc arcsin arccos arctan sinh cosh tanh log ln lg exp lim to sum prod int iint "
    "oint binom dbinom tbinom begin end lfloor rfloor lceil rceil alpha beta gamma delta "
    "epsilon varepsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau phi chi psi "
    "omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega overline hbar ell partial prime "
    "det max min gcd lcm mod bmod setminus land lor approx hline cfrac left right dots ldots "
    "cdots vec nabla Re Im "
)
_READ = frozenset(_READ_COMMANDS.split())
_FUNCTIONS = re.compile(r"\b(?:sin|cos|tan|cot|sec|csc|log|ln|sqrt|exp|arcsin|arccos|arctan)\b")
_WORDS = re.compile(r"[A-Za-z]{2,}")
_UNREAD = re.compile(r"\d\s?_|[^\x00-\x7f]|:|\$|#|&&|[\"?@']|\^\s?\{?\s?T(?![A-Za-z])")
_MISREAD = re.compile(
    r"(?<![\^_\d.])\d+\s+\d|\\frac\s?\d{3}|\\sqrt\s?\d{2}|\\frac\s?\{(?:d|\\partial)\s?[A-Za-z]\}|\\l(?:and|or)(?![A-Za-z])"
)
_DEGREES = re.compile(r"(\d+(?:\.\d+)?|(?<![A-Za-z\\])[a-z])\s?\^\{\\circ\}")
_TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")
_I = re.compile(r"(?<![A-Za-z\\])(?<!_\{)(?<!_)i(?![A-Za-z])")
_RELATIVE_GAP = "1e-12"
_GAP = 1e-15
_NUM_POINTS, _LEAST_POINTS, _MOST_SYMBOLS = 16, 6, 8


def can_read(text: str) -> bool:
    """Whether a tidy text is a formula whose every sign the parser knows: no words, no units, no
    numerals of another base, no congruences."""
    commands = re.findall(r"\\([A-Za-z]+)", text)
    if any(command not in _READ for command in commands):
        return False
    bare = re.sub(r"\\(?:begin|end)\s?\{\w+\}(?:\{[clr|]+\})?|\\[A-Za-z]+", " ", text)
    bare = _FUNCTIONS.sub(" ", bare)
    if _UNREAD.search(bare) or _MISREAD.search(text):
        return False
    return not any(map(is_no_product, _WORDS.findall(bare)))


def prepared(text: str) -> str:
    """A tidy text as math-verify's parser reads it right."""
    text = re.sub(r"\^\s?\(([^()]{1,80})\)", r"^{\1}", text)
    if _TRIGONOMETRIC.search(text):
        text = _DEGREES.sub(r"(\\frac{\1\\pi}{180})", text)
    text = re.sub(r"(?<=\d)i(?![A-Za-z])|(?<![A-Za-z\\])i(?=[(\d])", " i ", text)
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
    return re.sub(r"\\(?:mod|bmod)(?![A-Za-z])", r"\\bmod", text)


def same_formula(one: str, other: str) -> bool:
    """Whether two tidy texts are the same formula. Symmetric: math-verify is asked both ways."""
    is_complex = bool(_I.search(one) or _I.search(other))
    first, second = _parsed(prepared(one), is_complex), _parsed(prepared(other), is_complex)
    if first is None or second is None:
        return False
    try:
        return _same(first, second)
    except Exception:  # whatever computer algebra raises, the two were not shown to be the same
        return False


@lru_cache(maxsize=256)
def _parsed(text: str, is_complex: bool) -> Any:
    from latex2sympy2_extended.latex2sympy2 import (
        ConversionConfig,
        NormalizationConfig,
        latex2sympy,
        normalize_latex,
    )

    rules = NormalizationConfig(
        basic_latex=True,
        units=False,
        malformed_operators=True,
        nits=True,
        boxed="none",
        equations=False,
    )
    conversion = ConversionConfig(lowercase_symbols=False)
    try:
        found = latex2sympy(
            normalize_latex(text, rules),
            is_real=not is_complex,
            normalization_config=None,
            conversion_config=conversion,
        )
        return found.subs(_letter_i(found)) if is_complex else found
    except Exception:  # whatever the parser raises, it cannot read this
        return None


def _letter_i(expression: Any) -> dict[Any, Any]:
    from sympy import I

    return {symbol: I for symbol in expression.free_symbols if symbol.name == "i"}


def _same(one: Any, other: Any) -> bool:
    from sympy import Expr, MatrixBase

    if isinstance(one, MatrixBase) or isinstance(other, MatrixBase):
        return _same_matrix(one, other)
    if isinstance(one, Expr) and isinstance(other, Expr):
        if not one.free_symbols and not other.free_symbols:
            return _same_number(one, other)
        sampled = _same_at_points(one, other)
        if sampled is not None:
            return sampled
    return _verified(one, other) and _verified(other, one)


def _same_at_points(one: Any, other: Any) -> bool | None:
    """Whether two expressions have the same value wherever both are real; None if too few values
    are. Decides in milliseconds where simplifying may hang."""
    symbols = sorted(one.free_symbols | other.free_symbols, key=str)
    if len(symbols) > _MOST_SYMBOLS:
        return None
    difference, num_real = (one.doit(), other.doit()), 0
    for seed in range(_NUM_POINTS):
        point = {symbol: _coordinate(seed, place) for place, symbol in enumerate(symbols)}
        first, second = (_value_at(side, point) for side in difference)
        if first is None and second is None:
            continue
        if first is None or second is None:
            return None
        if abs(first - second) > _GAP * max(abs(first), abs(second), _GAP):
            return False
        num_real += 1
    return True if num_real >= _LEAST_POINTS else None


def _coordinate(seed: int, place: int) -> Any:
    """A rational number near nothing special: large and small ones of both signs."""
    from sympy import Rational

    top = (seed * 7_919 + place * 104_729 + 31) % 997 + 3
    sign = -1 if (seed >> (place % 3)) & 1 and seed % 4 else 1
    return sign * Rational(top, (163, 211, 557)[(seed + place) % 3])


def _value_at(expression: Any, point: dict[Any, Any]) -> Any:
    """A real value to 30 digits, or None."""
    try:
        value = expression.subs(point).evalf(30)
    except Exception:  # whatever computer algebra raises, there is no value here
        return None
    return value if value.is_Float or value.is_Integer or value.is_Rational else None


def _verified(one: Any, other: Any) -> bool:
    from math_verify.grader import sympy_expr_eq

    return bool(sympy_expr_eq(one, other, 6, 15, allow_set_relation_comp=True))


def _same_matrix(one: Any, other: Any) -> bool:
    from sympy import MatrixBase

    one, other = (side.doit() if hasattr(side, "doit") else side for side in (one, other))
    if not isinstance(one, MatrixBase) or not isinstance(other, MatrixBase):
        return False
    return one.shape == other.shape and all(map(_same, one.flat(), other.flat()))


def _same_number(one: Any, other: Any) -> bool:
    """Exactly if both are rational; decimals by how they round; the rest to twelve digits."""
    from sympy import Float, Rational

    one, other = one.doit(), other.doit()
    if isinstance(one, Rational) and isinstance(other, Rational):
        return bool(one == other)
    if one.has(Float) or other.has(Float):
        first, second = _as_fraction(one), _as_fraction(other)
        return first is not None and second is not None and is_near(first, second)
    if one == other:
        return True
    if one.is_finite is False or other.is_finite is False:
        return False
    size = max(abs(one).evalf(15), abs(other).evalf(15))
    gap = abs(one - other).evalf(15)
    return bool(gap <= Float(_RELATIVE_GAP) * size)


def _as_fraction(number: Any) -> Fraction | None:
    try:
        return Fraction(str(number.evalf(20)))
    except (ValueError, TypeError, ZeroDivisionError):  # complex, or infinite
        return None
