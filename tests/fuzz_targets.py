"""What reads files of others, and what it is fed: one definition for the suite and scripts/fuzz.py.

A target turns the content of one file into a result or into an error of this library. Anything
else, a crash or another exception, is a fault.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from safetensors.numpy import save_file

from gguf_files import byte_level_fields, random_base, write_gguf
from rfprm_export.base_model import config_fields, read_base_model
from rfprm_export.checkpoint import load_prm, read_checkpoint
from rfprm_export.gguf_reader import read_gguf
from rfprm_export.gguf_tokenizer_config import gguf_tokenizer_config
from rfprm_export.graph import write_graph
from rfprm_export.lora import merge_lora
from rfprm_export.named_base import find_base_model
from rfprm_export.pickled_weights import open_pickled
from rfprm_export.stored_weights import StoredWeights
from rfprm_export.vocabulary.folder import open_tokenizer
from rfprm_export.weights_files import open_safetensors
from rfprm_export.weights_folder import INDEX_NAME, open_weights
from rfprm_runtime import RfprmError, Scorer, Trajectory
from rfprm_runtime.artifact.integrity import describe_file
from rfprm_runtime.artifact.manifest import Manifest
from rfprm_runtime.artifact.network_tensors import network_tensors
from rfprm_runtime.artifact.onnx_file import check_external_data, external_files
from rfprm_runtime.prompt.encoding import TrajectoryEncoder
from tiny_models import byte_tokenizer, tiny_manifest
from tokenizer_files import (
    bpe_pieces,
    model_proto,
    unigram_pieces,
    write_byte_level,
    write_sentencepiece,
)

Weights = dict[str, NDArray[np.float32]]
_TRACE = Trajectory(question="2 + 2?", steps=("2 + 2 = 4.", "<think> 5"), response=("4",))
_TOKENIZER = byte_tokenizer()
_MANIFEST = tiny_manifest(_TOKENIZER)


@dataclass(frozen=True)
class Target:
    """``prepare`` fills an empty folder once; ``run`` reads it after ``file`` has new content."""

    file: str
    prepare: Callable[[Path], object]
    run: Callable[[Path], object]

    def seed(self, folder: Path) -> bytes:
        """The valid content of the file, in a folder that is ready for :meth:`attack`."""
        self.prepare(folder)
        return (folder / self.file).read_bytes()

    def attack(self, folder: Path, content: bytes) -> RfprmError | None:
        """Read ``content`` in the place of the file; returns the error of ours, if there is one."""
        (folder / self.file).write_bytes(content)
        try:
            self.run(folder)
        except RfprmError as error:
            return error
        return None


@cache
def _weights() -> Weights:
    chance = np.random.default_rng(0)
    shapes = network_tensors(_MANIFEST.backbone, _MANIFEST.head)
    return {name: chance.normal(size=shape).astype(np.float32) * 0.1 for name, shape in shapes}


def _base_weights() -> Weights:
    return {name: array for name, array in _weights().items() if name.startswith("model.")}


def _prepare_tensors(folder: Path) -> None:
    tensors: dict[str, Any] = {"a": np.ones((3, 2), np.float32), "b": np.zeros(4, np.float16)}
    save_file(tensors, folder / "x.safetensors", metadata={"format": "pt"})


PICKLED = (
    b"\x80\x02ccollections\nOrderedDict\nq\x00)Rq\x01X\x01\x00\x00\x00aq\x02ctorch._utils\n"
    b"_rebuild_tensor_v2\nq\x03((X\x07\x00\x00\x00storageq\x04ctorch\nFloatStorage\nq\x05"
    b"X\x01\x00\x00\x000q\x06X\x03\x00\x00\x00cpuq\x07K\x06tq\x08QK\x00K\x03K\x02\x86q\tK\x02"
    b"K\x01\x86q\n\x89h\x00)Rq\x0btq\x0cRq\rs."
)
"""What ``torch.save({"a": torch.zeros(3, 2)})`` writes, without the numbers."""


def write_pickled(path: Path, pickled: bytes = PICKLED, **more: bytes) -> Path:
    """A file of ``torch.save`` with the storage ``0`` of six float32; ``more`` members of it."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/data/0", np.arange(6, dtype=np.float32).tobytes())
        for name, content in more.items():
            archive.writestr(f"archive/{name}", content)
    return path


