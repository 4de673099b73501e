"""The tokenizer in a model's folder, whatever files it is in. Knows no weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from rfprm_export import ExportError
from rfprm_export.vocabulary.added_tokens import (
    CONFIG_NAME,
    MAX_BYTES,
    read_added_tokens,
    read_object,
)
from rfprm_export.vocabulary.byte_level import GPT2, QWEN2, CuttingRules, byte_level_tokenizer
from rfprm_export.vocabulary.model_proto import read_model_proto
from rfprm_export.vocabulary.prefix_space import without_prefix_space
from rfprm_export.vocabulary.sentencepiece import sentencepiece_tokenizer
from rfprm_runtime.ground.arguments import shown
from rfprm_runtime.ground.names import file_in, holds_file
from rfprm_runtime.prompt.tokenizer_file import (
    check_tokenizer,
    load_tokenizer,
    tokenizer_errors,
)

TOKENIZER_NAME = "tokenizer.json"
VOCABULARY_NAME, MERGES_NAME = "vocab.json", "merges.txt"
SENTENCEPIECE_NAME = "tokenizer.model"
_AGAIN = "download the model again"
_FAST = "save the tokenizer as tokenizer.json (AutoTokenizer.from_pretrained(…).save_pretrained(…))"
_END_OF_TEXT = "<|endoftext|>"
_BYTE_LEVEL = {"Qwen2Tokenizer": QWEN2, "GPT2Tokenizer": GPT2}
_SENTENCEPIECE = ("LlamaTokenizer", "CodeLlamaTokenizer")
"""Others number the pieces anew."""
_USUAL = {
    "qwen2": "Qwen2Tokenizer",
    "qwen3": "Qwen2Tokenizer",
    "llama": "LlamaTokenizer",
    "mistral": "LlamaTokenizer",
}
"""The class that models of a type have, where no file names one."""


@dataclass(frozen=True)
class FoundTokenizer:
    tokenizer: Tokenizer
    origin: str | None = None
    """What it was converted from, and what was guessed; None if it is the folder's own."""


def open_tokenizer(folder: Path, config: Mapping[str, Any]) -> FoundTokenizer:
    """From ``tokenizer.json``, or else from ``vocab.json`` and ``merges.txt``, or from
    ``tokenizer.model``; ``config`` is the content of ``config.json``.

    Raises :class:`ExportError` if there is none, and for a class of tokenizer that is not known.
    """
    if holds_file(folder, TOKENIZER_NAME):
        path = file_in(folder, TOKENIZER_NAME, refusal=ExportError, way_out=_AGAIN)
        read = load_tokenizer(path, refusal=ExportError, way_out=_AGAIN)
        return FoundTokenizer(without_prefix_space(read))
    if not has_tokenizer(folder):
        raise ExportError(
            f"{folder} has no tokenizer: expected {TOKENIZER_NAME}, {VOCABULARY_NAME} with "
            f"{MERGES_NAME}, or {SENTENCEPIECE_NAME}; {_AGAIN}, or {_FAST}"
        )
    has_merges = _has_merges(folder)
    name, guessed = _class(folder, config)
    with tokenizer_errors(
        f"the tokenizer in {folder} cannot be converted", refusal=ExportError, way_out=_AGAIN
    ):
        if has_merges and name in _BYTE_LEVEL:
            return _from_merges(folder, _BYTE_LEVEL[name], guessed)
        if name in _SENTENCEPIECE and holds_file(folder, SENTENCEPIECE_NAME):
            return _from_sentencepiece(folder, guessed)
    known = sorted(_BYTE_LEVEL) if has_merges else sorted(_SENTENCEPIECE)
    raise ExportError(
        f"{folder} has a tokenizer of the class {shown(name)}{guessed}, which cannot be converted "
        f"from its files, expected one of {known}; {_FAST}"
    )


def has_tokenizer(folder: Path) -> bool:
    """Whether the files of a tokenizer are there, in one of the three forms."""
    return (
        holds_file(folder, TOKENIZER_NAME)
        or _has_merges(folder)
        or holds_file(folder, SENTENCEPIECE_NAME)
    )


def _has_merges(folder: Path) -> bool:
    return holds_file(folder, VOCABULARY_NAME) and holds_file(folder, MERGES_NAME)


def _class(folder: Path, config: Mapping[str, Any]) -> tuple[str | None, str]:
    """The class of the tokenizer, and how it was guessed, in words."""
    for fields in (read_object(folder, CONFIG_NAME), config):
        name = fields.get("tokenizer_class")
        if isinstance(name, str):
            return name.removesuffix("Fast"), ""
    kind = config.get("model_type")
    usual = _USUAL.get(kind) if isinstance(kind, str) else None
    return usual, f", guessed from the model_type {shown(kind)}"


def _from_merges(folder: Path, rules: CuttingRules, guessed: str) -> FoundTokenizer:
    vocabulary = _read_vocabulary(folder)
    added = read_added_tokens(folder, vocabulary, [_END_OF_TEXT])
    tokenizer = byte_level_tokenizer(vocabulary, _read_merges(folder), rules, added)
    check_tokenizer(tokenizer, str(folder / VOCABULARY_NAME), refusal=ExportError)
    return FoundTokenizer(
        tokenizer, f"{VOCABULARY_NAME} and {MERGES_NAME} by the rules of {rules.name}{guessed}"
    )


def _from_sentencepiece(folder: Path, guessed: str) -> FoundTokenizer:
    path = file_in(folder, SENTENCEPIECE_NAME, refusal=ExportError, way_out=_AGAIN)
    model = read_model_proto(path)
    ids = {piece.text: index for index, piece in enumerate(model.pieces)}
    tokenizer = sentencepiece_tokenizer(model, read_added_tokens(folder, ids, []))
    check_tokenizer(tokenizer, str(path), refusal=ExportError)
    return FoundTokenizer(tokenizer, f"{SENTENCEPIECE_NAME}{guessed}")


def _read_vocabulary(folder: Path) -> dict[str, int]:
    tokens = read_object(folder, VOCABULARY_NAME)
    for token, index in tokens.items():
        if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < 2**31:
            raise ExportError(
                f"{folder / VOCABULARY_NAME} gives {shown(token)} the id {shown(index)}; {_AGAIN}"
            )
    if len(set(tokens.values())) < len(tokens):
        raise ExportError(f"{folder / VOCABULARY_NAME} gives two tokens the same id; {_AGAIN}")
    return tokens


def _read_merges(folder: Path) -> list[tuple[str, str]]:
    path = file_in(folder, MERGES_NAME, refusal=ExportError, way_out=_AGAIN)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        lines = content.decode().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ExportError(f"{path} cannot be read ({error}); {_AGAIN}") from None
    if len(content) > MAX_BYTES:
        raise ExportError(f"{path} has more than {MAX_BYTES} bytes; {_AGAIN}")
    first = 1 if lines[0].startswith("#version") else 0
    found = (line.removesuffix("\r") for line in lines[first:])
    merges = [as_merge(line, str(path)) for line in found if line]
    if not merges:
        raise ExportError(f"{path} has no merges; {_AGAIN}")
    return merges


def as_merge(line: str, place: str) -> tuple[str, str]:
    """Two tokens with a space between them. Raises :class:`ExportError`."""
    first, _, second = line.partition(" ")
    if not first or not second or " " in second:
        raise ExportError(f"{place} has the merge {shown(line)}, expected two tokens; {_AGAIN}")
    return first, second
