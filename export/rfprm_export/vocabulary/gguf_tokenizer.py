"""The tokenizer in the metadata of a GGUF file: byte-level BPE, or SentencePiece's BPE.

Source: llama.cpp's converters and vocabularies. Knows no weights.
"""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer

from rfprm_export import ExportError
from rfprm_export.gguf_fields import GgufFields
from rfprm_export.vocabulary.added_tokens import Added
from rfprm_export.vocabulary.byte_level import GPT2, LLAMA3, QWEN2, SMOLLM, byte_level_tokenizer
from rfprm_export.vocabulary.folder import as_merge
from rfprm_export.vocabulary.model_proto import PieceKind, SentencePieceModel, checked_piece
from rfprm_export.vocabulary.sentencepiece import sentencepiece_tokenizer
from rfprm_runtime.prompt.tokenizer_file import check_tokenizer, tokenizer_errors

_RULES = {
    "gpt-2": GPT2,
    "smollm": SMOLLM,
    "qwen2": QWEN2,
    "llama-bpe": LLAMA3,
    "llama3": LLAMA3,
    "llama-v3": LLAMA3,
}
_WAY_OUT = "give the Hugging Face folder of the model instead"


def gguf_tokenizer(fields: GgufFields) -> Tokenizer:
    """Raises :class:`ExportError` for a kind of tokenizer that is not known, and for a damaged
    one."""
    model = fields.text("tokenizer.ggml.model")
    if model not in ("gpt2", "llama"):
        raise ExportError(
            f"{fields.path} has a {model!r} tokenizer, expected 'gpt2' (byte-level BPE) or 'llama' "
            f"(SentencePiece); {_WAY_OUT}"
        )
    with tokenizer_errors(
        f"{fields.path} has no usable tokenizer", refusal=ExportError, way_out=_WAY_OUT
    ):
        tokenizer = _byte_level(fields) if model == "gpt2" else _sentencepiece(fields)
        check_tokenizer(tokenizer, str(fields.path), refusal=ExportError)
    return tokenizer


def _tokens(fields: GgufFields) -> list[tuple[str, int]]:
    """Every token with its type; its place is its id."""
    tokens = fields.list_of("tokenizer.ggml.tokens", str)
    kinds = fields.list_of("tokenizer.ggml.token_type", int)
    if len(kinds) != len(tokens) or len(set(tokens)) != len(tokens):
        raise ExportError(f"{fields.path} has {len(tokens)} tokens, some twice or without a type")
    return list(zip(tokens, kinds, strict=True))


def _byte_level(fields: GgufFields) -> Tokenizer:
    """Unused tokens only fill the rows of the model's table, so no text becomes them."""
    name = fields.text("tokenizer.ggml.pre")
    if name not in _RULES:
        raise ExportError(
            f"{fields.path} cuts texts by the rules {name!r}, expected one of {sorted(_RULES)}; "
            f"{_WAY_OUT}"
        )
    vocabulary: dict[str, int] = {}
    added: Added = {}
    for index, (token, kind) in enumerate(_tokens(fields)):
        if kind in (PieceKind.CONTROL, PieceKind.USER_DEFINED):
            special = kind == PieceKind.CONTROL
            added[index] = AddedToken(token, special=special, normalized=False)
        elif kind != PieceKind.UNUSED:
            vocabulary[token] = index
    lines = fields.list_of("tokenizer.ggml.merges", str)
    merges = [as_merge(line, str(fields.path)) for line in lines]
    return byte_level_tokenizer(vocabulary, merges, _RULES[name], added)


def _sentencepiece(fields: GgufFields) -> Tokenizer:
    scores = fields.list_of("tokenizer.ggml.scores", float)
    tokens = _tokens(fields)
    if len(scores) != len(tokens):
        raise ExportError(f"{fields.path} has {len(tokens)} tokens and {len(scores)} scores")
    pieces = tuple(
        checked_piece(text, scores[index], kind, index) for index, (text, kind) in enumerate(tokens)
    )
    model = SentencePieceModel(
        pieces=pieces,
        byte_fallback=any(piece.kind is PieceKind.BYTE for piece in pieces),
        collapses_spaces=fields.flag("tokenizer.ggml.remove_extra_whitespaces", False),
        adds_prefix=fields.flag("tokenizer.ggml.add_space_prefix", True),
    )
    return sentencepiece_tokenizer(model, {})
