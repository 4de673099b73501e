"""Writes an artifact folder, whole and verified, or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rfprm_export import ExportError
from rfprm_export.aligned_file import of_float32, write_aligned
from rfprm_export.checkpoint import load_prm, weights_digest
from rfprm_export.choices import (
    NATIVE_PRECISIONS,
    QUANTIZED_PRECISIONS,
    AttentionChoice,
    AttentionOp,
    ModelFormat,
    Precision,
)
from rfprm_export.eight_bit_linears import choose_8_bit_linears
from rfprm_export.emulation import emulating_scorer
from rfprm_export.float_types import FloatType, float_type_of
from rfprm_export.gate import check_parity, gate_for
from rfprm_export.gpu_linears import choose_gpu_linears
from rfprm_export.graph import choose_attention, write_graph
from rfprm_export.in_parts import scorer_in_parts
from rfprm_export.loaded_prm import LoadedPRM
from rfprm_export.native_file import write_native
from rfprm_export.panels import most_rounded
from rfprm_export.preset import ReadingOptions
from rfprm_export.quantization import Quantization
from rfprm_export.reference import reference_for
from rfprm_export.source import Place, Source, open_source
from rfprm_export.stored_weights import stay_in_files
from rfprm_export.verify import measure_parity
from rfprm_runtime.artifact.build_records import Parity, ProductRecord
from rfprm_runtime.artifact.integrity import describe_file
from rfprm_runtime.artifact.manifest import GPU_PRECISIONS, MANIFEST_NAME, TOKENIZER_NAME, Manifest
from rfprm_runtime.artifact.network_tensors import network_tensors
from rfprm_runtime.backends.native.library import load_library
from rfprm_runtime.backends.native.limits import check_fits
from rfprm_runtime.backends.table import model_file
from rfprm_runtime.backends.walk import Walk
from rfprm_runtime.errors import BackendError, MissingExtraError, RfprmError
from rfprm_runtime.ground.progress import Progress, counting, silent, stage
from rfprm_runtime.ground.whole_files import replacing_folder
from rfprm_runtime.ground.whole_imports import import_whole
from rfprm_runtime.scorer import Scorer

_TRACE = "exported model, trace"


def export_artifact(
    checkpoint: Place | Source,
    output: Path,
    *,
    format: ModelFormat | None = None,
    precision: Precision = "fp32",
    attention: AttentionChoice = "auto",
    reading: ReadingOptions | None = None,
    base: Place | None = None,
    verify: bool = True,
    verify_traces: Path | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
) -> Manifest:
    """Export a checkpoint or a published PRM to an artifact at ``output``; returns its manifest.

    Everything is written and verified in a folder beside ``output``, which takes its place at the
    end. So a killed export leaves no partial artifact, and an old one can be used until then.
    ``reading``: what a published PRM does not tell itself. ``progress`` is told what is being
    done. Raises :class:`ExportError`.
    """
    check_output(output, overwrite)
    format = _choose_format(format, precision)
    _check_options(format, precision, attention, verify, verify_traces)
    if verify:
        _check_runs_here(format, precision)
    progress("opening the model", 0, 1)
    # Only now is anything read, or fetched.
    source = open_source(checkpoint)
    check_output(output, overwrite, reads=[source.path])
    prm = load_prm(source, reading=reading, base=base)
    if format == "native":
        check_fits(prm.manifest.backbone, prm.manifest.max_positions, refusal=ExportError)
    chosen = choose_attention(prm.manifest.backbone, attention, precision)
    reference = None
    if verify:
        reference = reference_for(prm, source.path, precision, verify_traces, progress)
    with replacing_folder(output) as folder:
        linears: tuple[ProductRecord, ...] = ()
        quantization: Quantization | None = None
        if precision == "int8" and reference is not None:
            linears = choose_8_bit_linears(prm, reference, folder, progress)
        elif precision in QUANTIZED_PRECISIONS and reference is not None:
            quantization, linears = choose_gpu_linears(prm, reference, precision, progress)
        float_type = float_type_of(precision) if quantization is None else quantization.float_type
        manifest = _write_files(
            folder, prm, format, precision, chosen, linears, float_type, quantization, progress
        )
        if reference is not None:
            parities = []
            for backend in _backends_to_verify(format, manifest):
                exported = _exported(
                    folder, manifest, prm, float_type, quantization, progress, backend
                )
                with exported as scorer:
                    count = counting(stage(progress, _TRACE), len(reference.trajectories))
                    on_scored = None if stay_in_files(prm.weights) else count
                    parities.append(measure_parity(scorer, reference, on_scored))
            manifest = _verified(folder, manifest, prm, parities)
    return manifest


def _backends_to_verify(format: ModelFormat, manifest: Manifest) -> list[str]:
    """What will run the model: in fp32 the native kernels too, where they can."""
    try:
        if manifest.precision == "fp32":
            load_library(numbers="float32")
            check_fits(manifest.backbone, manifest.max_positions, numbers="float32")
            return ["native", format]
    except RfprmError:  # no kernels here, or not for such a shape
        pass
    return [format]


def _check_options(
    format: ModelFormat,
    precision: Precision,
    attention: AttentionChoice,
    verify: bool,
    verify_traces: Path | None,
) -> None:
    """Raises :class:`ExportError` for options that contradict each other."""
    if attention != "auto" and format != "onnx":
        raise ExportError(
            f"--attention {attention} applies to graphs, but {precision} is exported for {format}; "
            "leave it out"
        )
    if verify_traces is not None and not verify:
        raise ExportError("--verify-traces has no effect with --no-verify; leave one of them out")
    if precision in ("int8", *QUANTIZED_PRECISIONS) and not verify:
        other = "int16" if precision == "int8" else "bf16"
        raise ExportError(
            f"--precision {precision} chooses the linear layers that can have 8 bits by measuring "
            f"them, which --no-verify skips; leave it out, or export with --precision {other}"
        )


def _check_runs_here(format: ModelFormat, precision: Precision) -> None:
    """Raises :class:`ExportError` if what is to be written could not be run here to verify it.

    Found only afterwards, that costs the reference network's time: hours for a large model."""
    try:
        if format == "native":
            load_library()
        elif format == "torch":
            import_whole("rfprm_runtime.backends.torch")
    except (BackendError, MissingExtraError) as error:
        unverified = "" if precision == "int8" else "; or write it unverified with --no-verify"
        raise ExportError(
            f"what is exported in {precision} is verified by running it, and here it cannot run: "
            f"{error}{unverified}"
        ) from None


