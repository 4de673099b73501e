"""What a run's weights depend on, by content: a run is continued only from the same.

Paths do not count: a run whose files moved goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rfprm_export.checkpoint import checkpoint_digest
from rfprm_runtime.ground.content import content_of
from rfprm_runtime.ground.made_from import MadeFrom, without_later
from rfprm_training import TrainingError
from rfprm_training.base_content import base_content
from rfprm_training.learning.config import DataConfig, RewardedDataConfig, TrainingConfig

INPUTS_NAME = "inputs.json"
_FORMAT_VERSION = 1
"""Rises when the code begins to train other weights."""
_DATA_PATHS = ("gold", "model_solutions", "next_steps", "rewarded", "train", "evaluation")
_LATER_OF_REWARDED = {"data.num_folds": 5, "data.held_out_fold": None}
"""Settings that came later, with the value that every run had before."""
_WAY_OUT = "choose another folder, or remove this one to start again"


def inputs_of(config: TrainingConfig, config_folder: Path) -> dict[str, Any]:
    """The config without its paths, and hashes of what they lead to. Reads every file.

    Raises :class:`TrainingError` if the base model is not the one that the config names, and
    :class:`~rfprm_export.ExportError` if it is missing.
    """
    settings = config.model_dump(
        mode="json", exclude={"base": True, "start_from": True, "data": set(_DATA_PATHS)}
    )
    start = config.start_from
    later = _LATER_OF_REWARDED if isinstance(config.data, RewardedDataConfig) else {}
    return {
        "format_version": _FORMAT_VERSION,
        "config": without_later(settings, later),
        "base": base_content(config.base, config_folder),
        "start_from": None if start is None else checkpoint_digest(start),
        "data": {name: content_of(path) for name, path in data_paths(config.data).items()},
    }


def data_paths(data: DataConfig | RewardedDataConfig) -> dict[str, Path]:
    """The files that examples are built from, by the setting that names them."""
    found: dict[str, Path | None]
    if isinstance(data, RewardedDataConfig):
        found = {**_numbered("train", data.train), **_numbered("evaluation", data.evaluation)}
    else:
        found = {
            "gold": data.gold,
            "model_solutions": data.model_solutions,
            "next_steps": data.next_steps,
            **_numbered("rewarded", data.rewarded),
        }
    return {name: path for name, path in found.items() if path is not None}


def _numbered(name: str, paths: Sequence[Path]) -> dict[str, Path]:
    return {f"{name} {index}": path for index, path in enumerate(paths)}


def check_inputs(folder: Path, now: Mapping[str, Any], config: TrainingConfig) -> None:
    """Raises :class:`TrainingError` if ``folder`` holds a run that depends on anything else than
    ``now`` (:func:`inputs_of`, with more or without)."""
    recorded = MadeFrom(folder / INPUTS_NAME)
    if not recorded.is_recorded:
        raise TrainingError(
            f"{folder} holds a run of an earlier version, which did not record what it depends on "
            f"({INPUTS_NAME}); {_WAY_OUT}"
        )
    changed = [c for c in recorded.changes(now) if c.partition(" ")[0].split(".")[0] in now]
    if not changed:
        return
    of_config = [change for change in changed if not change.startswith("data.")]
    if of_config:
        raise TrainingError(
            f"{folder} holds a run of another config: {'; '.join(of_config)}; {_WAY_OUT}"
        )
    paths = data_paths(config.data)
    named = []
    for change in changed:
        setting, _, rest = change.removeprefix("data.").partition(" was ")
        named.append(f"{paths.get(setting, setting)} was {rest}")
    raise TrainingError(
        f"{folder} holds a run on other data: {'; '.join(named)} (sha256); restore the files, "
        f"{_WAY_OUT}"
    )
