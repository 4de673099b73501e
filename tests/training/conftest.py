"""What tests of training share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rfprm_training.gsm8k import GoldSolution
from rfprm_training.learning.trainer import Trainer
from tiny_runs import tiny_base, tiny_config, tiny_data, write_config

__all__ = ["pencils", "tiny_base", "tiny_config", "tiny_data", "write_config"]


@pytest.fixture
def pencils() -> GoldSolution:
    """3 · 12 = 36, less 6 is 30, at 2 each is 60."""
    return GoldSolution(
        question="Mia has 3 boxes of 12 pencils. She gives 6 away and sells the rest at $2 each. "
        "How many dollars does she get?",
        steps=(
            "Mia has 3*12=<<3*12=36>>36 pencils.",
            "Then she has 36-6=<<36-6=30>>30 pencils.",
            "She gets 30*2=$<<30*2=60>>60.",
        ),
        answer="60",
    )


@pytest.fixture
def finished_run(write_config: Callable[..., Path], tmp_path: Path) -> Path:
    return Trainer(write_config(), tmp_path / "whole", device="cpu").run()
