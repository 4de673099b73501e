from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from hub_server import HubServer, serving
from tiny_models import save_published_prm

# Whatever the person who runs the tests has set. They train on base models in temporary folders,
# which their checkpoints name by absolute paths.
os.environ["RFPRM_BASE_MODELS"] = tempfile.gettempdir()
os.environ.pop("RFPRM_ARTIFACT", None)

# A shared machine may stall for longer than any deadline.
hypothesis.settings.register_profile("house", deadline=None, derandomize=True)
hypothesis.settings.load_profile("house")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real traces, which are not part of the repository."""
    folder = Path(os.environ.get("RFPRM_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"the real traces are not here: {folder} is absent")
    return folder


@pytest.fixture(scope="session")
def published_prm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen2 PRM as a Hugging Face folder."""
    folder = tmp_path_factory.mktemp("published")
    save_published_prm(folder, "qwen2")
    return folder


@pytest.fixture(scope="session")
def tiny_artifact(tmp_path_factory: pytest.TempPathFactory, published_prm: Path) -> Path:
    """The same, exported to ONNX and verified. Copy it before changing it."""
    from rfprm_export.artifact_writer import export_artifact

    traces = tmp_path_factory.mktemp("traces") / "traces.jsonl"
    traces.write_text('{"question": "2+2?", "steps": ["2+2 = 4", "so 4"]}\n', encoding="utf-8")
    output = tmp_path_factory.mktemp("artifacts") / "tiny"
    export_artifact(published_prm, output, verify_traces=traces)
    return output


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub without repositories, an empty cache, and nobody logged in."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.chdir(tmp_path)
    with serving({}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first, so that tests that run side by side end at the same time."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
