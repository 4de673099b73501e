"""What counts as absent in a row: the same in every file format.

JSON omits a field or writes null, tables fill it with None or NaN, CSV leaves it blank.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from rfprm_runtime.ground.arguments import is_nothing


def present(row: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of ``row`` that hold something, arrays as lists."""
    fields = {name: _plain(value) for name, value in row.items()}
    return {name: value for name, value in fields.items() if not is_empty(value)}


def is_empty(value: Any) -> bool:
    """Whether it is nothing, a blank text, or a list or an object without anything in it."""
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, Mapping):
        return all(_is_blank(item) for item in value.values())
    if isinstance(value, (list, tuple)):
        return all(is_nothing(item) for item in value)
    return is_nothing(value)


def are_objects(value: Any) -> bool:
    """Whether it is a list of objects, with at least one."""
    return isinstance(value, list) and bool(value) and all(isinstance(x, Mapping) for x in value)


def first_empty(row: Mapping[str, Any], names: Collection[str]) -> str | None:
    """The first of some fields that the row has, with nothing in it."""
    return next((name for name in row if name in names and is_empty(_plain(row[name]))), None)


def _is_blank(value: Any) -> bool:
    return is_nothing(value) or value in ("", [], {})


def _plain(value: Any) -> Any:
    """Arrays and scalars of numpy, which pandas puts into rows, as lists and numbers."""
    return value.tolist() if hasattr(value, "tolist") else value
