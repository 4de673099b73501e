"""The example as users run it, on a small random policy."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "grpo_trl.py"


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_the_grpo_example_checks_its_own_rewards(
    artifact: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in ("trl", "peft", "pandas", "gguf", "matplotlib"):
        pytest.importorskip(package)
    spec = importlib.util.spec_from_file_location("grpo_trl", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    options = ["--tiny", "--oversample", "2", "--artifact", artifact, "--backend", "fake"]
    example.main([*options, "-o", str(tmp_path)])
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["num_completions"] == 16
    assert run["max_reward_difference"] < 1e-6
    assert run["max_advantage_difference"] < 1e-3
    assert len(run["curve"]["reward"]) == 2
    for kept, sampled in zip(
        *map(run["curve"].get, ("spread_kept", "spread_sampled")), strict=True
    ):
        assert kept >= sampled
    assert str(tmp_path.parent) not in json.dumps(run)
    assert (tmp_path / "reward.png").stat().st_size > 0
    assert "scoring took" in capsys.readouterr().out
