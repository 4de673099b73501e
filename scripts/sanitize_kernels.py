"""Runs random models through kernels that are watched by the compiler's sanitizers.

    python scripts/sanitize_kernels.py --seconds 300

Compiles every variant that this processor runs, for each kind of numbers, with the address and
undefined-behaviour sanitizers, and then, until the time is up:

- models of random shapes the kernels support: a row must have the same bits alone, on several
  threads, beside others, in pieces after a past and after a fork, and in the kernels as they are
  shipped; variants must agree to rounding. Its weights are integers, or the float32 ones of a graph
  or for torch;
- shapes the kernels do not support: loading must refuse them;
- files and manifests with random damage: loading or running must refuse them, or the logits are
  numbers.

Every tensor, page and part of the scratch memory has its own fenced memory, so that reading past
its end is seen. Exit status 1 and the seed of the model if anything is found; 77 if the compiler
has no sanitizers.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "export")]

from rfprm_runtime.backends.native import library, variants  # noqa: E402

NOT_POSSIBLE = 77
_SANITIZERS = "address,undefined,float-cast-overflow,bounds-strict"


def main() -> None:
    options = _parse()
    if options.libraries is not None:  # the process that runs under the sanitizers
        from sanitizing.attack import attack

        attack(options.libraries, options.variants, options.seconds, options.seed)
        return
    names = options.variants or library.available_variants()
    names = names[-1:] if options.quick else names
    with tempfile.TemporaryDirectory() as folder:
        compiler = _compiler()
        for name, numbers in itertools.product(names, variants.NUMBERS):
            _compile(compiler, name, numbers, Path(folder), "-O0" if options.quick else "-O1")
        sys.exit(_run(compiler, names, Path(folder), options))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--variants", nargs="*", help="by default all that this processor runs")
    parser.add_argument("--quick", action="store_true", help="one variant, compiled in a hurry")
    parser.add_argument("--libraries", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _compiler() -> list[str]:
    found = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if found is None:
        _give_up("there is no C compiler")
    return shlex.split(found)


def _compile(compiler: list[str], name: str, numbers: str, folder: Path, level: str) -> None:
    row = next(row for row in variants.variants_for(platform.machine()) if row.name == name)
    flags = [level if flag == "-O3" else flag for flag in variants.compile_flags(row, numbers)]
    build = variants.build_name(name, numbers)
    source = ROOT / "rfprm_runtime/backends/native/kernels.c"
    command = [*compiler, *flags, "-g", f"-fsanitize={_SANITIZERS}", "-fno-sanitize-recover=all"]
    done = subprocess.run(
        [*command, str(source), "-o", str(folder / f"kernels-{build}.so"), "-lm"],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        _give_up(f"{compiler[0]} cannot compile with sanitizers: {done.stderr[-500:]}")


def _run(compiler: list[str], names: list[str], folder: Path, options: argparse.Namespace) -> int:
    """Python has to begin with the sanitizer's allocator, so it runs again."""
    preload = subprocess.run(
        [*compiler, "-print-file-name=libasan.so"], capture_output=True, text=True
    ).stdout.strip()
    if not Path(preload).is_file():
        _give_up(f"{compiler[0]} has no libasan.so")
    settings = {
        "LD_PRELOAD": preload,
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1:handle_segv=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONMALLOC": "malloc",
        "OPENBLAS_NUM_THREADS": "1",
    }
    arguments = ["--libraries", str(folder), "--seconds", str(options.seconds)]
    arguments += ["--seed", str(options.seed), "--variants", *names]
    status = subprocess.run(
        [sys.executable, __file__, *arguments], env={**os.environ, **settings}
    ).returncode
    if status < 0:
        print(f"signal {-status} ended the process, at the seed that it printed last")
    return abs(status)


def _give_up(reason: str) -> None:
    print(f"not possible here: {reason}")
    sys.exit(NOT_POSSIBLE)


if __name__ == "__main__":
    main()
