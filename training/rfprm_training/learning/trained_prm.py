"""The network in training (frozen base, LoRA on the upper layers, heads) and its checkpoint."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from rfprm_export.base_model import BaseModel, read_base_model
from rfprm_export.checkpoint import CHECKPOINT_NAME, HEADS_NAME, Checkpoint, read_checkpoint
from rfprm_export.given_base import WEIGHTS_DIGEST, some_weights_digest
from rfprm_export.lora import ADAPTER_CONFIG_NAME, ADAPTER_NAME, read_adapter_config
from rfprm_export.named_base import FolderBase, GgufBase, base_of_config
from rfprm_export.stored_weights import Array
from rfprm_export.weights_files import open_safetensors
from rfprm_runtime.artifact.families import FAMILIES
from rfprm_runtime.backends.torch import PRMNetwork, Tree, build_network
from rfprm_runtime.ground.names import file_in, holds_file
from rfprm_runtime.prompt.encoding import TrajectoryEncoder, with_template_ids
from rfprm_training import TrainingError
from rfprm_training.learning.config import NetworkConfig, TrainingConfig
from rfprm_training.learning.precision import Precision

_HEAD_PREFIXES = ("score.", "model.norm.")


class TrainedPRM:
    """A PRM in training. Trained are the LoRA matrices, the heads and the final norm, in float32;
    with ``method = "full"`` the upper layers' own weights."""

    def __init__(
        self,
        config: TrainingConfig,
        config_folder: Path,
        device: torch.device,
        precision: Precision,
    ) -> None:
        base_path = base_of_config(config.base, config_folder)
        if isinstance(config.base, FolderBase):
            # The path is relative to the config, but the checkpoint will be in another folder.
            config = config.model_copy(update={"base": FolderBase(path=str(base_path))})
        self.config = config
        self.base = read_base_model(base_path)
        self.encoder = _encoder(self.base, config)
        if config.start_from is not None:  # fail now, not after an hour of computing activations
            _check_same_network(config.start_from, _describe(config, self.base))
        torch.manual_seed(config.seed)
        self.dtype: torch.dtype = getattr(torch, precision)
        """Of the frozen weights and the activations."""
        self.network = _frozen_network(self.base, config).to(device=device, dtype=self.dtype)

    def add_trained_parts(self) -> None:
        """Add LoRA to the upper layers, or unfreeze them; unfreeze the heads and the final norm."""
        settings = self.config.network
        torch.manual_seed(self.config.seed)
        if settings.method == "lora":
            from peft import inject_adapter_in_model

            inject_adapter_in_model(lora_config(settings), self.network)
            if self.dtype != torch.float32:
                _multiply_as_stored(self.network)
            kept: tuple[str, ...] = ()
        else:
            layers = range(settings.first_trained_layer, settings.num_layers)
            kept = tuple(f"model.layers.{layer}." for layer in layers)
        for name, parameter in self.network.named_parameters():
            trained = ".lora_" in name or name.startswith((*_HEAD_PREFIXES, *kept))
            parameter.requires_grad_(trained)
            if trained:  # bfloat16 is too coarse for small updates
                parameter.data = parameter.data.float()
        if self.config.start_from is not None:
            self._move_to(self.config.start_from)
        self.network.train()

    def mix_in_start(self) -> None:
        """Make the trained weights the mean of themselves and those they started from, as
        ``start_share`` of the config says. Raises :class:`TrainingError`."""
        start, share = self.config.start_from, self.config.start_share
        if start is not None and share:
            self._move_to(start, share)

    def _move_to(self, folder: Path, share: float = 1.0) -> None:
        """Move the trained weights to those of a run of the same network, all the way or a share of
        it. Weights that the run did not train stay as they are: they change nothing yet. Raises
        :class:`TrainingError`."""
        weights = self._weights_of(folder)
        trained = {_stored_name(n): p for n, p in self.trained_parameters().items()}
        with torch.no_grad():
            for name, array in weights.items():
                start = torch.from_numpy(array).to(trained[name].device)
                trained[name].lerp_(start.to(trained[name].dtype), share)

    def _weights_of(self, folder: Path) -> dict[str, Array]:
        """The weights that a run of the same network trained, by their stored names: those trained
        here, or some of them. Raises :class:`TrainingError`."""
        weights = _read_weights(folder, HEADS_NAME)
        if holds_file(folder, ADAPTER_NAME):
            weights |= _read_weights(folder, ADAPTER_NAME)
            scale = read_adapter_config(folder).lora_alpha
            if scale != self.config.network.lora_alpha:
                raise TrainingError(
                    f"start_from is {folder}, with lora_alpha {scale:g}, but this config has "
                    f"{self.config.network.lora_alpha}; use the same value"
                )
        trained = self.trained_parameters().items()
        shapes = {_stored_name(name): tuple(parameter.shape) for name, parameter in trained}
        found = {name: array.shape for name, array in weights.items()}
        different = sorted(name for name, shape in found.items() if shapes.get(name) != shape)
        if different:
            name = different[0]
            raise TrainingError(
                f"start_from is {folder}, which trained other weights: {name} has shape "
                f"{found[name]} there and {shapes.get(name)} here; use the same method and "
                "lora_rank, and train at least its layers and lora_targets"
            )
        missing = sorted(shapes.keys() - found.keys())
        if missing and self.config.start_share:
            raise TrainingError(
                f"start_share is {self.config.start_share:g}, but {folder} did not train "
                f"{missing[0]}; a mean needs both: train the same first_trained_layer and "
                "lora_targets, or leave out start_share"
            )
        return weights

    def logits(self, hidden: Tensor, marker_positions: Tensor, tree: Tree | None = None) -> Tensor:
        """Logits [num_markers, 2] from the hidden states [batch, length, hidden_size] below the
        first trained layer."""
        settings, network = self.config.network, self.network
        first, last = settings.first_trained_layer, settings.num_layers - 1
        narrow = self.dtype != torch.float32
        with torch.autocast(hidden.device.type, self.dtype if narrow else None, enabled=narrow):
            if settings.gradient_checkpointing:
                # Not reentrant: that would need an input with a gradient, and this one has none.
                for layer in range(first, last):
                    run = partial(network.run_layers, start=layer, stop=layer + 1, tree=tree)
                    hidden = checkpoint(run, hidden, use_reentrant=False)
                first = last
            states = network.marker_states(hidden, marker_positions, first, tree=tree)
        out: Tensor = network.score(states)  # the head stays in float32
        return out

    def trained_parameters(self) -> dict[str, Tensor]:
        return {
            name: parameter
            for name, parameter in self.network.named_parameters()
            if parameter.requires_grad
        }

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups for the optimiser: layers have weight decay; heads and the final norm have none,
        and their own learning rate."""
        settings = self.config.optimizer
        trained = self.trained_parameters()
        return [
            {
                "params": [p for n, p in trained.items() if not n.startswith(_HEAD_PREFIXES)],
                "lr": settings.learning_rate,
                "weight_decay": settings.weight_decay,
            },
            {
                "params": [p for n, p in trained.items() if n.startswith(_HEAD_PREFIXES)],
                "lr": settings.head_learning_rate,
                "weight_decay": 0.0,
            },
        ]

    def save_checkpoint(self, folder: Path) -> None:
        """Write what ``rfprm export`` reads: the adapter, the heads (with ``method = "full"`` all
        trained weights) and ``checkpoint.json``.

        The adapter is stored in the type that it multiplied in, which loses nothing."""
        folder.mkdir(parents=True, exist_ok=True)
        lora: dict[str, Tensor] = {}
        heads: dict[str, Tensor] = {}
        for name, parameter in self.trained_parameters().items():
            weights = parameter.detach().cpu().contiguous()
            if ".lora_" in name:
                lora[_stored_name(name)] = weights.to(self.dtype)
            else:
                heads[_stored_name(name)] = weights.float()
        save_file(heads, folder / HEADS_NAME)
        if lora:
            save_file(lora, folder / ADAPTER_NAME)
            _save_adapter_config(self.config, folder)
        description = _describe(self.config, self.base)
        if isinstance(self.config.base, FolderBase):  # a GGUF file has its sha256
            digest = some_weights_digest(self.base.weights)
            source = {**description.source, WEIGHTS_DIGEST: digest}
            description = description.model_copy(update={"source": source})
        (folder / CHECKPOINT_NAME).write_text(description.to_json(), encoding="utf-8")


def _read_weights(folder: Path, name: str) -> dict[str, Array]:
    path = file_in(folder, name, refusal=TrainingError, way_out="train that run again")
    return dict(open_safetensors(path))


def _check_same_network(folder: Path, mine: Checkpoint) -> None:
    if not (folder / CHECKPOINT_NAME).is_file():
        raise TrainingError(
            f"start_from is {folder}, which holds no finished run; train that one first"
        )
    start = read_checkpoint(folder)
    for field in ("family", "base", "num_layers", "head"):
        if getattr(start, field) != getattr(mine, field):
            raise TrainingError(
                f"start_from is {folder}, whose {field} is {getattr(start, field)}, but this "
                f"config has {getattr(mine, field)}; start from a run of the same network"
            )


def _stored_name(name: str) -> str:
    """A parameter's name in the checkpoint's files: PEFT's name for LoRA weights."""
    return "base_model.model." + name.replace(".default.", ".") if ".lora_" in name else name


