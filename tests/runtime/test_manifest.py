from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rfprm_runtime import ArtifactError, ManifestError
from rfprm_runtime.artifact import migrations
from rfprm_runtime.artifact.manifest import parse_manifest, read_manifest
from rfprm_runtime.artifact.migrations import FORMAT_VERSION
from tiny_models import byte_tokenizer, tiny_manifest


@pytest.fixture
def content() -> dict[str, Any]:
    return json.loads(tiny_manifest(byte_tokenizer()).to_json())


def test_a_manifest_survives_its_json(content: dict[str, Any]) -> None:
    assert parse_manifest(content) == tiny_manifest(byte_tokenizer())


def test_a_newer_format_asks_for_an_upgrade(content: dict[str, Any]) -> None:
    content["format_version"] = FORMAT_VERSION + 1
    content["something_new"] = True
    with pytest.raises(ManifestError, match="upgrade rfprm_runtime"):
        parse_manifest(content)


@pytest.mark.parametrize("content", [[], {}, {"format_version": "one"}, "text", None])
def test_anything_but_a_manifest_is_refused(content: Any) -> None:
    with pytest.raises(ManifestError, match="no format_version"):
        parse_manifest(content)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("max_positions",), 0, "max_positions"),
        (("unknown",), 1, "unknown"),
        (("step_readout", "positive"), 2, "reads label 2 of a head with 2"),
        (("prompt", "step_marker", "id"), 10**6, "the vocabulary ends at"),
        (("trajectory_readout",), None, "go together"),
        (("backbone", "num_kv_heads"), 3, "not a multiple"),
        (("prompt", "pieces"), [{"kind": "question"}], "0 'steps' pieces"),
        (("prompt", "pieces", 0), {"kind": "poem"}, "poem"),
        (("precision",), "fp4", "precision"),
        (("files",), {"model.onnx": {"sha256": "xyz", "num_bytes": 1}}, "sha256"),
    ],
)
def test_an_inconsistent_manifest_is_refused(
    content: dict[str, Any], path: tuple[Any, ...], value: Any, message: str
) -> None:
    place: Any = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(ManifestError, match=message):
        parse_manifest(content)


_NOT_FINITE = (float("nan"), float("inf"), float("-inf"))
_TOO_LARGE = (2**24 + 2, 2**63 - 1, 10**30)


@pytest.mark.parametrize(
    ("path", "values"),
    [
        (("alpha",), (*_NOT_FINITE, -1.0, 1e300, "nan")),
        (("step_readout", "calibration", "bias"), (*_NOT_FINITE, 1e30, -1e30)),
        (("step_readout", "calibration", "temperature"), (*_NOT_FINITE, 0, -1, 1e-300, 1e300)),
        (("backbone", "rms_norm_eps"), (*_NOT_FINITE, 0, -1e-5, 1e-50, 1e30)),
        (("backbone", "rope_theta"), (*_NOT_FINITE, 0, -1e4, 1e-300, 1e300)),
        (("backbone", "rope_scaling", "factor"), (*_NOT_FINITE, 0, 0.5, -8.0, 1e300)),
        (("backbone", "rope_scaling", "original_max_positions"), (0, -1, *_TOO_LARGE)),
        (("backbone", "rope_scaling", "attention_factor"), (*_NOT_FINITE, 0, -1.0, 1e30)),
        *((("backbone", name), (0, -16, *_TOO_LARGE)) for name in ("hidden_size", "head_dim")),
        *((("backbone", name), (0, *_TOO_LARGE)) for name in ("num_layers", "vocab_size")),
        (("head", "num_labels"), (0, *_TOO_LARGE)),
        (("max_positions",), (0, *_TOO_LARGE)),
        (("parity", "max_difference"), _NOT_FINITE),
        (("parity", "num_scores"), (-1, 2**63)),
    ],
    ids=lambda given: ".".join(given) if isinstance(given[0], str) else None,
)
def test_a_number_no_model_has_is_refused(
    content: dict[str, Any], path: tuple[str, ...], values: tuple[Any, ...]
) -> None:
    content["step_readout"]["calibration"] = {"temperature": 1.0, "bias": 0.0}
    content["backbone"]["rope_scaling"] = {
        "kind": "yarn",
        "factor": 4.0,
        "original_max_positions": 64,
        "attention_factor": 1.1,
    }
    content["parity"] = {
        "reference": "r",
        "traces": "t",
        "num_trajectories": 1,
        "num_scores": 1,
        "max_difference": 0.0,
        "mean_difference": 0.0,
        "spearman": None,
    }
    parse_manifest(content)
    place: Any = content
    for key in path[:-1]:
        place = place[key]
    for value in values:
        place[path[-1]] = value
        with pytest.raises(ManifestError, match=path[-1]):
            parse_manifest(content)


