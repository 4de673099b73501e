"""What a base model holds, as one hash: what is trained on it or sampled from it depends on that,
not on its path or name."""

from __future__ import annotations

from pathlib import Path

from rfprm_export.named_base import FolderBase, GgufBase, base_of_config
from rfprm_runtime.ground.content import content_of
from rfprm_training import TrainingError


def base_content(base: GgufBase | FolderBase, folder: Path) -> str | None:
    """The hash of the base model's files; a relative path is relative to ``folder``.

    Reading them costs a second for 0.5 to 2 GB, once per process. Raises :class:`TrainingError` if
    the config names another sha256, and :class:`~rfprm_export.ExportError` if the model is missing.
    """
    path = base_of_config(base, folder)
    found = content_of(path)
    if isinstance(base, GgufBase) and found != base.sha256:
        raise TrainingError(
            f"{path} has sha256 {found}, but the config names {base.sha256}; correct the config, "
            f"or {base.way_out}"
        )
    return found
