"""Kernels for processors that may not be here, emulated: their logits have the bits of plain C."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rfprm_runtime.backends.native.cpu import cpu_features
from rfprm_runtime.backends.native.variants import FLAGS, VARIANTS, Variant, compile_flags

ROOT = Path(__file__).resolve().parents[2]
NATIVE = ROOT / "rfprm_runtime" / "backends" / "native"
COMPILER = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
CROSS = "aarch64-linux-gnu-gcc"
ARM_LIBRARIES = "/usr/aarch64-linux-gnu"
ARM = [variant for variant in VARIANTS if variant.machine == "aarch64"]

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="no kernels are built there"),
    pytest.mark.skipif(COMPILER is None, reason="there is no C compiler"),
]


def _logits(folder: Path, compiler: str, flags: list[str], emulator: tuple[str, ...] = ()) -> str:
    """The bits of the logits of random models (scripts/kernels_check.c), run by these kernels."""
    command = [*compiler.split(), "-O0", "-I", str(NATIVE), "-I", str(ROOT / "scripts")]
    check, kernels = folder / "check", folder / "kernels.so"
    source = ROOT / "scripts" / "kernels_check.c"
    subprocess.run([*command, str(source), "-o", str(check), "-ldl", "-lm"], check=True)
    sources = [*flags, "-O0", str(NATIVE / "kernels.c")]
    subprocess.run([*command, *sources, "-o", str(kernels), "-lm"], check=True)
    done = subprocess.run(
        [*emulator, str(check), str(kernels), "quick"], check=True, capture_output=True, text=True
    )
    return done.stdout


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> str:
    assert COMPILER is not None
    found = _logits(
        tmp_path_factory.mktemp("plain"), COMPILER, [*FLAGS, '-DISA="isa_plain.h"', "-DBYTES"]
    )
    assert len(re.findall(r"\b[0-9a-f]{8}\b", found)) == 4 * 2 * 101  # models, labels, tokens
    return found


def test_products_of_bytes_on_tiles_have_the_same_bits(plain: str, tmp_path: Path) -> None:
    """AMX's, which tile_blocks.h puts together: with every rest of rows, depths that are no
    multiple of a tile's, 8-bit inputs, and the largest weights."""
    assert COMPILER is not None
    flags = [*FLAGS, '-DISA="isa_plain.h"', "-DBYTES", "-DEMULATED_TILES"]
    assert _logits(tmp_path, COMPILER, flags) == plain


@pytest.mark.skipif("avx2" not in cpu_features(), reason="this processor has no AVX2")
def test_dot_products_of_avx_vnni_have_the_bits_of_avx2(tmp_path: Path) -> None:
    assert COMPILER is not None
    avx2 = next(variant for variant in VARIANTS if variant.name == "avx2")
    emulated = [*FLAGS, *avx2.flags, '-DISA="isa_emulatedvnni.h"']
    found = _logits(tmp_path, COMPILER, emulated)
    assert found == _logits(tmp_path, COMPILER, compile_flags(avx2))


@pytest.mark.skipif(
    shutil.which(CROSS) is None or shutil.which("qemu-aarch64") is None,
    reason="compiling for ARM needs gcc-aarch64-linux-gnu, and running it qemu-user",
)
@pytest.mark.parametrize("variant", ARM, ids=lambda variant: variant.name)
def test_arm_kernels_have_the_same_bits(variant: Variant, plain: str, tmp_path: Path) -> None:
    emulator = ("qemu-aarch64", "-cpu", "max", "-L", ARM_LIBRARIES)
    assert _logits(tmp_path, CROSS, compile_flags(variant), emulator) == plain
