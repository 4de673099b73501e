"""Where experiments write."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from experiments.kept import add_result_options, write_result


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "runs/greedy/greedy.json"),
        (["-o", "mine", "--name", "again"], "mine/again.json"),
        (["-o", "mine", "--keep"], "experiments/results/greedy.json"),
    ],
)
def test_results_go_to_the_repository_only_when_asked(
    arguments: list[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    parser = argparse.ArgumentParser()
    add_result_options(parser, "greedy")
    assert write_result(parser.parse_args(arguments), {"share": 0.5}) == Path(expected)
    assert json.loads((tmp_path / expected).read_text()) == {"share": 0.5}
    assert [path.name for path in tmp_path.rglob("*.json")] == [Path(expected).name]
