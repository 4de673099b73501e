"""Byte-level BPE from its parts: a vocabulary, its merges, and how a text is cut before them.

Sources: GPT2Converter and Qwen2Converter of transformers 5.24, the ``tokenizer.json`` of Llama 3
and of SmolLM2, and llama.cpp's list of pre-tokenizers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from rfprm_export.vocabulary.added_tokens import Added, add_tokens, check_unspellable, placed


@dataclass(frozen=True)
class CuttingRules:
    """What a text goes through before merges apply."""

    name: str
    pattern: str | None = None
    """What becomes a word of its own; None for GPT-2's pattern, which the library has built in."""
    composes: bool = False
    """Whether Unicode is composed (NFC) first."""
    cuts_digits: bool = False
    whole_words: bool = False
    """Whether a word that is in the vocabulary is one token, whatever the merges say."""


_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT2 = CuttingRules("GPT-2")
SMOLLM = CuttingRules("SmolLM", cuts_digits=True)
QWEN2 = CuttingRules("Qwen2", pattern=_WORDS % "", composes=True)
LLAMA3 = CuttingRules("Llama 3", pattern=_WORDS % "{1,3}", whole_words=True)


def byte_level_tokenizer(
    vocabulary: Mapping[str, int],
    merges: Iterable[tuple[str, str]],
    rules: CuttingRules,
    added: Added,
) -> Tokenizer:
    """Raises :class:`ExportError` for added tokens without a place, and the tokenizers library's
    own errors for merges of what is not in the vocabulary."""
    tokens = placed(vocabulary, added)
    tokenizer = Tokenizer(models.BPE(tokens, list(merges), ignore_merges=rules.whole_words))
    if rules.composes:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = _pre_tokenizer(rules)
    tokenizer.decoder = decoders.ByteLevel()
    add_tokens(tokenizer, added)
    special = (token.content for token in added.values() if token.special)
    check_unspellable(tokenizer, (content for content in special if content not in vocabulary))
    return tokenizer


def _pre_tokenizer(rules: CuttingRules) -> pre_tokenizers.PreTokenizer:
    stages: list[pre_tokenizers.PreTokenizer] = []
    if rules.cuts_digits:
        stages.append(pre_tokenizers.Digits(individual_digits=True))
    if rules.pattern is not None:
        stages.append(pre_tokenizers.Split(Regex(rules.pattern), behavior="isolated"))
    stages.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=rules.pattern is None))
    return pre_tokenizers.Sequence(stages)
