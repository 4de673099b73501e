"""Training, folds, samples and activations know what they are made from by content, not by path."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from rfprm_export import ExportError
from rfprm_export.named_base import FolderBase, find_base_model
from rfprm_export.reference import REFERENCE_NAMES, has_reference
from rfprm_runtime.errors import OutputError
from rfprm_runtime.ground.claims import claimed_folder
from rfprm_runtime.ground.content import content_of
from rfprm_training import TrainingError
from rfprm_training.base_content import base_content
from rfprm_training.commands import train
from rfprm_training.data_commands import sample
from rfprm_training.evaluation.cross_validation import SCORES_NAME, cross_validate
from rfprm_training.labelling.config import LabelConfig, StepRewardConfig
from rfprm_training.labelling.expert.config import ExpertConfig
from rfprm_training.labelling.expert.prompts import Prompt
from rfprm_training.labelling.label_file import label_file
from rfprm_training.learning import trainer as trainer_module
from rfprm_training.learning.activations import _reserve
from rfprm_training.learning.trainer import Trainer
from training.labelling_helpers import HashEncoder, write_traces

WriteConfig = Callable[..., Path]


@pytest.fixture
def own_base(tiny_base: Path, tmp_path: Path) -> Path:
    """A base model to change."""
    return Path(shutil.copytree(tiny_base, tmp_path / "base"))


@pytest.fixture
def config(write_config: WriteConfig, tiny_base: Path, own_base: Path) -> Path:
    return write_config((str(tiny_base), str(own_base)), ("num_epochs = 2", "num_epochs = 1"))


def change_weights(base: Path) -> None:
    """Other weights of the same size, with the times of the old ones."""
    path = base / "model.safetensors"
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    weights = load_file(path)
    name = "model.layers.0.mlp.up_proj.weight"
    save_file({**weights, name: -weights[name]}, path, metadata={"format": "pt"})
    os.utime(path, ns=times)


def test_a_run_on_another_base_model_is_not_continued(
    config: Path, own_base: Path, tmp_path: Path
) -> None:
    folder, kept = tmp_path / "run", shutil.copytree(own_base, tmp_path / "kept")
    Trainer(config, folder, device="cpu").run(max_steps=1)
    change_weights(own_base)
    with pytest.raises(TrainingError, match=r"holds a run of another config: base was \w+, is"):
        Trainer(config, folder, device="cpu")
    shutil.rmtree(own_base)
    shutil.copytree(kept, own_base)
    (own_base / "README.md").write_text("read me")
    Trainer(config, folder, device="cpu").run(max_steps=1)


def test_another_base_model_shares_no_activations(
    config: Path, own_base: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    Trainer(config, tmp_path / "one", cache=cache, device="cpu").run(max_steps=1)
    change_weights(own_base)
    Trainer(config, tmp_path / "other", cache=cache, device="cpu").run(max_steps=1)
    one, other = (np.fromfile(path, np.int16) for path in cache.glob("*.bin"))
    assert not np.array_equal(one, other)


def test_a_base_model_in_another_place_is_the_same(
    config: Path, own_base: Path, tiny_data: Path, tmp_path: Path
) -> None:
    folder, cache = tmp_path / "run", tmp_path / "cache"
    Trainer(config, folder, cache=cache, device="cpu").run(max_steps=1)
    own_base.rename(tmp_path / "moved")
    gold = shutil.copy(tiny_data / "gold.jsonl", tmp_path / "renamed.jsonl")
    text = config.read_text().replace(str(own_base), str(tmp_path / "moved"))
    config.write_text(text.replace(str(tiny_data / "gold.jsonl"), str(gold)))
    Trainer(config, folder, cache=cache, device="cpu").run()
    assert (folder / "config.toml").read_text() == config.read_text()
    assert len(list(cache.glob("*.bin"))) == 1


@pytest.mark.parametrize("setting", ["processes", "device"])
def test_a_run_on_other_machinery_is_not_continued(
    config: Path, tmp_path: Path, setting: str
) -> None:
    Trainer(config, tmp_path / "run", device="cpu").run(max_steps=1)
    path = tmp_path / "run" / "inputs.json"
    inputs = json.loads(path.read_text())
    inputs["machine"][setting] = "other"
    path.write_text(json.dumps(inputs))
    with pytest.raises(TrainingError, match=rf"machine\.{setting} was other, is"):
        Trainer(config, tmp_path / "run", device="cpu")


def test_another_start_is_noticed(write_config: WriteConfig, config: Path, tmp_path: Path) -> None:
    start = Trainer(config, tmp_path / "start", device="cpu").run()
    text = config.read_text().replace("seed = 3", f'seed = 3\nstart_from = "{start}"')
    config.write_text(text)
    Trainer(config, tmp_path / "run", device="cpu").run(max_steps=1)
    heads = load_file(start / "heads.safetensors")
    save_file({name: -array for name, array in heads.items()}, start / "heads.safetensors")
    with pytest.raises(TrainingError, match=r"start_from was \w+, is"):
        Trainer(config, tmp_path / "run", device="cpu")


def test_a_run_that_does_not_say_what_it_depends_on_is_refused(
    config: Path, tmp_path: Path
) -> None:
    Trainer(config, tmp_path / "run", device="cpu").run(max_steps=1)
    (tmp_path / "run" / "inputs.json").unlink()
    with pytest.raises(TrainingError, match="of an earlier version"):
        Trainer(config, tmp_path / "run", device="cpu")


def test_files_that_change_while_they_are_read_are_noticed(
    config: Path, own_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = trainer_module.build_examples

    def changing(*arguments: Any) -> Any:
        change_weights(own_base)
        return build(*arguments)

    monkeypatch.setattr(trainer_module, "build_examples", changing)
    with pytest.raises(TrainingError, match="changed while they were read: base was"):
        Trainer(config, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run" / "inputs.json").exists()


def test_two_processes_cannot_train_in_one_folder(config: Path, tmp_path: Path) -> None:
    trainer = Trainer(config, tmp_path / "run", device="cpu")
    with claimed_folder(tmp_path / "run"):
        for start in (trainer.run, lambda: Trainer(config, tmp_path / "run", device="cpu")):
            with pytest.raises(OutputError, match=r"another run is using .*run; wait for it"):
                start()
    trainer.run(max_steps=1)


def test_a_stop_after_training_costs_no_reference(config: Path, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(train)
    folder = Trainer(config, tmp_path / "run", device="cpu").run()
    assert not has_reference(folder)
    arguments = [str(config), "-o", str(folder), "--device", "cpu"]
    assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == 0
    assert all((folder / name).is_file() for name in REFERENCE_NAMES.values())
    again = CliRunner().invoke(app, arguments)
    assert "holds a finished run" in str(again.exception)


def test_a_reference_can_be_left_to_the_calibration(config: Path, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(train)
    folder = tmp_path / "run"
    arguments = [str(config), "-o", str(folder), "--device", "cpu", "--no-reference"]
    assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == 0
    assert (folder / "checkpoint.json").is_file()
    assert not any((folder / name).exists() for name in REFERENCE_NAMES.values())
    assert "holds a finished run" in str(CliRunner().invoke(app, arguments).exception)
    assert CliRunner().invoke(app, arguments[:-1], catch_exceptions=False).exit_code == 0
    assert has_reference(folder)


def test_a_cache_that_does_not_fit_is_refused_before_it_is_filled(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"File too large|No space left"):
        _reserve(tmp_path / "cache.bin", 1 << 60)
    assert list(tmp_path.iterdir()) == []


def test_folds_on_another_base_model_are_refused_even_when_finished(
    config: Path, own_base: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "folds"
    cross_validate(config, folder, device="cpu")
    change_weights(own_base)
    with pytest.raises(TrainingError, match=r"fold-0 holds a run of another config: base was"):
        cross_validate(config, folder, device="cpu")


def test_a_fold_with_other_weights_is_scored_again(config: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folds"
    cross_validate(config, folder, device="cpu")
    before = (folder / SCORES_NAME).read_bytes()
    path = folder / "fold-1" / "heads.safetensors"
    heads = load_file(path)
    save_file({name: array + 1 for name, array in heads.items()}, path)
    cross_validate(config, folder, device="cpu")
    assert (folder / SCORES_NAME).read_bytes() != before
    save_file(heads, path)
    cross_validate(config, folder, device="cpu")
    assert (folder / SCORES_NAME).read_bytes() == before


def test_samples_of_another_model_are_not_mixed(
    own_base: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tmp_path / "sample.toml"
    settings.write_text(
        "num_questions = 4\nnum_demonstrations = 2\nmax_step_tokens = 4\nbatch_size = 2\n"
        '[base]\nkind = "folder"\npath = "base"\n'
    )
    app, output = typer.Typer(), tmp_path / "next.jsonl"
    app.command()(sample)
    arguments = [str(tiny_data / "gold.jsonl"), "-o", str(output), "--config", str(settings)]
    generator, calls = torch.Generator, []

    def stopped(*some: Any) -> torch.Generator:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return generator(*some)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "Generator", stopped)
        CliRunner().invoke(app, arguments)
    assert Path(f"{output}.partial").read_bytes().count(b"\n") == 4
    change_weights(own_base)
    refused = CliRunner().invoke(app, arguments)
    assert "model.content was" in str(refused.exception)
    assert CliRunner().invoke(app, [*arguments, "--overwrite"]).exit_code == 0
    own_base.rename(tmp_path / "moved")
    settings.write_text(settings.read_text().replace('"base"', '"moved"'))
    again = tmp_path / "again.jsonl"
    arguments[2] = str(again)
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert again.read_bytes() == output.read_bytes()


def test_labels_by_another_encoder_are_not_mixed(tmp_path: Path) -> None:
    class Encoder(HashEncoder):
        content = "one"

    source, output = write_traces(tmp_path), tmp_path / "out.jsonl"

    def stop(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        label_file(source, output, LabelConfig(), encoder=Encoder(), on_progress=stop)
    encoder = Encoder()
    encoder.content = "other"
    with pytest.raises(TrainingError, match="encoder was one, is other"):
        label_file(source, output, LabelConfig(), encoder=encoder)


def test_labels_by_other_prompts_are_not_mixed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, output = write_traces(tmp_path), tmp_path / "out.jsonl"
    # The expert is there, but what asks it is not among the components.
    config = LabelConfig(
        steps=StepRewardConfig(components=("quality",)), expert=ExpertConfig(model="m")
    )

    def stop(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        label_file(source, output, config, on_progress=stop)
    monkeypatch.setattr(Prompt, "content", "other")
    with pytest.raises(TrainingError, match=r"prompts\.judge_steps\.\w+ was \w+, is other"):
        label_file(source, output, config)


def test_two_runs_cannot_label_into_one_file(tmp_path: Path) -> None:
    source, output = write_traces(tmp_path), tmp_path / "out.jsonl"

    def another(done: int) -> None:
        label_file(source, output, LabelConfig(), encoder=HashEncoder())

    with pytest.raises(OutputError, match=r"another run is using .*out\.jsonl"):
        label_file(source, output, LabelConfig(), encoder=HashEncoder(), on_progress=another)


def test_a_config_may_name_a_base_model_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the user's own words, unlike a checkpoint."""
    monkeypatch.delenv("RFPRM_BASE_MODELS", raising=False)
    base = tmp_path / "elsewhere"
    base.mkdir()
    (base / "config.json").write_text("{}")
    named = FolderBase(path=str(base))
    (tmp_path / "configs").mkdir()
    assert base_content(named, tmp_path / "configs") == content_of(base)
    with pytest.raises(ExportError, match="RFPRM_BASE_MODELS"):
        find_base_model(named, tmp_path / "configs")
