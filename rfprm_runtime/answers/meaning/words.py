"""Answers in words are compared as text: letters are no factors, and their order matters."""

from __future__ import annotations

import re

_WORD = re.compile(r"[^\W\d_]+")
_MATHEMATICAL = re.compile(
    r"[\d=^_+<>|/*]|\\(?!text\b)[A-Za-z]|(?<![A-Za-z])[a-z](?![A-Za-z'])(?!\s[A-Za-z]{2})"
)
_ARTICLE = re.compile(r"^(?:the|a|an)\s")


def is_prose(text: str) -> bool:
    """Whether a tidy text is words and no mathematics: ``odd``, ``Marc Bulger``."""
    bare = re.sub(r"\\text\s?\{([^{}]*)\}", r"\1 ", text)
    if _MATHEMATICAL.search(bare):
        return False
    return (
        "\\text" in text
        or any(not word.isascii() or is_word(word) for word in _WORD.findall(bare))
        or not any(map(str.isalnum, bare))
    )


def is_word(letters: str) -> bool:
    """Whether letters side by side, and nothing else, are a word (``odd``, ``act``, ``ABC``) and no
    product (``xy``, ``xyz``)."""
    return is_no_product(letters) or (
        len(letters) > 2 and bool(set(letters.lower()) & set("aeiou"))
    )


def is_no_product(letters: str) -> bool:
    """Whether letters side by side in a formula cannot be factors, as ``abc`` can."""
    if len(letters) <= 2:
        return len(letters) == 2 and (
            letters.isupper() or letters.lower() in {"no", "on", "if", "up", "ok"}
        )
    has_vowel = bool(set(letters.lower()) & set("eiou"))
    return has_vowel or len(set(letters)) < len(letters) or letters.isupper() or len(letters) > 4


def same_words(one: str, other: str) -> bool:
    """Whether two texts are the same but for capitals, punctuation and a leading article."""
    return folded(one) == folded(other)


def same_signs(one: str, other: str) -> bool:
    """Whether two texts are the same but for spaces, capitals of words, and stops in ``p.m.``."""
    return _signs(one) == _signs(other)


def _signs(text: str) -> str:
    text = re.sub(r"(?<=[A-Za-z])\.(?=[A-Za-z]|\s?$)|(?<!\d)\s|\s(?!\d)", "", text)
    return re.sub(r"(?<!\\)\b[A-Za-z]{2,}", lambda word: word[0].lower(), text)


def folded(text: str) -> str:
    """A text without what :func:`same_words` disregards."""
    kept = re.sub(r"[\s\"'`*.,;:!?()_-]+", " ", text.casefold()).strip()
    return _ARTICLE.sub("", kept) or text.strip()
