"""A tiny random model for the native kernels, as an artifact folder. Needs no torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rfprm_export.native_file import write_native
from rfprm_runtime.artifact.integrity import describe_file
from rfprm_runtime.artifact.manifest import MANIFEST_NAME, NATIVE_NAME, Backbone, Head, Manifest
from rfprm_runtime.prompt.encoding import TOKENIZER_NAME
from tiny_models import byte_tokenizer, tiny_manifest


def write_tiny_native(folder: Path, manifest: Manifest | None = None) -> Path:
    """Has room for traces of 2,048 tokens, which several threads share."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = byte_tokenizer()
    manifest = manifest or tiny_manifest(tokenizer, max_positions=2048)
    shape = manifest.backbone.model_copy(
        update={"hidden_size": 64, "head_dim": 16, "num_heads": 4, "intermediate_size": 96}
    )
    weights = _weights(shape, manifest.head)
    file = write_native(folder / NATIVE_NAME, shape, manifest.head, weights)
    tokenizer.save(str(folder / TOKENIZER_NAME))
    files = {path.name: describe_file(path) for path in (file, folder / TOKENIZER_NAME)}
    manifest = manifest.model_copy(update={"backbone": shape, "files": files})
    (folder / MANIFEST_NAME).write_text(manifest.model_dump_json(), encoding="utf-8")
    return folder


def _weights(shape: Backbone, head: Head) -> dict[str, np.ndarray]:
    hidden, inner = shape.hidden_size, shape.intermediate_size
    queries, keys = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    linears = {
        "self_attn.q_proj": (queries, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, queries),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    sizes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (shape.vocab_size, hidden),
        "model.norm.weight": (hidden,),
        "score.weight": (head.num_labels, hidden),
        "score.bias": (head.num_labels,),
    }
    for index in range(shape.num_layers):
        layer = f"model.layers.{index}"
        sizes |= {f"{layer}.{name}.weight": size for name, size in linears.items()}
        sizes |= {
            f"{layer}.{name}.weight": (hidden,)
            for name in ("input_layernorm", "post_attention_layernorm")
        }
    rng = np.random.default_rng(0)
    return {
        name: (rng.normal(size=size) / max(size[-1], 4) ** 0.5).astype(np.float32)
        for name, size in sizes.items()
    }
