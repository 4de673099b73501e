"""The colours of scores: orange for low ones, blue for high ones, nothing in the middle.

Both come from the Okabe-Ito palette, which people with any common kind of colour blindness can tell
apart. A tint is translucent, so text on it keeps its contrast on light and on dark pages.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

LOW = (213, 94, 0)
HIGH = (0, 114, 178)
_TEXT_OPACITY = 0.42
_ROUNDING = 1e-6
"""So far may a float32 sum of probabilities lie above 1."""
_LARGE = 1e6


@dataclass(frozen=True)
class Scale:
    """The scores at the ends of the colours."""

    low: float = 0.0
    high: float = 1.0

    @classmethod
    def of(cls, scores: Iterable[float | None]) -> Scale:
        """The scale of all ``scores`` that are shown together; None stands for no score.

        Probabilities keep theirs, so that a colour means the same everywhere. If any score lies
        outside [0, 1], the colours run from the lowest score to the highest."""
        known = [float(score) for score in scores if score is not None]
        low, high = min(known, default=0.0), max(known, default=1.0)
        return cls() if low >= -_ROUNDING and high <= 1 + _ROUNDING else cls(low, high)

    @property
    def is_of_probabilities(self) -> bool:
        return (self.low, self.high) == (0.0, 1.0)

    def place(self, score: float) -> float:
        """Where ``score`` lies between the ends: 0 at the low one, 1 at the high one."""
        width = self.high / 2 - self.low / 2  # of halves: the whole may overflow
        if width == 0:  # a single score is neither low nor high
            return 0.5
        return min(1.0, max(0.0, (float(score) / 2 - self.low / 2) / width))

    def tint(self, score: float) -> str:
        """A CSS colour to put behind text."""
        return _rgba(self.place(score), _TEXT_OPACITY * self._distance(score))

    def solid_tint(self, score: float) -> str:
        """A CSS colour for a mark without text on it, still visible in the middle."""
        return _rgba(self.place(score), 0.25 + 0.75 * self._distance(score))

    def pale(self, score: float) -> tuple[float, float, float]:
        """The solid tint on white, as red, green and blue in [0, 1]."""
        strength = 0.25 + 0.75 * self._distance(score)
        color = LOW if self.place(score) < 0.5 else HIGH
        red, green, blue = (1 - strength * (1 - part / 255) for part in color)
        return red, green, blue

    def sentence(self) -> str:
        """What colours mean, if that needs to be said; else nothing."""
        if self.is_of_probabilities or self.low == self.high:
            return ""
        return f"colours run from {three(self.low)}, the lowest score shown, to {three(self.high)}"

    def _distance(self, score: float) -> float:
        """How far from the middle: 1 at both ends."""
        return abs(2 * self.place(score) - 1)


def three(score: float) -> str:
    """A score as people read it; scores that are no probabilities may be large."""
    return f"{score:.3f}" if abs(score) < _LARGE else f"{score:.3e}"


def _rgba(place: float, opacity: float) -> str:
    red, green, blue = LOW if place < 0.5 else HIGH
    return f"rgba({red},{green},{blue},{opacity:.2f})"
