"""The process under the sanitizers: random models until the time is up."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rfprm_runtime.artifact import contents
from rfprm_runtime.artifact.manifest import NATIVE_NAME, ONNX_NAME, TORCH_NAME, Manifest
from rfprm_runtime.artifact.onnx_weights import GraphWeights
from rfprm_runtime.backends.native import library, model_file, pages
from rfprm_runtime.backends.native.backend import NativeBackend
from rfprm_runtime.backends.native.layered import LayeredNative
from rfprm_runtime.backends.native.variants import NUMBERS, build_name
from rfprm_runtime.engine.rows import Extension, Past, TokenBatch, TokenRow, pad_batch
from rfprm_runtime.errors import ArtifactError, RfprmError
from sanitizing import models

_TOLERANCE = 0.05
"""Variants add in different orders, and a value on the edge of rounding may go either way."""


def attack(libraries: Path, variants: list[str], seconds: float, seed: int) -> None:
    """Raises, or the sanitizer ends the process, if anything is found."""
    for name in variants:  # refuses what this processor lacks, and asks for the tiles of AMX
        library.load_library(name)
    _fence_memory()
    installed = library.library_path(variants[0]).parent
    shipped, watched = (_opened(folder, variants) for folder in (installed, libraries))
    count: Counter[str] = Counter()
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder:
        while time.monotonic() < end or not count["models"]:
            print(f"seed {seed}", flush=True)  # the last one printed is the one that fell
            _attack_one(Path(folder), seed, watched, shipped, count)
            seed += 1
    print(", ".join(f"{number:,} {what}" for what, number in count.items()))


def _opened(folder: Path, variants: list[str]) -> dict[str, dict[str, Any]]:
    """The libraries of each variant by their numbers."""
    return {
        name: {
            numbers: library.open_library(folder / f"kernels-{build_name(name, numbers)}.so")
            for numbers in NUMBERS
        }
        for name in variants
    }


def _fence_memory() -> None:
    """Give every tensor, page and workspace memory of its own, with the sanitizer's fences."""

    def exact(num_bytes: int) -> NDArray[np.uint8]:
        return np.zeros(num_bytes, np.uint8)

    read = model_file.read_tensors

    def read_apart(*arguments: Any) -> Any:
        tensors, metadata = read(*arguments)
        return {name: tensor.copy() for name, tensor in tensors.items()}, metadata

    view = GraphWeights.__getitem__
    GraphWeights.__getitem__ = lambda self, name: view(self, name).copy()  # type: ignore[method-assign]
    pages._allocate = exact
    contents.private_memory = exact
    model_file.read_tensors = read_apart


def _attack_one(folder: Path, seed: int, watched: Any, shipped: Any, count: Counter[str]) -> None:
    rng = Random(seed)
    content = models.supported(rng)
    manifest = models.parse_manifest(content)
    size = rng.choice((1.0, 1.0, 1e-3, 30.0, 1e6, 1e15))
    name = rng.choice((NATIVE_NAME, ONNX_NAME, TORCH_NAME))
    path = models.write_model(folder / name, manifest, rng, size=size)
    rows = [_row(manifest, rng) for _ in range(rng.randint(1, 4))]
    found = {}
    for name in watched:
        found[name] = _alone(path, manifest, rows, shipped[name])
        backend = _open(path, manifest, watched[name])
        _same_bits(backend, rows, found[name], rng, count)
        backend.close()
        _same_bits_in_layers(path, manifest, watched[name], rows, found[name], count)
    count["models"] += 1
    if size == 1:  # larger ones decide by the last bit what is attended to
        _agree(found, count)
    unsupported = models.with_values(content, rng.choice(models.UNSUPPORTED))
    _refused(path, unsupported, watched, count)
    for _ in range(6):
        _survive(folder, path, content, rng, watched, count)


def _row(manifest: Manifest, rng: Random) -> NDArray[np.int64]:
    most = min(manifest.max_positions, rng.choice((70, 70, 200, 700)))
    length = rng.choice((1, most, min(most, 65), rng.randint(1, most)))
    vocab = manifest.backbone.vocab_size
    return np.array([rng.randrange(vocab) for _ in range(length)], np.int64)


def _open(path: Path, manifest: Manifest, kernels: Any) -> NativeBackend:
    """A backend on a library that is not the installed one."""
    with _instead_of_installed(NativeBackend, kernels):
        return NativeBackend(path, manifest, num_threads=3)


@contextmanager
def _instead_of_installed(backend: Any, kernels: Any) -> Iterator[None]:
    chosen = library.load_library
    backend_module = backend.__init__.__globals__
    backend_module["load_library"] = lambda name, numbers: ("watched", kernels[numbers])
    try:
        yield
    finally:
        backend_module["load_library"] = chosen


