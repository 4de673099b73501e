"""Everything raised on purpose derives from one class, and no decision rests on a message."""

from __future__ import annotations

import ast
import builtins
import json
import re
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from rfprm_runtime import InvalidArgumentError, ManifestError, RfprmError, Trajectory, split_steps
from rfprm_runtime.artifact.manifest import Backbone, Manifest
from rfprm_runtime.errors import MissingExtraError, install_command
from rfprm_runtime.ground.endpoint import Endpoint
from rfprm_runtime.rewards.advantages import (
    group_advantages,
    mixed_reward,
    step_credits,
)
from rfprm_runtime.rewards.micro_batcher import MicroBatcher
from rfprm_runtime.scores.aggregation import aggregate_steps
from rfprm_runtime.search import Budget
from rfprm_runtime.search.completion_proposer import CompletionProposer
from rfprm_runtime.selection.rule import Selection
from rfprm_runtime.selection.settings import OutputOptions, RayWorkers, Scoring
from rfprm_runtime.types import TrajectoryScore
from rfprm_training import ConfigError, DataError
from rfprm_training.learning.config import DataConfig, OptimizerConfig
from rfprm_training.rewarded import RewardedTrajectory

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = [ROOT / "rfprm_runtime", ROOT / "export/rfprm_export", ROOT / "training/rfprm_training"]
FILES = [path for folder in PACKAGES for path in sorted(folder.rglob("*.py"))]
MAY_BE_RAISED = {
    "AttributeError": "what Python expects of a module's __getattr__",
    "SystemExit": "how a command line ends before its error handler is there",
    "NotImplementedError": "a method for subclasses",
    "StopIteration": "the iterator protocol",
    "KeyError": "the mapping protocol",
}
BUILTIN_ERRORS = {
    name
    for name, value in vars(builtins).items()
    if isinstance(value, type) and issubclass(value, BaseException)
}


def _nodes(kind: type[ast.AST]) -> Iterator[tuple[str, Any]]:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, kind):
                yield f"{path.relative_to(ROOT)}:{node.lineno}", node  # type: ignore[attr-defined]


def test_what_is_raised_on_purpose_derives_from_one_class() -> None:
    wrong = []
    for place, node in _nodes(ast.Raise):
        raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        name = raised.id if isinstance(raised, ast.Name) else ""
        if name in BUILTIN_ERRORS and name not in MAY_BE_RAISED:
            wrong.append(f"{place} raises {name}; raise a class that derives from RfprmError")
    assert not wrong, "\n".join(wrong)


def test_every_error_class_derives_from_that_one() -> None:
    found = 0
    for place, node in _nodes(ast.ClassDef):
        if not any(ast.unparse(base).endswith(("Error", "Exception")) for base in node.bases):
            continue
        path = ROOT / place.partition(":")[0]
        folder = next(folder for folder in PACKAGES if folder in path.parents)
        module = ".".join(path.relative_to(folder.parent).with_suffix("").parts)
        error = getattr(import_module(module.removesuffix(".__init__")), node.name)
        assert issubclass(error, RfprmError) or error is RfprmError, f"{place}: {node.name}"
        found += 1
    assert found > 15


_TEXTS = re.compile(r"str\((error|exception|e)\)|(error|exception|e)\.args\[0\]")
_ASKS = {"startswith", "endswith", "find", "count", "index"}


def test_no_decision_rests_on_the_text_of_an_error() -> None:
    asked = [(place, node.comparators) for place, node in _nodes(ast.Compare)]
    asked += [
        (place, [node.func.value])
        for place, node in _nodes(ast.Call)
        if isinstance(node.func, ast.Attribute) and node.func.attr in _ASKS
    ]
    wrong = [
        place
        for place, parts in asked
        if any(_TEXTS.fullmatch(ast.unparse(part)) for part in parts)
    ]
    assert not wrong, "\n".join(wrong)


_NAN = float("nan")
_NETWORK: dict[str, Any] = {
    "hidden_size": 8,
    "num_layers": 1,
    "num_heads": 3,
    "num_kv_heads": 2,
    "head_dim": 4,
    "intermediate_size": 8,
    "vocab_size": 8,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e4,
}


