"""Files of a loaded model that change: the score does not, or an error says so."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rfprm_export.artifact_writer import export_artifact
from rfprm_runtime import ArtifactError, Scorer
from rfprm_runtime.artifact import contents
from rfprm_runtime.artifact.contents import ArtifactFiles
from rfprm_runtime.artifact.manifest import FileRecord, read_manifest
from rfprm_runtime.backends import onnx
from rfprm_runtime.backends.native.library import available_variants
from tiny_models import byte_tokenizer, tiny_manifest

_TRACE = ("1 + 1?", ["It is 2.", "So 2."])
FORMATS = {
    "native": pytest.param(
        "native",
        marks=pytest.mark.skipif(not available_variants(), reason="built without a C compiler"),
    ),
    "onnx": "onnx",
    "torch": "torch",
}


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory, published_prm: Path) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("formats")
    precisions = {"onnx": "fp32", "torch": "fp32"}
    if available_variants():
        precisions["native"] = "int16"
    for name, precision in precisions.items():
        export_artifact(
            published_prm,
            folder / name,
            format=name,
            precision=precision,
            verify=False,  # type: ignore[arg-type]
        )
    return {name: folder / name for name in precisions}


@pytest.fixture
def artifact(request: pytest.FixtureRequest, artifacts: dict[str, Path], tmp_path: Path) -> Path:
    return shutil.copytree(artifacts[request.param], tmp_path / "artifact")


def _weights(artifact: Path) -> Path:
    """The largest file: where the weights are."""
    return max(artifact.iterdir(), key=lambda path: path.stat().st_size)


def _overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"\x3f" * (path.stat().st_size // 4))


def _truncate(path: Path) -> None:
    os.truncate(path, 100)


def _replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(b"something else")
    other.replace(path)


CHANGES: dict[str, Callable[[Path], None]] = {
    "overwritten": _overwrite,
    "truncated": _truncate,
    "replaced": _replace,
    "removed": Path.unlink,
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("artifact", FORMATS.values(), indirect=True)
def test_what_happens_to_the_files_does_not_reach_a_loaded_model(
    artifact: Path, change: str
) -> None:
    with Scorer.load(artifact) as scorer:
        before = scorer.score(*_TRACE)
    with Scorer.load(artifact) as scorer:  # it has not run yet
        for path in list(artifact.iterdir()):
            CHANGES[change](path)
        assert scorer.score(*_TRACE) == before


@pytest.mark.parametrize("change", ["overwritten", "truncated"])
@pytest.mark.parametrize("artifact", [FORMATS["native"], FORMATS["onnx"]], indirect=True)
def test_a_change_of_mapped_weights_is_noticed(artifact: Path, change: str) -> None:
    with Scorer.load(artifact, map_weights=True) as scorer:
        scorer.score(*_TRACE)
        CHANGES[change](_weights(artifact))
        for _ in range(2):
            with pytest.raises(ArtifactError, match="was changed while it was in use"):
                scorer.score(*_TRACE)


@pytest.mark.parametrize("check_integrity", [True, False])
@pytest.mark.parametrize("artifact", [FORMATS["native"], FORMATS["onnx"]], indirect=True)
def test_mapped_weights_score_alike_and_may_be_replaced(
    artifact: Path, *, check_integrity: bool
) -> None:
    with Scorer.load(artifact) as scorer:
        before = scorer.score(*_TRACE)
    with Scorer.load(artifact, map_weights=True, check_integrity=check_integrity) as scorer:
        assert scorer.score(*_TRACE) == before
        path = _weights(artifact)
        os.link(path, artifact / "another name")
        assert scorer.score(*_TRACE) == before
        if check_integrity:  # the same content, at another time
            os.utime(path)
            assert scorer.score(*_TRACE) == before
        _replace(path)
        assert scorer.score(*_TRACE) == before


@pytest.mark.parametrize("artifact", FORMATS.values(), indirect=True)
def test_the_bytes_that_were_checked_are_those_that_are_used(
    artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file is overwritten as soon as it was checked."""
    with Scorer.load(artifact) as scorer:
        before = scorer.score(*_TRACE)
    read = contents._read_private

    def read_and_damage(file: Any, path: Path, record: FileRecord | None) -> Any:
        content = read(file, path, record)
        _overwrite(path)
        return content

    monkeypatch.setattr(contents, "_read_private", read_and_damage)
    with Scorer.load(artifact) as scorer:
        assert scorer.score(*_TRACE) == before


