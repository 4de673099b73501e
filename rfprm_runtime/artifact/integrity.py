"""Checks that an artifact folder holds what its manifest says, whole and unmodified."""

from __future__ import annotations

from pathlib import Path

from rfprm_runtime.artifact.manifest import FileRecord, Manifest
from rfprm_runtime.errors import ArtifactError
from rfprm_runtime.ground.content import sha256_of


def describe_file(path: Path) -> FileRecord:
    """Size and sha256 of a file."""
    return FileRecord(sha256=sha256_of(path), num_bytes=path.stat().st_size)


def check_files(folder: Path, manifest: Manifest, *, digests: bool = True) -> None:
    """Compare every file of the artifact with the manifest; without ``digests`` by size alone.

    Raises :class:`ArtifactError` naming the first file that is missing, truncated or modified.
    """
    for name, expected in manifest.files.items():
        path = folder / name
        if Path(name).name != name:
            raise ArtifactError(f"the manifest names {name!r}, which is not a file of the folder")
        if not path.is_file():
            raise ArtifactError(f"{path} is missing; export the artifact again")
        num_bytes = path.stat().st_size
        if num_bytes != expected.num_bytes:
            raise ArtifactError(
                f"{path} has {num_bytes} bytes, the manifest says {expected.num_bytes}: it was "
                "truncated or replaced; export or copy the artifact again"
            )
        if not digests:
            continue
        digest = sha256_of(path)
        if digest != expected.sha256:
            raise ArtifactError(
                f"{path} has sha256 {digest}, the manifest says {expected.sha256}: it was "
                "modified; export or copy the artifact again"
            )
