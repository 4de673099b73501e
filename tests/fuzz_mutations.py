"""Breaks files: bytes here and there, and JSON inside them by its structure. Knows no formats."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

HOSTILE: list[Any] = [
    None,
    True,
    0,
    -1,
    1,
    2**31,
    2**63,
    10**30,
    1e308,
    0.5,
    "",
    ".",
    "..",
    "../x",
    "/etc/passwd",
    "/dev/zero",
    "C:\\x",
    "\\\\host\\share",
    "a\x00b",
    "x" * 5000,
    "os.path",
    "\ud800",
    "é",
    [],
    {},
    [[]],
    {"": None},
    [0] * 50,
]
_RAW = [b"NaN", b"Infinity", b"-0", b"1e999", b"9" * 400, b"[" * 200, b'{"a":' * 200, b"\xff", b""]
_INTERESTING = [0, 1, 7, 8, 127, 128, 255]


def mutate(content: bytes, chance: random.Random) -> bytes:
    """``content`` with one to three mutations, more often of JSON's values than of bytes, most of
    which only break its syntax."""
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        kinds = [_change_json] if chance.random() < 0.6 else _MUTATIONS
        content = chance.choice(kinds)(content, chance)
    return content


def _flip_bytes(content: bytes, chance: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(min(len(changed), chance.randint(1, 4))):
        changed[chance.randrange(len(changed))] = chance.choice(_INTERESTING)
    return bytes(changed)


def _flip_near_the_start(content: bytes, chance: random.Random) -> bytes:
    """Where headers are."""
    size = min(len(content), 256)
    return _flip_bytes(content[:size], chance) + content[size:]


def _write_a_number(content: bytes, chance: random.Random) -> bytes:
    width = chance.choice((4, 8))
    place = chance.randrange(max(1, len(content)))
    number = chance.choice((0, 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1, len(content), 2**40))
    written = (number % 2 ** (8 * width)).to_bytes(width, "little")
    return content[:place] + written + content[place + width :]


def _cut(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.randrange(len(content) + 1)]


def _remove_a_piece(content: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(content) + 1)
    return content[:place] + content[place + chance.randint(1, 16) :]


def _repeat_a_piece(content: bytes, chance: random.Random) -> bytes:
    place, size = chance.randrange(len(content) + 1), chance.randint(1, 64)
    return content[: place + size] + content[place:]


def _change_json(content: bytes, chance: random.Random) -> bytes:
    """Change one value of the JSON object in it; the bytes around it stay."""
    begin, end = content.find(b"{"), content.rfind(b"}") + 1
    try:
        found = json.loads(content[begin:end])
    except (ValueError, RecursionError):
        return _flip_bytes(content, chance)
    changed = json.dumps(_changed(found, chance)).encode()
    if content[:begin].strip():  # a header with its length before it
        begin = max(begin, 8)
        return len(changed).to_bytes(8, "little") + changed + content[end:]
    return changed


def _changed(value: Any, chance: random.Random) -> Any:
    if not isinstance(value, (dict, list)) or not value or chance.random() < 0.15:
        return _other(value, chance)
    changed = dict(value) if isinstance(value, dict) else list(value)
    keys = list(changed) if isinstance(changed, dict) else range(len(changed))
    key: Any = chance.choice(keys)
    kind = chance.random()
    if kind < 0.1:
        del changed[key]
    elif kind < 0.15 and isinstance(changed, dict):
        changed[str(chance.choice(HOSTILE))] = changed[key]
    else:
        changed[key] = _changed(changed[key], chance)
    return changed


def _other(value: Any, chance: random.Random) -> Any:
    if isinstance(value, int) and chance.random() < 0.5:
        return value + chance.choice((-1, 1, value, 2**20))
    return chance.choice(HOSTILE)


def _splice_raw_json(content: bytes, chance: random.Random) -> bytes:
    """What no JSON library would write."""
    places = [index for index, byte in enumerate(content[:100_000]) if byte in b":,["]
    place = chance.choice(places) + 1 if places else 0
    return content[:place] + chance.choice(_RAW) + content[place + chance.randint(0, 4) :]


_MUTATIONS: list[Callable[[bytes, random.Random], bytes]] = [
    _flip_bytes,
    _flip_near_the_start,
    _write_a_number,
    _cut,
    _remove_a_piece,
    _repeat_a_piece,
    _splice_raw_json,
]
