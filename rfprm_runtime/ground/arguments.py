"""Checks arguments where they come in, not where they would fail later.

Knows plain values only. Every check raises :class:`InvalidArgumentError`, a ``ValueError`` that
says what came and what was expected.
"""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Sized
from numbers import Integral, Real
from typing import Any

from rfprm_runtime.errors import InvalidArgumentError


def check_choice(name: str, value: object, choices: tuple[str, ...], *, more: str = "") -> None:
    """One of ``choices``. ``more``: what else may be passed, such as ``" or a function"``."""
    if not isinstance(value, str) or value not in choices:
        raise InvalidArgumentError(f"{name} is {shown(value)}, expected one of {choices}{more}")


def check_whole(name: str, value: object, *, least: int = 1, more: str = "") -> None:
    """A whole number (numpy's too) of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise InvalidArgumentError(
            f"{name} is {shown(value)}, expected a whole number, at least {least}{more}"
        )


def check_finite(name: str, value: object, *, more: str = "") -> None:
    """A number that is neither infinite nor NaN, for which every comparison is false."""
    if not isinstance(value, Real) or not math.isfinite(value):
        raise InvalidArgumentError(f"{name} is {shown(value)}, expected a finite number{more}")


def check_not_negative(name: str, value: object, *, more: str = "") -> None:
    """A finite number of at least 0."""
    check_finite(name, value, more=f", 0 or more{more}")
    if value < 0:  # type: ignore[operator]
        raise InvalidArgumentError(f"{name} is {shown(value)}, expected 0 or more{more}")


def check_positive(name: str, value: object, of: str) -> None:
    """A finite number above 0. ``of``: its unit, such as ``seconds``."""
    check_finite(name, value, more=f", more than 0 {of}")
    if value <= 0:  # type: ignore[operator]
        raise InvalidArgumentError(f"{name} is {shown(value)}, expected more than 0 {of}")


def check_share(name: str, value: object) -> None:
    """A number of at least 0 and less than 1."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not 0 <= value < 1:  # type: ignore[operator]
        raise InvalidArgumentError(
            f"{name} is {shown(value)}, expected a share: at least 0 and less than 1"
        )


def check_sha256(name: str, value: object) -> None:
    """A sha256 sum, spelled as 64 hexadecimal digits."""
    if not isinstance(value, str) or not re.fullmatch(r"[0-9a-fA-F]{64}", value):
        raise InvalidArgumentError(
            f"{name} is {shown(value)}, expected a sha256 sum: 64 hexadecimal digits"
        )


def check_flag(name: str, value: object) -> None:
    """True or False, not a string, which would always be true."""
    if not isinstance(value, bool):
        raise InvalidArgumentError(f"{name} is {shown(value)}, expected True or False")


def check_is(name: str, value: object, kinds: type | tuple[type, ...], expected: str) -> None:
    """An object of one of ``kinds``; ``expected`` names them in words."""
    if not isinstance(value, kinds):
        raise InvalidArgumentError(f"{name} is {shown(value)}, expected {expected}")


def check_has(name: str, value: object, attribute: str, expected: str) -> None:
    """An object with ``attribute``, not a class of such objects."""
    if isinstance(value, type) or not hasattr(value, attribute):
        raise InvalidArgumentError(f"{name} is {shown(value)}, expected {expected}")


def check_one_for_each(name: str, values: Sized, count: int, of: str) -> None:
    """A list of ``count`` values, not a string, whose characters would be counted."""
    if isinstance(values, (str, bytes)) or len(values) != count:
        came = shown(values) if isinstance(values, (str, bytes)) else f"{len(values)} values"
        raise InvalidArgumentError(
            f"{name}: got {came} for {count} {of}, expected a list with one for each"
        )


def is_nothing(value: object) -> bool:
    """Whether it is None, NaN, or pandas' NA or NaT, as tables spell a missing value."""
    if isinstance(value, Real):
        # A whole number is none of them, and may be too large for a float.
        return not isinstance(value, Integral) and math.isnan(value)
    return value is None or type(value).__name__ in ("NAType", "NaTType")


def shown(value: Any) -> str:
    """``value`` as an error names it: shortened, and an object by its class."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if value is None or isinstance(value, (str, bytes, bool, Real)):
        return reprlib.repr(value)
    return f"of the class {type(value).__name__}"
