"""Cuts the segments of a prompt into what a tokenizer encodes as one string each.

Texts are strings of their own, except where a template says that it is encoded together with its
neighbours. A marker always ends a string, so its place is known by construction.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from tokenizers import Tokenizer

from rfprm_runtime.artifact.prompt_format import Joins, Marker, Prompt, Template
from rfprm_runtime.prompt.rendering import MarkerSegment, Segment, UserText


@dataclass
class Run:
    """A text that is encoded as one string."""

    text: str = ""
    texts: list[UserText] = field(default_factory=list)
    """What of it is not the template's, for errors."""
    begins: list[int] = field(default_factory=list)
    """The characters at which steps begin, in order."""
    end: int | None = None
    """The character after the last step that ends here."""
    own: tuple[int, int] | None = None
    """Where the first of the texts begins and the last one ends."""

    def add(self, segment: UserText) -> None:
        begin = len(self.text)
        self.text += segment.text
        self.texts.append(segment)
        self.own = (begin if self.own is None else self.own[0], len(self.text))
        if segment.step is not None:
            self.begins.append(begin)
            self.end = len(self.text)

    def stripped(self) -> Run:
        """Without the white space around its texts; what the template has around them stays."""
        if self.own is None:
            return self
        begin, end = self.own
        inner = self.text[begin:end].strip()
        num_dropped = len(self.text[begin:end]) - len(self.text[begin:end].lstrip())
        last = begin + len(inner)

        def moved(place: int) -> int:
            return min(max(begin, place - num_dropped), last)

        return Run(
            self.text[:begin] + inner + self.text[end:],
            self.texts,
            [moved(place) for place in self.begins],
            None if self.end is None else moved(self.end),
            (begin, last),
        )

    @property
    def has_inner_bounds(self) -> bool:
        """Whether a step begins or ends inside of it."""
        begins_inside = any(self.begins) or len(self.begins) > 1
        return begins_inside or self.end not in (None, len(self.text))


@dataclass(frozen=True)
class Fixed:
    """Ids that no text can change; with a marker, a score is read at the last of them."""

    ids: tuple[int, ...]
    marker: Marker | None = None
    step: int | None = None


@dataclass(frozen=True)
class _Parts:
    """A template that is encoded with its neighbours: text, special tokens, text."""

    before: str
    ids: tuple[int, ...]
    after: str
    has_ids: bool


class Cutter:
    """Cuts segments by the joins of one prompt's templates. Thread-safe."""

    def __init__(self, prompt: Prompt, tokenizer: Tokenizer) -> None:
        """``tokenizer``: one that still reads special tokens in text."""
        special = special_tokens(tokenizer)
        self._strips = prompt.strips
        self._parts: dict[tuple[str, Joins], _Parts] = {
            (template.text, template.joins): _parts(template, tokenizer, special)
            for template in prompt.templates()
            if template.joins != "none"
        }

    def cut(self, segments: Iterable[Segment]) -> tuple[list[Run | Fixed], bool]:
        """The strings and ids in order, and whether the last of them is a string that would go on
        with whatever text came next."""
        items: list[Run | Fixed] = []
        is_open = False  # the last item is a run, and what comes next belongs to it
        for segment in segments:
            if isinstance(segment, UserText):
                if not is_open:
                    items.append(Run())
                _last_run(items).add(segment)
                is_open = False
            elif isinstance(segment, MarkerSegment):
                items.append(Fixed(segment.marker.all_ids, segment.marker, segment.step))
                is_open = False
            elif segment.joins == "none":
                items.append(Fixed(segment.ids or ()))
                is_open = False
            else:
                is_open = self._add_joined(items, segment, is_open)
        if self._strips:
            items = [item.stripped() if isinstance(item, Run) else item for item in items]
        return items, is_open

    def _add_joined(self, items: list[Run | Fixed], template: Template, is_open: bool) -> bool:
        parts = self._parts[template.text, template.joins]
        follows_text = bool(items) and isinstance(items[-1], Run)
        joins_before = follows_text and (is_open or template.joins in ("before", "both"))
        joins_after = template.joins in ("after", "both")
        if joins_before:
            _last_run(items).text += parts.before
        elif parts.before or not parts.has_ids:
            items.append(Run(parts.before))
        if not parts.has_ids:
            return joins_after
        items.append(Fixed(parts.ids))
        if parts.after:
            items.append(Run(parts.after))
        return joins_after and bool(parts.after)


def _last_run(items: list[Run | Fixed]) -> Run:
    last = items[-1]
    assert isinstance(last, Run)
    return last


def special_tokens(tokenizer: Tokenizer) -> re.Pattern[str] | None:
    """Finds them in a text; None if the tokenizer has none."""
    added = tokenizer.get_added_tokens_decoder().values()
    contents = sorted((token.content for token in added if token.special), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, contents))) if contents else None


def _parts(template: Template, tokenizer: Tokenizer, special: re.Pattern[str] | None) -> _Parts:
    found = list(special.finditer(template.text)) if special is not None else []
    if not found:
        return _Parts(template.text, (), "", has_ids=False)
    begin = found[0].start() if template.joins in ("before", "both") else 0
    end = found[-1].end() if template.joins in ("after", "both") else len(template.text)
    ids = tokenizer.encode(template.text[begin:end], add_special_tokens=False).ids
    return _Parts(template.text[:begin], tuple(ids), template.text[end:], has_ids=True)
