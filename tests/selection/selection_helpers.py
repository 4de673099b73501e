"""Shared by the selection tests: traces, files of traces, and a scorer that keeps a log."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rfprm_runtime import Scorer
from tiny_models import fake_scorer


def traces(count: int) -> list[dict[str, Any]]:
    """Rows with different questions, lengths and sources."""
    return [
        {
            "id": index,
            "question": f"What is {index} + 1?",
            "completion": f"<think>I add.\n\n{'So ' * (index % 7)}it is {index}.</think>{index}",
            "source": ("web", "book", "exam")[index % 3],
            "nested": {"tags": ["a", None], "n": index / 3},
        }
        for index in range(count)
    ]


def write_jsonl(path: Path, rows: Iterable[Any]) -> Path:
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def logging_scorer(log: Path, *, seconds_per_trace: float = 0.0) -> Scorer:
    """A scorer without a model that logs the question of every trace it scores."""
    scorer = fake_scorer()
    score_batch = scorer.score_batch

    def logged(trajectories: Any, **options: Any) -> Any:
        trajectories = list(trajectories)
        for trajectory in trajectories:
            time.sleep(seconds_per_trace)
            with log.open("a", encoding="utf-8") as file:
                file.write(trajectory.question + "\n")
        return score_batch(trajectories, **options)

    scorer.score_batch = logged  # type: ignore[assignment,method-assign]
    return scorer


def main(source: str, output: str, log: str) -> None:
    """A slow selection, to be killed."""
    from rfprm_runtime.selection import Scoring, Selection, select_traces

    with logging_scorer(Path(log), seconds_per_trace=0.02) as scorer:
        select_traces(scorer, source, output, Selection(top=20), scoring=Scoring(shard_rows=8))


if __name__ == "__main__":
    import sys

    main(*sys.argv[1:])
