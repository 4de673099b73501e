"""Models with random weights that write text, for tests of sampling and of policies."""

from __future__ import annotations

from typing import Any

import torch

from rfprm_export.base_model import BaseModel, backbone_from_config
from rfprm_export.stored_weights import StoredWeights
from tiny_models import byte_tokenizer


def policy_model(kind: str, vocab_size: int = 300, *, tied: bool = False) -> tuple[Any, BaseModel]:
    """A model of transformers with random weights, and the same as a base model."""
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=vocab_size,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=512,
        tie_word_embeddings=tied,
    )
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval().float()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    if tied:
        del state["lm_head.weight"]
    shape = backbone_from_config({**config.to_dict(), "architectures": [f"{kind}ForCausalLM"]})
    tokenizer = byte_tokenizer(("<|im_start|>", "<|im_end|>", "<|endoftext|>"))
    return model, BaseModel(shape, StoredWeights.of(state), tokenizer, 512)
