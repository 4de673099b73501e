"""A new backend is a row of the table and a class: everything else follows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, get_args

import pytest
import typer

from rfprm_export.choices import ModelFormat
from rfprm_runtime import ArtifactError, BackendError, Scorer
from rfprm_runtime.artifact.contents import ArtifactFiles
from rfprm_runtime.artifact.integrity import describe_file
from rfprm_runtime.artifact.manifest import read_manifest
from rfprm_runtime.backends.table import KINDS, Kind, backend_names, choose_backend, option_names
from rfprm_runtime.cli.options import backend_help
from rfprm_runtime.selection import RayWorkers, Scoring, Selection, select_traces
from rfprm_runtime.selection.ray_workers import scoring_for_workers


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Kind:
    row = Kind(
        "toy_backend:ToyBackend",
        "model.toy",
        way_out="export it with --format toy",
        gpu_options={"colour": "green"},
        cores_option="colour",
        same_scores=frozenset({"colour"}),
    )
    monkeypatch.setitem(KINDS, "toy", row)
    return row


@pytest.fixture
def artifact(tiny_artifact: Path, tmp_path: Path) -> Path:
    """An artifact with a model for the toy and for no other backend."""
    folder = shutil.copytree(tiny_artifact, tmp_path / "artifact")
    for path in folder.glob("model.onnx*"):
        path.unlink()
    (folder / "model.toy").write_text("a toy")
    manifest = read_manifest(folder)
    files = {name: describe_file(folder / name) for name in ("tokenizer.json", "model.toy")}
    manifest = manifest.model_copy(update={"files": files})
    (folder / "prm.json").write_text(manifest.to_json())
    return folder


def test_a_row_is_picked_and_opened_by_name(toy: Kind, artifact: Path) -> None:
    for backend in ("auto", "toy"):
        with Scorer.load(artifact, backend=backend, colour="blue") as scorer:
            assert (scorer.backend_name, scorer.backend_description) == ("toy", "toy")
            assert len(scorer.score("q", ["a", "b"]).step_scores) == 2
    with pytest.raises(ArtifactError, match=r"needs model\.onnx.*'model\.toy'.*--format onnx"):
        choose_backend(read_manifest(artifact), "onnx")


def test_a_row_is_listed_wherever_backends_are(
    toy: Kind, artifact: Path, tiny_artifact: Path
) -> None:
    assert backend_names()[-1] == "toy"
    assert backend_help() == "auto, tensorrt, native, onnx, torch or toy."
    with pytest.raises(BackendError, match=r"expected 'auto' or one of \[.*'toy'"):
        choose_backend(read_manifest(artifact), "abacus")
    with pytest.raises(ArtifactError, match=r"needs model\.toy, .*export it with --format toy"):
        choose_backend(read_manifest(tiny_artifact), "toy")
    nothing = read_manifest(artifact).model_copy(update={"files": {}})
    with pytest.raises(ArtifactError, match=r"expected one of .*'model\.toy'"):
        choose_backend(nothing)


def test_options_are_those_of_the_class(toy: Kind, artifact: Path) -> None:
    assert option_names("toy") == ["colour"]
    with pytest.raises(BackendError, match=r"'toy' has no option 'size'; it takes \['colour'\]$"):
        Scorer.load(artifact, backend="toy", size=3)
    with pytest.raises(BackendError, match=r"'toy', which 'auto' picked, .*; name the backend"):
        Scorer.load(artifact, size=3)


def test_an_error_inside_a_backend_is_not_taken_for_an_unknown_option(
    toy: Kind, artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(KINDS, "toy", Kind("toy_backend:BrokenToyBackend", "model.toy"))
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        Scorer.load(artifact, colour="blue")


def test_workers_and_selections_follow_the_row(toy: Kind, artifact: Path, tmp_path: Path) -> None:
    on_gpu, on_cpu = RayWorkers(2, gpus_per_worker=1), RayWorkers(2, cpus_per_worker=4)
    assert scoring_for_workers(Scoring(), "toy", on_gpu).backend_options == {"colour": "green"}
    assert scoring_for_workers(Scoring(), "toy", on_cpu).backend_options == {"colour": 4}
    with pytest.raises(BackendError, match=r"for one of \['tensorrt', 'onnx', 'torch', 'toy'\]"):
        scoring_for_workers(Scoring(), "native", on_gpu)
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(json.dumps({"question": "q", "steps": ["a"]}) + "\n")
    for colour in ("blue", "green"):  # does not change scores, so they are reused
        summary = select_traces(
            artifact,
            str(source),
            output,
            Selection(top=1),
            scoring=Scoring(backend_options={"colour": colour}),
        )
        assert summary.num_shards_reused == (colour == "green")
        assert json.loads(output.read_text())["steps"] == ["a"]


def test_torch_says_which_options_need_packed_rows(tmp_path: Path) -> None:
    assert {"packed", "device", "dtype", "max_batch_tokens"} <= set(option_names("torch"))
    with pytest.raises(BackendError, match="'max_batch_tokens' only with packed=True"):
        KINDS["torch"].open(  # type: ignore[misc]
            ArtifactFiles(tmp_path), None, mode="auto", packed=False, max_batch_tokens=5
        )


def test_export_writes_formats_that_a_backend_runs() -> None:
    assert set(get_args(ModelFormat)) <= set(backend_names())


def test_the_command_line_lists_the_backends(tmp_path: Path) -> None:
    from rfprm_runtime.cli import main as cli

    command = typer.main.get_command(cli.own_commands())
    score: Any = command.commands["score"]  # type: ignore[attr-defined]
    [option] = [item for item in score.params if item.name == "backend"]
    assert option.help == "auto, tensorrt, native, onnx or torch."
