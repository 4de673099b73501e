"""Which characters a tokenizer has tokens for. Knows no prompt and no trajectory."""

from __future__ import annotations

import codecs

import numpy as np
from tokenizers import Tokenizer

_UNKNOWN, _HAS_TOKENS, _LOST = 0, 1, 2
_BROKEN = "\ufffd"
_to_utf32 = codecs.lookup("utf-32-le").encode  # found now: scoring imports nothing


class Alphabet:
    """Finds characters that a tokenizer drops, in whole or in part.

    A vocabulary of bytes may lack some of them (SmolLM2's lacks six control characters, and two
    bytes of rare scripts), and then the tokenizer leaves them out without a word. Each character
    is tried when it first comes. Thread-safe: trying twice gives the same answer.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._states = np.zeros(0x110000, np.uint8)
        # Tokenizers of words drop the white space between them on purpose.
        self._keeps_space = bool(self._ids(" "))

    def first_lost(self, text: str) -> int | None:
        """The index of the first character of ``text`` without a token; None if all have one."""
        codes = np.frombuffer(_to_utf32(text)[0], np.uint32)
        states = self._states[codes]
        if not states.all():
            for code in set(codes[states == _UNKNOWN].tolist()):
                self._states[code] = _LOST if self._is_lost(chr(code)) else _HAS_TOKENS
            states = self._states[codes]
        lost = states == _LOST
        return int(lost.argmax()) if lost.any() else None

    def _is_lost(self, character: str) -> bool:
        is_space = character.isspace()
        ids = self._ids(character)
        if not ids:
            return self._keeps_space or not is_space
        # A character with one of its bytes missing decodes to a broken one.
        text = self._tokenizer.decode(ids, skip_special_tokens=False)
        return (_BROKEN in text and character != _BROKEN) or not (is_space or text.strip())

    def _ids(self, character: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(character, add_special_tokens=False).ids
        return ids