def lora_config(network: NetworkConfig) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=network.lora_rank,
        lora_alpha=network.lora_alpha,
        lora_dropout=network.lora_dropout,
        target_modules=list(network.lora_targets),
        layers_to_transform=list(range(network.first_trained_layer, network.num_layers)),
        layers_pattern="layers",
        bias="none",
    )


def _multiply_as_stored(network: PRMNetwork) -> None:
    """PEFT would widen what comes into an adapter to the float32 of its weights, which costs more
    than the adapter's products; autocast narrows the weights instead."""
    from peft.tuners.lora import LoraLayer

    for module in network.modules():
        if isinstance(module, LoraLayer):
            module.cast_input_dtype_enabled = False


def _save_adapter_config(config: TrainingConfig, folder: Path) -> None:
    lora = lora_config(config.network)
    base = config.base
    lora.base_model_name_or_path = base.file if isinstance(base, GgufBase) else base.path
    lora.inference_mode = True
    lora.save_pretrained(folder)
    # peft writes sets, whose order differs from run to run.
    path = folder / ADAPTER_CONFIG_NAME
    content = json.loads(path.read_text(encoding="utf-8"))
    content["target_modules"] = sorted(content["target_modules"])
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _frozen_network(base: BaseModel, config: TrainingConfig) -> PRMNetwork:
    num_layers = config.network.num_layers
    if num_layers > base.backbone.num_layers:
        raise TrainingError(
            f"network.num_layers is {num_layers}, the base model has {base.backbone.num_layers}"
        )
    shape = base.backbone.model_copy(update={"num_layers": num_layers})
    head = FAMILIES[config.family].head
    weights = {
        name: base.weights[name]
        for name in base.weights
        if name.startswith("model.")
        and not (name.startswith("model.layers.") and int(name.split(".")[2]) >= num_layers)
    }
    if num_layers < base.backbone.num_layers:
        # The final norm was trained on the states after the last layer. The first layer that is
        # cut off has a norm that was trained on the states here.
        norm = f"model.layers.{num_layers}.input_layernorm.weight"
        weights["model.norm.weight"] = base.weights[norm]
    # All scores start at 0.5.
    weights["score.weight"] = np.zeros((head.num_labels, shape.hidden_size), dtype=np.float32)
    weights["score.bias"] = np.zeros(head.num_labels, dtype=np.float32)
    return build_network(shape, head, weights).requires_grad_(False)