def test_a_softmax_over_one_label_is_refused(content: dict[str, Any]) -> None:
    content["head"]["num_labels"] = 1
    content["step_readout"] = {"transform": "softmax", "positive": 0}
    content["trajectory_readout"] = {"transform": "sigmoid", "positive": 0}
    with pytest.raises(ManifestError, match="softmax over a single label"):
        parse_manifest(content)


def test_a_missing_field_is_named(content: dict[str, Any]) -> None:
    del content["backbone"]["hidden_size"]
    with pytest.raises(ManifestError, match=r"backbone\.hidden_size: is missing"):
        parse_manifest(content)


def test_a_missing_folder_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="rfprm export"):
        read_manifest(tmp_path / "absent")


def test_a_checkpoint_is_not_taken_for_an_artifact(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.json").write_text("{}")
    with pytest.raises(ArtifactError, match="this is a model, export it first: rfprm export"):
        read_manifest(tmp_path)
    with pytest.raises(ArtifactError, match="is a file, expected an artifact's folder"):
        read_manifest(tmp_path / "checkpoint.json")


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b""])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "prm.json").write_bytes(content)
    with pytest.raises(ManifestError, match=r"prm\.json is not JSON"):
        read_manifest(tmp_path)


def _version_0_called_alpha_weight(content: dict[str, Any]) -> dict[str, Any]:
    content["alpha"] = content.pop("weight")
    return content


def test_an_older_manifest_is_brought_to_todays_format(
    monkeypatch: pytest.MonkeyPatch, content: dict[str, Any]
) -> None:
    today = parse_manifest(content)
    monkeypatch.setitem(migrations.STEPS, 0, _version_0_called_alpha_weight)
    old = {**content, "format_version": 0, "weight": content["alpha"]}
    del old["alpha"]
    assert parse_manifest(old) == today


def test_migrations_run_one_version_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrations, "FORMAT_VERSION", 3)
    monkeypatch.setitem(migrations.STEPS, 1, lambda content: {**content, "steps": ["1"]})
    monkeypatch.setitem(
        migrations.STEPS, 2, lambda content: {**content, "steps": [*content["steps"], "2"]}
    )
    found = migrations.migrate({"format_version": 1}, known=set(), origin="x")
    assert found == {"format_version": 3, "steps": ["1", "2"]}


def test_a_version_too_old_to_migrate_is_refused(content: dict[str, Any]) -> None:
    with pytest.raises(ManifestError, match="no longer reads; export the model again"):
        parse_manifest({**content, "format_version": 0})


def test_an_unknown_field_is_refused_unless_its_writer_says_that_it_may_be_ignored(
    content: dict[str, Any],
) -> None:
    newer = {**content, "colour": "blue", "norm": "layer"}
    with pytest.raises(ManifestError, match=r"colour: is not a field.*; if a later rfprm_runtime"):
        parse_manifest(newer)
    with pytest.raises(ManifestError, match="norm: is not a field"):
        parse_manifest({**newer, "may_ignore": ["colour"]})
    del newer["norm"]
    assert parse_manifest({**newer, "may_ignore": ["colour"]}) == parse_manifest(content)
    # A field that this version knows is read, whatever the list says.
    known = parse_manifest({**content, "alpha": 3.5, "may_ignore": ["alpha"]})
    assert known.alpha == 3.5
    with pytest.raises(ManifestError, match="may_ignore is 'colour', expected a list"):
        parse_manifest({**newer, "may_ignore": "colour"})
