"""The files of a training run: its config, its log, and the state it resumes from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from rfprm_export.checkpoint import CHECKPOINT_NAME
from rfprm_runtime.ground.claims import claimed_folder
from rfprm_runtime.ground.made_from import MadeFrom
from rfprm_runtime.ground.whole_files import (
    remove_leftovers,
    replacing_path,
    told_what_to_do,
    write_whole,
)
from rfprm_training import TrainingError
from rfprm_training.learning.config import TrainingConfig, read_config
from rfprm_training.learning.run_inputs import INPUTS_NAME, check_inputs

CONFIG_NAME = "config.toml"
LOG_NAME = "train_log.jsonl"
DATA_NAME = "data.json"
_STATE_NAME = "state.pt"


class FinishedRunError(TrainingError):
    """The folder holds a run of the same inputs that has ended."""


class RunFolder:
    """One run of one config. Files are replaced whole, so a kill leaves the earlier version."""

    def __init__(
        self, path: Path, config_path: Path, config: TrainingConfig, inputs: Mapping[str, Any]
    ) -> None:
        """``inputs``: what the weights depend on (:func:`.run_inputs.inputs_of`).

        Raises :class:`TrainingError` if ``path`` holds another run, :class:`FinishedRunError` if it
        holds a finished one, and ``OutputError`` if another process is at it.
        """
        self.path = path
        self._digest = _digest(inputs)
        self._config_path, self._config, self._inputs = config_path, config, inputs
        path.mkdir(parents=True, exist_ok=True)
        with self.claimed():
            remove_leftovers(path)
            self._check()
        if self._is_finished():
            raise FinishedRunError(f"{path} holds a finished run; choose another folder")

    def claimed(self) -> AbstractContextManager[None]:
        """Keep other processes from writing to the folder during the block."""
        return claimed_folder(self.path, "wait for it, or choose another folder for this run")

    def record(self) -> None:
        """Write down what the run depends on, once all of it was read without an error."""
        recorded, saved = MadeFrom(self.path / INPUTS_NAME), self.path / CONFIG_NAME
        with self.claimed():
            if not recorded.is_recorded:
                recorded.record(self._inputs)
            if (
                not saved.is_file() or read_config(saved) != self._config
            ):  # its files may have moved
                write_whole(saved, self._config_path.read_text(encoding="utf-8"))

    def _check(self) -> None:
        begun = (self.path / name for name in (INPUTS_NAME, _STATE_NAME, CHECKPOINT_NAME))
        if any(path.is_file() for path in begun):
            check_inputs(self.path, self._inputs, self._config)

    def _is_finished(self) -> bool:
        return (self.path / CHECKPOINT_NAME).is_file()

    @classmethod
    def for_reading(cls, path: Path, inputs: Mapping[str, Any]) -> RunFolder:
        """The folder for the other processes of a run, which write nothing."""
        run = cls.__new__(cls)
        run.path, run._digest = path, _digest(inputs)
        return run

    def write_json(self, name: str, content: Any) -> None:
        write_whole(self.path / name, json.dumps(content, indent=2) + "\n")

    def save_state(self, state: dict[str, Any]) -> None:
        with replacing_path(self.path / _STATE_NAME) as partial:
            _save({**state, "inputs": self._digest}, partial)

    def load_state(self, device: torch.device) -> dict[str, Any] | None:
        """The saved state, or None before the first save. Raises :class:`TrainingError` if it
        belongs to another run."""
        path = self.path / _STATE_NAME
        if not path.is_file():
            return None
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        if state.get("inputs") != self._digest:
            raise TrainingError(
                f"{path} belongs to a run of another config or other data; remove it to start again"
            )
        return state

    def log(self, record: dict[str, Any]) -> None:
        path = self.path / LOG_NAME
        with told_what_to_do(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def forget_log_after(self, step: int) -> None:
        """Drop the log of unsaved steps: they run again, and must not be logged twice."""
        kept = [record for record in read_log(self.path) if record["step"] <= step]
        write_whole(self.path / LOG_NAME, "".join(json.dumps(record) + "\n" for record in kept))


def _save(state: dict[str, Any], path: Path) -> None:
    # torch opens paths itself, and would say in its own words that the disk is full.
    with path.open("wb") as file:
        torch.save(state, file)


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The entries of a run's log, without a line that a kill cut off."""
    path = folder / LOG_NAME
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


def _digest(inputs: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
