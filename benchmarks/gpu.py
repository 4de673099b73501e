"""Packed torch and ONNX Runtime beside batched transformers on one GPU, and all of them beside its
matrix products.

python -m benchmarks.gpu [--shapes 135M 1.5B 7B] [--lengths 512 2048 8192] [--batches 1 8 64]

Random weights in the shapes of SmolLM2-135M, Qwen2.5-1.5B and Qwen2.5-7B, the same in all engines:
speed does not depend on them, and what they agree on is measured too. Writes
benchmarks/results/gpu.json after every shape.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np
import torch
import transformers
from rich.console import Console
from rich.table import Table

from benchmarks.report import write_json
from benchmarks.runner import environment
from rfprm_export.float_types import FloatType
from rfprm_export.graph import write_graph
from rfprm_export.weights import config_fields
from rfprm_runtime.backends.onnx import OnnxBackend
from rfprm_runtime.backends.packed_torch import PackedTorchBackend
from rfprm_runtime.backends.torch import PRMNetwork
from rfprm_runtime.engine.rows import BackendLimits, Extension, TokenRow, pad_batch, plan_batches
from rfprm_runtime.errors import BackendError
from rfprm_runtime.manifest import Backbone, Head

Result = TypeVar("Result")
HEAD = Head(kind="linear", num_labels=2)
_TOKENS_PER_STEP = 32
_BATCH_TOKENS = 65_536
_MAX_POSITIONS = 32_768


def _qwen(hidden: int, layers: int, heads: int, kv_heads: int, inner: int, vocab: int) -> Backbone:
    return Backbone(
        hidden_size=hidden,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=128,
        intermediate_size=inner,
        vocab_size=vocab,
        rms_norm_eps=1e-6,
        rope_theta=1e6,
        qkv_bias=True,
    )


SHAPES = {
    "tiny": Backbone(
        hidden_size=64, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=16,
        intermediate_size=96, vocab_size=300, rms_norm_eps=1e-6, rope_theta=1e4, qkv_bias=True,
    ),
    "135M": Backbone(
        hidden_size=576, num_layers=30, num_heads=9, num_kv_heads=3, head_dim=64,
        intermediate_size=1536, vocab_size=49152, rms_norm_eps=1e-5, rope_theta=1e5, qkv_bias=True,
    ),
    "1.5B": _qwen(1536, 28, 12, 2, 8960, 151936),
    "7B": _qwen(3584, 28, 28, 4, 18944, 152064),
}  # fmt: skip
"""With biases as Qwen2 has them, so that one class of transformers reads them all."""


Engine = Callable[[Sequence[TokenRow]], list[np.ndarray]]
"""Rows in, the scores of each out."""


def make_rows(count: int, length: int, vocab: int, *, mixed: bool, seed: int) -> list[TokenRow]:
    """Rows of ``length`` tokens, or of a quarter of it and more, with a marker every 32."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(length // 4, length + 1, count) if mixed else np.full(count, length)
    return [
        TokenRow(
            rng.integers(0, vocab, int(size)),
            np.append(np.arange(_TOKENS_PER_STEP, size, _TOKENS_PER_STEP) - 1, size - 1),
        )
        for size in sizes
    ]


def in_batches(run_batch: Callable[[list[TokenRow]], Iterable[np.ndarray]]) -> Engine:
    """An engine of what gives the logits at the markers of each row of a batch."""

    def run(rows: Sequence[TokenRow]) -> list[np.ndarray]:
        found: dict[int, np.ndarray] = {}
        for batch in _batches(rows):
            logits = run_batch([rows[index] for index in batch])
            found.update(zip(batch, map(_probability, logits), strict=True))
        return [found[index] for index in range(len(rows))]

    return run


def packed_engine(network: PRMNetwork, device: str, dtype: Any) -> Engine:
    backend = PackedTorchBackend(network, device=device, dtype=dtype)

    def run_batch(rows: list[TokenRow]) -> list[np.ndarray]:
        items = [Extension(row.token_ids, row.marker_positions) for row in rows]
        return [extended.logits for extended in backend.extend(items)]

    return in_batches(run_batch)


