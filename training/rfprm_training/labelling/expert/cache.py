"""Keeps an LLM's answers on disk, so that nothing is asked twice, even after a kill."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rfprm_runtime.ground.whole_files import told_what_to_do
from rfprm_training import TrainingError


@dataclass(frozen=True)
class Answer:
    """A server's answer and its token counts."""

    text: str
    prompt_tokens: int
    answer_tokens: int
    cached_tokens: int = 0
    """Those of the prompt that the server had kept from an earlier request; not known any more for
    an answer from this cache."""


class AnswerCache:
    """One SQLite file; every answer is on disk before it is returned.

    Several processes may use one file. Raises :class:`TrainingError` for another kind of file.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        try:
            self._database = sqlite3.connect(path, timeout=60)
            # WAL: readers do not wait for a writer. FULL: an answer survives a power cut.
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=FULL")
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, model TEXT, prompt TEXT,"
                " text TEXT, prompt_tokens INTEGER, answer_tokens INTEGER)"
            )
            self._database.commit()
        except sqlite3.DatabaseError as error:
            raise TrainingError(
                f"{path} is not an answer cache ({error}); remove it or choose another file"
            ) from None

    def get(self, key: str) -> Answer | None:
        row = self._database.execute(
            "SELECT text, prompt_tokens, answer_tokens FROM answers WHERE key = ?", (key,)
        ).fetchone()
        return None if row is None else Answer(*row)

    def put(self, key: str, model: str, prompt: str, answer: Answer) -> None:
        with told_what_to_do(self.path):
            self._database.execute(
                "INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?, ?)",
                (key, model, prompt, answer.text, answer.prompt_tokens, answer.answer_tokens),
            )
            self._database.commit()

    def __len__(self) -> int:
        (count,) = self._database.execute("SELECT COUNT(*) FROM answers").fetchone()
        return int(count)

    def close(self) -> None:
        self._database.close()


def request_key(model: str, prompt_id: str, request: dict[str, Any]) -> str:
    """A hash of everything the answer depends on: model, prompt version, messages, settings."""
    content = json.dumps([model, prompt_id, request], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()
