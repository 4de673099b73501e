"""The files of a training run: its config, its log, and the state it resumes from."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from rfprm_export.checkpoint import CHECKPOINT_NAME
from rfprm_runtime.ground.whole_files import remove_leftovers, replacing_path, write_whole
from rfprm_runtime.traces.provenance import differences
from rfprm_training import TrainingError
from rfprm_training.learning.config import TrainingConfig, read_config

CONFIG_NAME = "config.toml"
LOG_NAME = "train_log.jsonl"
DATA_NAME = "data.json"
_STATE_NAME = "state.pt"


class RunFolder:
    """One run of one config. Files are replaced whole, so a kill leaves the earlier version."""

    def __init__(self, path: Path, config_path: Path, config: TrainingConfig) -> None:
        """Raises :class:`TrainingError` if ``path`` holds another run or a finished one."""
        self.path = path
        self._digest = config_digest(config)
        path.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path)
        saved = path / CONFIG_NAME
        if not saved.is_file():
            shutil.copyfile(config_path, saved)
        elif read_config(saved) != config:
            raise TrainingError(
                f"{path} holds a run of another config ({saved}); choose another folder, "
                "or remove this one to start again"
            )
        if (path / CHECKPOINT_NAME).is_file():
            raise TrainingError(f"{path} holds a finished run; choose another folder")

    def check_data(self, files: Mapping[str, str]) -> None:
        """Raises :class:`TrainingError` if the run started with other data. ``files`` maps each
        path to its sha256."""
        check_recorded_data(self.path, files)

    @classmethod
    def for_reading(cls, path: Path, config: TrainingConfig) -> RunFolder:
        """The folder for the other processes of a run, which write nothing."""
        run = cls.__new__(cls)
        run.path, run._digest = path, config_digest(config)
        return run

    def write_json(self, name: str, content: Any) -> None:
        write_whole(self.path / name, json.dumps(content, indent=2) + "\n")

    def save_state(self, state: dict[str, Any]) -> None:
        with replacing_path(self.path / _STATE_NAME) as partial:
            torch.save({**state, "config": self._digest}, partial)

    def load_state(self, device: torch.device) -> dict[str, Any] | None:
        """The saved state, or None before the first save. Raises :class:`TrainingError` if it
        belongs to another config."""
        path = self.path / _STATE_NAME
        if not path.is_file():
            return None
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        if state["config"] != self._digest:
            raise TrainingError(f"{path} belongs to another config; remove it to start again")
        return state

    def log(self, record: dict[str, Any]) -> None:
        with (self.path / LOG_NAME).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def forget_log_after(self, step: int) -> None:
        """Drop the log of unsaved steps: they run again, and must not be logged twice."""
        kept = [record for record in read_log(self.path) if record["step"] <= step]
        text = "".join(json.dumps(record) + "\n" for record in kept)
        (self.path / LOG_NAME).write_text(text, encoding="utf-8")


def check_recorded_data(folder: Path, files: Mapping[str, str]) -> None:
    """Raises :class:`TrainingError` if ``folder`` holds a run on other data than ``files``, which
    maps each path to its sha256."""
    path = folder / DATA_NAME
    recorded = json.loads(path.read_text(encoding="utf-8")).get("files") if path.is_file() else None
    changed = differences(recorded, dict(files)) if recorded is not None else []
    if changed:
        raise TrainingError(
            f"{folder} holds a run on other data: {'; '.join(changed)} (sha256); restore the "
            "files, choose another folder, or remove this one to start again"
        )


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


def config_digest(config: TrainingConfig) -> str:
    return hashlib.sha256(config.model_dump_json().encode()).hexdigest()
