"""What a GGUF file says in place of a ``tokenizer_config.json``: chat template, special tokens.

Source: the GGUF specification, and ``SpecialVocab`` of the package ``gguf``, which writes them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rfprm_export import ExportError
from rfprm_export.gguf_fields import GgufFields
from rfprm_export.gguf_file import open_gguf

_TEMPLATE = "tokenizer.chat_template"
"""The default one; others have a name behind it."""
_ROLES = {
    "bos_token": "bos",
    "eos_token": "eos",
    "unk_token": "unknown",
    "pad_token": "padding",
    "sep_token": "seperator",  # as the specification spells it
    "cls_token": "cls",
    "mask_token": "mask",
}
_BEGINS_TEXTS = ("llama-bpe", "llama3", "llama-v3")
"""The byte-level vocabularies whose texts begin with a token where no field says otherwise."""


def gguf_tokenizer_config(path: Path) -> dict[str, Any]:
    """The fields of a ``tokenizer_config.json`` that the file has something for.

    A file names a token for the beginning of texts also where transformers' tokenizer has none, as
    Qwen's: it is taken if texts begin with it, or if the chat template writes it. Raises
    :class:`ExportError`.
    """
    fields = GgufFields(path, open_gguf(path))
    tokens = fields.list_of("tokenizer.ggml.tokens", str)
    ids = {name: f"tokenizer.ggml.{role}_token_id" for name, role in _ROLES.items()}
    found = {name: _token(fields, field, tokens) for name, field in ids.items() if field in fields}
    template = fields.text(_TEMPLATE) if _TEMPLATE in fields else ""
    if not (_begins_texts(fields) or "bos_token" in template):
        found.pop("bos_token", None)
    return {**found, "chat_template": template} if template else found


def _token(fields: GgufFields, field: str, tokens: list[str]) -> str:
    index = fields.whole(field)
    if not 0 <= index < len(tokens):
        raise ExportError(f"{fields.path} has {field} {index}, but only {len(tokens)} tokens")
    return tokens[index]


def _begins_texts(fields: GgufFields) -> bool:
    """llama.cpp's rule: what the file says, and otherwise what its kind of vocabulary does."""
    is_sentencepiece = fields.text("tokenizer.ggml.model") == "llama"
    usually = is_sentencepiece or fields.text("tokenizer.ggml.pre", "") in _BEGINS_TEXTS
    return fields.flag("tokenizer.ggml.add_bos_token", usually)
