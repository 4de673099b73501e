"""Prepares what the engines load: our artifacts, and a transformers checkpoint of the same PRM."""

from __future__ import annotations

import json
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from benchmarks.engines import ENGINES
from rfprm_export.aligned_file import of_float32, write_aligned
from rfprm_export.artifact_writer import export_artifact
from rfprm_export.base_model import config_fields
from rfprm_export.checkpoint import load_prm
from rfprm_export.choices import Precision
from rfprm_export.loaded_prm import LoadedPRM
from rfprm_export.shipped import ensure_artifact, shipped_checkpoint
from rfprm_runtime.artifact.manifest import Backbone
from rfprm_runtime.artifact.network_tensors import network_tensors

WORK = Path("artifacts/benchmarks")
_VENVS = {
    "optimum": ("torch==2.13.0", "optimum-onnx[onnxruntime]==0.1.0"),
    "llama": ("llama-cpp-python==0.3.36", "gguf", "safetensors"),
}
"""What the environments of peers that cannot share ours hold. llama.cpp is compiled for this
processor, which takes minutes."""
_PRECISIONS: tuple[Precision, ...] = ("int16", "fp32")


def add_model_options(parser: ArgumentParser) -> None:
    """Options that name another PRM than the shipped one."""
    parser.add_argument("--model", type=Path, help="a checkpoint, instead of the shipped PRM")
    parser.add_argument("--base", help="its base model")
    parser.add_argument(
        "--precisions", nargs="*", default=_PRECISIONS, help="of ours, for --model (%(default)s)"
    )


def prepared(options: Namespace) -> Path:
    """The folder of the model that was asked for; what was missing in it is built."""
    if options.model is None:
        prepare()
        return WORK
    folder: Path = WORK / options.model.name
    for precision in options.precisions:
        artifact = folder / f"artifact-{precision}"
        if not artifact.exists():
            # Verifying a large model takes hours, and every run measures its fidelity anyway.
            export_artifact(
                options.model,
                artifact,
                precision=precision,
                base=options.base,
                verify=precision == "int8",
            )
    _prepare_checkpoint(folder, load_prm(options.model, base=options.base))
    return folder


def prepare(folder: Path = WORK) -> None:
    """Build what is missing for the shipped PRM."""
    for precision in _PRECISIONS:
        ensure_artifact(folder / f"artifact-{precision}", precision=precision)
    _prepare_checkpoint(folder, load_prm(shipped_checkpoint()))


def _prepare_checkpoint(folder: Path, prm: LoadedPRM) -> None:
    checkpoint = folder / "checkpoint"
    if not (checkpoint / "config.json").exists():
        write_transformers_checkpoint(prm, checkpoint)


def prepare_venv(name: str) -> Path:
    """The Python of an environment for a peer that cannot share ours; all models share it."""
    python = WORK / "venvs" / name / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(python.parent.parent)], check=True)
        for requirement in _VENVS[name]:
            subprocess.run([str(python), "-m", "pip", "install", "-q", requirement], check=True)
    return python


def write_transformers_checkpoint(prm: LoadedPRM, folder: Path) -> None:
    """Write the PRM for ``AutoModelForTokenClassification``, a tensor at a time."""
    shape, head = prm.manifest.backbone, prm.manifest.head
    if head.kind != "linear":
        raise SystemExit(f"the head is {head.kind}, and transformers' classifier has a linear one")
    name, kind = _architecture(shape)
    config = {
        "architectures": [f"{name}ForTokenClassification"],
        "model_type": kind,
        **config_fields(shape),
        "head_dim": shape.head_dim,
        "max_position_embeddings": prm.manifest.max_positions,
        "num_labels": head.num_labels,
        "torch_dtype": "float32",
    }
    folder.mkdir(parents=True, exist_ok=True)
    planned = of_float32(network_tensors(shape, head), prm.weights.__getitem__)
    write_aligned(folder / "model.safetensors", planned, {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2))


def _architecture(shape: Backbone) -> tuple[str, str]:
    if shape.qk_norm:
        return "Qwen3", "qwen3"
    return ("Qwen2", "qwen2") if shape.qkv_bias else ("Llama", "llama")


def engines_to_run(chosen: list[str]) -> list[str]:
    """Engines whose names are among ``chosen`` or contain one of them; all by default. Those that
    must be asked for have to be named in full."""
    names = [
        name
        for name, spec in ENGINES.items()
        if name in chosen
        or (not spec.only_if_asked and (not chosen or any(part in name for part in chosen)))
    ]
    if not names:
        raise SystemExit(f"no engine matches {chosen}, expected parts of {list(ENGINES)}")
    return names