def _score(reward: float) -> TrajectoryScore:
    return TrajectoryScore(step_scores=[0.5], trajectory_score=None, reward=reward, num_tokens=1)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: Trajectory(question="q", steps=[]), RfprmError, "steps: got 0 steps"),
        (lambda: Trajectory.model_validate_json("{"), RfprmError, "Invalid JSON"),
        (lambda: split_steps("a", "words"), InvalidArgumentError, "split is 'words'"),  # type: ignore[arg-type]
        (lambda: MicroBatcher(None, max_batch=0), InvalidArgumentError, "max_batch is 0"),  # type: ignore[arg-type]
        (lambda: aggregate_steps(None, "median"), InvalidArgumentError, "'median'"),  # type: ignore[arg-type]
        (lambda: mixed_reward([1.0], [1.0], beta=2), InvalidArgumentError, "beta is 2"),
        (lambda: Budget(max_seconds=-1), InvalidArgumentError, "max_seconds is -1"),
        (lambda: Selection(), InvalidArgumentError, "keeps every trace"),
        (lambda: Selection(top=0), InvalidArgumentError, r"top \(--top\) is 0"),
        (lambda: Scoring(shard_rows=0), InvalidArgumentError, "--shard-rows"),
        (lambda: OutputOptions("best"), InvalidArgumentError, "order is 'best'"),  # type: ignore[arg-type]
        (lambda: RayWorkers(0), InvalidArgumentError, "count is 0, expected a whole number"),
        (lambda: RayWorkers(1, 1, _NAN), InvalidArgumentError, "gpus_per_worker is nan"),
        (lambda: MicroBatcher(None, max_wait_ms=_NAN), InvalidArgumentError, "max_wait_ms is nan"),  # type: ignore[arg-type]
        (lambda: mixed_reward([1.0], [1.0], beta=_NAN), InvalidArgumentError, "beta is nan"),
        (lambda: step_credits([1.0], "min", temperature=_NAN), InvalidArgumentError, "is nan"),
        (lambda: group_advantages([1, 2], 2, epsilon=_NAN), InvalidArgumentError, "is nan"),
        (lambda: group_advantages([1, 2], 2, clip=_NAN), InvalidArgumentError, "clip is nan"),
        (lambda: group_advantages([0, 1e200], 2), InvalidArgumentError, "too large"),
        (lambda: Budget(max_seconds=_NAN), InvalidArgumentError, "max_seconds is nan"),
        (lambda: Selection(threshold=_NAN), InvalidArgumentError, "threshold"),
        (lambda: Selection(share=_NAN), InvalidArgumentError, "share"),
        (lambda: Endpoint("http://a", timeout=_NAN), InvalidArgumentError, "timeout is nan"),
        (lambda: Endpoint("http://a", max_wait=_NAN), InvalidArgumentError, "max_wait is nan"),
        (lambda: CompletionProposer("u", "m", temperature=_NAN), InvalidArgumentError, "is nan"),
        (lambda: _score(_NAN), InvalidArgumentError, "reward: "),
        (lambda: Backbone(**_NETWORK), ManifestError, "num_heads 3 is not a multiple"),
        (lambda: Manifest.model_validate({"name": 3}), ManifestError, "name: .*; family: "),
        (lambda: DataConfig(num_constructed=-1), ConfigError, "gold: .*num_constructed: "),  # type: ignore[call-arg]
        (
            lambda: OptimizerConfig.model_validate(
                {
                    "learning_rate": 1,
                    "head_learning_rate": 1,
                    "num_epochs": 1,
                    "batch_tokens": 1,
                    "patience": 2,
                }
            ),
            ConfigError,
            "set evaluate_every_steps too",
        ),
        (
            lambda: RewardedTrajectory(
                trajectory=Trajectory(question="q", steps=("a",)), step_rewards=()
            ),
            DataError,
            "step_rewards has 0 values for 1 steps",
        ),
    ],
)
def test_a_wrong_value_is_refused_by_a_class_of_ours_that_is_a_value_error(
    call: Callable[[], object], kind: type[RfprmError], message: str
) -> None:
    with pytest.raises(kind, match=message) as caught:
        call()
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, RfprmError)
    assert "pydantic" not in str(caught.value)


def test_a_nested_field_is_named_by_its_whole_path() -> None:
    content = {"backbone": {**_NETWORK, "num_layers": "three"}}
    with pytest.raises(ManifestError, match=r"backbone\.num_layers: expected a valid integer"):
        Manifest.model_validate(content)


@pytest.mark.parametrize(
    ("origin", "command"),
    [
        (None, "pip install 'rfprm_runtime[math]'"),
        ({"url": "file:///a%20b", "dir_info": {}}, "pip install '/a b[math]'"),
        (
            {"url": "file:///src", "dir_info": {"editable": True}},
            "pip install --editable '/src[math]'",
        ),
        (
            {"url": "file:///w/rfprm_runtime-1-py3-none-any.whl", "archive_info": {}},
            "pip install '/w/rfprm_runtime-1-py3-none-any.whl[math]'",
        ),
        (
            {"url": "https://host/x.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}},
            "pip install 'rfprm_runtime[math] @ git+https://host/x.git@abc'",
        ),
        ({"url": "https://host/x.whl"}, "pip install 'rfprm_runtime[math] @ https://host/x.whl'"),
    ],
)
def test_an_extra_is_installed_from_where_the_package_came(
    monkeypatch: pytest.MonkeyPatch, origin: dict[str, Any] | None, command: str
) -> None:
    class Installed:
        def read_text(self, name: str) -> str | None:
            assert name == "direct_url.json"
            return None if origin is None else json.dumps(origin)

    monkeypatch.setattr("importlib.metadata.distribution", lambda name: Installed())
    assert install_command("math") == command
    assert str(MissingExtraError("math-verify", "math", "comparing")).endswith(f"run: {command}")
