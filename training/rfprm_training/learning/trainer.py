"""The training loop: cached activations in, a checkpoint out, resumable to the step.

With several processes (``accelerate launch``), each takes its own batch at every step.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from rfprm_export.checkpoint import CHECKPOINT_NAME
from rfprm_runtime.backends.torch import Tree
from rfprm_runtime.errors import InvalidTrajectoryError
from rfprm_runtime.ground.arguments import shown
from rfprm_runtime.ground.made_from import differences
from rfprm_runtime.ground.progress import Progress, silent, stage
from rfprm_runtime.ground.whole_files import replacing_files
from rfprm_runtime.prompt.encoding import EncodedTrajectory, TrajectoryEncoder
from rfprm_runtime.scores.aggregation import trajectory_reward
from rfprm_runtime.types import TrajectoryScore
from rfprm_training import TrainingError
from rfprm_training.learning.activations import ActivationCache
from rfprm_training.learning.batch_plan import BatchPlan
from rfprm_training.learning.batches import Batch, BatchLoader
from rfprm_training.learning.config import read_config
from rfprm_training.learning.dataset import Example, build_examples
from rfprm_training.learning.losses import PARTS, joint_loss
from rfprm_training.learning.model_card import write_model_card
from rfprm_training.learning.precision import precision_of, recorded_precision
from rfprm_training.learning.run_folder import CONFIG_NAME, DATA_NAME, LOG_NAME, RunFolder
from rfprm_training.learning.run_inputs import data_paths, inputs_of
from rfprm_training.learning.trained_prm import TrainedPRM
from rfprm_training.learning.trees import build_trees

__all__ = ["CONFIG_NAME", "LOG_NAME", "Trainer", "learning_rate_scale"]


@dataclass
class Best:
    """The lowest loss on held-out examples so far, and the weights that gave it."""

    loss: float
    step: int
    parameters: dict[str, Tensor]
    since: int = 0
    """Evaluations since then."""


class _Logits(nn.Module):
    """The module that accelerate wraps, so that gradients are averaged over processes."""

    def __init__(self, prm: TrainedPRM) -> None:
        super().__init__()
        self.network = prm.network
        self._logits = prm.logits

    def forward(self, hidden: Tensor, marker_positions: Tensor, tree: Tree | None) -> Tensor:
        return self._logits(hidden, marker_positions, tree)


def _encoded(encoder: TrajectoryEncoder, example: Example) -> EncodedTrajectory:
    try:
        return encoder.encode(example.trajectory)
    except InvalidTrajectoryError as error:
        raise error.at(
            f"the example with the question {shown(example.trajectory.question)}"
        ) from None


def _logits(batch: Batch, network: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
    """Of each step [num_steps] and of each trajectory [num_trajectories]."""
    positions = torch.cat([batch.step_positions, batch.trajectory_positions])
    logits = network(batch.hidden, positions, batch.tree)
    num_steps = len(batch.step_positions)
    return logits[:num_steps, 0], logits[num_steps:, 1]


class Trainer:
    """One training run in one folder. Calling :meth:`run` again resumes it."""

    def __init__(
        self, config_path: Path, folder: Path, *, cache: Path | None = None, device: str = "auto"
    ) -> None:
        """``cache`` is a folder for activations that several runs share. ``device`` is ``auto``,
        ``cpu`` or ``cuda``.

        Raises :class:`TrainingError` if ``folder`` holds a run with another config or other data.
        """
        self.config = read_config(config_path)
        self._accelerator = Accelerator(cpu=device == "cpu")
        self.device = self._accelerator.device
        if device not in ("auto", self.device.type):
            raise TrainingError(
                f"the device is {device!r}, but this machine has {self.device.type!r}"
            )
        self.folder = folder
        self._config_folder = config_path.parent
        self._precision = precision_of(self.config.network, self.device, folder)
        self._inputs = self._inputs_now()
        self._run: RunFolder | None = None
        if self._accelerator.is_main_process:
            self._run = RunFolder(folder, config_path, self.config, self._inputs)
        self._accelerator.wait_for_everyone()
        self.prm = TrainedPRM(self.config, config_path.parent, self.device, self._precision)
        self.examples = build_examples(self.config.data, self.config.seed)
        self._check_unchanged()
        if self._run is not None:
            self._run.record()
        rows = [_encoded(self.prm.encoder, example) for example in self.examples]
        self._lengths = [row.num_tokens for row in rows]
        groups = [example.group for example in self.examples]
        settings = self.config.optimizer
        self.trees = build_trees(rows, groups, settings.pack_tokens)
        self.batch_plan = BatchPlan(self.examples, self.trees, settings, self.config.seed)
        self.cache_folder = cache or folder / "activations"
        self._cache_is_shared = cache is not None
        self._batches: BatchLoader | None = None
        self._best: Best | None = None
        self._progress: Progress = silent

    @property
    def is_main_process(self) -> bool:
        """Whether this process writes the files."""
        return bool(self._accelerator.is_main_process)

    def run(self, *, max_steps: int | None = None, progress: Progress = silent) -> Path:
        """Train to the end, or ``max_steps`` more steps; returns the checkpoint's folder."""
        self._progress = progress
        with nullcontext() if self._run is None else self._run.claimed():
            return self._run_claimed(max_steps)

    def score_held_out(self) -> dict[int, TrajectoryScore]:
        """The scores of each held-out example, by its index in ``examples``, by the network that
        :meth:`run` trained.

        Quick, because the states below the trained layers are at hand. The cache rounds them to
        bfloat16, so the checkpoint itself may score a little differently. Raises
        :class:`TrainingError` before :meth:`run`.
        """
        if self._batches is None:
            raise TrainingError("nothing is trained yet; call run() first")
        found: dict[int, TrajectoryScore] = {}
        batches = self.batch_plan.held_out_batches()
        network = self.prm.network.eval()
        with torch.no_grad():
            for number, batch in enumerate(batches):
                found.update(self._scores(batch, self._batches.load(batch)))
                self._progress("scoring, batch", number + 1, len(batches))
        network.train()
        return found

    def _scores(self, indices: list[int], batch: Batch) -> dict[int, TrajectoryScore]:
        steps, trajectories = _logits(batch, self.prm.logits)
        members = [index for tree in indices for index in self.trees[tree].members]
        ends = np.cumsum([len(self.examples[index].step_labels) for index in members])
        of_steps = np.split(steps.sigmoid().cpu().numpy(), ends[:-1])
        of_trajectories = trajectories.sigmoid().tolist()
        return {
            index: TrajectoryScore(
                step_scores=scores,
                trajectory_score=whole,
                reward=trajectory_reward(scores, whole, self.config.alpha),
                num_tokens=self._lengths[index],
            )
            for index, scores, whole in zip(members, of_steps, of_trajectories, strict=True)
        }

    def _run_claimed(self, max_steps: int | None) -> Path:
        settings = self.config.optimizer
        cache = self._fill_cache()
        batches = self._batches = BatchLoader(self.prm, self.examples, self.trees, cache)
        self.prm.add_trained_parts()
        self._check_unchanged()
        optimizer = torch.optim.AdamW(self.prm.parameter_groups())
        model, optimizer = self._accelerator.prepare(_Logits(self.prm), optimizer)
        rates = [group["lr"] for group in optimizer.param_groups]
        plan = self.batch_plan.training_batches(self._accelerator.num_processes)
        first = self._resume(optimizer)
        if self._run is not None:
            self._run.write_json(DATA_NAME, self._describe_data())
        stop = len(plan) if max_steps is None else min(len(plan), first + max_steps)
        finished = first == len(plan)
        for step in range(first, stop):
            scale = learning_rate_scale(step, len(plan), settings.warmup_steps)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * scale
            mine = plan[step][self._accelerator.process_index]
            self._train_step(step, batches.load(mine), model, optimizer, len(plan))
            self._progress("training, step", step + 1, len(plan))
            finished = step + 1 == len(plan)
            if settings.evaluate_every_steps is not None and (
                finished or (step + 1) % settings.evaluate_every_steps == 0
            ):
                finished = self._evaluate(batches, step + 1) or finished
            if finished or step + 1 == stop or (step + 1) % settings.save_every_steps == 0:
                self._save_state(optimizer, step + 1)
            if finished:
                break
        if finished:
            self._finish()
        return self.folder

    def _finish(self) -> None:
        if self._best is not None:
            self._restore(self._best.parameters)
        self.prm.mix_in_start()
        if self._run is not None:
            write_model_card(self.folder)
            with replacing_files(self.folder, last=CHECKPOINT_NAME) as partial:
                self.prm.save_checkpoint(partial)
        self._accelerator.wait_for_everyone()

    def _inputs_now(self) -> dict[str, Any]:
        machine = {
            "device": self.device.type,
            "processes": self._accelerator.num_processes,
            **recorded_precision(self.config.network, self.device, self._precision),
        }
        return {**inputs_of(self.config, self._config_folder), "machine": machine}

    def _check_unchanged(self) -> None:
        changed = differences(self._inputs, self._inputs_now())
        if changed:
            raise TrainingError(
                f"the files of this run changed while they were read: {'; '.join(changed)}; start "
                "it again when nothing writes to them"
            )

    def _train_step(
        self,
        step: int,
        batch: Batch,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        num_steps: int,
    ) -> None:
        started = time.perf_counter()
        # Dropout depends on the step number alone, so a resumed run repeats it.
        torch.manual_seed(self.config.seed * 1_000_003 + step)
        losses = self._losses(batch, model)
        if not torch.isfinite(losses["total"]):
            raise TrainingError(
                f"the loss at step {step} is {losses['total'].item()}; lower the learning rate"
            )
        optimizer.zero_grad(set_to_none=True)
        self._accelerator.backward(losses["total"])
        parameters = list(self.prm.trained_parameters().values())
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.config.optimizer.max_gradient_norm)
        optimizer.step()
        means = self._mean_over_processes(losses)
        if self._run is not None:
            self._run.log(
                {
                    "step": step + 1,
                    "of": num_steps,
                    **{f"loss_{name}": round(value, 5) for name, value in means.items()},
                    "gradient_norm": round(norm.item(), 4),
                    "seconds": round(time.perf_counter() - started, 2),
                }
            )

    def _losses(self, batch: Batch, model: nn.Module) -> dict[str, Tensor]:
        return joint_loss(*_logits(batch, model), batch.targets, self.config.loss)

    def _mean_over_processes(self, losses: dict[str, Tensor]) -> dict[str, float]:
        values = torch.stack([value.detach() for value in losses.values()])
        means: Any = self._accelerator.reduce(values, reduction="mean")
        return dict(zip(losses, means.tolist(), strict=True))

    def _evaluate(self, loader: BatchLoader, step: int) -> bool:
        """Log the loss on held-out examples; returns whether training should stop."""
        batches = self.batch_plan.evaluation_batches()
        self.prm.network.eval()
        sums: dict[str, float] = {}
        accelerator = self._accelerator
        with torch.no_grad():
            model = _Logits(self.prm)
            for batch in batches[accelerator.process_index :: accelerator.num_processes]:
                for name, value in self._losses(loader.load(batch), model).items():
                    sums[name] = sums.get(
                        name, 0.0
                    ) + value.item() * self.batch_plan.num_trajectories(batch)
        self.prm.network.train()
        # float64, so that the sum hardly depends on the number of processes.
        values = torch.tensor([sums.get(name, 0.0) for name in PARTS], dtype=torch.float64)
        summed: Any = accelerator.reduce(values.to(self.device), reduction="sum")
        count = sum(map(self.batch_plan.num_trajectories, batches))
        means = {name: value / count for name, value in zip(PARTS, summed.tolist(), strict=True)}
        if self._run is not None:
            rounded = {f"evaluation_{name}": round(v, 5) for name, v in means.items()}
            self._run.log({"step": step, **rounded})
        return self._remember_best(means["total"], step)

    def _remember_best(self, loss: float, step: int) -> bool:
        patience = self.config.optimizer.patience
        if patience is None:
            return False
        if self._best is None or loss < self._best.loss:
            trained = self.prm.trained_parameters()
            copies = {name: p.detach().clone() for name, p in trained.items()}
            self._best = Best(loss, step, copies)
        else:
            self._best.since += 1
        return self._best.since >= patience

    def _fill_cache(self) -> ActivationCache | None:
        """The activations below the trained layers; None if nothing would be read twice."""
        network, read_once = self.config.network, self.config.optimizer.num_epochs == 1
        if network.first_trained_layer == 0 or (read_once and not self._cache_is_shared):
            return None
        layer = self.config.network.first_trained_layer
        # By the weights themselves, and by what else the bits of their results depend on.
        key = f"{self._inputs['base']} {self.prm.dtype} {self.device.type}"
        hidden_size = self.prm.network.shape.hidden_size
        cache = ActivationCache(self.cache_folder, self.trees, layer, hidden_size, key)
        with self._accelerator.main_process_first():
            cache.fill(self.prm.network, step=stage(self._progress, "frozen layers, batch"))
        return cache

    def _describe_data(self) -> dict[str, Any]:
        """What was trained on and what was held out, for the model card."""
        paths = data_paths(self.config.data)
        hashes = self._inputs["data"]
        described: dict[str, Any] = {"files": {str(p): hashes[name] for name, p in paths.items()}}
        for name, held_out in (("trained", False), ("held_out", True)):
            some = [i for i, e in enumerate(self.examples) if e.held_out == held_out]
            described[name] = {
                "trajectories": len(some),
                "questions": len({self.examples[i].group for i in some}),
                "tokens": sum(self._lengths[i] for i in some),
                "kinds": dict(Counter(self.examples[i].kind for i in some)),
            }
        return described

    def _save_state(self, optimizer: torch.optim.Optimizer, step: int) -> None:
        if self._run is not None:
            best = None if self._best is None else dict(vars(self._best))
            self._run.save_state(
                {
                    "step": step,
                    "parameters": self.prm.trained_parameters(),
                    "optimizer": optimizer.state_dict(),
                    "best": best,
                }
            )
        self._accelerator.wait_for_everyone()

    def _resume(self, optimizer: torch.optim.Optimizer) -> int:
        # Every process reads the same state; the main process has checked the folder.
        run = self._run or RunFolder.for_reading(self.folder, self._inputs)
        state = run.load_state(self.device)
        step = 0 if state is None else int(state["step"])
        if state is not None:
            self._restore(state["parameters"])
            optimizer.load_state_dict(state["optimizer"])
            if state["best"] is not None:
                self._best = Best(**state["best"])
        if self._run is not None:
            self._run.forget_log_after(step)
        self._accelerator.wait_for_everyone()
        return step

    def _restore(self, parameters: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self.prm.trained_parameters().items():
                parameter.copy_(parameters[name])


def learning_rate_scale(step: int, num_steps: int, warmup_steps: int) -> float:
    """The factor on the learning rate: linear warm-up, then a cosine to zero."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(num_steps - warmup_steps, 1)
    return 0.5 * (1 + math.cos(math.pi * progress))
