"""Helpers for the tests of labelling: an encoder without a model, files of traces."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np


class HashEncoder:
    """Vectors that depend only on a text's words: cheap, and the same everywhere."""

    name = "hash"

    def __init__(self, seconds: float = 0.0) -> None:
        """``seconds``: how long each call takes."""
        self.num_texts = 0
        self._seconds = seconds

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        time.sleep(self._seconds)
        self.num_texts += len(texts)
        out = np.zeros((len(texts), 32), np.float32)
        for row, text in enumerate(texts):
            for word in text.lower().split():
                digest = hashlib.sha256(word.encode()).digest()
                out[row] += np.frombuffer(digest, np.uint8).astype(np.float32) - 127.5
        return out


def trace_lines(count: int, bad_at: int | None = None) -> list[str]:
    """JSON lines of right traces, the one at ``bad_at`` broken."""
    lines = []
    for i in range(count):
        fields = {
            "question": f"What is {i} and two?",
            "steps": [f"We begin with {i}.", f"{i} + 2 = {i + 2}", f"So {i + 2} it is."],
            "response": [f"{i} and two are {i + 2}.", f"The answer is {i + 2}."],
            "answer": str(i + 2),
        }
        lines.append("{broken" if i == bad_at else json.dumps(fields))
    return lines


def write_traces(folder: Path, count: int = 6, bad_at: int | None = None) -> str:
    path = folder / "traces.jsonl"
    path.write_text("\n".join(trace_lines(count, bad_at)) + "\n", encoding="utf-8")
    return str(path)


def main(source: str, output: str) -> None:
    """Labels slowly, so that a test can kill it."""
    from rfprm_training.labelling.config import LabelConfig
    from rfprm_training.labelling.label_file import label_file

    label_file(source, Path(output), LabelConfig(batch_size=2), encoder=HashEncoder(0.03))


if __name__ == "__main__":
    main(*sys.argv[1:])
