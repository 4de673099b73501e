"""Checks that an artifact folder holds what its manifest says, whole and unmodified."""

from __future__ import annotations

from pathlib import Path

from rfprm_runtime.artifact.manifest import FileRecord, Manifest
from rfprm_runtime.errors import ArtifactError
from rfprm_runtime.ground.content import sha256_of
from rfprm_runtime.ground.names import file_in


def describe_file(path: Path) -> FileRecord:
    """Size and sha256 of a file."""
    return FileRecord(sha256=sha256_of(path), num_bytes=path.stat().st_size)


def check_files(folder: Path, manifest: Manifest, *, digests: bool = True) -> None:
    """Compare every file of the artifact with the manifest; without ``digests`` by size alone.

    Raises :class:`ArtifactError` naming the first file that is missing, truncated or modified.
    """
    for name, expected in manifest.files.items():
        check_file(folder, name, expected, digest=digests)


def check_file(folder: Path, name: str, expected: FileRecord, *, digest: bool = True) -> None:
    """Compare one file with its record; without ``digest`` by size alone.

    Raises :class:`ArtifactError` if it is missing, truncated or modified.
    """
    path = place_of(folder, name)
    check_size(path, path.stat().st_size, expected)
    if digest:
        check_digest(path, sha256_of(path), expected)


def place_of(folder: Path, name: str) -> Path:
    """Where a file of an artifact is. Raises :class:`ArtifactError` if it is not in the folder."""
    return file_in(folder, name, refusal=ArtifactError, way_out="export or copy the artifact again")


def check_size(path: Path, num_bytes: int, expected: FileRecord) -> None:
    """Raises :class:`ArtifactError` if a file of ``num_bytes`` is not the ``expected`` one."""
    if num_bytes != expected.num_bytes:
        raise ArtifactError(
            f"{path} has {num_bytes} bytes, the manifest says {expected.num_bytes}: it was "
            "truncated or replaced; export or copy the artifact again"
        )


def check_digest(path: Path, digest: str, expected: FileRecord) -> None:
    """Raises :class:`ArtifactError` if a file with ``digest`` is not the ``expected`` one."""
    if digest != expected.sha256:
        raise ArtifactError(
            f"{path} has sha256 {digest}, the manifest says {expected.sha256}: it was "
            "modified; export or copy the artifact again"
        )