def _prepare_model(folder: Path) -> None:
    """A Hugging Face folder in two shards."""
    weights = _base_weights()
    names = sorted(weights)
    shards = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, part in shards.items():
        save_file({name: weights[name] for name in part}, folder / file)
    index = {name: file for file, part in shards.items() for name in part}
    _write_json(folder / INDEX_NAME, {"metadata": {"total_size": 1}, "weight_map": index})
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        **config_fields(_MANIFEST.backbone),
        "head_dim": _MANIFEST.backbone.head_dim,
        "max_position_embeddings": 128,
    }
    _write_json(folder / "config.json", config)
    _TOKENIZER.save(str(folder / "tokenizer.json"))


def _prepare_checkpoint(folder: Path) -> None:
    """A checkpoint whose base model is inside it."""
    (folder / "base").mkdir(exist_ok=True)
    _prepare_model(folder / "base")
    fields = _MANIFEST.model_dump(mode="json")
    kept = ("name", "family", "head", "prompt", "step_readout", "trajectory_readout", "alpha")
    described = {name: fields[name] for name in kept}
    base = {"kind": "folder", "path": "base"}
    _write_json(
        folder / "checkpoint.json",
        {**described, "base": base, "num_layers": 2, "max_positions": 64},
    )
    heads = {name: array for name, array in _weights().items() if name.startswith("score.")}
    save_file(heads, folder / "heads.safetensors")
    _prepare_adapter(folder)


def _prepare_adapter(folder: Path) -> None:
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "use_rslora": False, "bias": "none"}
    _write_json(folder / "adapter_config.json", config)
    module = "base_model.model.model.layers.0.mlp.up_proj"
    tensors = {
        f"{module}.lora_A.weight": np.ones((2, 16), np.float32),
        f"{module}.lora_B.weight": np.ones((24, 2), np.float32),
    }
    save_file(tensors, folder / "adapter_model.safetensors")


def _prepare_artifact(folder: Path) -> None:
    files = [folder / "tokenizer.json", *write_graph(folder / "model.onnx", _MANIFEST, _weights())]
    _TOKENIZER.save(str(files[0]))
    records = {file.name: describe_file(file) for file in files}
    manifest = _MANIFEST.model_copy(update={"files": records, "source": {"licence": ["a", 1]}})
    (folder / "prm.json").write_text(manifest.to_json(), encoding="utf-8")


def _prepare_gguf(folder: Path) -> None:
    fields = {**byte_level_fields(_TOKENIZER), "bos_token_id": 1, "add_bos_token": True}
    template = {"tokenizer.chat_template": "{{ bos_token }}"}
    path = folder / "model.gguf"
    write_gguf(path, _MANIFEST.backbone, _base_weights(), fields, fields=template)


def _read_gguf(folder: Path) -> object:
    gguf_tokenizer_config(folder / "model.gguf")
    return dict(read_gguf(folder / "model.gguf")[1])


def _prepare_gguf_sentencepiece(folder: Path) -> None:
    """With bytes and every field of Qwen3 and of YaRN."""
    pieces = bpe_pieces()
    shape = _MANIFEST.backbone.model_copy(update={"qk_norm": True, "vocab_size": len(pieces)})
    texts, scores, kinds = (list(column) for column in zip(*pieces, strict=True))
    vocabulary = {"model": "llama", "tokens": texts, "scores": scores, "token_type": kinds}
    scaling = {
        "ARCH.rope.scaling.type": "yarn",
        "ARCH.rope.scaling.factor": 2.0,
        "ARCH.rope.scaling.original_context_length": 32,
    }
    write_gguf(
        folder / "model.gguf",
        shape,
        random_base(shape),
        vocabulary,
        architecture="qwen3",
        fields=scaling,
    )


