"""Results that an experiment keeps in a folder, and the rule that they are all made alike."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rfprm_runtime.ground.made_from import MadeFrom


def check_made_alike(folder: Path, now: Mapping[str, Any]) -> None:
    """Record what the results in ``folder`` are made from. Raises :class:`SystemExit` if those that
    it holds were made from anything else."""
    folder.mkdir(parents=True, exist_ok=True)
    made_from = MadeFrom(folder / "made_from.json")
    if made_from.is_recorded and (changed := made_from.changes(now)):
        raise SystemExit(
            f"{folder} holds results made otherwise: {'; '.join(changed)}; choose another -o"
        )
    made_from.record(now)