@contextmanager
def _exported(
    folder: Path,
    manifest: Manifest,
    prm: LoadedPRM,
    float_type: FloatType,
    quantization: Quantization | None,
    progress: Progress,
    backend: str,
) -> Iterator[Scorer]:
    """A scorer of what was written; of a large model in parts."""
    if manifest.precision in GPU_PRECISIONS:
        step = stage(progress, "exported model, part")
        with emulating_scorer(prm, float_type, quantization, step) as scorer:
            yield scorer
    elif stay_in_files(prm.weights):
        walk = Walk(stage(progress, "exported model, layer or part"))
        with scorer_in_parts(folder, manifest, walk, backend) as scorer:
            yield scorer
    else:
        with Scorer.load(folder, backend=backend) as scorer:
            yield scorer


def check_output(output: Path, overwrite: bool, *, reads: Iterable[Path] = ()) -> None:
    """Raises :class:`ExportError` if the folder ``output`` cannot be created or replaced.

    A folder may only be replaced with ``overwrite``, if it is an artifact, and if it does not
    contain one of ``reads``, the inputs of the new one.
    """
    place = output.resolve()
    above = next((folder for folder in place.parents if folder.exists()), place)
    if not above.is_dir():
        raise ExportError(f"{above} is a file, not a folder; choose another output")
    if not place.exists():
        return
    if not overwrite:
        raise ExportError(f"{output} already exists; pass --overwrite to replace it")
    if not place.is_dir():
        raise ExportError(f"{output} is a file, expected a folder to write; choose another output")
    found = sorted(entry.name for entry in place.iterdir())
    if found and MANIFEST_NAME not in found:
        raise ExportError(
            f"{output} holds {found[:8]} and no {MANIFEST_NAME}, so it is not an artifact, and "
            "--overwrite only replaces those; choose another output, or remove it yourself"
        )
    for source in reads:
        if place in (source.resolve(), *source.resolve().parents):
            raise ExportError(f"{output} is or holds the input {source}; choose another output")


