"""Loads ``tokenizer.json`` as what it is: data of somebody else, run by a library that may panic.

Knows what a tokenizer may do to a text; knows no prompt.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from rfprm_runtime.errors import RfprmError

MAX_TOKENIZER_BYTES = 256 * 2**20
"""Several times the largest published one."""
MAX_GROWTH = 1024
"""How many times longer its normalizer, pre-tokenizer or decoder may make a text."""
_Stage = dict[str, Any]


@contextmanager
def tokenizer_errors(what: str, *, refusal: type[RfprmError], way_out: str) -> Iterator[None]:
    """A block that runs the tokenizers library: its errors become ``refusal``.

    It raises bare Exceptions, and panics, which derive from BaseException alone, like Ctrl-C.
    """
    try:
        yield
    except RfprmError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise refusal(f"{what} ({error}); {way_out}") from None


def load_tokenizer(path: Path, *, refusal: type[RfprmError], way_out: str) -> Tokenizer:
    """The tokenizer in a file, checked by :func:`check_tokenizer`. Raises ``refusal``."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_TOKENIZER_BYTES + 1)
    except OSError as error:
        raise refusal(f"{path} cannot be read ({error}); {way_out}") from None
    return parse_tokenizer(content, str(path), refusal=refusal, way_out=way_out)


def parse_tokenizer(
    content: bytes, name: str, *, refusal: type[RfprmError], way_out: str
) -> Tokenizer:
    """The same, from the content of a file with this ``name``."""
    if len(content) > MAX_TOKENIZER_BYTES:
        raise refusal(f"{name} has more than {MAX_TOKENIZER_BYTES} bytes; {way_out}")
    what = f"{name} cannot be read as a tokenizer"
    with tokenizer_errors(what, refusal=refusal, way_out=way_out):
        tokenizer: Tokenizer = Tokenizer.from_buffer(content)
        check_tokenizer(tokenizer, name, refusal=refusal)
    return tokenizer


def check_tokenizer(tokenizer: Tokenizer, name: str, *, refusal: type[RfprmError]) -> None:
    """Raises ``refusal`` if the tokenizer draws lots, or makes texts longer without bound."""
    if getattr(tokenizer.model, "dropout", None):
        raise refusal(
            f"{name} encodes at random (BPE dropout {tokenizer.model.dropout}), so no score could "
            'be repeated; set its "dropout" to null'
        )
    for part in ("normalizer", "pre_tokenizer", "decoder"):
        stage = getattr(tokenizer, part)
        growth = 1 if stage is None else _growth(json.loads(stage.__getstate__()))
        if growth > MAX_GROWTH:
            raise refusal(
                f"the {part} of {name} can make a text {growth} times longer, the limit is "
                f"{MAX_GROWTH}; use the tokenizer that came with the model"
            )


def _growth(stage: Any) -> int:
    """How many times longer a stage, or those inside it one after another, makes a text at most."""
    if isinstance(stage, list):
        product = 1
        for inner in stage:
            product *= _growth(inner)
            if product > MAX_GROWTH:
                break
        return product
    if not isinstance(stage, dict):
        return 1
    lists = [value for value in stage.values() if isinstance(value, list)]
    return max(_own_growth(stage), *map(_growth, lists), 1)


def _own_growth(stage: _Stage) -> int:
    kind = stage.get("type")
    if kind == "Replace":
        return _num_bytes(stage.get("content"))
    if kind == "Prepend":
        return 1 + _num_bytes(stage.get("prepend"))
    if kind == "Metaspace":
        return 1 + _num_bytes(stage.get("replacement"))
    if kind == "ByteLevel":
        return 2  # a byte becomes a character, most of them of two bytes
    if kind == "Precompiled":
        return _longest_replacement(str(stage.get("precompiled_charsmap")))
    return 1


def _num_bytes(text: object) -> int:
    return len(text.encode()) if isinstance(text, str) else 1


def _longest_replacement(charsmap: str) -> int:
    """Of a table by sentencepiece: the size of a trie, the trie, and texts that end in NUL."""
    try:
        table = base64.b64decode(charsmap)
    except binascii.Error:
        return 1
    texts = table[4 + int.from_bytes(table[:4], "little") :]
    return max(map(len, texts.split(b"\0")))
