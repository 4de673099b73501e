"""The PRM that comes with the package: its checkpoint, and its artifact, built once."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from rfprm_export import ExportError
from rfprm_export.artifact_writer import export_artifact
from rfprm_export.checkpoint import is_export_of
from rfprm_export.choices import Precision
from rfprm_runtime.artifact.integrity import check_files
from rfprm_runtime.artifact.manifest import MANIFEST_NAME, NATIVE_NAME, read_manifest
from rfprm_runtime.backends.native.library import available_variants
from rfprm_runtime.errors import ArtifactError
from rfprm_runtime.ground.progress import Progress, silent

SHIPPED_NAME = "smollm2-135m-gsm8k"
_UsualPrecision = Literal["fp32", "int16"]


def shipped_checkpoint() -> Path:
    """The checkpoint's folder, in an installed wheel or a checkout."""
    package = Path(__file__).resolve().parent
    for models in (package / "models", package.parent.parent / "models"):
        if (models / SHIPPED_NAME).is_dir():
            return models / SHIPPED_NAME
    raise ExportError(f"the shipped checkpoint {SHIPPED_NAME} is not part of this installation")


def best_precision() -> _UsualPrecision:
    """The faster of int16 and fp32 on this processor, as far as it was measured: int16 from AVX2
    on; fp32 on ARM, where only instructions were counted, and without SIMD."""
    return "int16" if {"avx2", "avxvnni", "avx512vnni"} & {*available_variants()} else "fp32"


def ensure_artifact(
    artifact: Path,
    *,
    precision: Precision | None = None,
    base: str | Path | None = None,
    progress: Progress = silent,
) -> bool:
    """Export the shipped checkpoint to ``artifact``, unless it is there, whole and up to date.

    ``precision`` is :func:`best_precision` by default. Returns whether it was built. Raises
    :class:`ExportError` if ``artifact`` holds something else, which is left alone.
    """
    checkpoint = shipped_checkpoint()
    precision = precision or best_precision()
    if _is_current(artifact, checkpoint, precision):
        return False
    if artifact.exists() and not _is_ours(artifact):
        raise ExportError(
            f"{artifact} exists, but 'rfprm demo' did not make it from {SHIPPED_NAME}; choose "
            "another folder with --artifact"
        )
    export_artifact(
        checkpoint, artifact, precision=precision, base=base, overwrite=True, progress=progress
    )
    return True


def _is_current(artifact: Path, checkpoint: Path, precision: Precision) -> bool:
    try:
        manifest = read_manifest(artifact)
        check_files(artifact, manifest)
    except ArtifactError:
        return False
    if precision != "fp32" and NATIVE_NAME not in manifest.files:
        return False  # written by an earlier version
    is_newest = is_export_of(manifest, checkpoint)
    return is_newest and manifest.precision == precision


def _is_ours(artifact: Path) -> bool:
    """Whether this module wrote the artifact, which may then be replaced, even if it is damaged. It
    writes no TensorRT engines, and no precisions other than the usual ones."""
    try:
        manifest = read_manifest(artifact)
        is_usual = manifest.engine is None and manifest.precision in get_args(_UsualPrecision)
        return manifest.name == SHIPPED_NAME and is_usual
    except ArtifactError:
        path = artifact / MANIFEST_NAME
        return path.is_file() and SHIPPED_NAME in path.read_text(errors="replace")
