from __future__ import annotations

import os
from pathlib import Path

import pytest

from hub_server import COMMIT, HubServer, Repo
from rfprm_runtime import ArtifactError
from rfprm_runtime.hub.ids import parse_hub_id
from rfprm_runtime.hub.repository import Repository, open_repository

LARGE = bytes(range(256)) * 40
FILES = {"config.json": b"{}", "model.safetensors": LARGE, "modeling_x.py": b"raise SystemExit"}
TOKEN = "hf_secretsecretsecret"


def opened(text: str = "org/name") -> Repository:
    return open_repository(parse_hub_id(text), refusal=ArtifactError)


def refusal_of(text: str = "org/name", *names: str) -> str:
    """The one sentence that comes instead of files."""
    with pytest.raises(ArtifactError) as caught:
        opened(text).fetch(names)
    error: BaseException | None = caught.value
    assert error is not None
    assert error.__context__ is None, "the library's own error may quote the token"
    assert "\n" not in str(error)
    return str(error)


def test_a_description_costs_no_file_and_files_are_fetched_once(hub: HubServer) -> None:
    hub.repos["org/name"] = Repo(FILES)
    repository = opened()
    assert repository.commit == COMMIT
    assert repository.file_names == set(FILES)
    assert hub.fetched() == set()
    folder = repository.fetch(["config.json", "model.safetensors"])
    assert (folder / "model.safetensors").read_bytes() == LARGE
    assert hub.fetched() == {"config.json", "model.safetensors"}
    count = len(hub.requests)
    opened().fetch(["config.json", "model.safetensors"])
    assert len(hub.requests) == count + 1  # which commit it is


