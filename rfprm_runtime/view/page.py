"""One HTML file of scored traces, assembled here and rendered by its script.

No text of a trace is ever part of the markup. All of it sits in one JSON block without a ``<`` that
could end the block, and the script inserts it as text. A content security policy lets the browser
run that one script, by its hash, and load nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

from rfprm_runtime.ground.tint import Scale, three
from rfprm_runtime.view.scored_rows import ScoredTrace

FOLDER = Path(__file__).parent
STYLES = ("page.css", "trace.css")
SCRIPTS = ("trace.js", "columns.js", "page.js")
# < could end the block, and not every JSON parser accepts U+2028 and U+2029 in a string.
_ESCAPED = re.compile("[<>&\u2028\u2029]")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class PlacedTrace:
    """A trace and its place: the index of its file, and its row from 1."""

    file: int
    row: int
    trace: ScoredTrace


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be shown, and why."""

    place: str
    reason: str


@dataclass(frozen=True)
class PageContent:
    """Everything a page shows."""

    files: Sequence[str]
    traces: Sequence[PlacedTrace]
    bad_rows: Sequence[BadRow] = ()
    num_bad_rows: int = 0
    notes: Sequence[str] = ()
    """What the reader should know, such as rows that were left out."""


def page_html(content: PageContent) -> Iterator[str]:
    """The page in pieces, one for each trace, because the whole may be large."""
    scale = _scale(content.traces)
    style = "\n".join(_read(name) for name in STYLES)
    script = "\n".join(_read(name) for name in SCRIPTS)
    parts = {
        "title": escape(_encodable(", ".join(content.files))),
        "style": style,
        "style_hash": _hash(style),
        "script": script,
        "script_hash": _hash(script),
        **_legend(scale),
    }
    before, after = _read("page.html").split("{{data}}")
    # In one pass, so that an inserted text that looks like a placeholder stays as it is.
    yield re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], before)
    yield from data_block(content)
    yield re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], after)


def _scale(traces: Sequence[PlacedTrace]) -> Scale:
    """Of all scores on the page that have a colour."""
    shown = (placed.trace for placed in traces)
    scores = ((*trace.step_scores, trace.trajectory_score) for trace in shown)
    return Scale.of(score for of_trace in scores for score in of_trace)


def _legend(scale: Scale) -> dict[str, str]:
    """The texts beside the colours: their ends in the header, and what they are in full."""
    if scale.is_of_probabilities:
        return {"low": "score 0", "high": "1", "legend": "Scores go from 0, orange, to 1, blue"}
    low, high = three(scale.low), three(scale.high)
    return {
        "low": f"lowest {low}",
        "high": f"highest {high}",
        "legend": "Not all scores lie between 0 and 1: colours go from the lowest score shown, "
        f"{low}, orange, to the highest, {high}, blue",
    }


def data_block(content: PageContent) -> Iterator[str]:
    """The content as JSON that is safe inside a ``<script>`` element and valid UTF-8."""
    scale = _scale(content.traces)
    about = {
        "files": content.files,
        "scale": [scale.low, scale.high],
        "notes": content.notes,
        "num_bad_rows": content.num_bad_rows,
        "bad_rows": [asdict(row) for row in content.bad_rows],
    }
    yield _json(about).removesuffix("}") + ',"traces":['
    for number, placed in enumerate(content.traces):
        comma = "," if number else ""
        yield comma + _json({"file": placed.file, "row": placed.row, **vars(placed.trace)})
    yield "]}"


def _json(value: dict[str, Any]) -> str:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return _ESCAPED.sub(lambda match: f"\\u{ord(match[0]):04x}", _encodable(text, r"\\"))


def _encodable(text: str, backslash: str = "\\") -> str:
    """``text`` with lone surrogates spelled as ``\\ud800``. JSON and file names can hold them, but
    UTF-8 cannot, and browsers fail on them in unexpected places."""
    return _LONE_SURROGATE.sub(lambda match: f"{backslash}u{ord(match[0]):04x}", text)


def _read(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
