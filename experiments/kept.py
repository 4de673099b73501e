"""Results that an experiment keeps in a folder, and the rule that they are all made alike."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from rfprm_runtime.ground.made_from import MadeFrom
from rfprm_runtime.ground.whole_files import write_whole


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


def kept_runs(
    folder: Path, arms: Iterable[str], seeds: Iterable[int], make: Callable[[str, int], Any]
) -> dict[str, dict[str, Any]]:
    """What ``make(arm, seed)`` gives, JSON, by arm and seed. Results that ``folder`` holds are not
    made again; all arms of a seed come before the next seed."""
    arms, found = list(arms), dict[str, dict[str, Any]]()
    for seed in seeds:
        for arm in arms:
            path = folder / f"{slug(arm)}-{seed}.json"
            if not path.is_file():
                print(f"{arm}, seed {seed}", flush=True)
                write_whole(path, json.dumps(make(arm, seed)) + "\n")
            found.setdefault(arm, {})[str(seed)] = json.loads(path.read_text(encoding="utf-8"))
    return found


def slug(arm: str) -> str:
    """An arm's name in the names of files."""
    return "-".join("".join(c if c.isalnum() else " " for c in arm).split())
