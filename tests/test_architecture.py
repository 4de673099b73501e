"""Imports run one way, and importing the runtime is cheap."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {
    "rfprm_runtime": ROOT / "rfprm_runtime",
    "rfprm_export": ROOT / "export" / "rfprm_export",
    "rfprm_training": ROOT / "training" / "rfprm_training",
}
MAY_IMPORT = {
    "rfprm_runtime": {"rfprm_runtime"},
    "rfprm_export": {"rfprm_runtime", "rfprm_export"},
    "rfprm_training": {"rfprm_runtime", "rfprm_export", "rfprm_training"},
}
# Inside the runtime: a module imports its own layer or lower ones.
LAYERS = [
    {"errors"},
    {"parsing", "rotary", "cores", "bounded", "endpoint", "rewards", "token_rewards", "whole_files",
     "tint", "command_line", "arguments", "lifetime"},
    {"types", "manifest", "notebook"},
    {"families", "rendering", "encoding", "batching", "readout", "aggregation", "windowing",
     "command_options", "artifact", "answers", "native"},
    {"backends", "progress", "prefix", "traces"},
    {"execution", "past_cache"},
    {"session"},
    {"scorer"},
    {"report", "score_file", "reranker", "search", "selection", "view", "micro_batcher"},
    {"integrations"},
    {"cli"},
]  # fmt: skip
FILES = [(name, path) for name, folder in PACKAGES.items() for path in folder.rglob("*.py")]


def _imports(path: Path, *, module_level: bool = False) -> Iterator[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if module_level else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield node.module or ""


def _top(module: str) -> str:
    return module.partition(".")[0]


@pytest.mark.parametrize(("package", "path"), FILES, ids=lambda x: getattr(x, "name", x))
def test_packages_import_one_way(package: str, path: Path) -> None:
    ours = {_top(module) for module in _imports(path)} & set(PACKAGES)
    assert ours <= MAY_IMPORT[package]


@pytest.mark.parametrize(
    "path", sorted(PACKAGES["rfprm_runtime"].rglob("*.py")), ids=lambda path: path.name
)
def test_the_runtime_needs_torch_in_one_backend_only(path: Path) -> None:
    imported = {_top(module) for module in _imports(path)}
    assert not imported & {"transformers", "onnx", "gguf", "peft", "trl", "verl", "openrlhf"}
    if path.as_posix().endswith("integrations/openrlhf.py"):
        # It answers in tensors, to a caller who has torch.
        assert "torch" not in {_top(module) for module in _imports(path, module_level=True)}
        return
    with_torch = ("backends/torch.py", "backends/packed_torch.py")
    assert ("torch" in imported) == path.as_posix().endswith(with_torch)


@pytest.mark.parametrize(
    "path", sorted(PACKAGES["rfprm_export"].rglob("*.py")), ids=lambda path: path.name
)
def test_export_needs_neither_torch_nor_transformers(path: Path) -> None:
    assert not {_top(module) for module in _imports(path)} & {"torch", "transformers", "peft"}
    # The reference network is imported where it is run, once torch is known to be there.
    assert "rfprm_runtime.backends.torch" not in set(_imports(path, module_level=True))


# The steps of training, and the nouns that they share below them.
TRAINING_LAYERS = [
    {"settings", "arithmetic", "example", "gsm8k"},
    {"rewarded", "resumable"},
    {"curation", "labelling"},
    {"construction"},
    {"learning"},
    {"evaluation"},
    {"data_report"},
    {"commands", "data_commands", "smoke"},
]


def test_steps_of_training_import_downwards() -> None:
    folder = PACKAGES["rfprm_training"]
    level = {name: index for index, layer in enumerate(TRAINING_LAYERS) for name in layer}
    for path in folder.rglob("*.py"):
        own = path.relative_to(folder).with_suffix("").parts[0]
        for module in _imports(path):
            name = module.partition("rfprm_training.")[2].partition(".")[0]
            if own != "__init__" and name:
                assert level[name] <= level[own], f"{path.name} imports {module}"


def _layer(module: str) -> int:
    name = module.removeprefix("rfprm_runtime").removeprefix(".").partition(".")[0]
    return next(index for index, layer in enumerate(LAYERS) if name in layer)


@pytest.mark.parametrize(
    "path", sorted(PACKAGES["rfprm_runtime"].rglob("*.py")), ids=lambda path: path.name
)
def test_layers_of_the_runtime_import_downwards(path: Path) -> None:
    relative = path.relative_to(ROOT).with_suffix("")
    if relative.as_posix() == "rfprm_runtime/__init__":
        return
    own = _layer(".".join(relative.parts))
    for module in _imports(path):
        if module.startswith("rfprm_runtime."):
            assert _layer(module) <= own, f"{relative} imports {module}"


@pytest.mark.parametrize(
    "statement",
    ["import rfprm_runtime", "from rfprm_runtime import Scorer, Trajectory, TrajectoryScore"],
)
def test_importing_the_runtime_loads_nothing_heavy(statement: str) -> None:
    heavy = ["torch", "transformers", "onnxruntime", "onnx", "rich", "typer", "safetensors"]
    code = f"{statement}\nimport sys\nprint(*(name for name in {heavy} if name in sys.modules))"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert found.stdout.split() == []


def test_every_public_name_can_be_imported() -> None:
    import rfprm_runtime

    for name in rfprm_runtime.__all__:
        assert getattr(rfprm_runtime, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Scoer'"):
        _ = rfprm_runtime.Scoer