def _encoder(base: BaseModel, config: TrainingConfig) -> TrajectoryEncoder:
    checkpoint = _describe(config, base)
    return TrajectoryEncoder(
        Tokenizer.from_str(base.tokenizer.to_str()),
        with_template_ids(checkpoint.prompt, base.tokenizer),
        vocab_size=base.backbone.vocab_size,
    )


def _describe(config: TrainingConfig, base: BaseModel) -> Checkpoint:
    if config.family not in FAMILIES:
        raise TrainingError(f"family is {config.family!r}, expected one of {sorted(FAMILIES)}")
    family = FAMILIES[config.family]
    ids = {token: base.tokenizer.token_to_id(token) for token in family.marker_tokens}
    missing = [token for token, index in ids.items() if index is None]
    if missing:
        raise TrainingError(
            f"family {config.family!r} marks scores with {missing}, which the base model's "
            "tokenizer does not have; choose another family or base model"
        )
    return Checkpoint(
        name=config.name,
        family=config.family,
        base=config.base,
        num_layers=config.network.num_layers,
        head=family.head,
        prompt=family.prompt({token: int(index or 0) for token, index in ids.items()}),
        step_readout=family.step_readout,
        trajectory_readout=family.trajectory_readout,
        alpha=config.alpha,
        max_positions=base.max_positions,
        source=_source(config),
    )


def _source(config: TrainingConfig) -> dict[str, Any]:
    base = config.base
    if isinstance(base, FolderBase):
        return {"base_model": base.path}
    if base.package is None:
        return {"base_model": base.file, "base_sha256": base.sha256}
    return {"base_model": base.file, "base_package": f"{base.package}=={base.package_version}"}
