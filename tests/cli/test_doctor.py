"""What an installation can do, and what is broken in it."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from typer.testing import CliRunner

from rfprm_runtime import BackendError, __version__
from rfprm_runtime.backends.native import library
from rfprm_runtime.cli import doctor
from rfprm_runtime.cli import main as cli
from rfprm_runtime.cli.doctor import Finding, as_json, examine, is_healthy, requirements_of

LINES = [
    "numpy>=1.26",
    "typer>=0.19; extra == 'cli'",
    "rfprm-runtime[cli,plots]; extra == 'select'",
    "pyarrow>=15; extra == 'select'",
    "matplotlib; extra == 'plots'",
    "tomli; python_version < '3' and extra == 'select'",
]


def _by_name(findings: list[Finding], area: str) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings if finding.area == area}


def _rfprm(*arguments: str | Path) -> Any:
    return CliRunner().invoke(cli.own_commands(), list(map(str, arguments)))


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RFPRM_ARTIFACT", raising=False)
    return tmp_path


def test_a_sound_installation_and_artifact_are_healthy(nowhere: Path, tiny_artifact: Path) -> None:
    findings = examine([tiny_artifact], check_digests=True)
    assert is_healthy(findings), [finding for finding in findings if finding.state == "broken"]
    assert _by_name(findings, "artifacts")[str(tiny_artifact)].state == "ok"
    backends = _by_name(findings, "backends")
    assert set(backends) == {"native", "onnx", "torch", "tensorrt"}
    assert backends["onnx"].state == "ok"
    assert _by_name(findings, "machine")["rfprm_runtime"].detail.startswith(__version__)
    assert json.loads(json.dumps(as_json(findings)))["healthy"] is True


def test_artifacts_are_found_where_commands_look(
    nowhere: Path, tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _by_name(examine(), "artifacts")["(none)"].state == "missing"
    shutil.copytree(tiny_artifact, nowhere / "artifacts/mine")
    shutil.copytree(tiny_artifact, nowhere / "elsewhere")
    monkeypatch.setenv("RFPRM_ARTIFACT", "elsewhere")
    assert list(_by_name(examine(), "artifacts")) == ["elsewhere", "artifacts/mine"]


def test_a_modified_artifact_is_broken_and_the_exit_status_says_so(
    nowhere: Path, tiny_artifact: Path
) -> None:
    folder = shutil.copytree(tiny_artifact, nowhere / "artifact")
    data = bytearray((folder / "model.onnx.data").read_bytes())
    data[0] ^= 1
    (folder / "model.onnx.data").write_bytes(data)
    found = _rfprm("doctor", "--json", folder)
    assert found.exit_code == 0, found.output  # the sizes still match
    checked = _rfprm("doctor", "--check", folder)
    assert checked.exit_code == 1
    assert "it was modified; export or copy the artifact again" in checked.stdout


def test_missing_kernels_come_with_a_way_out(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "built_kernels", lambda: [])
    findings = examine()
    assert is_healthy(findings)
    assert _by_name(findings, "backends")["native"].state == "missing"
    assert "Install gcc" in _by_name(findings, "kernels")["native"].detail


def test_kernels_that_do_not_load_are_broken(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise BackendError("left over from another version; reinstall rfprm_runtime")

    monkeypatch.setattr(doctor, "built_kernels", lambda: ["generic"])
    monkeypatch.setattr(library, "load_library", refuse)
    findings = examine()
    assert not is_healthy(findings)
    assert _by_name(findings, "kernels")["native"].state == "broken"
    assert _by_name(findings, "backends")["native"].state == "broken"


def test_a_package_that_does_not_load_is_broken(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert _by_name(examine(), "backends")["onnx"].state == "broken"


def test_an_extra_includes_the_extras_it_names() -> None:
    def names(extra: str) -> list[str]:
        return [requirement.name for requirement in requirements_of(extra, LINES)]

    assert names("") == ["numpy"]
    assert names("cli") == ["typer"]
    assert names("select") == ["typer", "matplotlib", "pyarrow"]


@pytest.mark.parametrize(
    ("requirement", "state", "detail"),
    [
        ("numpy>=1", "ok", "numpy"),
        ("no-such-package", "missing", "no-such-package missing; run: pip install --upgrade "),
        ("numpy>=999", "broken", "expected >=999; run: pip install --upgrade "),
    ],
)
def test_an_extra_is_complete_incomplete_or_outdated(
    requirement: str, state: str, detail: str
) -> None:
    found = doctor._extra("x", [Requirement(requirement)])
    assert found.state == state
    assert detail in found.detail


def test_the_version_is_defined_in_one_place() -> None:
    assert _rfprm("--version").stdout == f"rfprm {__version__}\n"
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    assert f'version = "{__version__}"' not in project
