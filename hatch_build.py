"""Compiles the native kernels into the wheel, once for each row of ``variants.py``.

Without a C compiler the package is built without them and says so; everything but models of
``--precision int16`` and ``int8`` works. ``scripts/build_wheels.py`` builds for other machines
through these variables:

- ``CC``: the compiler, with its options.
- ``RFPRM_WHEEL_MACHINE``: what to compile for (``aarch64``); ``none`` leaves the kernels out.
- ``RFPRM_WHEEL_PLATFORM``: the platform tag of the wheel (``manylinux_2_17_aarch64``).
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
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
        editable = version == "editable"  # then the package stays where its sources are
        libraries = [] if machine == "none" else self._compile_all(machine, in_place=editable)
        for library in libraries:
            if editable:  # new processes get this one, those that run keep the one they mapped
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
        """The variants that compile, in a folder that :meth:`finalize` removes. One that fails
        costs no other: an old compiler may know AVX2 and not AVX-512."""
        if sys.platform == "win32":
            self._say_without("they do not compile on Windows")
            return []
        compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            self._say_without("no C compiler was found")
            return []
        table = _load_table(Path(self.root, NATIVE, "variants.py"))
        self._folder = tempfile.TemporaryDirectory(
            dir=Path(self.root, NATIVE) if in_place else None, suffix=".partial"
        )
        built = []
        for variant in table.variants_for(machine):
            name = f"kernels-{variant.name}.so"
            source = Path(self.root, NATIVE, "kernels.c")
            command = [*shlex.split(compiler), *table.compile_flags(variant), str(source)]
            try:
                # By its bare name, which is all that a Mach-O library then says of where it was.
                subprocess.run([*command, "-o", name, "-lm"], cwd=self._folder.name, check=True)
            except (OSError, subprocess.CalledProcessError) as error:
                found = error if isinstance(error, OSError) else f"{compiler} says why above"
                self.app.display_warning(f"the {variant.name} kernels are left out: {found}")
            else:
                built.append(Path(self._folder.name, name))
        if not built:
            self._say_without("none of them compiled")
        return built

    def _say_without(self, reason: str) -> None:
        self.app.display_warning(
            f"rfprm_runtime is built without its native kernels, which models of --precision int16 "
            f"and int8 need: {reason}"
        )


def _load_table(path: Path) -> ModuleType:
    """By its path: the package cannot be imported while it is being built."""
    spec = importlib.util.spec_from_file_location("rfprm_kernel_variants", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _platform_tag() -> str:
    return sysconfig.get_platform().replace("-", "_").replace(".", "_")