def _choose_format(requested: ModelFormat | None, precision: Precision) -> ModelFormat:
    best: ModelFormat = "native" if precision in NATIVE_PRECISIONS else "onnx"
    if requested is None:
        return best
    if requested != best and not (requested == "torch" and precision == "fp32"):
        raise ExportError(
            f"--format {requested} does not support --precision {precision}: the native kernels "
            "read int16 and int8, graphs are fp32, fp16, bf16, fp8 or w8a16, and torch's weights "
            "fp32; leave --format out"
        )
    return requested


def _write_files(
    folder: Path,
    prm: LoadedPRM,
    format: ModelFormat,
    precision: Precision,
    attention: AttentionOp,
    linears: tuple[ProductRecord, ...],
    float_type: FloatType,
    quantization: Quantization | None,
    progress: Progress,
) -> Manifest:
    manifest = prm.manifest.model_copy(update={"precision": precision, "products": linears})
    prm.tokenizer.save(str(folder / TOKENIZER_NAME))
    files, path = [folder / TOKENIZER_NAME], folder / model_file(format)
    if format == "onnx":
        files += write_graph(
            path,
            manifest,
            prm.weights,
            attention=attention,
            float_type=float_type,
            quantization=quantization,
            step=stage(progress, "writing layer"),
        )
    elif format == "native":
        in_8_bits = {linear.name for linear in linears if linear.bits == 8}
        write_native(
            path,
            manifest.backbone,
            manifest.head,
            prm.weights,
            in_8_bits=in_8_bits,
            step=stage(progress, "writing tensor"),
        )
        files.append(path)
    else:
        tensors = network_tensors(manifest.backbone, manifest.head)
        planned = of_float32(tensors, prm.weights.__getitem__)
        write_aligned(path, planned, {}, stage(progress, "writing tensor"))
        files.append(path)
    manifest = manifest.model_copy(
        update={
            "weights_sha256": weights_digest(prm.weights, stage(progress, "digest of tensor")),
            "files": {file.name: describe_file(file) for file in files},
            "exporter": {
                **_versions("rfprm_runtime", "onnx", "numpy", "onnxruntime"),
                **({"attention": attention} if format == "onnx" else {}),
                **({"float_type": float_type} if quantization is not None else {}),
            },
        }
    )
    (folder / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")
    return manifest


def _verified(
    folder: Path, manifest: Manifest, prm: LoadedPRM, parities: Sequence[Parity]
) -> Manifest:
    """``manifest``, written with the largest of the differences that backends have, if all are
    small enough."""
    for parity in parities:
        check_parity(parity, manifest.precision, partial(_blame, manifest, prm), gate_for(manifest))
    worst = max(parities, key=lambda parity: parity.max_difference)
    measured_on = "; ".join(parity.measured_on for parity in parities)
    worst = worst.model_copy(update={"measured_on": measured_on})
    manifest = manifest.model_copy(update={"parity": worst})
    (folder / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")
    return manifest


def _blame(manifest: Manifest, prm: LoadedPRM) -> list[str]:
    """The linears that probably lose most of the fidelity, worst first."""
    if manifest.precision not in NATIVE_PRECISIONS:
        return []
    if not manifest.products:
        return most_rounded(manifest.backbone, prm.weights)
    differences = {
        linear.name: linear.difference or 0.0 for linear in manifest.products if linear.bits == 8
    }
    worst = sorted(differences, key=differences.__getitem__, reverse=True)[:3]
    return [f"{name} ({differences[name]:.4f})" for name in worst]


def _versions(*packages: str) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # for instance rfprm_runtime, run from a checkout
            from rfprm_runtime import __version__

            found[package] = __version__ if package == "rfprm_runtime" else "unknown"
    return found