def _open_tokenizer(folder: Path) -> None:
    found = open_tokenizer(folder, {"model_type": "llama"})
    found.tokenizer.encode("the end <s> 2 + 2 é")


def _load_checkpoint(folder: Path) -> None:
    find_base_model(read_checkpoint(folder).base, folder)
    dict(load_prm(folder).weights)


def _merge(folder: Path) -> None:
    base = {"model.layers.0.mlp.up_proj.weight": np.zeros((24, 16), np.float32)}
    dict(merge_lora(StoredWeights.of(base), folder))


def _score(folder: Path) -> None:
    with Scorer.load(folder, backend="fake", check_integrity=False) as scorer:
        scorer.score_batch([_TRACE], overflow="window")


def _encode(folder: Path) -> None:
    size = _MANIFEST.backbone.vocab_size
    TrajectoryEncoder.load(folder, _MANIFEST.prompt, vocab_size=size).encode(_TRACE)


def _check_graph(folder: Path) -> None:
    """No file that the graph's own library sees may be missed."""
    path = folder / "model.onnx"
    manifest = Manifest.model_validate_json((folder / "prm.json").read_bytes())
    check_external_data(path, manifest)
    try:
        graph = onnx.load_from_string(path.read_bytes()).graph
    except Exception:  # the library refuses it too
        return
    seen = {
        entry.value
        for tensor in graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    missed = seen - external_files(path)
    assert not missed, f"the graph names {missed}, which was not found"


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


TARGETS = {
    "safetensors": Target(
        "x.safetensors", _prepare_tensors, lambda at: dict(open_safetensors(at / "x.safetensors"))
    ),
    "pickle": Target(
        "pytorch_model.bin",
        lambda at: write_pickled(at / "pytorch_model.bin"),
        lambda at: dict(open_pickled(at / "pytorch_model.bin")),
    ),
    "gguf": Target("model.gguf", _prepare_gguf, _read_gguf),
    "gguf-sentencepiece": Target(
        "model.gguf",
        _prepare_gguf_sentencepiece,
        _read_gguf,
    ),
    "vocabulary": Target(
        "vocab.json", lambda at: write_byte_level(at, "GPT2Tokenizer"), _open_tokenizer
    ),
    "added-tokens": Target(
        "tokenizer_config.json", lambda at: write_byte_level(at, "Qwen2Tokenizer"), _open_tokenizer
    ),
    "sentencepiece": Target(
        "tokenizer.model",
        lambda at: write_sentencepiece(at, model_proto(bpe_pieces())),
        _open_tokenizer,
    ),
    "unigram": Target(
        "tokenizer.model",
        lambda at: write_sentencepiece(at, model_proto(unigram_pieces(), kind=1)),
        _open_tokenizer,
    ),
    "index": Target(INDEX_NAME, _prepare_model, lambda at: dict(open_weights(at))),
    "config": Target("config.json", _prepare_model, lambda at: dict(read_base_model(at).weights)),
    "adapter": Target("adapter_config.json", _prepare_adapter, _merge),
    "adapter-weights": Target("adapter_model.safetensors", _prepare_adapter, _merge),
    "checkpoint": Target("checkpoint.json", _prepare_checkpoint, _load_checkpoint),
    "heads": Target("heads.safetensors", _prepare_checkpoint, _load_checkpoint),
    "manifest": Target("prm.json", _prepare_artifact, _score),
    "tokenizer": Target("tokenizer.json", _prepare_artifact, _encode),
    "graph": Target("model.onnx", _prepare_artifact, _check_graph),
}


def prepared(name: str, folder: Path) -> tuple[Target, Path, bytes]:
    """A target, its folder inside ``folder``, and its seed."""
    place = folder / name
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    return TARGETS[name], place, TARGETS[name].seed(place)
