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
# A package imports itself and those above it in this list.
ORDER = list(PACKAGES)

# The layers of rfprm_runtime, lowest first. A module or folder imports from its own layer and from
# lower ones; a new one must be entered here.
LAYERS = [
    "errors",
    "ground",
    "types notebook",
    "artifact",
    "hub engine",
    "prompt scores answers",
    "backends traces",
    "sessions trace_scoring ranking",
    "scorer",
    "reranker rewards search view",
    "selection integrations",
    "cli",
]
# The same of rfprm_training: the steps of its work, and below them the nouns that they share.
TRAINING_LAYERS = [
    "toml_config arithmetic example gsm8k",
    "rewarded resumable base_content",
    "curation labelling",
    "construction",
    "learning",
    "evaluation",
    "data_printing fetch_data",
    "commands data_commands smoke",
]

# Who may import what is heavy, or belongs to an extra.
MAY_IMPORT_TORCH = (
    "backends/torch.py",
    "backends/layered_torch.py",
    "backends/packed_torch/",
    "integrations/openrlhf.py",
)
NOT_IN_RUNTIME = {"transformers", "onnx", "gguf", "peft", "trl", "verl", "openrlhf"}
NOT_IN_EXPORT = {"torch", "transformers", "peft"}


def _imports(path: Path, *, module_level: bool = False) -> Iterator[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body if module_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield node.module or ""


def _tops(path: Path, *, module_level: bool = False) -> set[str]:
    return {module.partition(".")[0] for module in _imports(path, module_level=module_level)}


def _files(package: str) -> Iterator[tuple[str, Path]]:
    """Every file with its path inside the package."""
    folder = PACKAGES[package]
    for path in sorted(folder.rglob("*.py")):
        yield path.relative_to(folder).as_posix(), path


def test_packages_import_one_way() -> None:
    wrong = [
        f"{package}/{name} imports {other}"
        for package in PACKAGES
        for name, path in _files(package)
        for other in _tops(path) & set(PACKAGES)
        if ORDER.index(other) > ORDER.index(package)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("package", "layers"), [("rfprm_runtime", LAYERS), ("rfprm_training", TRAINING_LAYERS)]
)
def test_layers_import_downwards(package: str, layers: list[str]) -> None:
    layer_of = {name: level for level, names in enumerate(layers) for name in names.split()}
    wrong, seen = [], set()
    for name, path in _files(package):
        own = name.removesuffix(".py").partition("/")[0]
        if own == "__init__":  # public names, imported when they are asked for
            continue
        assert own in layer_of, f"{package}/{name} is in no layer: enter {own!r} in the table"
        seen.add(own)
        for module in _imports(path):
            if module.startswith(f"{package}."):
                other = module.split(".")[1]
                if layer_of[other] > layer_of[own]:
                    wrong.append(f"{package}/{name} imports {module}, of a higher layer")
    assert not wrong, "\n".join(wrong)
    assert seen == set(layer_of), f"the table names what is not there: {set(layer_of) - seen}"


def test_the_runtime_needs_torch_in_its_backends_only() -> None:
    wrong = []
    for name, path in _files("rfprm_runtime"):
        found = _tops(path)
        wrong += [f"{name} imports {package}" for package in found & NOT_IN_RUNTIME]
        if "torch" in found and not name.startswith(MAY_IMPORT_TORCH):
            wrong.append(f"{name} imports torch")
        # It answers in tensors, to a caller who has torch.
        if name.startswith("integrations/") and "torch" in _tops(path, module_level=True):
            wrong.append(f"{name} imports torch at module level")
    assert not wrong, "\n".join(wrong)


def test_export_needs_neither_torch_nor_transformers() -> None:
    wrong = []
    for name, path in _files("rfprm_export"):
        wrong += [f"{name} imports {package}" for package in _tops(path) & NOT_IN_EXPORT]
        # The reference network is imported where it is run, once torch is known to be there.
        if "rfprm_runtime.backends.torch" in set(_imports(path, module_level=True)):
            wrong.append(f"{name} imports the reference network at module level")
    assert not wrong, "\n".join(wrong)


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


def test_curating_and_labelling_load_nothing_of_training() -> None:
    """The extra `data` is enough for them."""
    folder = PACKAGES["rfprm_training"]
    paths = [path for part in ("curation", "labelling") for path in (folder / part).rglob("*.py")]
    paths.append(folder / "data_commands.py")
    names = [".".join(path.relative_to(folder.parent).with_suffix("").parts) for path in paths]
    modules = [name.removesuffix(".__init__") for name in names]
    assert "rfprm_training.labelling.label_file" in modules
    of_training = ["torch", "transformers", "peft", "accelerate", "tomli_w", "safetensors", "onnx"]
    code = (
        f"import sys\nfrom importlib import import_module\nfor name in {modules}:\n"
        "    import_module(name)\n"
        f"    found = [other for other in {of_training} if other in sys.modules]\n"
        "    assert not found, (name, found)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert found.returncode == 0, found.stderr


def test_no_backend_knows_text() -> None:
    """Importing one loads no tokenizer, whatever it imports in its turn."""
    folder = PACKAGES["rfprm_runtime"] / "backends"
    names = [path.relative_to(ROOT).with_suffix("") for path in folder.rglob("*.py")]
    modules = [".".join(path.parts).removesuffix(".__init__") for path in names]
    assert "rfprm_runtime.backends.native.backend" in modules
    code = (
        f"import sys\nfrom importlib import import_module\nfor name in {modules}:\n"
        "    try:\n        import_module(name)\n    except ModuleNotFoundError as error:\n"
        "        assert error.name == 'triton', error  # which CPU builds of torch come without\n"
        "    assert 'tokenizers' not in sys.modules, name"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert found.returncode == 0, found.stderr


def test_only_the_engine_asks_what_a_backend_can_do() -> None:
    askers = {
        path.relative_to(ROOT).as_posix()
        for path in PACKAGES["rfprm_runtime"].rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Name) and node.id == "CachingBackend"
    }
    assert askers == {"rfprm_runtime/engine/passes.py"}


def test_every_public_name_can_be_imported() -> None:
    import rfprm_runtime

    for name in rfprm_runtime.__all__:
        assert getattr(rfprm_runtime, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Scoer'"):
        _ = rfprm_runtime.Scoer
