"""OpenVINO on unpadded rows, in as many streams as are asked for; for int8, weights by nncf and
dynamic quantisation of activations in groups of the size asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engines.base import Engine, Row

_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32", "int8-bf16": "bf16"}


def load(folder: Path, option: str) -> Engine:
    """``option``: ``int8/streams=2,group=64``."""
    kind, _, settings = option.partition("/")
    weights = "int8" if kind.startswith("int8") else "fp32"
    path = folder / "openvino" / f"{weights}.xml"
    if not path.exists():
        convert(folder, path)
    numbers = dict(setting.split("=") for setting in settings.split(",") if setting)
    return OpenVinoEngine(path, _HINTS[kind], numbers.get("streams", "1"), numbers.get("group"))


def convert(folder: Path, target: Path) -> None:
    """Convert the reference network to ``fp32.xml`` or ``int8.xml``; OpenVINO's converter fails on
    transformers' own Llama. The weights are in memory once."""
    import nncf
    import openvino
    import torch
    from safetensors.numpy import load_file
    from torch import nn

    from rfprm_runtime.artifact.manifest import read_manifest
    from rfprm_runtime.backends import torch as reference
    from rfprm_runtime.backends.rotary import rotary_tables

    manifest = read_manifest(folder / "artifact-fp32")
    shape = manifest.backbone
    weights = load_file(folder / "checkpoint" / "model.safetensors")
    network = reference.build_network(shape, manifest.head, weights, copy=False)

    def attention(
        self: Any,
        x: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        visible: torch.Tensor | None = None,
    ) -> torch.Tensor:
        # The network's own attention, but with repeated keys: the converter has no enable_gqa.
        batch, length, _ = x.shape
        query, key, value = (
            projection(x).view(batch, length, -1, shape.head_dim).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        group = shape.num_heads // shape.num_kv_heads
        mixed = nn.functional.scaled_dot_product_attention(
            reference.rotate(query, cos, sin),
            reference.rotate(key, cos, sin).repeat_interleave(group, 1),
            value.repeat_interleave(group, 1),
            is_causal=True,
        )
        out: torch.Tensor = self.o_proj(mixed.transpose(1, 2).reshape(batch, length, -1))
        return out

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            tables = rotary_tables(manifest.max_positions, shape)
            self.network = network
            self.register_buffer("cos", torch.from_numpy(tables[0]))
            self.register_buffer("sin", torch.from_numpy(tables[1]))

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            cos, sin = self.get_buffer("cos"), self.get_buffer("sin")
            x = network.embed(ids)
            for layer in network.model.layers:
                x = layer(x, cos[: ids.shape[1]], sin[: ids.shape[1]])
            out: torch.Tensor = network.score(network.model.norm(x))
            return out

    reference.Attention.forward = attention  # type: ignore[method-assign]
    model = openvino.convert_model(
        Logits().eval(),
        example_input=(torch.ones((1, 64), dtype=torch.int64),),
        input=[("ids", openvino.PartialShape([-1, -1]), openvino.Type.i64)],
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.stem == "int8":
        model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM)
    openvino.save_model(model, target, compress_to_fp16=target.stem == "int8")


class OpenVinoEngine:
    def __init__(self, path: Path, hint: str, streams: str, group: str | None) -> None:
        import openvino

        config = {"INFERENCE_PRECISION_HINT": hint, "NUM_STREAMS": streams}
        if group is not None:
            config["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = group
        self._compiled = openvino.Core().compile_model(str(path), "CPU", config)
        self._queue = openvino.AsyncInferQueue(self._compiled, int(streams))
        self._queue.set_callback(self._take)
        self._results: dict[int, np.ndarray] = {}
        self.versions = f"openvino {openvino.__version__.split('-')[0]}"

    def _take(self, request: Any, data: tuple[int, Row]) -> None:
        index, row = data
        self._results[index] = row.scores(request.get_output_tensor(0).data[0, row.markers])

    def run(self, rows: list[Row]) -> list[np.ndarray]:
        # Longest first, so that no stream ends alone with a long row.
        for index in sorted(range(len(rows)), key=lambda index: -len(rows[index].token_ids)):
            self._queue.start_async({"ids": rows[index].token_ids[None]}, (index, rows[index]))
        self._queue.wait_all()
        return [self._results.pop(index) for index in range(len(rows))]
