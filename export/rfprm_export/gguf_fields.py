"""The metadata of a GGUF file, each field of the type that it must have. Knows no models."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from rfprm_export import ExportError
from rfprm_export.gguf_file import GgufFile
from rfprm_runtime.ground.arguments import shown

Item = TypeVar("Item", int, float, str)


class GgufFields:
    """``{arch}`` in a name stands for the architecture. Whatever is not as expected raises
    :class:`ExportError`."""

    def __init__(self, path: Path, file: GgufFile) -> None:
        self.path, self._content = path, file.fields
        self.architecture = self.text("general.architecture")

    def __contains__(self, name: str) -> bool:
        return self._full(name) in self._content

    def whole(self, name: str, default: int | None = None) -> int:
        return int(self._get(name, (int,), "a whole number", default))

    def number(self, name: str, default: float | None = None) -> float:
        return float(self._get(name, (int, float), "a number", default))

    def text(self, name: str, default: str | None = None) -> str:
        return str(self._get(name, (str,), "a text", default))

    def flag(self, name: str, default: bool) -> bool:
        value = self._content.get(self._full(name), default)
        if not isinstance(value, bool):
            raise ExportError(f"{self.path} has {name!r} {shown(value)}, expected true or false")
        return value

    def list_of(self, name: str, kind: type[Item]) -> list[Item]:
        found: list[Item] = self._get(name, (list,), "a list", None)
        if not all(isinstance(item, kind) for item in found):
            raise ExportError(f"{self.path} has {name!r} with other items than {kind.__name__}")
        return found

    def _full(self, name: str) -> str:
        return name.replace("{arch}", self.architecture) if "{arch}" in name else name

    def _get(self, name: str, kinds: tuple[type, ...], expected: str, default: Any) -> Any:
        name = self._full(name)
        value = self._content.get(name, default)
        if value is None:
            raise ExportError(f"{self.path} has no metadata field {name!r}")
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise ExportError(f"{self.path} has {name!r} {shown(value)}, expected {expected}")
        return value
