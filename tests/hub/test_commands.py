from __future__ import annotations

import json
from pathlib import Path

import pytest

from hub_server import COMMIT, HubServer, Repo
from rfprm_runtime.artifact.manifest import manifest_digest
from run_rfprm import rfprm


@pytest.fixture
def traces(tmp_path: Path) -> Path:
    path = tmp_path / "traces.jsonl"
    path.write_text('{"question": "2+2?", "steps": ["2+2 = 4", "so 4"]}\n', encoding="utf-8")
    return path


def test_an_artifact_of_the_hub_is_scored_with_and_described(
    hub: HubServer, tiny_artifact: Path, traces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repos["org/tiny"] = Repo.of(tiny_artifact, revisions=("v1", "main"))
    pin = manifest_digest(tiny_artifact)
    own = rfprm("score", traces, "-o", "own.jsonl", "-a", tiny_artifact)
    found = rfprm("score", traces, "-o", "out.jsonl", "-a", "org/tiny@v1", "--sha256", pin)
    assert (own.returncode, found.returncode) == (0, 0), found.stderr
    assert Path("out.jsonl").read_text() == Path("own.jsonl").read_text()
    assert pin in rfprm("info", "org/tiny").stdout
    chosen = rfprm("select", traces, "-o", "best.jsonl", "--top", 1, "-a", "hf://org/tiny")
    assert chosen.returncode == 0, chosen.stderr
    monkeypatch.setenv("RFPRM_ARTIFACT", "org/tiny")
    assert rfprm("rerank", traces, "-o", "ranked.jsonl").returncode == 0
    listed = json.loads(rfprm("doctor", "--json").stdout)["findings"]
    assert "on the Hub, fetched when it is used" in [one["detail"] for one in listed]


def test_a_model_of_the_hub_is_exported(
    hub: HubServer, published_prm: Path, traces: Path, tmp_path: Path
) -> None:
    hub.repos["org/Tiny-PRM"] = Repo.of(published_prm)
    ways = ("--verify-traces", traces, "-o")
    done = rfprm("export", "org/Tiny-PRM@main", *ways, tmp_path / "artifact")
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "artifact" / "prm.json").read_text())
    assert manifest["name"] == "Tiny-PRM"
    assert manifest["source"] == {"repo": "org/Tiny-PRM", "revision": COMMIT}
    done = rfprm("export-qwen2-layout", "org/Tiny-PRM", "-o", tmp_path / "layout")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "layout" / "model.safetensors").is_file()
    # It has no artifact: the command line says which of the two commands to run first.
    done = rfprm("score", traces, "-o", "out.jsonl", "-a", "org/Tiny-PRM")
    assert done.returncode == 1
    assert "export it first: rfprm export org/Tiny-PRM -o artifacts/Tiny-PRM" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["export", "org/absent", "-o", "x"], "has no model org/absent that is public"),
        (["export", "hf://absent", "-o", "x"], "'hf://absent' does not name a model of the Hub"),
        (["export", "runs/absent", "-o", "x"], "no checkpoint 'runs/absent'"),
        (["export-trt", "org/absent", "-o", "x"], "has no model org/absent"),
        (["export-triton", "org/absent", "-o", "x"], "has no model org/absent"),
        (["info", "org/absent@v1"], "has no model org/absent"),
        (["export", "org/name", "-o", ".", "--no-verify"], "already exists"),
    ],
)
def test_each_command_says_what_is_wrong_in_one_line(
    hub: HubServer, arguments: list[str], said: str
) -> None:
    done = rfprm(*arguments)
    assert done.returncode == 1
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
