"""The training loop: cached activations in, a checkpoint out, resumable to the step.

A run's folder holds the config, a log (``train_log.jsonl``), the state that a killed run resumes
from, and at the end the checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rfprm_export.checkpoint import CHECKPOINT_NAME
from rfprm_runtime.batching import pad_batch
from rfprm_training import TrainingError
from rfprm_training.activations import ActivationCache
from rfprm_training.config import TrainingConfig, read_config
from rfprm_training.dataset import Example, build_examples, group_batches
from rfprm_training.losses import Targets, joint_loss
from rfprm_training.model import TrainedPRM

CONFIG_NAME = "config.toml"
LOG_NAME = "train_log.jsonl"
_STATE_NAME = "state.pt"


@dataclass(frozen=True)
class Batch:
    """Padded states of some trajectories, and what they should score."""

    hidden: Tensor  # [batch, length, hidden_size]
    step_positions: Tensor  # int64 [num_steps], into the flattened [batch * length]
    trajectory_positions: Tensor  # int64 [batch]
    targets: Targets


class Trainer:
    """One run, in one folder. Calling :meth:`run` again goes on where it stopped."""

    def __init__(
        self, config_path: Path, folder: Path, *, cache: Path | None = None, device: str = "auto"
    ) -> None:
        """``cache`` is where activations are kept, to be shared between runs.

        Raises :class:`TrainingError` where the folder holds a run of another config.
        """
        self.config = read_config(config_path)
        self.folder = folder
        self._adopt_folder(config_path)
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(device)
        self.prm = TrainedPRM(self.config, config_path.parent, self.device)
        self.examples = build_examples(self.config.data, self.config.seed)
        self.rows = [self.prm.encoder.encode(example.trajectory) for example in self.examples]
        self.cache_folder = cache or folder / "activations"

    def run(self, *, max_steps: int | None = None) -> Path:
        """Train to the end, or for ``max_steps`` more steps; returns the checkpoint's folder."""
        cache = self._fill_cache()
        self.prm.add_trained_parts()
        optimizer = torch.optim.AdamW(self.prm.parameter_groups())
        rates = [group["lr"] for group in optimizer.param_groups]
        plan = self._plan()
        first = self._resume(optimizer)
        stop = len(plan) if max_steps is None else min(len(plan), first + max_steps)
        for step in range(first, stop):
            scale = learning_rate_scale(step, len(plan), self.config.optimizer.warmup_steps)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * scale
            self._train_step(step, self._load(cache, plan[step]), optimizer, len(plan))
            if (step + 1) % self.config.optimizer.save_every_steps == 0 or step + 1 == stop:
                self._save_state(optimizer, step + 1)
        if stop == len(plan):
            self.prm.save_checkpoint(self.folder)
        return self.folder

    def _train_step(
        self, step: int, batch: Batch, optimizer: torch.optim.Optimizer, num_steps: int
    ) -> None:
        started = time.perf_counter()
        # Dropout of a step depends on the step alone, so a resumed run repeats it.
        torch.manual_seed(self.config.seed * 1_000_003 + step)
        positions = torch.cat([batch.step_positions, batch.trajectory_positions])
        logits = self.prm.logits(batch.hidden, positions)
        num_markers = len(batch.step_positions)
        losses = joint_loss(
            logits[:num_markers, 0], logits[num_markers:, 1], batch.targets, self.config.loss
        )
        if not torch.isfinite(losses["total"]):
            raise TrainingError(
                f"the loss at step {step} is {losses['total'].item()}; lower the learning rate"
            )
        optimizer.zero_grad(set_to_none=True)
        losses["total"].backward()  # type: ignore[no-untyped-call]
        parameters = list(self.prm.trained_parameters().values())
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.config.optimizer.max_gradient_norm)
        optimizer.step()
        self._log(
            {
                "step": step + 1,
                "of": num_steps,
                **{f"loss_{name}": round(value.item(), 5) for name, value in losses.items()},
                "gradient_norm": round(norm.item(), 4),
                "seconds": round(time.perf_counter() - started, 2),
            }
        )

    def _plan(self) -> list[list[int]]:
        """The examples of every optimiser step of every epoch, the same in every process."""
        chosen = [index for index, example in enumerate(self.examples) if not example.held_out]
        examples = [self.examples[index] for index in chosen]
        lengths = [self.rows[index].num_tokens for index in chosen]
        settings = self.config.optimizer
        plan = []
        for epoch in range(settings.num_epochs):
            rng = random.Random(f"{self.config.seed} {epoch}")
            for batch in group_batches(examples, lengths, settings.batch_tokens, rng):
                plan.append([chosen[index] for index in batch])
        if not plan:
            raise TrainingError("no example is left to train on; raise num_constructed")
        return plan

    def _fill_cache(self) -> ActivationCache | None:
        """None where nothing would be read twice."""
        if self.config.network.first_trained_layer == 0 or self.config.optimizer.num_epochs == 1:
            return None
        layer = self.config.network.first_trained_layer
        key = self.config.base.model_dump_json()
        hidden_size = self.prm.network.shape.hidden_size
        cache = ActivationCache(self.cache_folder, self.rows, layer, hidden_size, key)
        cache.fill(self.prm.network)
        return cache

    def _states(self, cache: ActivationCache | None, indices: list[int]) -> Tensor:
        """States [batch, length, hidden_size] below the first trained layer."""
        network = self.prm.network
        dtype = network.model.embed_tokens.weight.dtype
        if cache is not None:
            rows = [cache[index] for index in indices]
            return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(self.device, dtype)
        ids = torch.from_numpy(pad_batch([self.rows[index] for index in indices]).token_ids)
        with torch.no_grad():
            states = network.embed(ids.to(self.device))
            return network.run_layers(states, 0, self.config.network.first_trained_layer)

    def _load(self, cache: ActivationCache | None, indices: list[int]) -> Batch:
        hidden = self._states(cache, indices)
        length = hidden.shape[1]
        steps, ends = [], []
        for row, index in enumerate(indices):
            markers = torch.from_numpy(self.rows[index].marker_positions) + row * length
            steps.append(markers[:-1])
            ends.append(markers[-1:])
        targets = make_targets([self.examples[index] for index in indices])
        return Batch(
            hidden,
            torch.cat(steps).to(self.device),
            torch.cat(ends).to(self.device),
            Targets(*(getattr(targets, name).to(self.device) for name in vars(targets))),
        )

    def _adopt_folder(self, config_path: Path) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        saved = self.folder / CONFIG_NAME
        if not saved.is_file():
            shutil.copyfile(config_path, saved)
        elif read_config(saved) != self.config:
            raise TrainingError(
                f"{self.folder} holds a run of another config ({saved}); choose another folder, "
                "or remove it to start again"
            )
        if (self.folder / CHECKPOINT_NAME).is_file():
            raise TrainingError(f"{self.folder} holds a finished run; choose another folder")

    def _save_state(self, optimizer: torch.optim.Optimizer, step: int) -> None:
        state = {
            "step": step,
            "config": config_digest(self.config),
            "parameters": self.prm.trained_parameters(),
            "optimizer": optimizer.state_dict(),
        }
        partial = self.folder / f"{_STATE_NAME}.partial"
        torch.save(state, partial)
        partial.replace(self.folder / _STATE_NAME)

    def _resume(self, optimizer: torch.optim.Optimizer) -> int:
        path = self.folder / _STATE_NAME
        if not path.is_file():
            self._forget_log_after(0)
            return 0
        state = torch.load(path, map_location=self.device, weights_only=True)
        if state["config"] != config_digest(self.config):
            raise TrainingError(f"{path} belongs to another config; remove it to start again")
        with torch.no_grad():
            for name, parameter in self.prm.trained_parameters().items():
                parameter.copy_(state["parameters"][name])
        optimizer.load_state_dict(state["optimizer"])
        self._forget_log_after(state["step"])
        return int(state["step"])

    def _forget_log_after(self, step: int) -> None:
        """Steps that were done but not saved are done again, and must not be logged twice."""
        path = self.folder / LOG_NAME
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        kept = lines[:step]  # one a step; the last of them may be torn by a kill
        path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def _log(self, record: dict[str, Any]) -> None:
        with (self.folder / LOG_NAME).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def make_targets(examples: list[Example]) -> Targets:
    """The labels of a batch, in the order of its markers."""
    owner = [row for row, example in enumerate(examples) for _ in example.step_labels]
    names = sorted({example.group for example in examples})
    return Targets(
        step_labels=torch.tensor([label for example in examples for label in example.step_labels]),
        step_owner=torch.tensor(owner),
        trajectory_labels=torch.tensor([example.trajectory_label for example in examples]),
        groups=torch.tensor([names.index(example.group) for example in examples]),
    )


def learning_rate_scale(step: int, num_steps: int, warmup_steps: int) -> float:
    """Linear warm-up, then a cosine to zero."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(num_steps - warmup_steps, 1)
    return 0.5 * (1 + math.cos(math.pi * progress))


def config_digest(config: TrainingConfig) -> str:
    return hashlib.sha256(config.model_dump_json().encode()).hexdigest()
