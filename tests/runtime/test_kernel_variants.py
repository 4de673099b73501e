"""Which kernels are compiled, which of them this processor runs, and what is refused at load."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from rfprm_runtime import BackendError
from rfprm_runtime.backends.native import cpu, library
from rfprm_runtime.backends.native.variants import VARIANTS, compile_flags, variants_for

ROOT = Path(__file__).resolve().parents[2]
NATIVE = ROOT / "rfprm_runtime" / "backends" / "native"
COMPILER = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="there is no C compiler")


def _compiled(sources: Path) -> Path:
    """The generic kernels, unoptimised: they compile in a second instead of ten."""
    flags = [*compile_flags(VARIANTS[-1]), "-O0"]
    assert COMPILER is not None
    library_file = sources / "kernels.so"
    subprocess.run(
        [*COMPILER.split(), *flags, str(sources / "kernels.c"), "-o", str(library_file), "-lm"],
        check=True,
    )
    return library_file


@needs_compiler
@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("int64_t bits; ", "int64_t bits, more; ", "Linear of 72 bytes at 0.*needs Linear of 64"),
        ("double activation_limit", "float activation_limit", "Linear.activation_limit of 4 bytes"),
        ("FIELD(Segment, start),", "", "no Segment.start, .*needs Segment.start of 8 bytes at 8"),
        ("INTERFACE_VERSION 7", "INTERFACE_VERSION 6", "has interface 6, .* needs 7"),
        ("", "", None),
    ],
)
def test_a_library_with_another_layout_is_refused(
    old: str, new: str, found: str | None, tmp_path: Path
) -> None:
    sources = tmp_path / "native"
    shutil.copytree(NATIVE, sources, ignore=shutil.ignore_patterns("*.so", "*.py", "__pycache__"))
    structures = sources / "structures.h"
    text = structures.read_text()
    assert old in text
    structures.write_text(text.replace(old, new, 1))
    built = _compiled(sources)
    if found is None:
        assert library.open_library(built).rfprm_page_positions() == 64
        return
    with pytest.raises(BackendError, match=f"{found}.*reinstall rfprm_runtime"):
        library.open_library(built)


def test_every_variant_has_its_instruction_set_and_the_last_one_runs_anywhere() -> None:
    files = {f"isa_{variant.name}.h" for variant in VARIANTS}
    assert files == {path.name for path in NATIVE.glob("isa_*.h")}
    assert not VARIANTS[-1].features
    assert VARIANTS[-1].machine is None


@pytest.mark.parametrize(
    ("machine", "names"),
    [
        ("x86_64", ["avx512amx", "avx512vnni", "avxvnni", "avx2", "generic"]),
        ("AMD64", ["avx512amx", "avx512vnni", "avxvnni", "avx2", "generic"]),
        ("aarch64", ["neoni8mm", "neondot", "neon", "generic"]),
        ("arm64", ["neoni8mm", "neondot", "neon", "generic"]),
        ("riscv64", ["generic"]),
    ],
)
def test_a_machine_compiles_the_variants_of_its_family(machine: str, names: list[str]) -> None:
    assert [variant.name for variant in variants_for(machine)] == names


_X86 = ["avx512amx", "avx512vnni", "avxvnni", "avx2", "generic"]
_ARM = ["neoni8mm", "neondot", "neon", "generic"]
_HASWELL = "avx2 fma bmi1 bmi2"
_ICE_LAKE = f"{_HASWELL} avx512f avx512bw avx512dq avx512vl avx512_vnni"
_SAPPHIRE_RAPIDS = f"{_ICE_LAKE} avx512vbmi amx_bf16 amx_tile amx_int8"


@pytest.mark.parametrize(
    ("features", "built", "names"),
    [
        (_SAPPHIRE_RAPIDS, _X86, ["avx512amx", "avx512vnni", "avx2", "generic"]),
        (f"{_SAPPHIRE_RAPIDS} avx_vnni", _X86, _X86),
        (_SAPPHIRE_RAPIDS.replace("amx_int8", ""), _X86, ["avx512vnni", "avx2", "generic"]),
        (_ICE_LAKE, _X86, ["avx512vnni", "avx2", "generic"]),
        (_ICE_LAKE.replace("avx512_vnni", ""), _X86, ["avx2", "generic"]),
        (f"{_HASWELL} avx_vnni", _X86, ["avxvnni", "avx2", "generic"]),
        (_HASWELL, _X86, ["avx2", "generic"]),
        ("avx2 bmi1 bmi2", _X86, ["generic"]),
        ("", _X86, ["generic"]),
        (_HASWELL, _X86[:-1], ["avx2"]),
        ("fp asimd asimddp i8mm", _ARM, _ARM),
        ("fp asimd asimddp", _ARM, _ARM[1:]),
        ("fp asimd i8mm", _ARM, _ARM[2:]),
        ("fp asimd", _ARM, _ARM[2:]),
        ("", _ARM, _ARM[2:]),
    ],
)
def test_only_built_variants_whose_features_the_processor_has_are_available(
    features: str,
    built: list[str],
    names: list[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    for name in built:
        (tmp_path / name).touch()
    monkeypatch.setattr(library, "library_path", lambda name: tmp_path / name)
    monkeypatch.setattr(library, "cpu_features", lambda: frozenset(features.split()))
    assert library.available_variants() == names


@pytest.mark.parametrize(
    ("system", "found"), [("linux", "Install gcc or clang"), ("win32", "not compile on Windows")]
)
def test_without_kernels_the_error_says_what_to_do(
    system: str, found: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(library, "library_path", lambda name: tmp_path / name)
    monkeypatch.setattr(sys, "platform", system)
    with pytest.raises(BackendError, match=f"no native kernels: .*{found}.*--precision fp32"):
        library.load_library.__wrapped__()


@pytest.mark.skipif(sys.platform == "darwin", reason="it asks sysctl there")
@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx2 fma\n\nflags\t: fpu\n", {"fpu", "avx2", "fma"}),
        ("processor\t: 0\nFeatures\t: fp asimd asimddp\n", {"fp", "asimd", "asimddp"}),
        ("isa\t: rv64imafdc\n", set()),
        (None, set()),
    ],
)
def test_features_are_those_that_linux_lists(
    content: str | None, found: set[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    if content is not None:
        cpuinfo.write_text(content)
    monkeypatch.setattr(cpu, "_CPUINFO", cpuinfo)
    assert cpu.cpu_features() == found


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such permission")
@pytest.mark.parametrize("may_use", [True, False])
def test_tiles_count_only_with_permission(
    may_use: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "cpuinfo").write_text(f"flags\t\t: {_SAPPHIRE_RAPIDS}\n")
    monkeypatch.setattr(cpu, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(cpu, "_ask_for_tiles", lambda: may_use)
    everything = set(_SAPPHIRE_RAPIDS.split())
    without = {name for name in everything if not name.startswith("amx")}
    assert cpu.cpu_features() == (everything if may_use else without)


@pytest.mark.skipif(
    sys.platform != "linux"
    or platform.machine() != "x86_64"
    or "amx_tile" in Path("/proc/cpuinfo").read_text(),
    reason="other processors are asked otherwise, or may permit it",
)
def test_a_processor_without_tiles_permits_none() -> None:
    assert not cpu._ask_for_tiles()


@pytest.mark.parametrize(
    ("output", "found"),
    [
        (
            "machdep.cpu.features: FPU SSE4.2 FMA\nmachdep.cpu.leaf7_features: BMI1 AVX2\n",
            {"fpu", "sse4.2", "fma", "bmi1", "avx2"},
        ),
        (
            "hw.optional.arm.FEAT_DotProd: 1\nhw.optional.arm.FEAT_I8MM: 1\n",
            {"asimddp", "i8mm"},
        ),
        ("hw.optional.arm.FEAT_DotProd: 1\nhw.optional.arm.FEAT_I8MM: 0\n", {"asimddp"}),
        ("", set()),
    ],
)
def test_features_of_a_mac_have_the_names_that_linux_gives_them(
    output: str, found: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu.sys, "platform", "darwin")
    monkeypatch.setattr(cpu.subprocess, "run", lambda *a, **k: SimpleNamespace(stdout=output))
    assert cpu.cpu_features() == found


def _build(folder: Path, **environment: str) -> tuple[str, set[str], str]:
    """A wheel's platform tag, its compiled variants, and what the build said."""
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name.rpartition("/")[2] for name in archive.namelist() if name.endswith(".so")}
    return wheel.stem.rpartition("-")[2], names, done.stdout + done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="no kernels are built there")
