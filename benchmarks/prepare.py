"""Prepares what the engines load: our artifacts, and a transformers checkpoint of the same PRM."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.engines import ENGINES
from rfprm_export.base_model import config_fields
from rfprm_export.checkpoint import load_prm
from rfprm_export.loaded_prm import LoadedPRM
from rfprm_export.shipped import ensure_artifact, shipped_checkpoint

WORK = Path("artifacts/benchmarks")
_OPTIMUM = ("torch==2.13.0", "optimum-onnx[onnxruntime]==0.1.0")


def prepare(folder: Path = WORK) -> None:
    """Build what is missing."""
    for precision in ("int16", "fp32"):
        ensure_artifact(folder / f"artifact-{precision}", precision=precision)
    checkpoint = folder / "checkpoint"
    if not (checkpoint / "config.json").exists():
        write_transformers_checkpoint(load_prm(shipped_checkpoint()), checkpoint)


def prepare_venv(name: str, folder: Path = WORK) -> Path:
    """The Python of a new environment for a peer that cannot share ours."""
    assert name == "optimum", name
    python = folder / "venvs" / name / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(python.parent.parent)], check=True)
        for requirement in _OPTIMUM:
            subprocess.run([str(python), "-m", "pip", "install", "-q", requirement], check=True)
    return python


def write_transformers_checkpoint(prm: LoadedPRM, folder: Path) -> None:
    """Write the PRM for ``AutoModelForTokenClassification``."""
    from safetensors.numpy import save_file

    shape = prm.manifest.backbone
    config = {
        "architectures": ["LlamaForTokenClassification"],
        "model_type": "llama",
        **config_fields(shape),
        "head_dim": shape.head_dim,
        "max_position_embeddings": prm.manifest.max_positions,
        "num_labels": prm.manifest.head.num_labels,
        "torch_dtype": "float32",
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(prm.weights), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2))


def engines_to_run(chosen: list[str]) -> list[str]:
    """Engines whose names contain one of ``chosen``; all of them by default."""
    names = [name for name in ENGINES if not chosen or any(part in name for part in chosen)]
    if not names:
        raise SystemExit(f"no engine matches {chosen}, expected parts of {list(ENGINES)}")
    return names