def _logits(backend: NativeBackend, ids: NDArray[np.int64], threads: int = 1) -> NDArray[Any]:
    batch = TokenBatch(ids[None], np.array([len(ids)]), np.arange(len(ids)))
    return backend.run(batch, threads)


def _alone(
    path: Path, manifest: Manifest, rows: list[NDArray[np.int64]], kernels: Any
) -> list[NDArray[Any]]:
    backend = _open(path, manifest, kernels)
    found = [_logits(backend, ids) for ids in rows]
    backend.close()
    return found


def _same_bits(
    backend: NativeBackend,
    rows: list[NDArray[np.int64]],
    expected: list[NDArray[Any]],
    rng: Random,
    count: Counter[str],
) -> None:
    def compare(found: NDArray[Any], row: int, what: str) -> None:
        count["bit comparisons"] += 1
        same = np.array_equal(found, expected[row], equal_nan=True)
        assert same, f"row {row} has other bits {what}"

    for row, ids in enumerate(rows):
        compare(_logits(backend, ids), row, "under the sanitizers")
        threads = rng.randint(2, 4)
        compare(_logits(backend, ids, threads), row, f"on {threads} threads")
    together = [Extension(ids, np.arange(len(ids))) for ids in rows]
    for row, extended in enumerate(backend.extend(together)):
        compare(extended.logits, row, "beside others")
    cuts = [sorted({0, len(ids), *(rng.randint(0, len(ids)) for _ in range(3))}) for ids in rows]
    for row, ids in enumerate(rows):
        compare(_in_pieces(backend, ids, cuts[row], rng), row, f"cut at {cuts[row]}")


def _same_bits_in_layers(
    path: Path,
    manifest: Manifest,
    kernels: Any,
    rows: list[NDArray[np.int64]],
    expected: list[NDArray[Any]],
    count: Counter[str],
) -> None:
    with _instead_of_installed(LayeredNative, kernels):
        layered = LayeredNative(contents.ModelFile.of(path), manifest)
    batch = pad_batch([TokenRow(ids, np.arange(len(ids))) for ids in rows])
    same = np.array_equal(layered.run(batch), np.concatenate(expected), equal_nan=True)
    assert same, "other bits a layer at a time"
    count["bit comparisons"] += 1


def _in_pieces(
    backend: NativeBackend, ids: NDArray[np.int64], cuts: list[int], rng: Random
) -> NDArray[Any]:
    """The row after pasts; each is also extended by something else first, as a fork is."""
    past: Past | None = None
    parts = []
    for begin, end in itertools.pairwise(cuts):
        piece = ids[begin:end]
        others = [piece[::-1].copy()] * rng.randint(0, 2)
        items = [Extension(new, np.arange(len(new)), past, keep=True) for new in (*others, piece)]
        if rng.random() < 0.5:
            results = [backend.extend([item], threads=rng.randint(1, 3))[0] for item in items]
        else:
            results = backend.extend(items)
        parts.append(results[-1].logits)
        past = results[-1].past
    return np.concatenate(parts)


def _agree(found: dict[str, list[NDArray[Any]]], count: Counter[str]) -> None:
    first, *others = found.values()
    for other in others:
        for a, b in zip(first, other, strict=True):
            count["comparisons of variants"] += 1
            scale = max(1.0, float(np.abs(a).max()))
            assert np.abs(a - b).max() <= _TOLERANCE * scale, f"{np.abs(a - b).max()} of {scale}"


def _refused(path: Path, manifest: Manifest, watched: Any, count: Counter[str]) -> None:
    refusal = ""
    try:
        _open(path, manifest, next(iter(watched.values()))).close()
    except ArtifactError as error:
        refusal = str(error)
    assert "the native kernels support" in refusal, f"{refusal!r} for {manifest.backbone}"
    count["unsupported shapes refused"] += 1


def _survive(
    folder: Path,
    path: Path,
    content: dict[str, Any],
    rng: Random,
    watched: Any,
    count: Counter[str],
) -> None:
    """Damage is refused, or what comes out is numbers or shows that it is not."""
    try:
        if rng.random() < 0.5:
            manifest = models.damaged_manifest(content, rng)
        else:
            manifest = models.parse_manifest(content)
            (folder / "damaged").mkdir(exist_ok=True)
            path = models.damaged_file(path, folder / "damaged" / path.name, rng)
        backend = _open(path, manifest, rng.choice(list(watched.values())))
    except RfprmError:
        count["damaged ones refused"] += 1
        return
    ids = _row(manifest, rng)
    for threads in (1, 3):
        _logits(backend, ids, threads)
    backend.close()
    count["damaged ones run"] += 1