def transformers_engine(network: PRMNetwork, shape: Backbone, device: str, dtype: Any) -> Engine:
    """As its users score: sorted, padded batches, the head on every token."""
    make_config: Any = transformers.Qwen2Config
    make_model: Any = transformers.Qwen2ForTokenClassification
    config = make_config(
        **config_fields(shape), num_labels=2, tie_word_embeddings=False, use_cache=False
    )
    config.max_position_embeddings = _MAX_POSITIONS
    with torch.device("meta"):
        model = make_model(config)
    model.load_state_dict(
        {name: x.to(device, getattr(torch, dtype)) for name, x in network.state_dict().items()},
        assign=True,
    )
    # What is no parameter was left without values.
    model.model.rotary_emb = type(model.model.rotary_emb)(config).to(device)
    model.eval()

    def run_batch(rows: list[TokenRow]) -> list[np.ndarray]:
        padded = pad_batch(rows)
        mask = np.arange(padded.token_ids.shape[1]) < padded.lengths[:, None]
        with torch.inference_mode():
            logits = model(
                input_ids=torch.from_numpy(padded.token_ids).to(device),
                attention_mask=None if mask.all() else torch.from_numpy(mask).long().to(device),
            ).logits
        wide = logits.float().cpu().numpy()
        return [of_row[row.marker_positions] for of_row, row in zip(wide, rows, strict=True)]

    return in_batches(run_batch)


def onnx_engine(network: PRMNetwork, shape: Backbone, device: str, folder: Path) -> Engine:
    """The graph with ONNX Runtime's own attention, in bfloat16 on a GPU and float32 on a CPU."""
    on_gpu = device.startswith("cuda")
    float_type: FloatType = "bf16" if on_gpu else "fp32"
    weights = {name: x.float().cpu().numpy() for name, x in network.state_dict().items()}
    manifest: Any = SimpleNamespace(
        backbone=shape, head=HEAD, max_positions=_MAX_POSITIONS, precision=float_type
    )
    path = folder / "model.onnx"
    write_graph(path, manifest, weights, attention="group_query", float_type=float_type)
    backend = OnnxBackend(path, manifest, provider="cuda" if on_gpu else "cpu")

    def run_batch(rows: list[TokenRow]) -> list[np.ndarray]:
        counts = np.cumsum([len(row.marker_positions) for row in rows])[:-1]
        return np.split(backend.run(pad_batch(rows)), counts)

    return in_batches(run_batch)


def _batches(rows: Sequence[TokenRow]) -> list[list[int]]:
    limits = BackendLimits(max_batch_size=256, max_batch_tokens=_BATCH_TOKENS)
    return plan_batches([row.num_tokens for row in rows], limits)


def _probability(logits: np.ndarray) -> np.ndarray:
    result: np.ndarray = 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))
    return result


def random_network(shape: Backbone, device: str) -> PRMNetwork:
    """Float32, with activations of about unit size all the way."""
    torch.manual_seed(0)
    with torch.device(device):
        network = PRMNetwork(shape, HEAD)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim == 2 and "embed" not in name:
                parameter.normal_(std=0.5 / parameter.shape[1] ** 0.5)
    return network.eval()


def operations(shape: Backbone, rows: Sequence[TokenRow]) -> float:
    """Multiplications and additions of the products and of causal attention."""
    queries, keys = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    products = shape.hidden_size * (2 * queries + 2 * keys + 3 * shape.intermediate_size)
    tokens = sum(row.num_tokens for row in rows)
    pairs = sum(row.num_tokens * (row.num_tokens + 1) / 2 for row in rows)
    return float(2 * shape.num_layers * (products * tokens + 2 * queries * pairs))


def matmul_ceiling(device: str, dtype: Any, size: int) -> float:
    """Operations a second of a large matrix product."""
    a, b = (torch.randn(size, size, device=device, dtype=getattr(torch, dtype)) for _ in range(2))
    seconds = [_timed(lambda: a @ b, device)[0] for _ in range(12)][2:]
    return 2 * float(size) ** 3 / statistics.median(seconds)


