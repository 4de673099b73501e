"""Traces in JSONL files: one JSON object a line, one trajectory each.

Knows files; what fields mean is in ``formats``. A bad line becomes an error with its number and
never stops the rest.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rfprm_runtime.errors import InvalidTrajectoryError
from rfprm_runtime.formats import trajectory_from_fields
from rfprm_runtime.parsing import SplitRule
from rfprm_runtime.types import Trajectory

_JSON_KINDS = {list: "array", str: "string", bool: "boolean", type(None): "null"}


@dataclass(frozen=True)
class Line:
    """One line of a file: the fields it held and the trajectory, or what was wrong with it."""

    number: int  # from 1
    fields: dict[str, Any] | None
    trajectory: Trajectory | InvalidTrajectoryError


def read_lines(path: Path, *, split: SplitRule = "blank_lines") -> Iterator[Line]:
    """Every line of a JSONL file that is not blank, lazily.

    Raises ``OSError`` where the file cannot be opened.
    """
    with path.open("rb") as file:
        for number, content in enumerate(file, start=1):
            if content.strip():
                yield _read_line(number, content, split)


def _read_line(number: int, content: bytes, split: SplitRule) -> Line:
    fields: dict[str, Any] | None = None
    try:
        fields = parse_object(content)
        return Line(number, fields, trajectory_from_fields(fields, split=split))
    except InvalidTrajectoryError as error:
        return Line(number, fields, error)


def parse_object(content: bytes) -> dict[str, Any]:
    """The fields of a line. Raises :class:`InvalidTrajectoryError` where it has none."""
    if content.startswith(b"\x1f\x8b"):
        raise InvalidTrajectoryError("compressed by gzip; unpack the file first")
    try:
        # Without its line end: what is cut off would else be missed on a line 2 that is not there.
        fields = json.loads(content.rstrip(b"\r\n").decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InvalidTrajectoryError(
            f"not UTF-8: byte {content[error.start]:#04x} at column {error.start}; save the file "
            "as UTF-8"
        ) from None
    except json.JSONDecodeError as error:
        raise InvalidTrajectoryError(f"not JSON: {error.msg}, column {error.colno}") from None
    except (ValueError, RecursionError) as error:
        raise InvalidTrajectoryError(f"not JSON that can be read: {error}") from None
    if not isinstance(fields, dict):
        kind = _JSON_KINDS.get(type(fields), "number")
        raise InvalidTrajectoryError(
            f"a JSON {kind}, expected an object with a question and its steps"
        )
    return fields


def read_trajectories(path: Path, *, split: SplitRule = "blank_lines") -> list[Trajectory]:
    """All trajectories of a file. Raises :class:`InvalidTrajectoryError` at the first bad line."""
    trajectories = []
    for line in read_lines(path, split=split):
        if isinstance(line.trajectory, InvalidTrajectoryError):
            raise InvalidTrajectoryError(f"{path.name}, line {line.number}: {line.trajectory}")
        trajectories.append(line.trajectory)
    return trajectories


def json_line(fields: dict[str, Any]) -> str:
    """The line of a JSONL file for ``fields``, its line end included; text stays readable.

    NaN and infinite numbers, which Python reads and JSON does not know, become null: a line with
    one of them in it is lost to most other readers, with all its fields.
    """
    try:
        text = json.dumps(fields, ensure_ascii=False, allow_nan=False)
    except ValueError:
        fields = _without_odd_numbers(fields)
        text = json.dumps(fields, ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate, which JSON can escape and UTF-8 cannot hold
        text = json.dumps(fields, allow_nan=False)
    return text + "\n"


def _without_odd_numbers(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _without_odd_numbers(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_odd_numbers(item) for item in value]
    return value


def example_traces_path() -> Path:
    """Reasoning traces that come with the package, right ones and wrong ones."""
    return Path(__file__).parent / "data" / "examples.jsonl"
