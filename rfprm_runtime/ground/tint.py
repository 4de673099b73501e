"""The colours of scores: orange for low ones, blue for high ones, nothing at 0.5.

Both come from the Okabe-Ito palette, which people with any common kind of colour blindness can tell
apart. A tint is translucent, so text on it keeps its contrast on light and on dark pages.
"""

from __future__ import annotations

LOW = (213, 94, 0)
HIGH = (0, 114, 178)
_TEXT_OPACITY = 0.42


def tint(score: float) -> str:
    """A CSS colour to put behind text. ``score`` in [0, 1]."""
    return _rgba(score, _TEXT_OPACITY * _distance(score))


def solid_tint(score: float) -> str:
    """A CSS colour for a mark without text on it, still visible at 0.5."""
    return _rgba(score, 0.25 + 0.75 * _distance(score))


def _distance(score: float) -> float:
    """How far from undecided: 0 at 0.5, 1 at both ends."""
    return abs(2 * score - 1)


def _rgba(score: float, opacity: float) -> str:
    red, green, blue = LOW if score < 0.5 else HIGH
    return f"rgba({red},{green},{blue},{opacity:.2f})"
