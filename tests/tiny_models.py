"""Small things that tests share: a tokenizer, manifests, random checkpoints of every backbone."""

from __future__ import annotations

import hashlib
import json
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from rfprm_runtime.artifact.families import FAMILIES
from rfprm_runtime.artifact.manifest import (
    MANIFEST_NAME,
    TOKENIZER_NAME,
    Backbone,
    FileRecord,
    Manifest,
    Readout,
)
from rfprm_runtime.artifact.prompt_format import Prompt
from rfprm_runtime.backends.fake import FakeBackend
from rfprm_runtime.engine.backend import Backend
from rfprm_runtime.prompt.encoding import TrajectoryEncoder, with_template_ids
from rfprm_runtime.scorer import Scorer

QWEN_TOKENS = ("<|im_start|>", "<|im_end|>", "<|quad_start|>", "<|quad_end|>")
SPECIAL_TOKENS = (*QWEN_TOKENS[:2], "<repo_name>", "<reponame>", "<extra_0>", *QWEN_TOKENS[2:])

SCALED: dict[str, dict[str, Any]] = {
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
}
"""Scalings of the rotary embedding, as a ``config.json`` spells them."""


def byte_tokenizer(special: tuple[str, ...] = SPECIAL_TOKENS) -> Tokenizer:
    """Byte-level, one id a byte, with a few merges and the special tokens of the families."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e"), ("i", "n"), ("Ġ", "=")]
    vocabulary = [*alphabet, *("".join(pair) for pair in merges)]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(vocabulary)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    return tokenizer


def tiny_manifest(
    tokenizer: Tokenizer, *, family: str = "rfprm", max_positions: int = 512, **changes: Any
) -> Manifest:
    preset = FAMILIES[family]
    ids = {token: tokenizer.token_to_id(token) for token in preset.marker_tokens}
    fields: dict[str, Any] = {
        "name": "tiny",
        "family": family,
        "backbone": Backbone(
            hidden_size=16,
            num_layers=2,
            num_heads=2,
            num_kv_heads=1,
            head_dim=8,
            intermediate_size=24,
            vocab_size=tokenizer.get_vocab_size(),
            rms_norm_eps=1e-5,
            rope_theta=10_000.0,
        ),
        "head": preset.head,
        "prompt": with_template_ids(preset.prompt(ids), tokenizer),
        "step_readout": preset.step_readout,
        "trajectory_readout": preset.trajectory_readout,
        "max_positions": max_positions,
    }
    return Manifest(**{**fields, **changes})


Kind = Literal["sequence", "raw", "signed"]
KINDS: tuple[Kind, ...] = ("sequence", "raw", "signed")
"""PRMs whose scores are no probabilities: a reward model of whole sequences whose score is a logit,
a PRM whose step and trajectory scores are logits, and one with the step scores p(right) − p(wrong).
"""


def manifest_of(kind: Kind, **changes: Any) -> Manifest:
    tokenizer = byte_tokenizer()
    raw = Readout(transform="none", positive=0)
    if kind == "raw":
        return tiny_manifest(tokenizer, step_readout=raw, trajectory_readout=raw, **changes)
    if kind == "signed":
        difference = Readout(transform="softmax", positive=1, scale=2, offset=-1)
        own = tiny_manifest(tokenizer, family="qwen2.5-math-prm", step_readout=difference)
    else:
        own = tiny_manifest(tokenizer)
        prompt = Prompt.model_validate(own.prompt.model_dump() | {"step_marker": None})
        own = own.model_copy(
            update={"prompt": prompt, "step_readout": None, "trajectory_readout": raw}
        )
    return Manifest.model_validate(own.model_dump() | changes)


def scorer_of(kind: Kind, **options: Any) -> Scorer:
    """A scorer of such a PRM without a model."""
    manifest = manifest_of(kind)
    return scorer_on(FakeBackend(manifest.head.num_labels), manifest, **options)


def fake_artifact(folder: Path, manifest: Manifest) -> Path:
    """An artifact for ``backend="fake"``: no model, made without an export."""
    folder.mkdir(parents=True)
    content = byte_tokenizer().to_str().encode()
    (folder / TOKENIZER_NAME).write_bytes(content)
    record = FileRecord(sha256=hashlib.sha256(content).hexdigest(), num_bytes=len(content))
    own = manifest.model_copy(update={"files": {TOKENIZER_NAME: record}})
    (folder / MANIFEST_NAME).write_text(own.to_json(), encoding="utf-8")
    return folder


def fake_scorer(**changes: Any) -> Scorer:
    """A scorer without a model: real prompt, real tokenizer, made-up logits."""
    manifest = tiny_manifest(byte_tokenizer(), **changes)
    return scorer_on(FakeBackend(manifest.head.num_labels), manifest)


def scorer_on(backend: Backend, manifest: Manifest | None = None, **options: Any) -> Scorer:
    """The same on another backend; ``options`` are those of :class:`Scorer`."""
    tokenizer = byte_tokenizer()
    manifest = manifest or tiny_manifest(tokenizer)
    encoder = TrajectoryEncoder(tokenizer, manifest.prompt, vocab_size=manifest.backbone.vocab_size)
    return Scorer(manifest, encoder, backend, **options)


def save_published_prm(
    folder: Path,
    kind: str,
    *,
    num_heads: int = 4,
    num_kv_heads: int = 2,
    head_dim: int = 16,
    max_positions: int = 256,
    **config: Any,
) -> Any:
    """A random ``kind`` (llama, qwen2, qwen3) in the layout of Qwen2ForProcessRewardModel, with
    biases that are not zero; returns transformers' own backbone for comparison."""
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoConfig, AutoModel

    # Not hash(): it differs between processes.
    torch.manual_seed(zlib.crc32(repr((kind, num_heads, num_kv_heads)).encode()))
    tokenizer = byte_tokenizer()
    hidden_size = head_dim * num_heads
    model_config = AutoConfig.for_model(
        kind,
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=hidden_size,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=num_heads,
        num_key_value_heads=num_kv_heads,
        head_dim=head_dim,
        max_position_embeddings=max_positions,
        **config,
    )
    backbone = AutoModel.from_config(model_config).float().eval()
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            if name.endswith("bias") or "norm" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    backbone.save_pretrained(folder)
    state = {f"model.{name}": x for name, x in load_file(folder / "model.safetensors").items()}
    for name, shape in {
        "score.0.weight": (hidden_size, hidden_size),
        "score.0.bias": (hidden_size,),
        "score.2.weight": (2, hidden_size),
        "score.2.bias": (2,),
    }.items():
        state[name] = torch.randn(shape) * 2 / hidden_size**0.5
    save_file(state, folder / "model.safetensors")
    tokenizer.save(str(folder / "tokenizer.json"))
    description = json.loads((folder / "config.json").read_text())
    description["architectures"] = ["Qwen2ForProcessRewardModel"]
    (folder / "config.json").write_text(json.dumps(description))
    return backbone


def random_weights(manifest: Manifest, seed: int = 0) -> dict[str, np.ndarray]:
    """Weights for the network of ``manifest``, by its own parameter names."""
    from rfprm_runtime.backends.torch import PRMNetwork

    rng = np.random.default_rng(seed)
    network = PRMNetwork(manifest.backbone, manifest.head)
    return {
        name: (rng.normal(size=tuple(x.shape)) / max(x.shape[-1], 4) ** 0.5).astype(np.float32)
        for name, x in network.state_dict().items()
    }
