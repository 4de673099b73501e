"""Curating and labelling work without the packages of the extra ``train``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from rfprm_runtime.errors import install_command

# Hidden packages are hidden from find_spec too, as if they were never installed.
HIDDEN = ("torch", "peft", "transformers", "accelerate", "safetensors", "gguf", "onnx")
WITHOUT = f"""
import sys

class Hiding:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HIDDEN}:
            return None
        return self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = map(Hiding, sys.meta_path)
"""
MAIN = "from rfprm_runtime.cli.main import main\nmain()\n"


def rfprm(*arguments: str | Path, code: str = MAIN) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT + code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_traces_are_curated_and_labelled_without_torch(tmp_path: Path) -> None:
    source, config = tmp_path / "traces.jsonl", tmp_path / "label.toml"
    steps = ["There are 40 apples, and then 2 more.", "40 + 2 = 43, so there are 43 of them."]
    row = {"question": "How many?", "steps": steps, "response": "The answer is 43.", "target": "42"}
    source.write_text(json.dumps(row) + "\n")
    config.write_text("[steps]\ncomponents = ['quality']\n")
    curated = rfprm("curate", source, "-o", tmp_path / "curated.jsonl")
    assert curated.returncode == 0, curated.stderr
    labelled = rfprm(
        "label", tmp_path / "curated.jsonl", "-o", tmp_path / "out.jsonl", "--config", config
    )
    assert labelled.returncode == 0, labelled.stderr
    [found] = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert found["components"]["quality"] == [None, 0.0]
    assert found["trajectory_reward"] == 0.0


def test_commands_that_need_torch_say_how_to_get_it(tmp_path: Path) -> None:
    sample = ("sample", "gold.jsonl", "-o", "out.jsonl", "--config", "sample.toml")
    for arguments in (("train", "config.toml"), sample):
        failed = rfprm(*arguments)
        assert failed.returncode == 1
        assert failed.stderr.count("\n") == 1
        assert install_command("train") in failed.stderr
    imported = rfprm(code="import rfprm_training.learning.trainer\n")
    assert "MissingExtraError: training needs the package 'torch'" in imported.stderr
