"""The command that builds a TensorRT engine, with progress and a report."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.logging import RichHandler

from rfprm_export import ExportError
from rfprm_export.artifact_writer import check_output
from rfprm_export.checkpoint import load_prm
from rfprm_export.commands import (
    ArtifactOutput,
    BaseOption,
    ChatTemplateOption,
    FamilyOption,
    OverwriteOption,
    SeparatorOption,
    SystemPromptOption,
    VerifyOption,
    reading_options,
)
from rfprm_export.reference import Reference, reference_for
from rfprm_export.source import artifact_or_source
from rfprm_export.tensorrt.builder import (
    BuildOptions,
    EngineBuilder,
    EngineWeights,
    HardwareCompatibility,
    ProgressListener,
)
from rfprm_export.tensorrt.engine_writer import (
    EngineReport,
    graph_artifact,
    reuse_engine,
    stripped_engine,
    write_engine_artifact,
)
from rfprm_export.tensorrt.profiles import (
    DEFAULT_BATCH_SIZE,
    DEFAULT_BATCH_TOKENS,
    derive_profiles,
    lengths_of,
    parse_profiles,
    read_traces,
)
from rfprm_runtime.artifact.build_records import EngineFlavour, EngineProfile
from rfprm_runtime.artifact.manifest import Manifest, read_manifest
from rfprm_runtime.cli.options import ProgressOption
from rfprm_runtime.cli.printing import engine_rows, print_rows
from rfprm_runtime.ground.progress import Progress, shown_stages
from rfprm_runtime.types import Trajectory

EnginePrecision = Literal["fp16", "bf16", "fp8", "w8a16", "fp32"]
LogLevel = Literal["error", "warning", "info", "verbose"]
_LEVELS = {
    "error": logging.ERROR,
    "warning": logging.WARNING,
    "info": logging.INFO,
    "verbose": logging.DEBUG,
}


def export_trt(
    source: Annotated[
        str,
        typer.Argument(help="An artifact with a graph of standard ops, or a checkpoint."),
    ],
    output: ArtifactOutput,
    precision: Annotated[
        EnginePrecision | None,
        typer.Option(
            help="Precision of a checkpoint's export, fp16 by default; an artifact has its own."
        ),
    ] = None,
    flavour: Annotated[
        EngineFlavour,
        typer.Option(help="tensorrt_rtx builds without a GPU, tensorrt for this machine's GPU."),
    ] = "tensorrt_rtx",
    compute_capability: Annotated[
        list[str] | None,
        typer.Option(help="GPU to build for (8.9, …); repeatable. By default all from 8.0 on."),
    ] = None,
    profile: Annotated[
        list[str] | None,
        typer.Option(
            help="Maximum BATCHxLENGTH of a profile; repeatable. By default derived from --traces "
            "or common lengths."
        ),
    ] = None,
    traces: Annotated[
        Path | None,
        typer.Option(help="JSONL traces like those to score, to derive profiles from."),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(min=1, help=f"Maximum of traces per batch; {DEFAULT_BATCH_SIZE} by default."),
    ] = None,
    batch_tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Maximum of padded tokens in a batch of several traces; "
            f"{DEFAULT_BATCH_TOKENS:,} by default.",
        ),
    ] = None,
    weights: Annotated[
        EngineWeights,
        typer.Option(help="stripped: the plan has no weights and loads those of the graph."),
    ] = "inside",
    engine_from: Annotated[
        Path | None,
        typer.Option(help="Artifact with a stripped plan to reuse instead of building one."),
    ] = None,
    keep_graph: Annotated[
        bool, typer.Option(help="Keep the graph in the artifact, for the onnx backend elsewhere.")
    ] = False,
    version_compatible: Annotated[
        bool, typer.Option(help="Let later versions of TensorRT run the plan (tensorrt only).")
    ] = False,
    hardware_compatibility: Annotated[
        HardwareCompatibility, typer.Option(help="Let other GPUs run the plan (tensorrt only).")
    ] = "none",
    optimization_level: Annotated[
        int | None,
        typer.Option(min=0, max=5, help="How hard the builder optimises (tensorrt only)."),
    ] = None,
    workspace: Annotated[
        int | None, typer.Option(min=1, help="MiB of scratch memory that a layer may use.")
    ] = None,
    timing_cache: Annotated[
        Path | None, typer.Option(help="File that speeds up later builds (tensorrt only).")
    ] = None,
    family: FamilyOption = None,
    step_separator: SeparatorOption = None,
    system_prompt: SystemPromptOption = None,
    chat_template: ChatTemplateOption = None,
    base: BaseOption = None,
    verify: VerifyOption = True,
    log_level: Annotated[LogLevel, typer.Option(help="Which builder messages to show.")] = "error",
    overwrite: OverwriteOption = False,
    progress: ProgressOption = None,
) -> None:
    """Build a TensorRT engine: parse the graph, optimise it for profiles, write an artifact."""
    console = Console(highlight=False)
    _show_messages(log_level)
    # Check everything before spending minutes on the build.
    check_output(output, overwrite)
    found = artifact_or_source(source)
    is_artifact, place = (True, found) if isinstance(found, Path) else (False, found.path)
    check_output(output, overwrite, reads=[place])
    reading = reading_options(family, step_separator, system_prompt, chat_template)
    if is_artifact:
        given = dict.fromkeys(reading.given(), True)
        for_checkpoints = {"--precision": precision, "--base": base, **given}
        _refuse(for_checkpoints, f"only for checkpoints, but {source} is an artifact")
    if profile:
        for_deriving = {"--traces": traces, "--batch": batch, "--batch-tokens": batch_tokens}
        _refuse(for_deriving, "only for deriving profiles, but --profile gives them")
        parse_profiles(profile, sys.maxsize)  # the model's positions are not known yet
    typical = read_traces(traces) if traces is not None else []
    precision = precision or "fp16"
    options = BuildOptions(
        precision=read_manifest(place).precision if is_artifact else precision,
        flavour=flavour,
        compute_capabilities=tuple(compute_capability or ()),
        weights=weights,
        version_compatible=version_compatible,
        hardware_compatibility=hardware_compatibility,
        optimization_level=optimization_level,
        workspace_bytes=None if workspace is None else workspace * 2**20,
        timing_cache=timing_cache,
    )
    builder: EngineBuilder | None = None
    if engine_from is None:
        builder = EngineBuilder(flavour)
        builder.check_options(options)
    else:
        stripped_engine(engine_from)
        if (
            replace(options, precision="fp16") != BuildOptions()
            or profile
            or traces
            or batch
            or batch_tokens
        ):
            raise ExportError(
                "--engine-from builds nothing: the plan keeps the GPUs, profiles and options it "
                "was built with; leave the build options out"
            )

    def reference() -> Reference:
        return reference_for(load_prm(found, reading=reading, base=base), place, precision)

    if not is_artifact:
        also = " and verifying it" if verify else ""
        console.print(f"exporting the graph in {precision}{also}")
    with (
        shown_stages(progress) as told,
        graph_artifact(
            found, precision=precision, reading=reading, base=base, verify=verify, progress=told
        ) as (folder, manifest),
    ):
        if engine_from is not None:
            report = reuse_engine(folder, manifest, engine_from, output, overwrite=overwrite)
        else:
            profiles = _profiles(profile, typical, folder, manifest, batch, batch_tokens)
            report = write_engine_artifact(
                folder,
                manifest,
                output,
                replace(options, profiles=profiles),
                builder=builder,
                keep_graph=keep_graph,
                overwrite=overwrite,
                reference=None if is_artifact or not verify else reference,
                on_progress=_listener(told),
            )
    print_engine_report(console, report)
    typer.echo(f"written: {output}")


def _refuse(options: Mapping[str, object], reason: str) -> None:
    """Raises :class:`ExportError` if one of ``options`` was given, which would have no effect."""
    given = [name for name, value in options.items() if value is not None]
    if given:
        names = " and ".join(given)
        raise ExportError(f"{names}: {reason}; leave {names} out")


def _profiles(
    requested: list[str] | None,
    typical: list[Trajectory],
    folder: Path,
    manifest: Manifest,
    batch: int | None,
    batch_tokens: int | None,
) -> tuple[EngineProfile, ...]:
    if requested:
        return parse_profiles(requested, manifest.max_positions)
    return derive_profiles(
        manifest.max_positions,
        lengths=lengths_of(typical, folder, manifest),
        max_batch_size=batch or DEFAULT_BATCH_SIZE,
        max_batch_tokens=batch_tokens or DEFAULT_BATCH_TOKENS,
    )


def print_engine_report(console: Console, report: EngineReport) -> None:
    """Print time, memory, profiles, and whether attention was fused."""
    print_rows(console, _report_rows(report))


def _report_rows(report: EngineReport) -> Iterator[tuple[str, str]]:
    engine, built = report.manifest.engine, report.built
    assert engine is not None
    yield from engine_rows(engine)
    yield "plan", f"{report.plan_bytes / 2**20:,.0f} MiB in {report.manifest.precision}"
    if built is not None:
        yield "time", f"parsed in {built.parse_seconds:.1f} s, built in {built.build_seconds:.1f} s"
    if built is not None and built.peak_host_bytes is not None:
        yield "memory", f"{built.peak_host_bytes / 2**30:.1f} GiB at peak while building"
    if report.contents is not None and report.contents.kernels:
        fused = len(report.contents.fused_attention(len(engine.profiles)))
        layers = report.manifest.backbone.num_layers
        yield "attention", f"one fused kernel in {fused} of {layers} layers"


def _listener(progress: Progress) -> ProgressListener:
    """The builder's phases as stages; it never stops the build."""

    def on_progress(phase: str, done: int, total: int) -> bool:
        progress(phase, done, total)
        return True

    return on_progress


def _show_messages(level: LogLevel) -> None:
    logger = logging.getLogger("rfprm_runtime.tensorrt")
    logger.setLevel(_LEVELS[level])
    logger.handlers = [RichHandler(console=Console(stderr=True), show_path=False)]
    logger.propagate = False
