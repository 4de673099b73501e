"""Writes an artifact as a model for NVIDIA's Triton Inference Server.

Source: Triton's model repository layout and ``model_config.proto``. Triton runs the network: token
ids and marker positions in, logits out. The client does the encoding and the readout.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import onnx

from rfprm_export import ExportError
from rfprm_export.artifact_writer import check_output
from rfprm_runtime.artifact.build_records import EngineRecord
from rfprm_runtime.artifact.integrity import check_files
from rfprm_runtime.artifact.manifest import (
    MANIFEST_NAME,
    ONNX_NAME,
    PLAN_NAME,
    TOKENIZER_NAME,
    Manifest,
    read_manifest,
)
from rfprm_runtime.artifact.onnx_file import check_external_data, external_files
from rfprm_runtime.ground.whole_files import replacing_folder

CONFIG_NAME = "config.pbtxt"
_NAME = re.compile(r"\w[\w.-]*", re.ASCII)
_TYPES = {"token_ids": ("TYPE_INT64", 2), "lengths": ("TYPE_INT64", 1)}


def write_triton_model(
    artifact: Path, repository: Path, *, name: str | None = None, overwrite: bool = False
) -> Path:
    """Write ``repository/NAME`` with ``config.pbtxt`` and version 1 of the model; returns that
    folder. Takes the artifact's TensorRT engine if it has one, otherwise its graph.

    The manifest and the tokenizer are written beside the config, for clients. Raises
    :class:`ExportError` if the artifact has neither, if the folder exists, or for a bad name.
    """
    manifest = read_manifest(artifact)
    check_files(artifact, manifest)
    if ONNX_NAME in manifest.files:
        check_external_data(artifact / ONNX_NAME, manifest)
    name = manifest.name if name is None else name
    if not _NAME.fullmatch(name):
        raise ExportError(
            f"the model's name is {name!r}, expected letters, digits and any of ._- for a folder "
            "name; give another with --name"
        )
    folder = repository / name
    check_output(folder, overwrite, reads=[artifact])
    if manifest.engine is not None:
        _check_engine(manifest.engine, artifact)
    if PLAN_NAME in manifest.files:
        platform, files = "tensorrt_plan", {PLAN_NAME: PLAN_NAME}
        inputs = ["token_ids", "marker_positions"]
    elif ONNX_NAME in manifest.files:
        names = {ONNX_NAME, *external_files(artifact / ONNX_NAME)}
        platform, files = "onnxruntime_onnx", {name: name for name in sorted(names)}
        graph = onnx.load(artifact / ONNX_NAME, load_external_data=False).graph
        inputs = [value.name for value in graph.input]
    else:
        raise ExportError(
            f"{artifact} holds {sorted(manifest.files)}, but Triton runs {ONNX_NAME} or "
            f"{PLAN_NAME}; export with --precision fp32, fp16 or bf16, or build a TensorRT engine"
        )
    with replacing_folder(folder) as partial:
        version = partial / "1"
        version.mkdir()
        for source, target in files.items():
            shutil.copyfile(artifact / source, version / target)
        shutil.copyfile(artifact / TOKENIZER_NAME, partial / TOKENIZER_NAME)
        # The manifest is for clients, which have the tokenizer but no model files.
        own = {TOKENIZER_NAME: manifest.files[TOKENIZER_NAME]}
        described = manifest.model_copy(update={"files": own})
        (partial / MANIFEST_NAME).write_text(described.to_json(), encoding="utf-8")
        text = "\n".join(_config(name, platform, next(iter(files)), inputs, manifest))
        (partial / CONFIG_NAME).write_text(text + "\n", encoding="utf-8")
    return folder


def _check_engine(engine: EngineRecord, artifact: Path) -> None:
    """Refuse engines that Triton's ``tensorrt_plan`` cannot run: those of TensorRT-RTX, and those
    without weights."""
    if engine.flavour != "tensorrt" or engine.weights == "stripped":
        kind = "without weights" if engine.weights == "stripped" else f"of {engine.flavour}"
        raise ExportError(
            f"{artifact} has a TensorRT engine {kind}, which Triton does not load; build one with "
            "--flavour tensorrt, or give an artifact that has only a graph"
        )


def _config(
    name: str, platform: str, file: str, inputs: list[str], manifest: Manifest
) -> Iterator[str]:
    yield f'name: "{name}"'
    yield f'platform: "{platform}"'
    yield f'default_model_filename: "{file}"'
    # The client batches rows, because marker positions count across all of them.
    yield "max_batch_size: 0"
    for input_name in inputs:
        data_type, rank = _TYPES.get(input_name, ("TYPE_INT64", 1))
        yield _tensor("input", input_name, data_type, [-1] * rank)
    yield _tensor("output", "logits", "TYPE_FP32", [-1, manifest.head.num_labels])
    if manifest.engine is not None and platform == "tensorrt_plan":
        profiles = ", ".join(f'"{index}"' for index in range(len(manifest.engine.profiles)))
        yield f"instance_group [ {{ kind: KIND_GPU count: 1 profile: [ {profiles} ] }} ]"


def _tensor(kind: str, name: str, data_type: str, dims: list[int]) -> str:
    sizes = ", ".join(map(str, dims))
    return f'{kind} [ {{ name: "{name}" data_type: {data_type} dims: [ {sizes} ] }} ]'
