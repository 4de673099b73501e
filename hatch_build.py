"""Compiles the native kernels into the package, once for each kind of processor.

Without a C compiler the package is built without them and says so; everything but models of
``--precision int16`` and ``int8`` works.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE = Path("rfprm_runtime/native/kernels.c")
# -ffp-contract=off: products and sums are fused where the source says so and nowhere else, or a
# score's last bit would depend on how the compiler unrolled a loop.
FLAGS = [
    "-O3",
    "-std=gnu11",
    "-fPIC",
    "-shared",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-Wno-psabi",
]
VARIANTS: dict[str, list[str]] = {"generic": []}
if platform.machine() in ("x86_64", "AMD64"):
    VARIANTS["avx2"] = ["-march=x86-64-v3"]
    VARIANTS["avx512vnni"] = ["-march=x86-64-v4", "-mavx512vnni", "-mprefer-vector-width=512"]


class CustomBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
        if compiler is None or sys.platform == "win32":
            self.app.display_warning(
                "no C compiler: rfprm_runtime is built without its native kernels, which models "
                "of --precision int16 and int8 need"
            )
            return
        try:
            built = [self._compile(compiler, name, flags) for name, flags in VARIANTS.items()]
        except (OSError, subprocess.CalledProcessError) as error:
            self.app.display_warning(f"rfprm_runtime is built without its native kernels: {error}")
            return
        build_data["artifacts"] += [f"/{path.as_posix()}" for path in built]
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{_platform_tag()}"

    def _compile(self, compiler: str, name: str, flags: list[str]) -> Path:
        root = Path(self.root)
        target = SOURCE.with_name(f"kernels-{name}.so")
        partial = target.with_suffix(f".{os.getpid()}.partial")
        command = [*compiler.split(), *FLAGS, *flags, str(SOURCE), "-o", str(partial), "-lm"]
        try:
            subprocess.run(command, cwd=root, check=True)
            (root / partial).replace(root / target)  # a process may have the old one mapped
        finally:
            (root / partial).unlink(missing_ok=True)
        return target


def _platform_tag() -> str:
    return sysconfig.get_platform().replace("-", "_").replace(".", "_")