@pytest.mark.parametrize("revision", ["main", "v1.0", "refs/pr/3", COMMIT])
def test_a_revision_is_fetched_as_the_commit_it_stands_for_and_remembered(
    hub: HubServer, revision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repos["org/name"] = Repo(FILES, revisions=("v1.0", "main", "refs/pr/3"))
    online = opened(f"org/name@{revision}").fetch(["config.json"])
    assert online.name == COMMIT
    assert f"/org/name/resolve/{COMMIT}/config.json" in {one.path for one in hub.requests}
    count = len(hub.requests)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert opened(f"org/name@{revision}").fetch(["config.json"]) == online
    assert len(hub.requests) == count


def test_offline_says_what_is_not_in_the_cache(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repos["org/name"] = Repo(FILES)
    opened().fetch(["config.json"])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    said = refusal_of("org/name", "model.safetensors")
    assert said.startswith("model.safetensors of the model org/name is not in the Hub's cache")
    assert "unset HF_HUB_OFFLINE" in said
    for other in ("org/other", "org/name@v2", f"org/name@{'1' * 40}"):
        assert f"the model {other} is not in the Hub's cache" in refusal_of(other)


def test_a_missing_and_a_private_repository_look_the_same(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repos["org/private"] = Repo(FILES, token=TOKEN)
    for name in ("org/absent", "org/private"):
        said = refusal_of(name)
        assert f"has no model {name} that is public; check the name" in said
        assert "log in with 'hf auth login', or set HF_TOKEN" in said
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert opened("org/private").fetch(["config.json"]).name == COMMIT
    assert "has no model org/absent that the token in use may read" in refusal_of("org/absent")


def test_a_gated_repository_says_how_to_get_in(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repos["org/name"] = Repo(FILES, token=TOKEN, is_gated=True)
    said = refusal_of("org/name", "config.json")
    assert f"is gated: accept its terms on {hub.url}/org/name, then log in" in said
    assert "no access" not in said
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    assert "the token in use has no access to it" in refusal_of("org/name", "config.json")


def test_a_token_goes_to_the_hub_and_nowhere_else(
    hub: HubServer,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    hub.repos["org/name"] = Repo(FILES, token=TOKEN)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    caplog.set_level("DEBUG")
    opened().fetch(FILES.keys() - {"modeling_x.py"})
    for status in (401, 403, 500):
        hub.status = status
        assert TOKEN not in refusal_of()
    for one in hub.requests:
        sent = one.headers.get("Authorization", one.headers.get("authorization"))
        assert sent == (None if one.path.startswith("/cdn/") else f"Bearer {TOKEN}")
    written = capfd.readouterr()
    texts = [written.out, written.err, caplog.text]
    texts += [p.read_text(errors="replace") for p in tmp_path.rglob("*") if p.is_file()]
    assert not any(TOKEN in text for text in texts)


def test_not_even_an_unsendable_token_is_quoted(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repos["org/name"] = Repo(FILES)
    monkeypatch.setenv("HF_TOKEN", "hf_secret\u2026secret")
    assert "secret" not in refusal_of("org/name", "config.json")


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "does not accept the token in use|has no model org/name"),
        (403, "may not read org/name"),
        (429, "too many requests"),
        (500, "answered 500 for org/name; try again later"),
        (503, "answered 503"),
    ],
)
def test_each_refusal_of_the_hub_is_one_sentence(hub: HubServer, status: int, said: str) -> None:
    hub.status = status
    assert any(part in refusal_of() for part in said.split("|"))


def test_an_unknown_revision_is_named(hub: HubServer) -> None:
    hub.repos["org/name"] = Repo(FILES)
    assert "org/name has no revision v9; give a branch, a tag or a commit" in refusal_of(
        "org/name@v9"
    )


def test_an_unreachable_hub_names_the_way_out(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://me:secret@127.0.0.1:9/")
    said = refusal_of()
    assert "secret" not in said
    assert "the Hub at http://127.0.0.1:9 cannot be reached (Connect" in said
    assert "HF_HUB_OFFLINE=1 to use what is in the cache" in said


def test_a_broken_connection_goes_on_where_it_broke(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 500)
    hub.repos["org/name"] = Repo(FILES, cut={"model.safetensors": 1000})
    folder = opened().fetch(["model.safetensors"])
    assert (folder / "model.safetensors").read_bytes() == LARGE
    asked = [one.headers.get("Range") for one in hub.requests if one.path.startswith("/cdn/")]
    assert asked == [None, "bytes=1000-"]


def test_what_was_fetched_before_an_interruption_is_kept(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import file_download

    hub.repos["org/name"] = Repo({**FILES, "more.safetensors": LARGE[::-1]})
    real, calls = file_download.http_get, []

    def interrupted(*args: object, **options: object) -> None:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(file_download, "http_get", interrupted)
    wanted = ["model.safetensors", "more.safetensors"]
    with pytest.raises(KeyboardInterrupt):
        opened().fetch(wanted)
    folder = opened().fetch(wanted)
    assert len(calls) == 3
    assert (folder / "more.safetensors").read_bytes() == LARGE[::-1]


@pytest.mark.parametrize(
    ("number", "said"),
    [
        ("ENOSPC", "is full, so org/name cannot be fetched; make room, or set HF_HOME"),
        ("EROFS", "cannot be written; make it writable, or set HF_HOME"),
        ("EIO", "cannot be put into the Hub's cache"),
    ],
)
def test_a_disk_that_fails_is_named(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, number: str, said: str
) -> None:
    import errno

    from huggingface_hub import file_download

    def fail(*args: object, **options: object) -> None:
        code = getattr(errno, number)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(file_download, "http_get", fail)
    hub.repos["org/name"] = Repo(FILES)
    assert said in refusal_of("org/name", "model.safetensors")


@pytest.mark.parametrize("name", ["../config.json", "a/b", "/etc/passwd", "..", "con"])
def test_only_plain_files_of_the_repository_are_fetched(hub: HubServer, name: str) -> None:
    hub.repos["org/name"] = Repo({**FILES, name: b"x"})
    assert "is not the name of a file in its folder" in refusal_of("org/name", name)
    assert "holds no file 'absent.json'" in refusal_of("org/name", "absent.json")
    assert hub.fetched() == set()


@pytest.mark.parametrize("commit", ["", "main", "../../x", "0" * 39, "g" * 40])
def test_a_commit_is_a_hash(hub: HubServer, commit: str) -> None:
    hub.repos["org/name"] = Repo(FILES, commit=commit)
    assert "for the commit of org/name; check HF_ENDPOINT" in refusal_of()


def test_no_html_page_is_taken_for_a_hub(hub: HubServer) -> None:
    hub.status = 200
    assert "org/name" in refusal_of()
