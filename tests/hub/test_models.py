"""Checkpoints, bases and adapters of the Hub."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save, save_file

from gguf_files import byte_level_fields, write_gguf
from hub_server import COMMIT, HubServer, Repo
from rfprm_export import ExportError
from rfprm_export.artifact_writer import export_artifact
from rfprm_export.checkpoint import Checkpoint, load_prm, read_checkpoint
from rfprm_export.named_base import GgufBase, base_of_config
from rfprm_export.pinned_revisions import PINNED_REVISIONS, pinned
from rfprm_export.source import artifact_or_source, open_source
from rfprm_runtime.hub.ids import parse_hub_id
from tiny_models import byte_tokenizer, random_weights, tiny_manifest

CODE = {
    "modeling_qwen2_rm.py": b"raise SystemExit('remote code')",
    "training_args.bin": b"\x80\x04.",
    "optimizer.pt": b"\x80\x04.",
    "README.md": b"# A PRM",
}
PICKLES = {
    "pytorch_model.bin": b"never read",
    "pytorch_model.bin.index.json": b"never read",
}


def described(architecture: str, **more: Any) -> bytes:
    return json.dumps({"model_type": "qwen2", "architectures": [architecture], **more}).encode()


def test_a_prm_of_the_hub_is_exported_from_the_files_that_it_needs(
    hub: HubServer, published_prm: Path, tmp_path: Path
) -> None:
    hub.repos["org/Tiny-PRM"] = Repo.of(published_prm, extra={**CODE, **PICKLES})
    manifest = export_artifact("org/Tiny-PRM", tmp_path / "artifact", verify=False)
    assert manifest.name == "Tiny-PRM"
    assert manifest.source == {"repo": "org/Tiny-PRM", "revision": COMMIT}
    assert hub.fetched() == {"config.json", "tokenizer.json", "model.safetensors"}
    own = load_prm(published_prm)
    assert manifest.backbone == own.manifest.backbone
    assert own.manifest.source == {"folder": published_prm.name}


def test_a_folder_of_the_cache_is_known_by_its_repository(
    hub: HubServer, published_prm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repos["org/Tiny-PRM"] = Repo.of(published_prm)
    first = load_prm("org/Tiny-PRM").manifest
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert load_prm("org/Tiny-PRM").manifest == first
    assert load_prm(open_source("org/Tiny-PRM").path).manifest == first


@pytest.mark.parametrize("gone", ["tokenizer.json", "model.safetensors"])
def test_offline_says_what_the_cache_lacks(
    hub: HubServer, published_prm: Path, monkeypatch: pytest.MonkeyPatch, gone: str
) -> None:
    hub.repos["org/x"] = Repo.of(published_prm)
    load_prm("org/x")
    (open_source("org/x").path / gone).unlink()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ExportError, match=r"the (tokenizer|weights) of the model org/x"):
        load_prm("org/x")


def test_of_shards_those_of_the_index_are_fetched(hub: HubServer, published_prm: Path) -> None:
    weights = load_file(published_prm / "model.safetensors")
    repo = Repo.of(published_prm, extra=PICKLES)
    del repo.files["model.safetensors"]
    half = len(weights) // 2
    index = {}
    for number, names in enumerate((list(weights)[:half], list(weights)[half:]), start=1):
        shard = f"model-{number:05}-of-00002.safetensors"
        repo.files[shard] = save({name: weights[name] for name in names})
        index |= dict.fromkeys(names, shard)
    repo.files["model.safetensors.index.json"] = json.dumps({"weight_map": index}).encode()
    repo.files["consolidated.safetensors"] = b"a copy in another layout"
    hub.repos["org/x"] = repo
    found = load_prm("org/x").weights
    assert {name: found[name].sum() for name in found} == {
        name: array.sum() for name, array in weights.items()
    }
    shards = set(index.values()) | {"model.safetensors.index.json"}
    assert hub.fetched() == {"config.json", "tokenizer.json", *shards}


@pytest.mark.parametrize(
    ("name", "files", "said"),
    [
        ("org/GenPRM-7B", {}, "GenPRM-7B is a generative PRM, which writes its verdict as text"),
        ("org/x", {"config.json": described("Qwen2ForCausalLM")}, "is Qwen2ForCausalLM"),
        ("org/x", {"config.json": described("OtherForPrmModel")}, "is OtherForPrmModel"),
    ],
)
def test_another_kind_of_model_is_refused_by_its_description_alone(
    hub: HubServer, published_prm: Path, name: str, files: dict[str, bytes], said: str
) -> None:
    hub.repos[name] = Repo.of(published_prm, extra={**CODE, **files})
    with pytest.raises(ExportError, match=said):
        load_prm(name)
    assert hub.fetched() == {"config.json"}


@pytest.mark.parametrize(
    ("changes", "gone", "said", "fetched"),
    [
        ({}, "tokenizer.json", "a tokenizer of the class 'Qwen2Tokenizer'", {"tokenizer.model"}),
        ({"hidden_act": "gelu"}, "", "hidden_act is 'gelu'", set()),
        ({"model_type": "mamba"}, "", "model_type is 'mamba'", set()),
        ({"quantization_config": {"quant_method": "awq"}}, "", r"stored quantised \(awq\)", set()),
        ({}, "model.safetensors", "holds no weights", {"tokenizer.json"}),
    ],
)
def test_what_cannot_be_read_is_said_before_the_weights_are_fetched(
    hub: HubServer,
    published_prm: Path,
    changes: dict[str, Any],
    gone: str,
    said: str,
    fetched: set[str],
) -> None:
    repo = Repo.of(published_prm, extra={"tokenizer.model": b"x"})
    config = json.loads(repo.files["config.json"])
    repo.files["config.json"] = json.dumps({**config, **changes}).encode()
    repo.files.pop(gone, None)
    hub.repos["org/x"] = repo
    with pytest.raises(ExportError, match=said):
        load_prm("org/x")
    assert hub.fetched() == {"config.json", *fetched}


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["prm.json", "model.onnx"], "is an artifact already"),
        (["model-Q4_K_M.gguf"], r"it holds model-Q4_K_M\.gguf: give that file by itself"),
        (["README.md"], "is neither a .gguf file nor a folder with a config.json"),
        (["checkpoint.json", "config.json"], "a training checkpoint .* and a whole model"),
        (
            ["config.json", "model.safetensors", "adapter_config.json"],
            r"a whole model \(model\.safetensors\) and an adapter",
        ),
        (
            ["config.json", "model.safetensors.index.json", "adapter_model.safetensors"],
            r"a whole model \(model\.safetensors\.index\.json\) and an adapter",
        ),
        (["config.json", "pytorch_model.bin", "adapter_config.json"], "and an adapter"),
    ],
)
def test_what_a_place_holds_is_told_by_names(
    hub: HubServer, tmp_path: Path, names: list[str], said: str
) -> None:
    hub.repos["org/x"] = Repo(dict.fromkeys(names, b"{}"))
    with pytest.raises(ExportError, match=f"the repository org/x .*{said}|{said}"):
        open_source("org/x")
    assert hub.fetched() == set()
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in names:
        (folder / name).write_bytes(b"{}")
    with pytest.raises(ExportError, match=said):
        open_source(folder)


def test_a_missing_path_says_what_was_expected(hub: HubServer) -> None:
    for text, hint in (("absent", ""), ("runs/mine", "; if you mean .* write hf://runs/mine")):
        said = f"no checkpoint '{text}'; .*org/name@revision.*{hint}"
        with pytest.raises(ExportError, match=said):
            load_prm(text)
    assert hub.requests == []


def test_weights_in_a_subfolder_are_named(hub: HubServer) -> None:
    weights = {
        "config.json": b"{}",
        "zeta-2/model.safetensors": b"",
        "zeta-4/model.safetensors": b"",
    }
    hub.repos["org/x"] = Repo(weights)
    with pytest.raises(ExportError, match=r"no weights.* not in \['zeta-2', 'zeta-4'\]: give one"):
        open_source("org/x").fetch_weights()


PINNED_REPO, PIN = "Qwen/Qwen2.5-Math-PRM-7B", PINNED_REVISIONS["Qwen/Qwen2.5-Math-PRM-7B"]


def test_every_pin_is_a_whole_commit_of_a_repository() -> None:
    for repo, commit in PINNED_REVISIONS.items():
        assert re.fullmatch(r"[0-9a-f]{40}", commit)
        assert parse_hub_id(repo).revision is None
        assert pinned(parse_hub_id(repo.upper())).revision == commit
    assert len(set(PINNED_REVISIONS.values())) == len(PINNED_REVISIONS)


def test_a_known_model_is_taken_at_its_commit_unless_a_revision_is_named(
    hub: HubServer, published_prm: Path
) -> None:
    hub.repos[PINNED_REPO] = Repo.of(published_prm, commit=PIN)
    source = load_prm(PINNED_REPO).manifest.source
    assert source["repo"] == PINNED_REPO
    assert source["revision"] == PIN
    assert source["pinned"] == f"no revision was named; the newest one is {PINNED_REPO}@main"
    asked = {one.path for one in hub.requests if one.path.startswith("/api/")}
    assert asked == {f"/api/models/{PINNED_REPO}/revision/{PIN}"}
    for named in (f"{PINNED_REPO}@main", f"{PINNED_REPO}@{PIN}"):
        assert open_source(named).record == {"repo": PINNED_REPO, "revision": PIN}
    found = artifact_or_source(f"hf://{PINNED_REPO}")
    assert found == open_source(PINNED_REPO)


def test_a_repository_that_lost_its_commit_says_how_to_take_another(hub: HubServer) -> None:
    hub.repos[PINNED_REPO] = Repo({"config.json": b"{}"})  # its history was squashed
    said = f"{PINNED_REPO} no longer has the commit {PIN}.*the newest as {PINNED_REPO}@main"
    with pytest.raises(ExportError, match=said):
        open_source(PINNED_REPO)
    assert open_source(f"{PINNED_REPO}@main").record["revision"] == COMMIT
    with pytest.raises(ExportError, match="has no revision v9; give a branch"):
        open_source(f"{PINNED_REPO}@v9")


def test_offline_another_cached_revision_is_named_and_not_taken(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repos[PINNED_REPO] = Repo({"config.json": b"{}"})
    open_source(f"{PINNED_REPO}@main")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    said = (
        rf"{PINNED_REPO}@{PIN} \(the revision that is taken where none is named\) is not in .*; "
        rf"unset HF_HUB_OFFLINE, or give a folder, or take the one that is there: "
        rf"{PINNED_REPO}@main$"
    )
    with pytest.raises(ExportError, match=said):
        open_source(PINNED_REPO)
    assert open_source(f"{PINNED_REPO}@main").record["revision"] == COMMIT
    with pytest.raises(ExportError, match=r"or give a folder$"):
        open_source("Qwen/Qwen2.5-Math-PRM-72B")


def test_offline_the_pinned_commit_is_found_beside_a_newer_one(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repos[PINNED_REPO] = Repo({"config.json": b'{"is": "pinned"}'}, commit=PIN)
    open_source(PINNED_REPO)
    hub.repos[PINNED_REPO] = Repo({"config.json": b'{"is": "newer"}'})
    open_source(f"{PINNED_REPO}@main")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for named, content in ((PINNED_REPO, "pinned"), (f"{PINNED_REPO}@main", "newer")):
        assert content in (open_source(named).path / "config.json").read_text()


# The GGUF file under a checkpoint.


def packed_checkpoint(folder: Path, repository: str | None) -> tuple[Path, bytes]:
    """A checkpoint with heads over a GGUF file, and that file."""
    packed = folder / "packed" / "base-q4.gguf"
    packed.parent.mkdir(parents=True)
    tokenizer = byte_tokenizer()
    manifest = tiny_manifest(tokenizer)
    weights = random_weights(manifest)
    own = {name: array for name, array in weights.items() if name.startswith("model.")}
    write_gguf(packed, manifest.backbone, own, byte_level_fields(tokenizer))
    content = packed.read_bytes()
    base = GgufBase(
        file=packed.name, sha256=hashlib.sha256(content).hexdigest(), repository=repository
    )
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir()
    described = Checkpoint(
        name="mine",
        family=manifest.family,
        base=base,
        head=manifest.head,
        prompt=manifest.prompt,
        step_readout=manifest.step_readout,
        trajectory_readout=manifest.trajectory_readout,
        max_positions=64,
    )
    (checkpoint / "checkpoint.json").write_text(described.to_json())
    heads = {name: w for name, w in weights.items() if name.startswith(("score.", "model.norm."))}
    save_file(heads, checkpoint / "heads.safetensors")
    return checkpoint, content


def test_the_file_under_a_checkpoint_is_fetched_from_where_the_user_says(
    hub: HubServer, tmp_path: Path
) -> None:
    checkpoint, content = packed_checkpoint(tmp_path, "org/Base-GGUF")
    hub.repos["org/Base-GGUF"] = Repo({"base-q4.gguf": content, "base-q8.gguf": b"other", **CODE})
    with pytest.raises(ExportError, match="give --base org/Base-GGUF to fetch it"):
        load_prm(checkpoint)
    assert hub.fetched() == set()  # a folder does not choose what is fetched
    prm = load_prm(checkpoint, base="org/Base-GGUF")
    assert hub.fetched() == {"base-q4.gguf"}
    assert prm.manifest.name == "mine"
    own = load_prm(checkpoint, base=tmp_path / "packed" / "base-q4.gguf")
    assert {name: np.array(prm.weights[name]).tolist() for name in prm.weights} == {
        name: np.array(own.weights[name]).tolist() for name in own.weights
    }


def test_a_checkpoint_of_the_hub_and_a_config_may_name_the_repository(
    hub: HubServer, tmp_path: Path
) -> None:
    checkpoint, content = packed_checkpoint(tmp_path, "org/Base-GGUF")
    hub.repos["org/Base-GGUF"] = Repo({"base-q4.gguf": content})
    hub.repos["org/mine"] = Repo.of(checkpoint)
    assert load_prm("org/mine").manifest.name == "mine"
    base = read_checkpoint(checkpoint).base
    assert base_of_config(base, tmp_path).read_bytes() == content


def test_another_file_of_that_name_is_refused(hub: HubServer, tmp_path: Path) -> None:
    checkpoint, content = packed_checkpoint(tmp_path, "org/Base-GGUF")
    hub.repos["org/Base-GGUF"] = Repo({"base-q4.gguf": content + b"!"})
    with pytest.raises(ExportError, match="the checkpoint was trained on"):
        load_prm(checkpoint, base="org/Base-GGUF")
    hub.repos["org/mine"] = Repo.of(checkpoint)
    hub.repos["org/Base-GGUF"] = Repo({"base-q8.gguf": content}, commit=COMMIT[::-1])
    with pytest.raises(ExportError, match=r"the repository org/Base-GGUF holds no base-q4\.gguf"):
        load_prm("org/mine")


def test_a_repository_is_a_name_of_the_hub() -> None:
    with pytest.raises(ExportError, match="does not name a model of the Hub"):
        GgufBase(file="x.gguf", sha256="0" * 64, repository="https://example.com/x.gguf")
