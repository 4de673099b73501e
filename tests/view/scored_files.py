"""Scored files for the tests in this folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HOSTILE_STEPS = [
    "</script><script>document.title = 'it ran'</script>",
    "<!-- <script> ]]>",
    "<img src=x onerror=\"document.title = 'it ran'\"><b>bold</b> &amp; &",
    "two\u2028lines\u2029here",
    "👩‍🔬 7 × 8 = 56 🎉",
    "שלום עולם 5 + 3",
    "{{data}} {{script}} ${data} \\g<0> \\u003c",
    '"quoted" \\ and \t\r\n controls \x01\x7f',
]


def row(num_steps: int = 2, **fields: Any) -> dict[str, Any]:
    """A row as ``rfprm score`` writes it."""
    steps = [f"step number {index}" for index in range(num_steps)]
    return {"question": "What is 2 + 2?", "steps": steps, **scores_of(steps), **fields}


def scores_of(steps: list[str]) -> dict[str, Any]:
    values = [1 - index / len(steps) for index in range(len(steps))]
    reward = sum(values) / len(values) + 0.25
    return {"step_scores": values, "trajectory_score": 0.25, "reward": reward}


def hostile_row() -> dict[str, Any]:
    texts = {
        "question": HOSTILE_STEPS[0],
        "steps": HOSTILE_STEPS,
        "response": HOSTILE_STEPS,
        "source": HOSTILE_STEPS[0],
    }
    return {**texts, **scores_of(HOSTILE_STEPS), HOSTILE_STEPS[0]: "half a pair: \ud800"}


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
