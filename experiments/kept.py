"""What an experiment keeps in its folder, the rule that all of it is made alike, and where the
result goes."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.report import write_json
from experiments import RESULTS
from rfprm_runtime.ground.made_from import MadeFrom
from rfprm_runtime.ground.whole_files import write_whole


def add_result_options(parser: argparse.ArgumentParser, name: str, folder: str = "") -> None:
    """``folder``: below ``runs``, by default with the same ``name``."""
    default = Path("runs") / (folder or name)
    add = parser.add_argument
    add("-o", "--output", type=Path, default=default, help="folder of the work (%(default)s)")
    add("--name", default=name, help="of the JSON that is written (%(default)s)")
    add("--keep", action="store_true", help=f"write it to {RESULTS}, not to the folder of the work")


def write_result(options: argparse.Namespace, measured: dict[str, Any]) -> Path:
    """Write where the options of :func:`add_result_options` say."""
    return write_json(options.name, measured, RESULTS if options.keep else options.output)


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
