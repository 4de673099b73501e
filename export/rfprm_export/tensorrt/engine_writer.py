"""Writes an artifact with a TensorRT engine, whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rfprm_export import ExportError
from rfprm_export.artifact_writer import check_output, export_artifact
from rfprm_export.choices import Precision
from rfprm_export.gate import check_parity, gate_for
from rfprm_export.preset import ReadingOptions
from rfprm_export.reference import Reference
from rfprm_export.source import Place, Source
from rfprm_export.tensorrt.builder import (
    BuildOptions,
    BuiltPlan,
    EngineBuilder,
    ProgressListener,
)
from rfprm_export.tensorrt.plan_contents import PlanContents, read_plan
from rfprm_export.verify import measure_parity
from rfprm_runtime.artifact.build_records import EngineRecord
from rfprm_runtime.artifact.integrity import check_files, describe_file
from rfprm_runtime.artifact.manifest import (
    MANIFEST_NAME,
    ONNX_NAME,
    PLAN_NAME,
    TOKENIZER_NAME,
    Manifest,
    read_manifest,
)
from rfprm_runtime.artifact.onnx_file import check_external_data
from rfprm_runtime.backends.tensorrt.backend import check_usable
from rfprm_runtime.errors import ArtifactError, RfprmError
from rfprm_runtime.ground.progress import Progress, silent
from rfprm_runtime.ground.whole_files import replacing_folder, scratch_folder
from rfprm_runtime.scorer import Scorer

GRAPH_NAMES = (ONNX_NAME, ONNX_NAME + ".data")


@dataclass(frozen=True)
class EngineReport:
    """The result of a build, for printing."""

    manifest: Manifest
    plan_bytes: int
    built: BuiltPlan | None
    """None if the plan was taken from another artifact."""
    contents: PlanContents | None


@contextmanager
def graph_artifact(
    source: Path | Source,
    *,
    precision: Precision,
    reading: ReadingOptions | None = None,
    base: Place | None = None,
    verify: bool = True,
    progress: Progress = silent,
) -> Iterator[tuple[Path, Manifest]]:
    """An artifact with a graph of standard ops: ``source`` itself, or a temporary export of the
    checkpoint ``source``.

    Raises :class:`ExportError` for an artifact without such a graph.
    """
    if isinstance(source, Path) and (source / MANIFEST_NAME).is_file():
        manifest = read_manifest(source)
        check_files(source, manifest)
        if ONNX_NAME in manifest.files:
            check_external_data(source / ONNX_NAME, manifest)
        attention = manifest.exporter.get("attention", "group_query")
        if ONNX_NAME not in manifest.files or attention != "standard":
            raise ExportError(
                f"{source} holds {sorted(manifest.files)} with {attention} attention, but a "
                "TensorRT engine is built from a graph of standard ops; give the checkpoint, or "
                "export it again with --precision fp16 (or bf16, or fp32 --attention standard)"
            )
        yield source, manifest
        return
    with scratch_folder("rfprm-engine") as folder:
        artifact = folder / "artifact"
        manifest = export_artifact(
            source,
            artifact,
            precision=precision,
            attention="standard",
            reading=reading,
            base=base,
            verify=verify,
            progress=progress,
        )
        yield artifact, manifest


def write_engine_artifact(
    graph_folder: Path,
    manifest: Manifest,
    output: Path,
    options: BuildOptions,
    *,
    builder: EngineBuilder | None = None,
    keep_graph: bool = False,
    overwrite: bool = False,
    reference: Callable[[], Reference] | None = None,
    on_progress: ProgressListener | None = None,
) -> EngineReport:
    """Build a TensorRT engine from the graph in ``graph_folder`` and write an artifact with it.

    ``keep_graph``: keep the graph beside the plan, for machines without the GPU. A stripped plan
    always keeps it, because it loads its weights from there. ``reference``: scores to verify the
    engine with, computed only if this machine can run it. Raises :class:`ExportError`.
    """
    check_output(output, overwrite, reads=[graph_folder])
    builder = builder or EngineBuilder(options.flavour)
    built = builder.build(graph_folder / ONNX_NAME, options, on_progress)
    contents = read_plan(built.plan) if options.flavour == "tensorrt_rtx" else None
    record = EngineRecord(
        flavour=options.flavour,
        version=built.version,
        compute_capabilities=built.compute_capabilities,
        hardware_compatibility=options.hardware_compatibility,
        version_compatible=options.version_compatible,
        profiles=options.profiles,
        graph_sha256=manifest.files[ONNX_NAME].sha256,
        model_positions=manifest.max_positions,
        weights=options.weights,
        build_seconds=round(built.build_seconds, 1),
        peak_host_bytes=built.peak_host_bytes,
        device_bytes=contents.region_bytes if contents else None,
    )
    with replacing_folder(output) as folder:
        (folder / PLAN_NAME).write_bytes(built.plan)
        written = _finish(folder, graph_folder, manifest, record, keep_graph)
        if reference is not None:
            written = _verified_where_it_runs(folder, written, reference)
    return EngineReport(written, len(built.plan), built, contents)


def stripped_engine(artifact: Path) -> EngineRecord:
    """The engine record of an artifact with a stripped plan. Raises :class:`ExportError` for any
    other."""
    try:
        manifest = read_manifest(artifact)
        check_files(artifact, manifest)
    except ArtifactError as error:
        raise ExportError(
            f"--engine-from {artifact} is not an artifact with a TensorRT engine: {error}"
        ) from None
    record = manifest.engine
    if record is None or record.weights != "stripped":
        kind = "no TensorRT engine" if record is None else f"one with weights {record.weights!r}"
        raise ExportError(
            f"{artifact} has {kind}, expected a TensorRT engine built with --weights stripped, "
            "which can load other weights"
        )
    return record


def reuse_engine(
    graph_folder: Path, manifest: Manifest, engine: Path, output: Path, *, overwrite: bool = False
) -> EngineReport:
    """Write an artifact with the stripped plan of ``engine`` and the weights in ``graph_folder``,
    for a newly trained PRM of the same shape, without a new build.

    Raises :class:`ExportError` if the plan is not stripped or was built from another graph.
    """
    check_output(output, overwrite, reads=[graph_folder, engine])
    record = stripped_engine(engine)
    graph_sha256 = manifest.files[ONNX_NAME].sha256
    if record.graph_sha256 != graph_sha256:
        raise ExportError(
            f"the TensorRT engine in {engine} was built from another graph (sha256 "
            f"{record.graph_sha256[:12]}…, this one has {graph_sha256[:12]}…) with another shape, "
            "precision or exporter; build a new one"
        )
    plan = engine / PLAN_NAME
    with replacing_folder(output) as folder:
        shutil.copyfile(plan, folder / PLAN_NAME)
        unmeasured = record.model_copy(update={"parity": None})
        written = _finish(folder, graph_folder, manifest, unmeasured, True)
    return EngineReport(written, plan.stat().st_size, None, None)


def _finish(
    folder: Path, graph_folder: Path, manifest: Manifest, record: EngineRecord, keep_graph: bool
) -> Manifest:
    """Copy the files that go beside the plan, and write the manifest."""
    names = [TOKENIZER_NAME]
    if keep_graph or record.weights == "stripped":
        names += GRAPH_NAMES
    for name in names:
        shutil.copyfile(graph_folder / name, folder / name)
    longest = max(profile.length.max for profile in record.profiles)
    written = manifest.model_copy(
        update={
            "max_positions": min(manifest.max_positions, longest),
            "files": {name: describe_file(folder / name) for name in (*names, PLAN_NAME)},
            "exporter": {**manifest.exporter, record.flavour: record.version},
            "engine": record,
        }
    )
    _write_manifest(folder, written)
    return written


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    (folder / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")


def _verified_where_it_runs(
    folder: Path, manifest: Manifest, reference: Callable[[], Reference]
) -> Manifest:
    """The manifest with the engine's parity, or unchanged if this machine cannot run the engine."""
    try:
        check_usable(manifest)
    except RfprmError:
        return manifest
    # Built here and now, so what is in it may run.
    with Scorer.load(folder, backend="tensorrt", allow_host_code=True) as scorer:
        parity = measure_parity(scorer, reference())
    check_parity(parity, manifest.precision, list, gate_for(manifest))
    assert manifest.engine is not None
    engine = manifest.engine.model_copy(update={"parity": parity})
    verified = manifest.model_copy(update={"engine": engine})
    _write_manifest(folder, verified)
    return verified
