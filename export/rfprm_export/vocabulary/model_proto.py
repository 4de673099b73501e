"""Reads ``tokenizer.model``: the ModelProto of SentencePiece. Knows no tokenizers.

Source: ``sentencepiece_model.proto`` of SentencePiece 0.2.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np

from rfprm_export import ExportError
from rfprm_runtime.ground.arguments import shown
from rfprm_runtime.ground.protobuf import FOUR_BYTES, LENGTH, VARINT, Field, message_fields

MAX_BYTES = 64 * 2**20
"""Ten times the largest published file."""
MAX_PIECE = 256
"""Characters of a piece. SentencePiece learns at most 16."""
_UNIGRAM, _BPE = 1, 2
_WAY_OUT = "download the model again, or save it with a fast tokenizer (tokenizer.json)"


class PieceKind(IntEnum):
    """Also the token types of GGUF."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Piece:
    text: str
    score: float
    kind: PieceKind


@dataclass(frozen=True)
class SentencePieceModel:
    """The pieces in order of their ids, and what a text goes through before it is cut."""

    pieces: tuple[Piece, ...] = ()
    is_unigram: bool = False
    unknown_id: int = 0
    byte_fallback: bool = False
    """Whether a character without a piece becomes its bytes."""
    charsmap: bytes = b""
    """The compiled table that replaces characters; empty if none are."""
    collapses_spaces: bool = True
    """Whether runs of spaces become one."""
    escapes_spaces: bool = True
    """Whether a space becomes ▁."""
    adds_prefix: bool = True
    """Whether a text gets a space in front. :mod:`.sentencepiece` says what becomes of it."""
    spaces_follow: bool = False
    """Whether a space belongs to the word before it."""


def read_model_proto(path: Path) -> SentencePieceModel:
    """Raises :class:`ExportError` if the file is not a model of SentencePiece."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        return parse_model_proto(content)
    except (OSError, ExportError) as error:
        raise ExportError(
            f"{path} cannot be read as a SentencePiece model: {error}; {_WAY_OUT}"
        ) from None


def parse_model_proto(content: bytes) -> SentencePieceModel:
    """The same, from the content of the file."""
    if len(content) > MAX_BYTES:
        raise ExportError(f"it has more than {MAX_BYTES} bytes")
    model = SentencePieceModel()
    pieces: list[Piece] = []
    for field in message_fields(content, 0, len(content), refusal=ExportError):
        if field.number == 1 and field.kind == LENGTH:
            pieces.append(_piece(content, field, len(pieces)))
        elif field.number == 2 and field.kind == LENGTH:
            model = _with_training(model, content, field)
        elif field.number == 3 and field.kind == LENGTH:
            model = _with_normalization(model, content, field)
    if not pieces:
        raise ExportError("it has no pieces")
    return replace(model, pieces=tuple(pieces))


def _inside(content: bytes, field: Field) -> list[Field]:
    return list(message_fields(content, field.start, field.stop, refusal=ExportError))


def _piece(content: bytes, field: Field, index: int) -> Piece:
    text, score, kind = b"", 0.0, int(PieceKind.NORMAL)
    for part in _inside(content, field):
        if part.number == 1 and part.kind == LENGTH:
            text = content[part.start : part.stop]
        elif part.number == 2 and part.kind == FOUR_BYTES:
            (score,) = struct.unpack("<f", content[part.start : part.stop])
        elif part.number == 3 and part.kind == VARINT:
            kind = part.value
    return checked_piece(text, score, kind, index)


def checked_piece(text: bytes | str, score: float, kind: int, index: int) -> Piece:
    """The piece with the id ``index``. Raises :class:`ExportError` if it cannot be one."""
    try:
        decoded = text if isinstance(text, str) else text.decode()
        known = PieceKind(kind)
    except ValueError as error:  # of the encoding, or of the kind
        raise ExportError(f"its piece {index} is none: {error}") from None
    if not 0 < len(decoded) <= MAX_PIECE or not np.isfinite(score):
        raise ExportError(
            f"its piece {index}, {shown(decoded)}, has {len(decoded)} characters and the score "
            f"{score}, expected 1 to {MAX_PIECE} and a finite number"
        )
    return Piece(decoded, score, known)


def _with_training(model: SentencePieceModel, content: bytes, field: Field) -> SentencePieceModel:
    kind, numbers = _UNIGRAM, {24: 0, 35: 0, 40: 0}
    for part in _inside(content, field):
        if part.kind != VARINT:
            continue
        if part.number == 3:
            kind = part.value
        elif part.number in numbers:
            numbers[part.number] = part.value
    if kind not in (_UNIGRAM, _BPE):
        raise ExportError(f"it is of model_type {kind}, expected unigram (1) or BPE (2)")
    return replace(
        model,
        is_unigram=kind == _UNIGRAM,
        spaces_follow=bool(numbers[24]),
        byte_fallback=bool(numbers[35]),
        unknown_id=numbers[40],
    )


def _with_normalization(
    model: SentencePieceModel, content: bytes, field: Field
) -> SentencePieceModel:
    names = {3: "adds_prefix", 4: "collapses_spaces", 5: "escapes_spaces"}
    for part in _inside(content, field):
        if part.number == 2 and part.kind == LENGTH:
            model = replace(model, charsmap=content[part.start : part.stop])
        elif part.number in names and part.kind == VARINT:
            switch: dict[str, Any] = {names[part.number]: bool(part.value)}
            model = replace(model, **switch)
    return model
