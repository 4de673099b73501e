"""Which field of a row is the question, which the thinking, which the output: never a silent guess.

The tables of ``names`` say what may be what; two fields of one rank that differ are refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from dataclasses import fields as dataclass_fields
from typing import Any

from rfprm_runtime.errors import InvalidTrajectoryError
from rfprm_runtime.ground.arguments import check_is
from rfprm_runtime.traces.layouts import named
from rfprm_runtime.traces.names import MODELS_RESPONSE, MODELS_THINKING, THINKING_FIELDS
from rfprm_runtime.traces.outputs import is_output


@dataclass(frozen=True)
class FieldNames:
    """The fields that a caller named, as ``field`` or ``object.field``; None to look for them."""

    question: str | None = None
    text: str | None = None
    """The model's output, or its response where the thinking has a field of its own."""
    steps: str | None = None
    thinking: str | None = None
    answer: str | None = None
    """The reference answer."""

    def __post_init__(self) -> None:
        for field in dataclass_fields(self):
            value = getattr(self, field.name)
            if value is not None:
                check_is(f"the {field.name} field", value, str, "the name of a field")

    def given_names(self) -> dict[str, str]:
        """Those that were named, as ``text_field`` and so on."""
        return {
            f"{field.name}_field": value
            for field in dataclass_fields(self)
            if (value := getattr(self, field.name)) is not None
        }

    def given(self, part: str, fields: Mapping[str, Any]) -> str | None:
        """The field named for ``part``. Raises :class:`InvalidTrajectoryError` if it is absent."""
        name: str | None = getattr(self, part)
        if name is None:
            return None
        path = named(fields, name)
        if path is None:
            raise InvalidTrajectoryError(
                f"has no field {name!r}, or nothing in it, which was named as the {part} field; it "
                f"has {sorted(fields)}"
            )
        return path


def first_present(
    fields: Mapping[str, Any], names: Iterable[str], *, texts_only: bool = False
) -> str | None:
    """The path of the first of some fields."""
    paths = (named(fields, name) for name in names)
    return next(
        (p for p in paths if p is not None and (not texts_only or isinstance(fields[p], str))), None
    )


def only_one(fields: Mapping[str, Any], names: Iterable[str], part: str) -> str | None:
    """The path of the one field among ``names``; of texts that contain each other the longest.

    Raises :class:`InvalidTrajectoryError` if two of them could be the ``part``.
    """
    paths = [p for name in names if (p := named(fields, name)) and _may_be(part, fields[p])]
    best = max(paths, key=lambda path: len(words_of(fields[path])), default=None)
    for path in paths:
        if best is not None and words_of(fields[path]) not in words_of(fields[best]):
            first, second = (p for p in paths if p in (path, best))
            raise ambiguous(first, second, part)
    return best


def ambiguous(first: str, second: str, part: str) -> InvalidTrajectoryError:
    """Why neither of two fields is read."""
    return InvalidTrajectoryError(
        f"{first!r} and {second!r} could both be the {part}, and they differ; name the right one "
        f"with --{part}-field, in Python with FieldNames({part}={first!r})"
    )


def _may_be(part: str, value: Any) -> bool:
    """Flags and settings may have the name of a text: ``"thinking": true``."""
    if isinstance(value, bool):
        return False
    if isinstance(value, Mapping):
        return part == "question" or (part == "text" and is_output(value))
    return part != "thinking" or isinstance(value, (str, list))


def models_halves(fields: Mapping[str, Any]) -> dict[str, str]:
    """Thinking fields with the response of the same model: ``x_reasoning`` and ``x_attempt``."""
    found = {}
    for path in fields:
        for end in MODELS_THINKING:
            model, separator, _ = path.rpartition(f"_{end}")
            if separator and path == f"{model}_{end}" and path not in THINKING_FIELDS:
                answers = [f"{model}_{word}" for word in MODELS_RESPONSE]
                response = next((name for name in answers if name in fields), None)
                if response is not None:
                    found[path] = response
                break
    return found


def words_of(value: Any) -> str:
    """A text without what its white space looks like, for comparing; other values as they print."""
    return " ".join(value.split()) if isinstance(value, str) else repr(value)