def test_a_variant_that_does_not_compile_leaves_the_others(tmp_path: Path) -> None:
    compiler = tmp_path / "old-cc"
    compiler.write_text(
        '#!/bin/sh\ncase "$*" in *avx512*) echo "unknown option"; exit 1;; esac\n'
        'while [ "$1" != -o ]; do shift; done\n: > "$2"\n'
    )
    compiler.chmod(0o755)
    tag, names, said = _build(
        tmp_path / "dist",
        CC=str(compiler),
        RFPRM_WHEEL_MACHINE="x86_64",
        RFPRM_WHEEL_PLATFORM="manylinux_2_17_x86_64",
    )
    assert tag == "manylinux_2_17_x86_64"
    builds = (
        f"{name}{numbers}"
        for name in ("avxvnni", "avx2", "generic")
        for numbers in ("", "-float32")
    )
    assert names == {f"kernels-{build}.so" for build in builds}
    assert "the avx512vnni kernels are left out" in said


def test_a_wheel_without_kernels_has_no_compiled_file(tmp_path: Path) -> None:
    tag, names, _ = _build(tmp_path, RFPRM_WHEEL_MACHINE="none", RFPRM_WHEEL_PLATFORM="win_amd64")
    assert (tag, names) == ("win_amd64", set())
    other, _, said = _build(tmp_path / "other", CC="/no/such/compiler", RFPRM_WHEEL_MACHINE="arm64")
    assert other == "any"
    assert "built without its native kernels" in said


