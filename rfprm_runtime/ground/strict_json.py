"""Reads JSON that somebody else wrote: bounded in size and depth, and one way to read it.

Python's own reader takes NaN, numbers beyond every type, a name twice in an object, and as much
depth as the stack has left, so that writing what was read may fail later. Here all of these end in
one error.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from rfprm_runtime.errors import InvalidArgumentError, RfprmError

MAX_DEPTH = 64
MAX_BYTES = 16 * 2**20
"""Above the index of any published model; in memory, JSON takes up to 30 times as much."""
_LARGEST = 2**63
# A string, or the rest of a text that ends inside one: matching never starts over.
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)', re.DOTALL)
_OPENING = re.compile(rb"[^\[\]{}]+")


def read_json(
    path: Path, *, refusal: type[RfprmError], way_out: str, max_bytes: int = MAX_BYTES
) -> Any:
    """The content of a JSON file. Raises ``refusal``, also for a file that cannot be opened; the
    message ends in ``way_out``."""
    try:
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise refusal(f"{path} cannot be read ({error}); {way_out}") from None
    return parse_json(
        content, name=str(path), refusal=refusal, way_out=way_out, max_bytes=max_bytes
    )


def read_json_object(
    path: Path, *, refusal: type[RfprmError], way_out: str, max_bytes: int = MAX_BYTES
) -> dict[str, Any]:
    """:func:`read_json` for a file that must hold an object."""
    content = read_json(path, refusal=refusal, way_out=way_out, max_bytes=max_bytes)
    if not isinstance(content, dict):
        raise refusal(f"{path} is not a JSON object; {way_out}")
    return content


def parse_json(
    content: bytes,
    *,
    name: str,
    refusal: type[RfprmError],
    way_out: str,
    max_bytes: int = MAX_BYTES,
) -> Any:
    """The value of a JSON text in UTF-8, with or without a byte order mark. ``name`` says where it
    is from. Raises ``refusal``."""
    if len(content) > max_bytes:
        raise refusal(f"{name} has more than {max_bytes} bytes; {way_out}")
    if is_deeper_than(content, MAX_DEPTH):
        raise refusal(f"{name} nests deeper than {MAX_DEPTH} levels; {way_out}")
    try:
        return _DECODER.decode(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise refusal(f"{name} is not JSON ({error}); {way_out}") from None


def is_deeper_than(content: bytes, depth: int) -> bool:
    """Whether the brackets of a JSON text nest deeper than ``depth``. Takes linear time."""
    if content.count(b"[") + content.count(b"{") <= depth:
        return False
    brackets = _OPENING.sub(b"", _STRING.sub(b"", content))
    level = 0
    for bracket in brackets:
        level += 1 if bracket in b"[{" else -1
        if level > depth:
            return True
    return False


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise InvalidArgumentError(f"an object has the name {twice[:80]!r} twice")
    return found


def _whole(text: str) -> int:
    number = int(text) if len(text) <= 20 else _LARGEST
    if not -_LARGEST <= number < _LARGEST:
        raise InvalidArgumentError(f"{text[:24]} is beyond 64 bits")
    return number


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise InvalidArgumentError(f"{text[:24]} is not a finite number")
    return number


_DECODER = json.JSONDecoder(
    object_pairs_hook=_once, parse_int=_whole, parse_float=_finite, parse_constant=_finite
)
