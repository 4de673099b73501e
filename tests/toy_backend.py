"""A backend of somebody's own, for a row of the table."""

from __future__ import annotations

from typing import Any

from rfprm_runtime.artifact.contents import ModelFile
from rfprm_runtime.artifact.manifest import Manifest
from rfprm_runtime.backends.fake import FakeBackend


class ToyBackend(FakeBackend):
    """Reads its file and makes logits up."""

    description = "toy"

    def __init__(self, file: ModelFile, manifest: Manifest, *, colour: str = "red") -> None:
        super().__init__(manifest.head.num_labels)
        self.content, self.colour = file.read().tobytes().decode(), colour


class BrokenToyBackend(ToyBackend):
    """Fails inside with the words that Python has for an unknown argument."""

    def __init__(self, file: ModelFile, manifest: Manifest, *, colour: str = "red") -> None:
        def paint() -> None:
            pass

        super().__init__(file, manifest, colour=colour)
        options: dict[str, Any] = {"colour": colour}
        paint(**options)
