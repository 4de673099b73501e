"""Folders are not taken on trust: one sentence for each way in which weights may be wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from rfprm_export import ExportError
from rfprm_export.gguf_file import open_gguf
from rfprm_export.source import open_source
from rfprm_export.stored_weights import StoredWeights
from rfprm_export.weights_folder import INDEX_NAME, chosen_weights, open_weights
from rfprm_export.wrapped_names import without_wrappers
from rfprm_runtime import ArtifactError, Scorer

TRUNK = ("model.embed_tokens.weight", "model.norm.weight")
HEADS = ("score.weight", "v_head.summary.weight")
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"


def weights(*names: str) -> StoredWeights:
    return StoredWeights.of({name: np.full(2, i, np.float32) for i, name in enumerate(names)})


@pytest.mark.parametrize(
    "wrapper",
    [
        "module.",
        "_orig_mod.",
        "base_model.model.",
        "module._orig_mod.",
        "_orig_mod.module.base_model.model.",
        "module.pretrained_model.",
    ],
)
def test_what_a_wrapper_put_before_every_tensor_is_taken_off(wrapper: str) -> None:
    plain = weights(*TRUNK, *HEADS)
    found = without_wrappers(weights(*(f"{wrapper}{name}" for name in plain)), "x")
    assert {n: x.tolist() for n, x in found.items()} == {n: x.tolist() for n, x in plain.items()}
    assert set(without_wrappers(plain, "x")) == set(plain)


def test_trls_value_head_stands_beside_the_model_that_is_wrapped() -> None:
    for outer in ("", "module."):
        inner = [f"{outer}pretrained_model.{name}" for name in TRUNK]
        head = f"{outer}v_head.summary.weight"
        found = without_wrappers(weights(*inner, head), "x")
        assert set(found) == {*TRUNK, "v_head.summary.weight"}


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "base_model.model."])
def test_tensors_of_which_some_are_wrapped_are_not_of_one_model(wrapper: str) -> None:
    mixed = weights(*(f"{wrapper}{name}" for name in TRUNK), "score.weight")
    with pytest.raises(ExportError, match=r"2 tensors whose names begin with .* and 1 others.*sc"):
        without_wrappers(mixed, "x")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("base_model.model.model.layers.0.q_proj.lora_A.default.weight", "adapter that is not"),
        ("base_model.model.model.layers.0.q_proj.base_layer.weight", "adapter that is not merged"),
        ("score.modules_to_save.default.weight", "an adapter that is not merged"),
        ("model.layers.0._orig_mod.mlp.up_proj.weight", "compiled by torch.compile"),
        ("module.model.layers.0._fsdp_wrapped_module.mlp.up_proj.weight", "FSDP wrapped"),
    ],
)
def test_what_cannot_be_taken_off_is_named(name: str, said: str) -> None:
    with pytest.raises(ExportError, match=f"{said}.*save the plain model again"):
        without_wrappers(weights(name), "x")


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["model.safetensors", "pytorch_model.bin"], ["model.safetensors"]),
        (["model.safetensors", "value.safetensors", "consolidated.safetensors"], ["model.saf"]),
        (["pytorch_model.bin", "adapter_model.safetensors", "training_args.bin"], ["pytorch_m"]),
        ([f"model-0000{i}-of-00002.safetensors" for i in (1, 2)], ["model-00001", "model-00002"]),
        ([f"pytorch_model-0000{i}-of-00001.bin" for i in (1,)], ["pytorch_model-00001"]),
        (["b.safetensors", "a.safetensors", "optimizer.safetensors"], ["a.", "b."]),
        ([INDEX_NAME, "model-1.safetensors", "pytorch_model.bin"], []),
    ],
)
def test_which_files_are_the_weights_is_told_by_names(names: list[str], chosen: list[str]) -> None:
    choice = chosen_weights(names, "x")
    assert choice.has_index == (not chosen)
    assert len(choice.names) == len(chosen)
    assert all(map(str.startswith, choice.names, chosen))


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([INDEX_NAME, "model.safetensors"], "two sets of weights, model.safetensors and those of"),
        (["model-00001-of-00003.safetensors", "model-00003-of-00003.safetensors"], "2 of 3 shards"),
        (["m-00001-of-00001.safetensors", "m-00001-of-00002.safetensors"], "several sets"),
        (["tf_model.h5", "model.gguf"], "holds no weights: expected"),
        (["sub/pytorch_model.bin"], r"not in \['sub'\]: give one of these folders"),
    ],
)
def test_weights_that_are_not_one_whole_set_are_refused(names: list[str], said: str) -> None:
    with pytest.raises(ExportError, match=said):
        chosen_weights(names, "x")


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ({}, "lists no tensors"),
        ({"a": "sub/m.safetensors"}, "names 'sub/m.safetensors', expected"),
        ({"a": "m.bin"}, "names 'm.bin', expected"),
        ({"a": "adapter_model.safetensors"}, "names 'adapter_model.safetensors', expected"),
        ({"a": "m-00001-of-00002.safetensors"}, "1 of 2 shards: m-00002-of-00002"),
        ({"a": "absent.safetensors"}, "absent.safetensors is missing"),
        ({"a": 1}, "has no weight_map"),
    ],
)
def test_a_damaged_index_is_not_passed_over(
    index: dict[str, object], said: str, tmp_path: Path
) -> None:
    """Not even where there are weights of the other format."""
    (tmp_path / "sub").mkdir()
    for name in ("sub/m.safetensors", "m-00001-of-00002.safetensors", "adapter_model.safetensors"):
        save_file({"a": np.ones(1, np.float32)}, tmp_path / name)
    (tmp_path / "pytorch_model.bin").write_bytes(b"not these")
    (tmp_path / INDEX_NAME).write_text(json.dumps({"weight_map": index}))
    with pytest.raises(ExportError, match=said):
        open_weights(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_what_git_lfs_left_in_place_of_a_file_is_named(
    name: str, published_prm: Path, tmp_path: Path
) -> None:
    from rfprm_export.checkpoint import load_prm

    for path in published_prm.iterdir():
        (tmp_path / path.name).write_bytes(POINTER if path.name == name else path.read_bytes())
    with pytest.raises(ExportError, match=f"{name} is a Git LFS pointer.* run git lfs pull"):
        load_prm(tmp_path)


def test_pointers_are_named_in_artifacts_and_gguf_files_too(tmp_path: Path) -> None:
    for name in ("prm.json", "x.gguf"):
        (tmp_path / name).write_bytes(POINTER)
    with pytest.raises(ArtifactError, match="is a Git LFS pointer"):
        Scorer.load(tmp_path)
    with pytest.raises(ExportError, match="is a Git LFS pointer"):
        open_gguf(tmp_path / "x.gguf")


def test_blobs_that_all_repositories_of_the_cache_share_are_followed(tmp_path: Path) -> None:
    """As huggingface_hub 2.4 keeps what came by Xet."""
    shared = tmp_path / "blobs"
    repository = tmp_path / "models--org--x"
    snapshot = repository / "snapshots" / ("0" * 40)
    for folder in (shared / "ab", repository / "blobs", snapshot):
        folder.mkdir(parents=True)
    save_file({"a": np.ones(1, np.float32)}, shared / "ab" / "abc")
    (repository / "blobs" / "etag").symlink_to("../../blobs/ab/abc")
    (snapshot / "model.safetensors").symlink_to("../../blobs/etag")
    with pytest.raises(ExportError, match="is a link out of its folder"):
        open_weights(snapshot)  # any folder may be called blobs
    (shared / ".huggingface-shared-blobs").write_text("1\n")
    assert set(open_weights(snapshot)) == {"a"}
    (snapshot / "config.json").write_text("{}")
    assert open_source(snapshot).record == {"repo": "org/x", "revision": "0" * 40}
    shared.rename(tmp_path / "elsewhere")
    shared.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ExportError, match="is a link out of its folder"):
        open_weights(snapshot)
