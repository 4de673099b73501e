"""Random small models for the native kernels: of shapes they support, of others, and damaged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from rfprm_export import aligned_file, graph, native_file, panels
from rfprm_runtime.artifact.manifest import (
    ONNX_NAME,
    TORCH_NAME,
    Backbone,
    Head,
    Manifest,
    parse_manifest,
)

UNSUPPORTED = (
    {"head_dim": 2},
    {"head_dim": 8},
    {"head_dim": 24},
    {"head_dim": 34},
    {"hidden_size": 8},
    {"hidden_size": 20},
    {"hidden_size": 24},
    {"max_positions": 2**24, "head_dim": 64},
)
"""Values that the manifest allows and the kernels do not."""
STRANGE = (
    *(0, -1, 1, 2, 3, 8, 15, 16, 17, 20, 24, 34, 63, 64, 65, 1000, 2**16, 2**24, 2**31, 2**32),
    *(2**62, 2**63 - 1, 2**63, 10**30, 1e-320, 1e-30, 1e30, 1e308, -1e30),
    *(float("nan"), float("inf"), float("-inf"), None, True, "7", [], {}),
)
_READOUT = {"transform": "sigmoid", "positive": 0}


def supported(rng: Random) -> dict[str, Any]:
    """The content of a manifest."""
    kv_heads = rng.choice((1, 1, 2, 3))
    backbone = {
        "hidden_size": 16 * rng.randint(1, 12),
        "num_layers": rng.randint(1, 3),
        "num_heads": kv_heads * rng.randint(1, 4),
        "num_kv_heads": kv_heads,
        "head_dim": 16 * rng.choice((1, 1, 2, 3, 4, 5, 8, 16)),
        "intermediate_size": rng.choice((1, 31, 32, 33, rng.randint(1, 200))),
        "vocab_size": rng.randint(2, 90),
        "rms_norm_eps": rng.choice((1e-12, 1e-6, 1e-5, 1.0)),
        "rope_theta": rng.choice((1.0, 1e4, 1e6)),
        "qkv_bias": rng.random() < 0.4,
        "output_bias": rng.random() < 0.4,
        "mlp_bias": rng.random() < 0.4,
        "qk_norm": rng.random() < 0.4,
    }
    return {
        "format_version": 1,
        "name": "random",
        "family": "rfprm",
        "backbone": backbone,
        "head": {"kind": rng.choice(("linear", "mlp_relu")), "num_labels": rng.randint(1, 5)},
        "prompt": {
            "pieces": [{"kind": "question"}, {"kind": "steps"}],
            "step_marker": {"token": "x", "id": 1},
        },
        "step_readout": _READOUT,
        "max_positions": rng.choice((1, 2, 63, 64, 65, 700, rng.randint(1, 1200))),
    }


def with_values(content: dict[str, Any], values: dict[str, Any]) -> Manifest:
    """The manifest with other values, of the backbone or of its own."""
    own = {key: value for key, value in values.items() if key == "max_positions"}
    inner = {key: value for key, value in values.items() if key not in own}
    return parse_manifest({**content, **own, "backbone": {**content["backbone"], **inner}})


def write_model(path: Path, manifest: Manifest, rng: Random, *, size: float) -> Path:
    """Random weights, in integers some linears in 8 bits; ``size``: how large numbers are."""
    shape, head = manifest.backbone, manifest.head
    weights = dict(_weights(shape, head, rng, size))
    if path.name == ONNX_NAME:
        return graph.write_graph(path, manifest, weights, attention="standard")[0]
    if path.name == TORCH_NAME:
        aligned_file.write_aligned(path, aligned_file.in_memory(weights), {})
        return path
    names = panels.linear_names(shape)
    in_8_bits = [name for name in names if rng.random() < rng.choice((0.0, 0.5, 1.0))]
    return native_file.write_native(path, shape, head, weights, in_8_bits=in_8_bits)


def _weights(
    shape: Backbone, head: Head, rng: Random, size: float
) -> Iterator[tuple[str, np.ndarray]]:
    random = np.random.default_rng(rng.getrandbits(32))

    def normal(*dims: int) -> np.ndarray:
        return (random.normal(size=dims) * size / max(dims[-1], 4) ** 0.5).astype(np.float32)

    def linear(name: str, outputs: int, inputs: int, *, bias: bool) -> Iterator[Any]:
        yield f"{name}.weight", normal(outputs, inputs)
        if bias:
            yield f"{name}.bias", normal(outputs)

    hidden, inner = shape.hidden_size, shape.intermediate_size
    queries, keys = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    yield "model.embed_tokens.weight", normal(shape.vocab_size, hidden)
    yield "model.norm.weight", 1 + normal(hidden)
    for index in range(shape.num_layers):
        layer = f"model.layers.{index}"
        yield f"{layer}.input_layernorm.weight", 1 + normal(hidden)
        yield f"{layer}.post_attention_layernorm.weight", 1 + normal(hidden)
        for kind, outputs in (("q", queries), ("k", keys), ("v", keys)):
            name = f"{layer}.self_attn.{kind}_proj"
            yield from linear(name, outputs, hidden, bias=shape.qkv_bias)
        yield from linear(f"{layer}.self_attn.o_proj", hidden, queries, bias=shape.output_bias)
        for kind in ("gate", "up"):
            yield from linear(f"{layer}.mlp.{kind}_proj", inner, hidden, bias=shape.mlp_bias)
        yield from linear(f"{layer}.mlp.down_proj", hidden, inner, bias=shape.mlp_bias)
        if shape.qk_norm:
            yield f"{layer}.self_attn.q_norm.weight", 1 + normal(shape.head_dim)
            yield f"{layer}.self_attn.k_norm.weight", 1 + normal(shape.head_dim)
    if head.kind == "linear":
        yield from linear("score", head.num_labels, hidden, bias=True)
        return
    yield from linear("score.0", hidden, hidden, bias=True)
    yield from linear("score.2", head.num_labels, hidden, bias=True)


def damaged_manifest(content: dict[str, Any], rng: Random) -> Manifest:
    """One or two numbers are others. Raises what the manifest's definition raises."""
    content = json.loads(json.dumps(content))
    backbone, head = content["backbone"], content["head"]
    for _ in range(rng.randint(1, 2)):
        place = rng.choice((backbone, backbone, content, head))
        name = rng.choice(sorted(place))
        old = place[name]
        near = (old + 1, old - 1, old * 2, old + 16) if type(old) is int else ()
        place[name] = rng.choice((*STRANGE, *near))
    return parse_manifest(json.loads(json.dumps(content)))


