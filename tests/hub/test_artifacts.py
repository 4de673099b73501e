from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hub_server import COMMIT, HubServer, Repo
from rfprm_runtime import ArtifactError, InvalidArgumentError, Scorer
from rfprm_runtime.artifact.manifest import manifest_digest
from rfprm_runtime.hub.artifacts import download_artifact
from rfprm_runtime.rewards.completions import RewardSettings

NEEDED = {"prm.json", "tokenizer.json", "model.onnx", "model.onnx.data"}
OTHERS = {"README.md": b"# A PRM", "config.json": b"{}", "model.py": b"raise SystemExit"}


@pytest.fixture
def published(hub: HubServer, tiny_artifact: Path) -> HubServer:
    hub.repos["org/tiny"] = Repo.of(tiny_artifact, extra=OTHERS, revisions=("main", "v1"))
    return hub


def test_an_artifact_of_the_hub_scores_as_the_folder_does(
    published: HubServer, tiny_artifact: Path
) -> None:
    arguments = ("2 + 2?", ["2 + 2 = 4", "So 4."])
    with Scorer.load("org/tiny@v1") as scorer, Scorer.load(tiny_artifact) as own:
        assert scorer.score(*arguments) == own.score(*arguments)
        assert scorer.manifest == own.manifest
    assert published.fetched() == NEEDED & {path.name for path in tiny_artifact.iterdir()}


def test_a_pinned_digest_is_checked_before_the_model_is_fetched(
    published: HubServer, tiny_artifact: Path
) -> None:
    with pytest.raises(ArtifactError, match="it is not the manifest you pinned"):
        Scorer.load("org/tiny", sha256="0" * 64)
    assert published.fetched() == {"prm.json"}
    folder = download_artifact("hf://org/tiny", sha256=manifest_digest(tiny_artifact))
    assert folder.name == COMMIT
    assert "model.onnx" in published.fetched()


def test_the_same_artifact_offline(published: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = download_artifact("org/tiny")
    count = len(published.requests)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert download_artifact("org/tiny") == folder
    (folder / "model.onnx").unlink()
    with pytest.raises(ArtifactError, match=r"model\.onnx of the model org/tiny is not in the Hub"):
        download_artifact("org/tiny")
    assert len(published.requests) == count


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"config.json": b"{}"}, "export it first: rfprm export org/x -o artifacts/x"),
        ({"adapter_config.json": b"{}"}, "export it first: rfprm export org/x"),
        ({"README.md": b""}, "holds no prm.json, so it is not an artifact"),
        ({"prm.json": b"{}"}, "is not a PRM manifest"),
    ],
)
def test_what_is_no_artifact_says_what_to_do(
    hub: HubServer, files: dict[str, bytes], said: str
) -> None:
    hub.repos["org/x"] = Repo(files)
    with pytest.raises(ArtifactError, match=said):
        download_artifact("org/x")


def test_a_manifest_that_names_what_is_not_there(hub: HubServer, tiny_artifact: Path) -> None:
    hub.repos["org/x"] = Repo.of(tiny_artifact)
    del hub.repos["org/x"].files["tokenizer.json"]
    with pytest.raises(ArtifactError, match=r"org/x holds no file 'tokenizer\.json'"):
        download_artifact("org/x")


def test_a_path_is_never_asked_of_the_hub(hub: HubServer, tiny_artifact: Path) -> None:
    shutil.copytree(tiny_artifact, Path("org") / "tiny")
    Scorer.load("org/tiny").close()
    for absent in (Path("other/tiny"), "artifacts/tiny", "org/absent"):
        with pytest.raises(ArtifactError, match="there is no artifact folder"):
            Scorer.load(absent)
    with pytest.raises(InvalidArgumentError, match="does not name a model of the Hub"):
        download_artifact("tiny")
    assert hub.requests == []


def test_rewards_ask_the_hub_once(published: HubServer) -> None:
    for _ in range(3):
        RewardSettings("org/tiny", process="reward")
    asked = [one.path for one in published.requests if one.path.startswith("/api/")]
    assert asked == ["/api/models/org/tiny"]
