"""The network, defined once: training trains it, export verifies against it, tests use it.

Parameter names are Hugging Face's, so a state dict of a Llama, Qwen2 or Qwen3 checkpoint fits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from rfprm_runtime.artifact.contents import ModelFile
from rfprm_runtime.artifact.manifest import Backbone, Head, Manifest
from rfprm_runtime.artifact.tensors import check_finite_tensor, read_tensors
from rfprm_runtime.backends.rotary import rotary_tables
from rfprm_runtime.engine.rows import BackendLimits, TokenBatch
from rfprm_runtime.errors import BackendError, InvalidArgumentError, MissingExtraError
from rfprm_runtime.ground.arguments import check_choice, check_is

if TYPE_CHECKING:
    from typing_extensions import Self

try:
    import torch
    from torch import Tensor, nn
    from torch.nn import functional as F  # noqa: N812
except ImportError:
    raise MissingExtraError("torch", "train", "the torch backend") from None


def inverse_root(squares: Tensor, eps: float) -> Tensor:
    """1 / √(``squares`` + ``eps``), and NaN where a square overflowed: 0 would make a row of zeros,
    which looks like any other."""
    return torch.rsqrt(squares + eps) + 0 * squares


class RMSNorm(nn.Module):
    """x / rms(x) · weight over the last axis, in float32 whatever the type of ``x``."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        squares = wide.pow(2).mean(-1, keepdim=True)
        return self.weight * (wide * inverse_root(squares, self.eps)).to(x.dtype)


DType = Literal["float32", "bfloat16", "float16"]


def find_device(device: str | torch.device | None) -> torch.device:
    """``device``, by default the GPU if torch has one. Raises :class:`InvalidArgumentError` for a
    name that torch does not know."""
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    expected = "a name that torch knows, cpu or cuda:0"
    check_is("device", device, (str, torch.device), expected)
    try:
        return torch.device(device)
    except RuntimeError as error:
        raise InvalidArgumentError(f"device is {device!r}, expected {expected}: {error}") from None


@dataclass(frozen=True)
class Tree:
    """Rows that each hold several sequences with a common prefix, which is there once."""

    positions: Tensor  # int64 [batch, length], each token's place in its own sequence
    visible: Tensor  # bool [batch, 1, length, length], what a token (row) may attend to (column)


