"""Whether a question is in an evaluation set, word for word or nearly."""

from __future__ import annotations

import re
from collections.abc import Iterable

_GRAM = 8


class EvaluationQuestions:
    """The questions that must not be trained on."""

    def __init__(self, questions: Iterable[str], *, max_shared: float) -> None:
        """``max_shared`` is the share of common word 8-grams at which a question counts as one of
        these. Questions of fewer than 8 words must be identical."""
        self._max_shared = max_shared
        self._whole: set[tuple[str, ...]] = set()
        self._grams: dict[int, list[int]] = {}
        for index, question in enumerate(questions):
            words = _words(question)
            self._whole.add(words)
            for gram in _grams(words):
                self._grams.setdefault(gram, []).append(index)

    def __len__(self) -> int:
        return len(self._whole)

    def contains(self, question: str) -> str | None:
        """Why a question counts as one of these, or None."""
        words = _words(question)
        if words in self._whole:
            return "an evaluation set has the same question"
        grams = _grams(words)
        if not grams:
            return None
        shared: dict[int, int] = {}
        for gram in grams:
            for index in self._grams.get(gram, ()):
                shared[index] = shared.get(index, 0) + 1
        share = max(shared.values(), default=0) / len(grams)
        if share < self._max_shared:
            return None
        return f"{share:.0%} of it is in one question of an evaluation set"


def _words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+", text.lower()))


def _grams(words: tuple[str, ...]) -> set[int]:
    # Python's string hash differs between processes, but no hash outlives this one.
    return {hash(words[i : i + _GRAM]) for i in range(len(words) - _GRAM + 1)}