@pytest.mark.parametrize("artifact", [FORMATS["native"], FORMATS["onnx"]], indirect=True)
def test_mapped_weights_that_change_while_they_load_are_refused(
    artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = contents.check_digest

    def check_and_damage(path: Path, digest: str, record: FileRecord) -> None:
        check(path, digest, record)
        if path == _weights(artifact):
            _overwrite(path)

    monkeypatch.setattr(contents, "check_digest", check_and_damage)
    with pytest.raises(ArtifactError, match="was changed while it was in use"):
        Scorer.load(artifact, map_weights=True)


@pytest.mark.parametrize("artifact", [FORMATS["onnx"]], indirect=True)
def test_weights_too_large_for_onnxruntimes_memory_are_mapped(
    artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Scorer.load(artifact, backend="onnx") as scorer:
        before = scorer.score(*_TRACE)
    monkeypatch.setattr(onnx, "_MAX_BYTES_IN_MEMORY", 100)
    with Scorer.load(artifact, backend="onnx") as scorer:
        assert scorer.score(*_TRACE) == before
        _overwrite(_weights(artifact))
        with pytest.raises(ArtifactError, match="was changed while it was in use"):
            scorer.score(*_TRACE)


def test_a_file_that_grows_or_shrinks_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(5000))

    class Growing:
        def __init__(self, size: int) -> None:
            self.left = size

        def fileno(self) -> int:
            return descriptor

        def readinto(self, view: memoryview) -> int:
            count = min(self.left, len(view))
            self.left -= count
            return count

        def read(self, size: int) -> bytes:
            return bytes(min(size, self.left))

    with path.open("rb") as file:
        descriptor = file.fileno()
        for size in (4000, 6000):
            with pytest.raises(ArtifactError, match="changed its size while it was read"):
                contents._read_private(Growing(size), path, None)  # type: ignore[arg-type]


def test_content_is_private_and_aligned(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 100)
    content = ArtifactFiles(tmp_path).read("file")
    assert content.ctypes.data % 64 == 0
    if hasattr(os, "fork"):
        child = os.fork()
        if not child:
            content[:] = 0
            os._exit(0)
        os.waitpid(child, 0)
    assert content.tobytes() == b"x" * 100


def test_a_pinned_manifest_must_be_that_one(tiny_artifact: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_artifact, tmp_path / "artifact")
    path = folder / "prm.json"
    pin = hashlib.sha256(path.read_bytes()).hexdigest()
    with Scorer.load(folder, sha256=pin.upper()) as scorer:
        assert scorer.manifest == read_manifest(folder, sha256=pin)
    path.write_text(path.read_text().replace('"alpha": 1.0', '"alpha": 2.0'))
    with pytest.raises(ArtifactError, match=rf"has sha256 [0-9a-f]{{64}}, expected {pin}"):
        Scorer.load(folder, sha256=pin)
    for wrong in ("", "abc", pin[:-1], f"sha256:{pin}", 7):
        with pytest.raises(ValueError, match="expected a sha256 sum"):
            Scorer.load(folder, sha256=wrong)  # type: ignore[arg-type]


def test_rotary_tables_of_many_positions_are_those_of_few() -> None:
    from rfprm_runtime.backends import rotary

    shape = tiny_manifest(byte_tokenizer()).backbone
    many = rotary.rotary_tables(2 * rotary._AT_ONCE + 3, shape)
    few = rotary.rotary_tables(100, shape)
    for long, short in zip(many, few, strict=True):
        assert long.dtype == np.float32
        assert (long[:100] == short).all()
    cos, sin = (table.astype(np.float64) for table in many)
    assert np.allclose(cos**2 + sin**2, 1)