def _timed(call: Callable[[], Result], device: str) -> tuple[float, Result]:
    _wait(device)
    began = time.perf_counter()
    result = call()
    _wait(device)
    return time.perf_counter() - began, result


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def measure(
    engines: dict[str, Engine], shape: Backbone, ceiling: float, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """A row for each batch, length and engine; engines take turns."""
    found = []
    for length in options.lengths:
        for batch in options.batches:
            for mixed in (False, True) if batch > 1 else (False,):
                rows = make_rows(batch, length, shape.vocab_size, mixed=mixed, seed=length + batch)
                seconds: dict[str, list[float]] = {name: [] for name in engines}
                scores: dict[str, list[np.ndarray]] = {}
                for turn in range(options.rounds + 1):
                    for name, engine in engines.items():
                        taken, scores[name] = _timed(partial(engine, rows), options.device)
                        if turn:  # the first one warms up
                            seconds[name].append(taken)
                tokens = sum(row.num_tokens for row in rows)
                all_scores = {name: np.concatenate(scores[name]) for name in engines}
                usual = next(iter(all_scores.values()))
                for name, times in seconds.items():
                    median = statistics.median(times)
                    found.append(
                        {
                            "engine": name,
                            "batch": batch,
                            "length": length,
                            "mixed": mixed,
                            "tokens": tokens,
                            "p50": median,
                            "p99": float(np.quantile(times, 0.99)),
                            "tokens_per_second": tokens / median,
                            "share_of_ceiling": operations(shape, rows) / median / ceiling,
                            "difference": float(np.abs(all_scores[name] - usual).max()),
                        }
                    )
    return found


def report(name: str, found: list[dict[str, Any]]) -> None:
    table = Table(title=name, title_justify="left")
    for column in (
        "rows × tokens",
        "engine",
        "p50 ms",
        "p99 ms",
        "tokens/s",
        "of the ceiling",
        "≠",
    ):
        table.add_column(column, justify="left" if column == "engine" else "right")
    for row in found:
        table.add_row(
            f"{row['batch']} × {'¼–1 · ' if row['mixed'] else ''}{row['length']:,}",
            row["engine"],
            f"{1e3 * row['p50']:.2f}",
            f"{1e3 * row['p99']:.2f}",
            f"{row['tokens_per_second']:,.0f}",
            f"{row['share_of_ceiling']:.0%}",
            f"{row['difference']:.1e}",
        )
    Console(width=120, highlight=False).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shapes", nargs="+", default=["135M", "1.5B", "7B"], choices=SHAPES)
    parser.add_argument("--lengths", nargs="+", type=int, default=[512, 2048, 8192])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 64])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--name", default="gpu", help="of the file in benchmarks/results")
    options = parser.parse_args()
    on_gpu = options.device.startswith("cuda")
    ceiling = matmul_ceiling(options.device, options.dtype, 8192 if on_gpu else 512)
    device = torch.cuda.get_device_name() if on_gpu else options.device
    print(f"{device}: {ceiling / 1e12:.1f} TFLOP/s in products of {options.dtype}")
    measured: dict[str, Any] = {
        "environment": environment(),
        "device": device,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "dtype": options.dtype,
        "ceiling": ceiling,
        "shapes": {},
    }
    for name in options.shapes:
        shape = SHAPES[name]
        network = random_network(shape, options.device)
        with tempfile.TemporaryDirectory() as folder:
            engines = {
                "transformers, batched": transformers_engine(
                    network, shape, options.device, options.dtype
                )
            }
            try:
                engines["onnxruntime"] = onnx_engine(network, shape, options.device, Path(folder))
            except BackendError as error:
                print(f"without ONNX Runtime: {error}")
            # Last: it converts the network in place.
            engines["torch, packed"] = packed_engine(network, options.device, options.dtype)
            found = measure(engines, shape, ceiling, options)
        measured["shapes"][name] = found
        report(name, found)
        print(f"→ {write_json(options.name, measured)}", flush=True)
        del network, engines
        if on_gpu:
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
