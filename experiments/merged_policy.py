"""Completions of a policy that is being trained, for TRL's GRPOTrainer on a CPU.

The adapter is merged into a copy of the weights, which decodes without transformers, from the same
distribution up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from experiments.greedy import end_of_turn
from experiments.torch_sampling import SamplingSettings, TokenSampler
from rfprm_export.base_model import BaseModel, read_base_model
from rfprm_export.stored_weights import Stored, StoredWeights


def merged(base: BaseModel, model: Any) -> BaseModel:
    """``base`` with the active adapters of ``model``, a PEFT model on it, in its weights."""
    from peft.tuners.lora import LoraLayer

    changed: dict[str, Stored] = {}
    with torch.no_grad():
        for name, layer in model.get_base_model().named_modules():
            if isinstance(layer, LoraLayer):
                own: Any = layer.get_base_layer()
                deltas = [layer.get_delta_weight(adapter) for adapter in layer.active_adapters]
                weight = sum(deltas, own.weight).float()
                changed[f"{name}.weight"] = Stored.of(weight.cpu().numpy())
    return replace(base, weights=StoredWeights({**base.weights.stored, **changed}))


class MergedSampling:
    """A ``rollout_func`` for TRL's GRPOTrainer whose model is a PEFT model on ``folder``."""

    def __init__(self, folder: Path, settings: SamplingSettings) -> None:
        self.base, self._settings = read_base_model(folder), settings

    def rollout(self, prompts: Sequence[str], trainer: Any) -> dict[str, Any]:
        """A completion for each of ``prompts`` [N], by the weights of now."""
        prompt_ids = trainer.processing_class(text=list(prompts))["input_ids"]
        base = merged(self.base, trainer.accelerator.unwrap_model(trainer.model))
        sampler = TokenSampler(base, device="cpu")
        found = sampler.sample(prompt_ids, self._settings, ends=end_of_turn(base))
        ids = [one.token_ids for one in found]
        return {"prompt_ids": prompt_ids, "completion_ids": ids, "logprobs": None}
