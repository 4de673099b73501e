"""How what a result was made from differs from what is there now."""

from __future__ import annotations

from typing import Any


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Every value that changed, for an error: ``input.sha256 was …, is …``."""
    before, now = _flat(old), _flat(new)
    return [
        f"{name} was {before.get(name)}, is {now.get(name)}"
        for name in {**before, **now}
        if before.get(name) != now.get(name)
    ]


def _flat(content: dict[str, Any], path: str = "") -> dict[str, Any]:
    """``{"input": {"sha256": …}}`` as ``{"input.sha256": …}``."""
    flat: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{path}{name}."))
        else:
            flat[path + name] = value
    return flat
