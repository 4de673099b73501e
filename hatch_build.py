"""Compiles the native kernels into the wheel, once for each row of ``variants.py`` and each
kind of numbers.

Without a C compiler it builds the package without them and says so; everything works except models
of ``--precision int16`` and ``int8``, and onnxruntime runs those of fp32.
``scripts/build_wheels.py`` builds for other machines by setting these variables:

- ``CC``: the compiler, with its options.
- ``RFPRM_WHEEL_MACHINE``: the machine to compile for (``aarch64``), or ``none`` for no kernels.
- ``RFPRM_WHEEL_PLATFORM``: the platform tag of the wheel (``manylinux_2_17_aarch64``).
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NATIVE = Path("rfprm_runtime/backends/native")


class CustomBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        machine = os.environ.get("RFPRM_WHEEL_MACHINE") or platform.machine()
        platform_tag = os.environ.get("RFPRM_WHEEL_PLATFORM")
        editable = version == "editable"  # the package then runs from its source folder
        libraries = [] if machine == "none" else self._compile_all(machine, in_place=editable)
        for library in libraries:
            if editable:  # running processes keep the library they have mapped
                library.replace(Path(self.root, NATIVE, library.name))
            else:
                build_data["force_include"][str(library)] = str(NATIVE / library.name)
        if libraries:
            build_data["pure_python"] = False
        if libraries or platform_tag:
            build_data["tag"] = f"py3-none-{platform_tag or _platform_tag()}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        folder: tempfile.TemporaryDirectory[str] | None = getattr(self, "_folder", None)
        if folder is not None:
            folder.cleanup()

    def _compile_all(self, machine: str, *, in_place: bool) -> list[Path]:
        """The variants that compile, in a folder that :meth:`finalize` removes. One failure does
        not stop the others: an old compiler may have AVX2 but not AVX-512."""
        if sys.platform == "win32":
            self._warn_without_kernels("they do not compile on Windows")
            return []
        compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            self._warn_without_kernels("no C compiler was found")
            return []
        table = _load_table(Path(self.root, NATIVE, "variants.py"))
        self._folder = tempfile.TemporaryDirectory(
            dir=Path(self.root, NATIVE) if in_place else None, suffix=".partial"
        )
        folder = Path(self._folder.name)

        def compiled(row: tuple[Any, str]) -> Path | None:
            build, flags = table.build_name(row[0].name, row[1]), table.compile_flags(*row)
            return self._compile([*shlex.split(compiler), *flags], build, folder)

        rows = itertools.product(table.variants_for(machine), table.NUMBERS)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            built = [path for path in pool.map(compiled, rows) if path is not None]
        if not built:
            self._warn_without_kernels("none of them compiled")
        return built

    def _compile(self, command: list[str], build: str, folder: Path) -> Path | None:
        name, source = f"kernels-{build}.so", Path(self.root, NATIVE, "kernels.c")
        try:
            # A bare name, because a Mach-O library records the path it was built at.
            subprocess.run([*command, str(source), "-o", name, "-lm"], cwd=folder, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            reason = error if isinstance(error, OSError) else f"see {command[0]}'s output above"
            self.app.display_warning(f"the {build} kernels are left out: {reason}")
            return None
        return Path(folder, name)

    def _warn_without_kernels(self, reason: str) -> None:
        self.app.display_warning(
            f"rfprm_runtime is built without its native kernels, which models of --precision int16 "
            f"and int8 need: {reason}"
        )


def _load_table(path: Path) -> ModuleType:
    """Import the table by its path: the package cannot be imported while it is being built."""
    spec = importlib.util.spec_from_file_location("rfprm_kernel_variants", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _platform_tag() -> str:
    return sysconfig.get_platform().replace("-", "_").replace(".", "_")