class Attention(nn.Module):
    """Causal grouped-query attention with rotary positions."""

    def __init__(self, shape: Backbone) -> None:
        super().__init__()
        self.shape = shape
        query_size = shape.num_heads * shape.head_dim
        kv_size = shape.num_kv_heads * shape.head_dim
        self.q_proj = nn.Linear(shape.hidden_size, query_size, bias=shape.qkv_bias)
        self.k_proj = nn.Linear(shape.hidden_size, kv_size, bias=shape.qkv_bias)
        self.v_proj = nn.Linear(shape.hidden_size, kv_size, bias=shape.qkv_bias)
        self.o_proj = nn.Linear(query_size, shape.hidden_size, bias=shape.output_bias)
        if shape.qk_norm:
            self.q_norm = RMSNorm(shape.head_dim, shape.rms_norm_eps)
            self.k_norm = RMSNorm(shape.head_dim, shape.rms_norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, visible: Tensor | None = None) -> Tensor:
        query, key, value = self.project(x, cos, sin)
        return self.merge(mix(query, key, value, visible))

    def project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value of ``x``, each [batch, heads, length, head_dim], rotated."""
        batch, length, _ = x.shape
        heads = (batch, length, -1, self.shape.head_dim)
        query = self.q_proj(x).view(heads)
        key = self.k_proj(x).view(heads)
        value = self.v_proj(x).view(heads).transpose(1, 2)
        if self.shape.qk_norm:
            query, key = self.q_norm(query), self.k_norm(key)
        query, key = rotate(query.transpose(1, 2), cos, sin), rotate(key.transpose(1, 2), cos, sin)
        return query, key, value

    def merge(self, mixed: Tensor) -> Tensor:
        """[batch, heads, length, head_dim] → [batch, length, hidden_size]."""
        batch, _, length, _ = mixed.shape
        out: Tensor = self.o_proj(mixed.transpose(1, 2).reshape(batch, length, -1))
        return out


class MLP(nn.Module):
    """SwiGLU: down(silu(gate(x)) · up(x))."""

    def __init__(self, shape: Backbone) -> None:
        super().__init__()
        hidden, inner, bias = shape.hidden_size, shape.intermediate_size, shape.mlp_bias
        self.gate_proj = nn.Linear(hidden, inner, bias=bias)
        self.up_proj = nn.Linear(hidden, inner, bias=bias)
        self.down_proj = nn.Linear(inner, hidden, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class DecoderLayer(nn.Module):
    def __init__(self, shape: Backbone) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        self.mlp = MLP(shape)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, visible: Tensor | None = None) -> Tensor:
        return self.feed_forward(self.attend(x, cos, sin, visible))

    def attend(self, x: Tensor, cos: Tensor, sin: Tensor, visible: Tensor | None) -> Tensor:
        out: Tensor = x + self.self_attn(self.input_layernorm(x), cos, sin, visible)
        return out

    def feed_forward(self, x: Tensor) -> Tensor:
        """Works on any rows: the result of one does not depend on the others."""
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class Decoder(nn.Module):
    """Embedding, layers and final norm: what Hugging Face stores under ``model.``"""

    def __init__(self, shape: Backbone) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(shape) for _ in range(shape.num_layers))
        self.norm = RMSNorm(shape.hidden_size, shape.rms_norm_eps)


class PRMNetwork(nn.Module):
    """Token ids and marker positions in, logits at the markers out."""

    def __init__(self, shape: Backbone, head: Head) -> None:
        super().__init__()
        self.shape = shape
        self.model = Decoder(shape)
        self.score: nn.Module = (
            nn.Linear(shape.hidden_size, head.num_labels)
            if head.kind == "linear"
            else nn.Sequential(
                nn.Linear(shape.hidden_size, shape.hidden_size),
                nn.ReLU(),
                nn.Linear(shape.hidden_size, head.num_labels),
            )
        )

    def forward(self, token_ids: Tensor, marker_positions: Tensor) -> Tensor:
        """Logits [num_markers, num_labels].

        ``token_ids`` int64 [batch, length], right-padded; ``marker_positions`` int64
        [num_markers], into the flattened [batch * length].
        """
        return self.run_to_markers(self.embed(token_ids), marker_positions)

    def embed(self, token_ids: Tensor) -> Tensor:
        """Hidden states [batch, length, hidden] before the first layer."""
        out: Tensor = self.model.embed_tokens(token_ids)
        return out

    def run_layers(
        self, hidden: Tensor, start: int, stop: int, *, tree: Tree | None = None
    ) -> Tensor:
        """Run layers [start, stop) on ``hidden`` [batch, length, hidden_size]; without ``tree``
        every row is one sequence.

        Separate from the rest so that training can keep the activations of frozen lower layers.
        """
        cos, sin = self._rotary(hidden, tree)
        layers: Any = self.model.layers[start:stop]
        for layer in layers:
            hidden = layer(hidden, cos, sin, None if tree is None else tree.visible)
        return hidden

    def run_to_markers(
        self, hidden: Tensor, marker_positions: Tensor, start: int = 0, *, tree: Tree | None = None
    ) -> Tensor:
        """Run the layers from ``start`` on and the head; logits [num_markers, num_labels]."""
        out: Tensor = self.score(self.marker_states(hidden, marker_positions, start, tree=tree))
        return out

    def marker_states(
        self, hidden: Tensor, marker_positions: Tensor, start: int = 0, *, tree: Tree | None = None
    ) -> Tensor:
        """What the head reads, float32 [num_markers, hidden_size].

        After the last attention only marker rows are read, so the others are dropped.
        """
        last: Any = self.model.layers[-1]
        hidden = self.run_layers(hidden, start, len(self.model.layers) - 1, tree=tree)
        cos, sin = self._rotary(hidden, tree)
        hidden = last.attend(hidden, cos, sin, None if tree is None else tree.visible)
        rows = hidden.reshape(-1, hidden.shape[-1])[marker_positions]
        out: Tensor = self.model.norm(last.feed_forward(rows).float())
        return out

    def _rotary(self, hidden: Tensor, tree: Tree | None) -> tuple[Tensor, Tensor]:
        length = hidden.shape[1]  # no sequence is longer than the row
        tables = rotary_tables(length, self.shape)
        cos, sin = (torch.from_numpy(table).to(hidden) for table in tables)
        if tree is None:
            return cos, sin
        return cos[tree.positions].unsqueeze(1), sin[tree.positions].unsqueeze(1)


def mix(query: Tensor, key: Tensor, value: Tensor, visible: Tensor | None) -> Tensor:
    """Attention; causal if ``visible`` (bool [batch, 1, queries, keys] or similar) is None."""
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=visible,
        is_causal=visible is None,
        enable_gqa=key.shape[1] != query.shape[1],
    )


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of ``x`` [batch, heads, length, head_dim], halves not interleaved."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def build_network(
    shape: Backbone, head: Head, weights: Mapping[str, NDArray[Any]], *, copy: bool = True
) -> PRMNetwork:
    """The network with ``weights`` (Hugging Face names) loaded, in float32, in eval mode; without
    ``copy`` it keeps their memory.

    Raises :class:`BackendError` naming what is missing, unexpected or of another shape.
    """
    with torch.device("meta"):
        network = PRMNetwork(shape, head)
    take = torch.tensor if copy else torch.from_numpy
    state = {name: take(np.asarray(array)) for name, array in weights.items()}
    try:
        network.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        raise BackendError(f"the weights do not fit the network: {error}") from None
    return network.float().eval()


def load_network(file: Path | ModelFile, manifest: Manifest) -> PRMNetwork:
    """The network in an artifact's ``model.safetensors``, in the memory it is read into.

    Raises like :func:`build_network`, and :class:`ArtifactError` if the file cannot be read or
    holds numbers that are not finite.
    """
    opened = ModelFile.of(file)
    tensors, _ = read_tensors(opened.read(), opened.path)
    for name, tensor in tensors.items():
        check_finite_tensor(name, tensor, opened.path)
    return build_network(manifest.backbone, manifest.head, tensors, copy=False)


@contextmanager
def moving_to(device: torch.device) -> Iterator[None]:
    """A block that moves weights to ``device``; raises :class:`BackendError` if torch cannot."""
    try:
        yield
    except (RuntimeError, AssertionError) as error:
        raise BackendError(
            f"torch {torch.__version__} cannot move the network to {device}: {error}; "
            "ask for another device, or free memory there"
        ) from error


def describe(device: torch.device, dtype: DType) -> str:
    """Library, version and device, for people to read."""
    narrow = "" if dtype == "float32" else f", {dtype}"
    return f"torch {torch.__version__}, {device}{narrow}"


class TorchBackend:
    """The reference network as a backend: one row per call, float32 on a CPU."""

    def __init__(
        self,
        network: PRMNetwork,
        *,
        device: str | torch.device | None = None,
        dtype: DType = "float32",
    ) -> None:
        """``dtype``: of the layers; the head is float32, as in exported graphs.

        Raises :class:`InvalidArgumentError` for an unknown dtype, and :class:`BackendError` if
        torch does not have the device.
        """
        check_choice("dtype", dtype, get_args(DType))
        self._device = find_device(device)
        # Converted before it is moved, so that the device never holds more. The norm and the head
        # after the last layer keep their type.
        for part in (network.model.embed_tokens, network.model.layers):
            part.to(getattr(torch, dtype))
        with moving_to(self._device):
            self._network: PRMNetwork | None = network.to(self._device)
        self.limits = BackendLimits()
        self.description = describe(self._device, dtype)

    @classmethod
    def load(cls, file: Path | ModelFile, manifest: Manifest, **options: Any) -> Self:
        """From the ``model.safetensors`` of an artifact; ``options`` are those of the class."""
        return cls(load_network(file, manifest), **options)

    def run(self, batch: TokenBatch, threads: int = 1) -> NDArray[np.float32]:
        if self._network is None:
            raise BackendError("the backend was closed; load the scorer again")
        with torch.inference_mode():
            logits = self._network(
                torch.from_numpy(batch.token_ids).to(self._device),
                torch.from_numpy(batch.marker_positions).to(self._device),
            )
        result: NDArray[np.float32] = logits.float().cpu().numpy()
        return result

    def close(self) -> None:
        self._network = None
