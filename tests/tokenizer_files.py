"""Tokenizers as models come with them: SentencePiece's ModelProto, and vocab.json with merges."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, pre_tokenizers

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
Piece = tuple[str, float, int]

ENDING = {
    "content": "<|endoftext|>",
    "special": True,
    "normalized": False,
    "lstrip": False,
    "rstrip": False,
    "single_word": False,
}
MERGES = ["h e", "l l", "he ll", "Ġ w", "o r", "Ġw or", "hell o", "Ġ Ġ", "Ċ Ċ", "1 2", "ĠĠ ĠĠ"]

TEXTS = [
    "Hello world, hello!",
    "  two  blanks\n\n\n  and lines \r\n\t",
    "def f(x):\n    return x ** 2  # square\n",
    "\\frac{12}{345} + \\sqrt{x_1}",
    "Привет мир, 你好，世界。こんにちは مرحبا 안녕",
    "naïve café e\u0301 ﬁ Å 𝔘",
    "😀👩‍👩‍👧 a\u200bb\u00a0c\ufeff",
    "it's they'LL 12345 6.78 １２",
    "a<|endoftext|>b <s>x</s> <0x41> <unk>",
    "",
]
"""Of several kinds; one spells special tokens."""


def bpe_pieces(*more: Piece, bytes_too: bool = True) -> list[Piece]:
    """A small Llama: three control pieces, bytes, letters, and pieces of which the last is the
    best."""
    fixed: list[Piece] = [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL)]
    if bytes_too:
        fixed += [(f"<0x{byte:02X}>", 0.0, BYTE) for byte in range(256)]
    learned = ["▁t", "he", "▁the", "in", "▁▁", "▁▁▁▁", "er", "▁x", "▁=", "re", "ll", "hell"]
    learned += ["ello", "▁12"]
    letters = sorted({*"▁abcdefghijklmnopqrstuvwxyz0123456789=+<>/{}\\.,", *"ETS"})
    normal = [(text, -99.0, NORMAL) for text in letters]
    normal += [(text, -float(i), NORMAL) for i, text in reversed(list(enumerate(learned)))]
    return [*fixed, *normal, *more]


def unigram_pieces(*more: Piece) -> list[Piece]:
    """The same for a unigram model: the longer a piece, the better."""
    return [
        (text, -12.0 + 1.25 * len(text) if kind == NORMAL else 0.0, kind)
        for text, _, kind in bpe_pieces()
    ] + list(more)


def model_proto(pieces: Iterable[Piece], *, kind: int = 2, **options: Any) -> bytes:
    """``tokenizer.model``; ``kind`` 1 is unigram, 2 BPE. ``options`` are byte_fallback, suffix,
    prefix, collapse, escape and charsmap."""
    content = b"".join(
        _inside(
            1, _inside(1, text.encode()) + b"\x15" + struct.pack("<f", score) + b"\x18" + bytes([k])
        )
        for text, score, k in pieces
    )
    trainer = _number(3, kind) + _number(35, options.get("byte_fallback", True))
    trainer += _number(24, options.get("suffix", False)) + _number(40, 0)
    normalizer = _inside(2, options.get("charsmap", b"")) + _number(3, options.get("prefix", True))
    normalizer += _number(4, options.get("collapse", False))
    normalizer += _number(5, options.get("escape", True))
    return content + _inside(2, trainer) + _inside(3, normalizer)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(int(value))


def _inside(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    found = b""
    while number > 127:
        found += bytes([number & 127 | 128])
        number >>= 7
    return found + bytes([number])


def write_sentencepiece(folder: Path, content: bytes, **config: Any) -> Path:
    (folder / "tokenizer.model").write_bytes(content)
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "LlamaTokenizer", **config})
    return folder


def byte_level_vocabulary() -> dict[str, int]:
    tokens = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens += [merge.replace(" ", "") for merge in MERGES]
    return {token: index for index, token in enumerate(tokens)}


def write_byte_level(folder: Path, name: str, **config: Any) -> Path:
    """vocab.json, merges.txt and a tokenizer_config.json of the class ``name``; one added token."""
    vocabulary = byte_level_vocabulary()
    write_json(folder / "vocab.json", vocabulary)
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(MERGES) + "\n", "utf-8")
    added = {"added_tokens_decoder": {str(len(vocabulary)): ENDING}}
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": name, **added, **config})
    return folder


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def ids_of(tokenizer: Tokenizer, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids
