from __future__ import annotations

from pathlib import Path

import pytest

from rfprm_runtime import InvalidArgumentError
from rfprm_runtime.hub.ids import HubId, parse_hub_id, place_of_model, snapshot_id

COMMIT = "0" * 40


@pytest.mark.parametrize(
    ("text", "repo", "revision"),
    [
        ("Qwen/Qwen2.5-Math-PRM-7B", "Qwen/Qwen2.5-Math-PRM-7B", None),
        ("a/b@main", "a/b", "main"),
        ("a/b@refs/pr/5", "a/b", "refs/pr/5"),
        (f"a/b@{COMMIT}", "a/b", COMMIT),
        ("hf://runs/mine@v1.0", "runs/mine", "v1.0"),
        ("0-hero/Matter_0.1", "0-hero/Matter_0.1", None),
    ],
)
def test_an_id_is_an_owner_a_name_and_a_revision(
    text: str, repo: str, revision: str | None
) -> None:
    assert parse_hub_id(text) == HubId(repo, revision)
    assert place_of_model(text) == HubId(repo, revision)


@pytest.mark.parametrize(
    "text",
    [
        "name",
        "",
        "a/b/c",
        "/a/b",
        "./a/b",
        "../b",
        "a/..",
        "a/b/",
        "a\\b",
        "a/b.git",
        "a--b/c",
        "a/b@",
        "a/b@..",
        "a/b@x/../y",
        "a/b@-x",
        "a b/c",
        "~/b",
        "é/b",
        "a/b\n",
        "a/b\0",
        "C:/b",
        f"a/{'b' * 95}",
        "https://huggingface.co/a/b",
        "datasets/a/b",
    ],
)
def test_nothing_else_is_an_id(text: str) -> None:
    assert place_of_model(text) == Path(text)
    with pytest.raises(InvalidArgumentError, match="does not name a model of the Hub"):
        parse_hub_id(text)
    with pytest.raises(InvalidArgumentError, match="does not name a model of the Hub"):
        place_of_model(f"hf://{text}")


@pytest.mark.parametrize("text", ["runs/mine", "artifacts/x", "own/absent", "org/model.gguf"])
def test_a_mistyped_path_does_not_become_a_strangers_model(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own").mkdir()
    assert place_of_model(text) == Path(text)
    assert place_of_model(f"hf://{text}") == HubId(text)


def test_what_is_here_comes_first_and_a_path_stays_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert place_of_model("org/name") == HubId("org/name")
    assert place_of_model(Path("org/name")) == Path("org/name")
    (tmp_path / "org" / "name").mkdir(parents=True)
    assert place_of_model("org/name") == Path("org/name")


def test_a_snapshot_of_the_cache_knows_its_repository(tmp_path: Path) -> None:
    folder = tmp_path / "models--org--some-name" / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    assert snapshot_id(folder) == HubId("org/some-name", COMMIT)
    for other in (tmp_path, folder.parent, folder.parent.parent):
        assert snapshot_id(other) is None
