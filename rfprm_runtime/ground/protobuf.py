"""Walks the fields of a protobuf message that somebody else wrote. Knows no messages.

Source: the wire format of Protocol Buffers. Every length is compared with the end of its message,
so a file costs no more than its size allows.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import NamedTuple

from rfprm_runtime.errors import RfprmError

VARINT, EIGHT_BYTES, LENGTH, FOUR_BYTES = 0, 1, 2, 5
"""How a field is stored."""
_SIZES = {EIGHT_BYTES: 8, FOUR_BYTES: 4}
Data = bytes | mmap.mmap


class Field(NamedTuple):
    number: int
    kind: int
    start: int
    stop: int
    """Its content is ``data[start:stop]``; that of a message inside it too."""
    value: int
    """Of a varint, as an unsigned number of 64 bits; 0 for the other kinds."""


def message_fields(
    data: Data, start: int, stop: int, *, refusal: type[RfprmError]
) -> Iterator[Field]:
    """The fields of the message ``data[start:stop]``, in order. Raises ``refusal`` if it is not
    one."""
    while start < stop:
        tag, begin = _varint(data, start, refusal)
        kind, value = tag & 7, 0
        if kind == LENGTH:
            length, begin = _varint(data, begin, refusal)
            end = begin + length
        elif kind == VARINT:
            value, end = _varint(data, begin, refusal)
        elif kind in _SIZES:
            end = begin + _SIZES[kind]
        else:
            raise refusal(f"byte {begin} begins no field")
        if end > stop:
            raise refusal(f"a field ends at byte {end}, beyond its message")
        yield Field(tag >> 3, kind, begin, end, value)
        start = end


def _varint(data: Data, start: int, refusal: type[RfprmError]) -> tuple[int, int]:
    """A number of at most 64 bits, and where it ends."""
    number = shift = 0
    while start < len(data) and shift < 64:
        byte = data[start]
        start += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number % 2**64, start
        shift += 7
    raise refusal(f"a number is cut off at byte {start}")