def damaged_file(path: Path, target: Path, rng: Random) -> Path:
    """A copy whose header or data is damaged."""
    content = bytearray(path.read_bytes())
    if path.name == ONNX_NAME:
        data = path.with_name(f"{path.name}.data").read_bytes()
        for _ in range(rng.randint(1, 3)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        target.with_name(f"{path.name}.data").write_bytes(data[: rng.choice((len(data), 1000))])
        target.write_bytes(content)
        return target
    size = int.from_bytes(content[:8], "little")
    how = rng.choice(("header", "header", "numbers", "bytes", "cut"))
    if how == "header":
        header = json.loads(content[8 : 8 + size])
        _damage_header(header, rng)
        text = json.dumps(header).encode()
        text += b" " * (-(8 + len(text)) % rng.choice((1, 2, 4, 64)))
        content = bytearray(len(text).to_bytes(8, "little") + text + content[8 + size :])
    elif how == "numbers":
        _damage_numbers(content, 8 + size, rng)
    elif how == "bytes":
        for _ in range(rng.randint(1, 30)):
            content[rng.randrange(len(content))] = rng.randrange(256)
    else:
        del content[rng.randrange(len(content)) :]
    target.write_bytes(content)
    return target


def _damage_header(header: dict[str, Any], rng: Random) -> None:
    name = rng.choice([name for name in header if name != "__metadata__"])
    entry = header[name]
    how = rng.choice(("dtype", "shape", "data_offsets", "gone", "swapped", "entry", "metadata"))
    if how == "dtype":
        entry["dtype"] = rng.choice(("I8", "I16", "I32", "F32", "F64", "BF16", "U64", "", 7, None))
    elif how in ("shape", "data_offsets"):
        values = entry[how] or [0]
        values[rng.randrange(len(values))] = rng.choice(STRANGE)
    elif how == "gone":
        del header[name]
    elif how == "swapped":
        other = rng.choice([name for name in header if name != "__metadata__"])
        header[name], header[other] = header[other], entry
    elif how == "entry":
        header[name] = rng.choice((None, 3, [], "x", {}))
    else:
        header["__metadata__"] = rng.choice((None, 3, [], {}, {"layout": 2}))


def _damage_numbers(content: bytearray, start: int, rng: Random) -> None:
    """Puts numbers of every type where they are hardest to take."""
    numbers = [np.float32(x) for x in (np.nan, np.inf, -np.inf, 3e38, 1e30, 1e-45, -1)]
    numbers += [np.float64(x) for x in (np.nan, np.inf, -1, 0, 1e300)]
    numbers += [np.int16(-32768), np.int16(32767), np.int8(-128), np.int32(-(2**31))]
    for _ in range(rng.randint(1, 20)):
        value = rng.choice(numbers).tobytes()
        at = start + rng.randrange(max(1, (len(content) - start) // 8)) * 8
        content[at : at + len(value)] = value