def _wheel_builder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_wheels", ROOT / "scripts/build_wheels.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_published_wheel_has_every_variant(tmp_path: Path) -> None:
    builder = _wheel_builder()
    wheel = tmp_path / "some.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in _ARM:
            for numbers in ("", "-float32"):
                path = f"rfprm_runtime/backends/native/kernels-{name}{numbers}.so"
                archive.writestr(path, b"")
    builder.check_kernels(wheel, builder.TARGETS["linux-aarch64"])
    for other in ("linux-x86_64", "windows"):
        with pytest.raises(SystemExit, match=r"holds \[.*'kernels-generic.so', .*\], expected"):
            builder.check_kernels(wheel, builder.TARGETS[other])


@pytest.mark.parametrize(
    ("found", "is_fine"),
    [
        ("manylinux_2_5", True),
        ("manylinux_2_17", True),
        ("manylinux_2_34", False),
        ("linux", False),
    ],
)
def test_a_tag_that_auditwheel_does_not_confirm_is_refused(
    found: str, is_fine: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder = _wheel_builder()
    report = f'some.whl is consistent\nwith the following platform tag: "{found}_x86_64".\n'
    monkeypatch.setattr(
        builder.subprocess, "run", lambda *args, **kwargs: SimpleNamespace(stdout=report)
    )
    if is_fine:
        builder.audit(Path("some.whl"), "manylinux_2_17_x86_64")
        return
    with pytest.raises(SystemExit, match="does not confirm manylinux_2_17_x86_64"):
        builder.audit(Path("some.whl"), "manylinux_2_17_x86_64")
