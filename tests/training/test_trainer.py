from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_torch_file

from rfprm_export import ExportError
from rfprm_export.checkpoint import load_prm
from rfprm_export.lora import ADAPTER_NAME
from rfprm_runtime.engine.rows import pad_batch
from rfprm_training import TrainingError
from rfprm_training.evaluation.held_out import open_scorer
from rfprm_training.learning.config import read_config
from rfprm_training.learning.model_card import write_model_card
from rfprm_training.learning.run_inputs import inputs_of
from rfprm_training.learning.trainer import LOG_NAME, Trainer, learning_rate_scale
from tiny_runs import parameters, rewarded_config

WriteConfig = Callable[..., Path]
TENSOR_FILES = ("adapter_model.safetensors", "heads.safetensors")


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The log without its timings."""
    records = map(json.loads, (folder / LOG_NAME).read_text().splitlines())
    return [{k: v for k, v in record.items() if k != "seconds"} for record in records]


def assert_same_result(first: Path, second: Path) -> None:
    for name in TENSOR_FILES:
        one, other = load_file(first / name), load_file(second / name)
        assert one.keys() == other.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], other[key], err_msg=key)
    assert read_log(first) == read_log(second)


def test_a_run_stopped_and_continued_gives_the_same_result(
    write_config: WriteConfig, finished_run: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "stopped"
    Trainer(write_config(), folder, device="cpu").run(max_steps=4)
    assert not (folder / "checkpoint.json").exists()
    Trainer(write_config(), folder, device="cpu").run()
    assert_same_result(folder, finished_run)


def test_steps_after_the_last_save_are_done_again_and_logged_once(
    write_config: WriteConfig,
    finished_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "interrupted"
    train_step = Trainer._train_step

    def interrupted(self: Trainer, step: int, *rest: Any) -> None:
        if step == 3:  # saved after 2
            raise KeyboardInterrupt
        train_step(self, step, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            Trainer(write_config(), folder, device="cpu").run()
    assert len(read_log(folder)) == 3
    Trainer(write_config(), folder, device="cpu").run()
    assert_same_result(folder, finished_run)


def test_a_run_interrupted_before_its_first_save_logs_nothing_twice(
    write_config: WriteConfig,
    finished_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "early"

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_save_state", interrupted)
        with pytest.raises(KeyboardInterrupt):
            Trainer(write_config(), folder, device="cpu").run()
    assert read_log(folder)
    Trainer(write_config(), folder, device="cpu").run()
    assert_same_result(folder, finished_run)


def test_a_log_line_cut_off_by_a_kill_does_not_stop_the_next_run(
    write_config: WriteConfig, finished_run: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "torn"
    Trainer(write_config(), folder, device="cpu").run(max_steps=2)
    with (folder / LOG_NAME).open("a") as file:
        file.write('{"step": 3, "of"')
    Trainer(write_config(), folder, device="cpu").run()
    assert_same_result(folder, finished_run)


def test_the_loss_falls(write_config: WriteConfig, tmp_path: Path) -> None:
    config = write_config(
        ("num_epochs = 2", "num_epochs = 40"), ("\nlearning_rate = 1e-3", "\nlearning_rate = 1e-2")
    )
    folder = Trainer(config, tmp_path / "run", device="cpu").run()
    totals = [record["loss_total"] for record in read_log(folder)]
    first, last = np.mean(totals[:5]), np.mean(totals[-5:])
    print(f"loss {first:.3f} -> {last:.3f} in {len(totals)} steps")
    # Before training every score is 0.5: ln 2 for steps, trajectories and half of it for pairs.
    assert totals[0] == pytest.approx(2.5 * math.log(2), rel=1e-3)
    assert last < 0.7 * first


def test_the_checkpoint_scores_as_the_network_that_was_trained(
    write_config: WriteConfig, tmp_path: Path
) -> None:
    trainer = Trainer(write_config(), tmp_path / "run", device="cpu")
    folder = trainer.run()
    trainer.prm.network.float().eval()
    examples = trainer.examples[:6]
    with open_scorer(folder) as scorer:
        scores = scorer.score_batch([example.trajectory for example in examples])
    for example, score in zip(examples, scores, strict=True):
        batch = pad_batch([trainer.prm.encoder.encode(example.trajectory)])
        with torch.inference_mode():
            logits = trainer.prm.network(
                torch.from_numpy(batch.token_ids), torch.from_numpy(batch.marker_positions)
            )
        chances = torch.sigmoid(logits).numpy()
        np.testing.assert_allclose(score.step_scores, chances[:-1, 0], atol=1e-4)
        assert score.trajectory_score == pytest.approx(chances[-1, 1], abs=1e-4)
        assert not np.allclose(score.step_scores, 0.5, atol=1e-3)  # something was learnt


def test_a_base_model_that_was_replaced_by_another_of_its_shape_is_found_out(
    finished_run: Path, tiny_base: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(tiny_base, tmp_path / "copy")
    assert load_prm(finished_run, base=copy).manifest.source["base"] == {"folder": "copy"}
    weights = load_file(copy / "model.safetensors")
    weights["model.layers.0.self_attn.q_proj.weight"] *= np.float32(1.01)
    save_file(weights, copy / "model.safetensors")
    with pytest.raises(ExportError, match="copy is not the base model that the checkpoint was"):
        load_prm(finished_run, base=copy)
    path = finished_run / "checkpoint.json"
    older = json.loads(path.read_text())
    del older["source"]["base_weights_sha256"]
    path.write_text(json.dumps(older))
    said = load_prm(finished_run, base=copy).manifest.source["base_doubt"]
    assert said.endswith("was named; that it is this one cannot be told from its name")


def test_layers_above_the_kept_ones_are_neither_trained_nor_scored(
    write_config: WriteConfig, tmp_path: Path
) -> None:
    config = write_config(("num_layers = 3", "num_layers = 2"))
    folder = Trainer(config, tmp_path / "run", device="cpu").run()
    layers = {
        int(name.split(".layers.")[1].split(".")[0])
        for name in load_file(folder / "adapter_model.safetensors")
    }
    assert layers == {1}
    with open_scorer(folder) as scorer:
        assert scorer.manifest.backbone.num_layers == 2


def test_no_held_out_example_is_trained_on(write_config: WriteConfig, tmp_path: Path) -> None:
    trainer = Trainer(write_config(), tmp_path / "run", device="cpu")
    planned = [
        i
        for (batch,) in trainer.batch_plan.training_batches()
        for tree in batch
        for i in trainer.trees[tree].members
    ]
    expected = [i for i, example in enumerate(trainer.examples) if not example.held_out]
    assert sorted(planned) == sorted(2 * expected)  # two epochs
    assert len(expected) < len(trainer.examples)


def test_a_folder_with_another_config_is_refused(write_config: WriteConfig, tmp_path: Path) -> None:
    Trainer(write_config(), tmp_path / "run", device="cpu")
    other = write_config(("seed = 3", "seed = 4"), name="other.toml")
    with pytest.raises(TrainingError, match="another config"):
        Trainer(other, tmp_path / "run", device="cpu")


def test_a_run_on_other_data_is_not_continued(
    write_config: WriteConfig, tiny_data: Path, tmp_path: Path
) -> None:
    gold = Path(shutil.copy(tiny_data / "gold.jsonl", tmp_path))
    config = write_config((str(tiny_data / "gold.jsonl"), str(gold)))
    folder = tmp_path / "run"
    Trainer(config, folder, device="cpu").run(max_steps=2)
    original = gold.read_text()
    gold.write_text(original.replace("How many are left?", "How many remain?"))
    with pytest.raises(TrainingError, match=r"holds a run on other data: .*gold\.jsonl was"):
        Trainer(config, folder, device="cpu")
    gold.write_text(original)
    Trainer(config, folder, device="cpu").run(max_steps=1)


def test_a_finished_run_is_not_trained_again(write_config: WriteConfig, finished_run: Path) -> None:
    with pytest.raises(TrainingError, match="finished"):
        Trainer(write_config(), finished_run, device="cpu")


def test_the_config_is_saved_beside_the_result(
    write_config: WriteConfig, finished_run: Path
) -> None:
    assert (finished_run / "config.toml").read_text() == write_config().read_text()


def test_the_learning_rate_warms_up_and_falls_to_nothing() -> None:
    scales = [learning_rate_scale(step, 12, 2) for step in range(12)]
    assert scales[:3] == [0.5, 1.0, 1.0]
    assert scales[7] == pytest.approx(0.5)  # half of the cosine's ten steps
    assert scales[-1] == pytest.approx(0.5 * (1 + math.cos(0.9 * math.pi)))
    assert all(later <= earlier for earlier, later in pairwise(scales[1:]))


def test_gradient_checkpointing_changes_only_memory(
    write_config: WriteConfig, finished_run: Path, tmp_path: Path
) -> None:
    config = write_config(("lora_rank = 2", "lora_rank = 2\ngradient_checkpointing = true"))
    folder = Trainer(config, tmp_path / "run", device="cpu").run()
    expected = parameters(finished_run)
    for name, found in parameters(folder).items():
        np.testing.assert_allclose(found, expected[name], atol=1e-6, err_msg=name)


def test_full_training_moves_the_weights_themselves(
    write_config: WriteConfig, tmp_path: Path
) -> None:
    config = write_config(("lora_rank = 2", 'method = "full"'))
    trainer = Trainer(config, tmp_path / "run", device="cpu")
    before = trainer.prm.network.state_dict()["model.layers.1.mlp.up_proj.weight"].clone()
    folder = trainer.run()
    assert not (folder / "adapter_model.safetensors").exists()
    saved = load_file(folder / "heads.safetensors")
    layers = {int(name.split(".")[2]) for name in saved if name.startswith("model.layers.")}
    assert layers == {1, 2}
    assert not np.allclose(saved["model.layers.1.mlp.up_proj.weight"], before.numpy())
    trainer.prm.network.float().eval()
    example = trainer.examples[0]
    with open_scorer(folder) as scorer:
        (score,) = scorer.score_batch([example.trajectory])
    batch = pad_batch([trainer.prm.encoder.encode(example.trajectory)])
    with torch.inference_mode():
        logits = trainer.prm.network(
            torch.from_numpy(batch.token_ids), torch.from_numpy(batch.marker_positions)
        )
    assert score.trajectory_score == pytest.approx(torch.sigmoid(logits[-1, 1]).item(), abs=1e-4)


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("checkpointing", ["false", "true"])
def test_training_in_bfloat16_keeps_trained_weights_in_float32(
    method: str, checkpointing: str, write_config: WriteConfig, tmp_path: Path
) -> None:
    more = f'method = "{method}"\ngradient_checkpointing = {checkpointing}'
    runs = {}
    for precision in ("bfloat16", "float32"):
        config = write_config(('precision = "float32"', f'precision = "{precision}"\n{more}'))
        runs[precision] = Trainer(config, tmp_path / precision, device="cpu")
        runs[precision].run()
    trained = runs["bfloat16"].prm.trained_parameters()
    frozen = {p.dtype for p in runs["bfloat16"].prm.network.parameters() if not p.requires_grad}
    assert ({p.dtype for p in trained.values()}, frozen) == ({torch.float32}, {torch.bfloat16})
    wide, narrow = (
        [json.loads(line) for line in (tmp_path / name / LOG_NAME).read_text().splitlines()]
        for name in ("float32", "bfloat16")
    )
    for first, second in zip(wide, narrow, strict=True):
        assert second["loss_total"] == pytest.approx(first["loss_total"], rel=0.03)
    if method == "lora":
        stored = load_torch_file(tmp_path / "bfloat16" / ADAPTER_NAME)
        assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
        trained = {n: p for n, p in trained.items() if ".lora_" in n}
        for name, parameter in trained.items():  # as autocast multiplied them
            found = stored["base_model.model." + name.replace(".default.", ".")]
            assert torch.equal(found, parameter.detach().to(torch.bfloat16))
        start = ("seed = 3", f'seed = 3\nstart_from = "{tmp_path / "bfloat16"}"')
        again = Trainer(write_config(start), tmp_path / "again", device="cpu")
        again.prm.add_trained_parts()
        for name, parameter in again.prm.trained_parameters().items():
            if name in trained:
                assert torch.equal(parameter, trained[name].detach().to(torch.bfloat16).float())


@pytest.mark.parametrize("instructions", ["amx_bf16", "avx512_bf16"])
@pytest.mark.parametrize("has_them", [True, False])
def test_automatic_precision_suits_the_processor_and_stays_with_the_run(
    instructions: str,
    has_them: bool,
    write_config: WriteConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def become(able: bool) -> None:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {instructions: able})

    config = write_config(('precision = "float32"', 'precision = "auto"'))
    become(has_them)
    first = Trainer(config, tmp_path / "run", device="cpu")
    assert first.prm.dtype == (torch.bfloat16 if has_them else torch.float32)
    first.run(max_steps=1)
    become(not has_them)  # the run goes on elsewhere
    second = Trainer(config, tmp_path / "run", device="cpu")
    assert second.prm.dtype == first.prm.dtype
    second.run(max_steps=1)
    assert Trainer(config, tmp_path / "new", device="cpu").prm.dtype != first.prm.dtype


def test_a_run_from_before_precision_was_recorded_goes_on_in_float32(
    write_config: WriteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {})
    config = write_config(('precision = "float32"', 'precision = "auto"'))
    Trainer(config, tmp_path / "run", device="cpu").run(max_steps=1)
    recorded = json.loads((tmp_path / "run" / "inputs.json").read_text(encoding="utf-8"))
    assert recorded["machine"] == {"device": "cpu", "processes": 1}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    trainer = Trainer(config, tmp_path / "run", device="cpu")
    assert trainer.prm.dtype == torch.float32
    trainer.run(max_steps=1)


def test_token_trees_change_no_loss(write_config: WriteConfig, tmp_path: Path) -> None:
    """The first steps, with every group in one tree and with one row per trajectory."""
    losses = []
    for tokens in (2048, 0):
        everything = ("batch_tokens = 600", f"batch_tokens = 100000\npack_tokens = {tokens}")
        trainer = Trainer(write_config(everything), tmp_path / str(tokens), device="cpu")
        folder = trainer.run(max_steps=2)
        assert (len(trainer.trees) < len(trainer.examples)) == (tokens > 0)
        losses.append([record["loss_total"] for record in read_log(folder)])
    np.testing.assert_allclose(*losses, atol=2e-3)


EARLY = (
    ("num_epochs = 2", "num_epochs = 60"),
    ("save_every_steps = 2", "save_every_steps = 2\nevaluate_every_steps = 3\npatience = 2"),
    # A rate that soon makes held-out losses rise.
    ("\nlearning_rate = 1e-3", "\nlearning_rate = 3e-2"),
)


def test_training_stops_when_held_out_losses_rise_and_keeps_the_best(
    write_config: WriteConfig, tmp_path: Path
) -> None:
    config = write_config(*EARLY)
    trainer = Trainer(config, tmp_path / "run", device="cpu")
    folder = trainer.run()
    log = [json.loads(line) for line in (folder / LOG_NAME).read_text().splitlines()]
    losses = {r["step"]: r["evaluation_total"] for r in log if "evaluation_total" in r}
    best = min(losses, key=lambda step: losses[step])
    after = [step for step in losses if step > best]
    assert len(after) == 2
    assert max(losses) < log[0]["of"]  # it stopped early
    # The checkpoint is the best one: a new run of as many steps gives the same weights.
    again = Trainer(config, tmp_path / "again", device="cpu")
    again.run(max_steps=best)
    expected = again.prm.trained_parameters()
    for name, found in trainer.prm.trained_parameters().items():
        torch.testing.assert_close(found, expected[name], rtol=0, atol=0)


def test_early_stopping_survives_an_interruption(write_config: WriteConfig, tmp_path: Path) -> None:
    config = write_config(*EARLY)
    whole = Trainer(config, tmp_path / "whole", device="cpu").run()
    for _ in range(300):
        folder = Trainer(config, tmp_path / "parts", device="cpu").run(max_steps=5)
        if (folder / "checkpoint.json").exists():
            break
    assert_same_result(folder, whole)


def test_evaluating_needs_something_held_out(write_config: WriteConfig, tmp_path: Path) -> None:
    config = write_config(
        ("num_constructed_held_out = 3", "num_constructed_held_out = 0"),
        ("held_out_fold = 0\n", "held_out_fold = 0\nsampled_repeats = 1\n"),
        ("save_every_steps = 2", "save_every_steps = 2\nevaluate_every_steps = 1"),
    )
    text = config.read_text().replace("num_folds = 3\nheld_out_fold = 0", "num_folds = 9")
    config.write_text(text.replace("sampled_repeats", "held_out_fold = 8\nsampled_repeats"))
    with pytest.raises(TrainingError, match="holds out no example"):
        Trainer(config, tmp_path / "run", device="cpu").run()


def write_rewarded(path: Path, count: int = 24) -> Path:
    lines = []
    for i in range(count):
        fields = {
            "question": f"What is {i} + 2?",
            "steps": [f"{i} + 2 = {i + 2}", "Done."],
            "response": [f"The answer is {i + 2}."],
            "step_rewards": [i / count, None],
            "trajectory_reward": 0.25 if i % 2 else None,
        }
        lines.append(json.dumps(fields) + "\n")
    path.write_text("".join(lines))
    return path


def test_rewarded_trajectories_are_trained_on_with_soft_targets(
    write_config: WriteConfig, tmp_path: Path
) -> None:
    config = rewarded_config(
        write_config(), write_rewarded(tmp_path / "r.jsonl"), "held_out_share = 0.3"
    )
    trainer = Trainer(config, tmp_path / "run", device="cpu")
    held_out = [example.held_out for example in trainer.examples]
    assert 2 <= sum(held_out) <= 14
    assert trainer.examples[6].step_labels[0] == 0.25
    folder = trainer.run()
    card = (folder / "README.md").read_text()
    assert f"{held_out.count(False)} rewarded" in card
    assert "`r.jsonl`" in card


def test_runs_that_knew_no_folds_go_on(write_config: WriteConfig, tmp_path: Path) -> None:
    rows = write_rewarded(tmp_path / "r.jsonl")

    def recorded(rule: str) -> Any:
        config = rewarded_config(write_config(), rows, rule)
        return inputs_of(read_config(config), config.parent)["config"]["data"]

    assert recorded("held_out_share = 0.3") == {"kind": "rewarded", "held_out_share": 0.3}
    assert recorded("held_out_fold = 1")["held_out_fold"] == 1
    assert recorded("num_folds = 3")["num_folds"] == 3


def test_a_question_cannot_be_trained_on_and_held_out(
    write_config: WriteConfig, tmp_path: Path
) -> None:
    rewarded = write_rewarded(tmp_path / "r.jsonl")
    config = rewarded_config(write_config(), rewarded, "held_out_share = 0.3")
    config.write_text(
        config.read_text().replace("held_out_share = 0.3", f'evaluation = ["{rewarded}"]')
    )
    with pytest.raises(TrainingError, match="24 questions are both trained on and held out"):
        Trainer(config, tmp_path / "run", device="cpu")


def test_the_model_card_describes_the_run_and_keeps_notes(
    finished_run: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(finished_run, folder)
    card = (folder / "README.md").read_text()
    assert "LoRA (rank 2" in card
    assert "## Training" in card
    assert ", 2 epochs, " in card
    assert "Not measured yet" in card
    config = folder / "config.toml"
    text = config.read_text()
    config.write_text(text.replace("num_epochs = 2", "num_epochs = 1"))
    write_model_card(folder)
    assert ", 1 epoch, " in (folder / "README.md").read_text()
    config.write_text(text)
    (folder / "README.md").write_text(card.replace("(none yet)", "Mind the gap."))
    write_model_card(folder)
    assert (folder / "README.md").read_text() == card.replace("(none yet)", "Mind the gap.")
    (folder / "README.md").write_text("by hand")
    write_model_card(folder)
    assert (folder / "README.md").read_text() == "by hand"


@pytest.mark.slow
def test_two_processes_train_one_model(write_config: WriteConfig, tmp_path: Path) -> None:
    config = write_config(
        ("lora_dropout = 0.1", "lora_dropout = 0.0"),
        ("save_every_steps = 2", "save_every_steps = 2\nevaluate_every_steps = 2"),
    )
    folder, door = tmp_path / "run", Path(__file__).resolve().parents[2] / "training/train.py"
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command = [*launch, door, config, "-o", folder, "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    log = [json.loads(line) for line in (folder / LOG_NAME).read_text().splitlines()]
    alone = Trainer(config, tmp_path / "alone", device="cpu")
    steps = [record for record in log if "loss_total" in record]
    assert [record["step"] for record in steps] == list(range(1, len(steps) + 1))
    num_batches = len(alone.batch_plan.training_batches())
    assert len(steps) == -(-num_batches // 2)
    # The first step takes the first two batches of a single process, before anything is learnt.
    expected = 2.5 * math.log(2)
    assert steps[0]["loss_total"] == pytest.approx(expected, rel=1e-3)
    assert (folder / "checkpoint.json").is_file()
    assert [r["step"] for r in log if "evaluation_total" in r][:2] == [2, 4]
