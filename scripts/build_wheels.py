"""Builds the wheels for every platform, on any of them: ``make wheel``.

gcc compiles the kernels for this machine if it is installed: its AVX-512 VNNI code took two thirds
of the time of clang's (docs/log.md), before clang kept the products whole; nobody has timed them
since. zig's C compiler (the package ``ziglang``), which comes with
the headers and libraries of every target, compiles them for other machines. The kernels call little
of the C library, so the Linux wheels run on systems since 2014 either way; ``auditwheel`` confirms
it. The libraries do not depend on Python, so one wheel serves all its versions. Windows gets no
kernels.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(
    0, str(ROOT / "rfprm_runtime" / "backends" / "native")
)  # imports the table without the package, which needs numpy

from variants import NUMBERS, build_name, variants_for  # noqa: E402


class Target(NamedTuple):
    machine: str
    """The machine of the kernels, as ``platform.machine`` names it; ``none`` for no kernels."""
    zig: str
    platform: str
    """The platform tag of the wheel."""


TARGETS = {
    "linux-x86_64": Target("x86_64", "x86_64-linux-gnu.2.17", "manylinux_2_17_x86_64"),
    "linux-aarch64": Target("aarch64", "aarch64-linux-gnu.2.17", "manylinux_2_17_aarch64"),
    "macos-arm64": Target("arm64", "aarch64-macos.11.0", "macosx_11_0_arm64"),
    "windows": Target("none", "", "win_amd64.win_arm64"),
}


def build(target: Target, folder: Path) -> Path:
    print(f"\n{target.platform}", flush=True)
    environment = {
        **os.environ,
        "RFPRM_WHEEL_MACHINE": target.machine,
        "RFPRM_WHEEL_PLATFORM": target.platform,
        "CC": compiler_for(target),
    }
    for old in folder.glob(f"*-{target.platform}.whl"):
        old.unlink()
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    [wheel] = folder.glob(f"*-{target.platform}.whl")
    check_kernels(wheel, target)
    if target.platform.startswith("manylinux"):
        audit(wheel, target.platform)
    return wheel


def compiler_for(target: Target) -> str:
    is_here = sys.platform == "linux" and target.platform.startswith("manylinux")
    if is_here and target.machine == platform.machine() and shutil.which("gcc"):
        return "gcc -s"
    return f"{sys.executable} -m ziglang cc -target {target.zig} -s"


def check_kernels(wheel: Path, target: Target) -> None:
    """Exit if a variant is missing; the build itself continues without it."""
    expected = set()
    if target.machine != "none":
        expected = {
            f"kernels-{build_name(variant.name, numbers)}.so"
            for variant in variants_for(target.machine)
            for numbers in NUMBERS
        }
    with zipfile.ZipFile(wheel) as archive:
        found = {name.rpartition("/")[2] for name in archive.namelist() if name.endswith(".so")}
    if found != expected:
        raise SystemExit(f"{wheel} holds {sorted(found)}, expected {sorted(expected)}")
    size = wheel.stat().st_size / 2**20
    print(f"{size:.1f} MiB, {', '.join(sorted(found)) or 'no kernels'}", flush=True)


def audit(wheel: Path, platform: str) -> None:
    """Exit if auditwheel finds that the libraries need more than the tag promises."""
    report = subprocess.run(
        [sys.executable, "-m", "auditwheel", "show", str(wheel)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    text = re.sub(r"\s+", " ", report)
    found = re.search(r'consistent with the following platform tag: "manylinux_(\d+)_(\d+)_', text)
    promised = re.match(r"manylinux_(\d+)_(\d+)_", platform)
    assert promised is not None
    if found is None or _version(found) > _version(promised):
        raise SystemExit(f"auditwheel does not confirm {platform}:\n{report}")
    print(f"auditwheel: needs no more than manylinux_{found[1]}_{found[2]}", flush=True)


def _version(match: re.Match[str]) -> tuple[int, int]:
    return int(match[1]), int(match[2])


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the wheels and the source distribution.")
    parser.add_argument(
        "targets", nargs="*", metavar="TARGET", help=f"some of {', '.join(TARGETS)}; all by default"
    )
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "dist")
    options = parser.parse_args()
    unknown = set(options.targets) - set(TARGETS)
    if unknown:
        parser.error(f"got {', '.join(sorted(unknown))}, expected some of {', '.join(TARGETS)}")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(options.output)]
    subprocess.run(command, cwd=ROOT, check=True)
    for name in options.targets or TARGETS:
        build(TARGETS[name], options.output)


if __name__ == "__main__":
    main()
