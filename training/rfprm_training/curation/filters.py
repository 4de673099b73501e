"""Reasons to drop a trajectory. Pure functions; None keeps it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

from rfprm_runtime.answers.extraction import final_answer
from rfprm_runtime.errors import MissingExtraError
from rfprm_runtime.traces.known import reference_answer
from rfprm_runtime.types import Trajectory
from rfprm_training.curation.config import FilterConfig

_LANGUAGE_SAMPLE = 2000
_TAIL = 4000
_MIN_LETTERS = 20


def reason_to_drop(trajectory: Trajectory, config: FilterConfig) -> tuple[str, str] | None:
    """The first filter that drops it, and what the filter found; None if it passes."""
    text = "\n\n".join((*trajectory.steps, *trajectory.response))
    checks: tuple[tuple[str, Callable[[], str | None]], ...] = (
        ("length", lambda: _length(trajectory, text, config)),
        ("repetition", lambda: _repetition(text, config)),
        ("language", lambda: _language(trajectory, config)),
        ("no answer", lambda: _no_answer(trajectory, config)),
        ("no reference", lambda: _no_reference(trajectory, config)),
    )
    for name, check in checks:
        found = check()
        if found is not None:
            return name, found
    return None


def _length(trajectory: Trajectory, text: str, config: FilterConfig) -> str | None:
    steps, characters = len(trajectory.steps), len(text)
    if steps < config.min_steps:
        return f"{steps} {'step' if steps == 1 else 'steps'}, fewer than {config.min_steps}"
    if config.max_steps is not None and steps > config.max_steps:
        return f"{steps} steps, more than {config.max_steps}"
    if characters < config.min_characters:
        return f"{characters} characters, fewer than {config.min_characters}"
    if config.max_characters is not None and characters > config.max_characters:
        return f"{characters:,} characters, more than {config.max_characters:,}"
    return None


def _repetition(text: str, config: FilterConfig) -> str | None:
    if config.max_repeated_share is None:
        return None
    share = repeated_share(text)
    if share <= config.max_repeated_share:
        return None
    return f"{share:.0%} of it is repetition"


def repeated_share(text: str) -> float:
    """Share of the characters that repeat earlier ones: in repeated lines, or in paragraphs that
    end in repeats of one piece, whichever is more."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    total = sum(map(len, lines))
    if not total:
        return 0.0
    seen = Counter(lines)
    # Short lines (a bracket, a dash) may repeat.
    again = sum((count - 1) * len(line) for line, count in seen.items() if len(line) > 15)
    loops = sum(_tail_repeats(block.rstrip()) for block in text.split("\n\n"))
    return max(again / total, loops / len(text))


def _tail_repeats(text: str) -> int:
    """Number of characters at a paragraph's end that repeat one piece, as a loop leaves them."""
    tail = text[-_TAIL:]
    # A loop may be cut off anywhere; its period is the distance to where its end occurred before.
    for anchor in (64, 16):
        end = tail[-anchor:]
        before = tail.rfind(end, 0, -1)
        if before < 0 or len(set(end)) == 1:
            continue
        period = len(tail) - anchor - before
        start = len(text) - period
        while start > 0 and text[start - 1] == text[start - 1 + period]:
            start -= 1
        repeated = len(text) - start - period
        if repeated >= 4 * period:
            return repeated
    run = len(tail) - len(tail.rstrip(tail[-1:]))
    return run if run > 200 else 0


def _language(trajectory: Trajectory, config: FilterConfig) -> str | None:
    if config.languages is None:
        return None
    text = " ".join(trajectory.steps)[:_LANGUAGE_SAMPLE]
    # Formulas have no language, and a few words are too few to tell.
    words = re.sub(r"\\[A-Za-z]+|[^\w\s]|\d", " ", text)
    if sum(map(str.isalpha, words)) < _MIN_LETTERS:
        return None
    try:
        import py3langid
    except ImportError:
        raise MissingExtraError("py3langid", "data", "the filter by language") from None
    found: str = py3langid.classify(words)[0]
    return None if found in config.languages else f"it reads as {found!r}"


def _no_answer(trajectory: Trajectory, config: FilterConfig) -> str | None:
    if not config.require_answer:
        return None
    end = trajectory.response or trajectory.steps[-1:]
    # Any number at the end counts as an answer, and so does a word that is called the answer.
    return None if final_answer("\n".join(end)) is not None else "its end states no answer"


def _no_reference(trajectory: Trajectory, config: FilterConfig) -> str | None:
    known = reference_answer(trajectory) is not None or trajectory.outcome is not None
    return None if known or not config.require_reference else "neither outcome nor reference answer"
