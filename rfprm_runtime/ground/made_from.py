"""What a result is made from, recorded beside it: work that a stop interrupted is continued only
from the same.

The rule for everything that keeps work between runs: what it depends on is written down before the
first result, by content and never by path, count or time. It covers every input's bytes
(:mod:`.content`), the settings that change results, and a format version, which rises when the
code begins to give other results. What differs is named, and refused or done again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rfprm_runtime.ground.whole_files import write_whole


@dataclass(frozen=True)
class MadeFrom:
    """The JSON file at ``path`` that says what the results beside it are made from."""

    path: Path

    @property
    def is_recorded(self) -> bool:
        return self.path.is_file()

    def record(self, now: Mapping[str, Any]) -> None:
        write_whole(self.path, json.dumps(now, indent=2, ensure_ascii=False) + "\n")

    def recorded(self) -> dict[str, Any] | None:
        """None if the file is damaged. Raises :class:`OSError` if it cannot be read."""
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            return None
        return found if isinstance(found, dict) else None

    def changes(self, now: Mapping[str, Any]) -> list[str]:
        """Every value that differs, for an error: ``input.sha256 was …, is …``."""
        found = self.recorded()
        if found is None:
            return [f"{self.path.name} is damaged"]
        return differences(found, json.loads(json.dumps(now)))  # as it is read back


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Every value that changed, for an error: ``input.sha256 was …, is …``."""
    before, now = _flat(old), _flat(new)
    return [
        f"{name} was {before.get(name)}, is {now.get(name)}"
        for name in {**before, **now}
        if before.get(name) != now.get(name)
    ]


def without_later(settings: Mapping[str, Any], later: Mapping[str, Any]) -> dict[str, Any]:
    """``settings`` as versions before ``later`` recorded them, so that work begun with those goes
    on: settings that came later, ``steps.pairing``, are left out while they have the value, given
    in ``later``, that everything had before."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            inside = {
                path.partition(".")[2]: first
                for path, first in later.items()
                if path.startswith(f"{name}.")
            }
            found[name] = without_later(value, inside)
        elif name not in later or value != later[name]:
            found[name] = value
    return found


def _flat(content: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """``{"input": {"sha256": …}}`` as ``{"input.sha256": …}``."""
    flat: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{path}{name}."))
        else:
            flat[path + name] = value
    return flat
