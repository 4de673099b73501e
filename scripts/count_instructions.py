"""Counts the kernels' instructions, which say more than seconds on a machine that others use too.

    python scripts/count_instructions.py            compares with scripts/instructions.json
    python scripts/count_instructions.py --write    replaces it

- The variants that valgrind can run (generic, AVX2) score 201 tokens with two layers of the shipped
  PRM's shape under callgrind: instructions by function.
- Of all variants, the disassembly tells each function's loop with the largest share of
  multiplications: its instructions, and how many of them multiply. Those of 64-bit ARM if there is
  a cross compiler.

Counts depend on the compiler, so those of another one are printed but not compared. Exit status 1
if a count of the first kind grew by more than 2 %; 77 without valgrind, objdump or a C compiler.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from rfprm_runtime.backends.native.cpu import cpu_features  # noqa: E402
from rfprm_runtime.backends.native.variants import VARIANTS, Variant, compile_flags  # noqa: E402

NATIVE = ROOT / "rfprm_runtime" / "backends" / "native"
KNOWN = ROOT / "scripts" / "instructions.json"
NOT_POSSIBLE = 77
_COUNTED = ("avx2", "generic")
"""Valgrind knows no later instructions of x86."""
_MULTIPLY = re.compile(
    r"\b(pmaddwd|vpdpwssd|vpdpbusd|vpmaddwd|vfmadd\d+ps|tdpb\w+|smlal2?|sdot|smmla|usmmla|fmla)\b"
)
_JUMP = re.compile(r"\s*[0-9a-f]+:\s+(?:j\w+|b\.\w+|cbn?z\s+\w+,|b)\s+([0-9a-f]+) ")
_GROWN = 1.02


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--write", action="store_true", help="keep these counts")
    options = parser.parse_args()
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("cc")
    missing = [name for name in ("valgrind", "objdump") if shutil.which(name) is None]
    if compiler is None or missing:
        print(f"not counted: no {' and no '.join(missing or ['C compiler'])}", file=sys.stderr)
        sys.exit(NOT_POSSIBLE)
    with tempfile.TemporaryDirectory() as folder:
        found = _count(compiler, Path(folder))
    _print(found)
    if options.write:
        KNOWN.write_text(json.dumps(found, indent=1) + "\n")
        return
    known = json.loads(KNOWN.read_text())
    if known["compiler"] != found["compiler"]:
        print(f"not compared: the known counts are of {known['compiler']}")
        return
    grown = list(_grown(known, found))
    print("\n".join(grown) or "no count grew by more than 2 %")
    sys.exit(bool(grown))


def _count(compiler: str, folder: Path) -> dict[str, object]:
    version = subprocess.run(
        [*shlex.split(compiler), "--version"], capture_output=True, text=True, check=True
    )
    check = folder / "check"
    source = str(ROOT / "scripts" / "kernels_check.c")
    command = [*shlex.split(compiler), "-O1", f"-I{NATIVE}", source]
    subprocess.run([*command, "-o", str(check), "-ldl", "-lm"], check=True)
    totals, loops = {}, {}
    for variant in VARIANTS:
        own = shlex.split(compiler) if variant.machine != "aarch64" else ["aarch64-linux-gnu-gcc"]
        if shutil.which(own[0]) is None:
            print(f"{variant.name}: not counted, there is no {own[0]}")
            continue
        library = folder / f"{variant.name}.so"
        source = str(NATIVE / "kernels.c")
        # With symbols, and each function on its own, so that counts can be told apart.
        flags = [*compile_flags(variant), "-g", source, "-o", str(library), "-lm"]
        subprocess.run([*own, *flags], check=True)
        if variant.name in _COUNTED and variant.features <= cpu_features():
            totals[variant.name] = _run(check, library, folder)
        loops[variant.name] = _loops(library, variant)
    return {
        "compiler": version.stdout.splitlines()[0],
        "instructions": totals,
        "loops": loops,
    }


def _run(check: Path, library: Path, folder: Path) -> dict[str, int]:
    """Instructions in all and by function, in thousands, of one run of the kernels."""
    output = folder / "callgrind.out"
    subprocess.run(
        [
            "valgrind",
            "--tool=callgrind",
            "--toggle-collect=rfprm_run",
            f"--callgrind-out-file={output}",
            str(check),
            str(library),
            "shipped",
        ],
        check=True,
        capture_output=True,
    )
    listed = subprocess.run(
        ["callgrind_annotate", "--threshold=99.9", str(output)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    found = {}
    for line in listed.splitlines():
        match = re.match(r"\s*([\d,]+)\s+\(.*?\)\s+(PROGRAM TOTALS|\S+:(\w+))", line)
        if match:
            name = match[3] or "all"
            found[name] = found.get(name, 0) + int(match[1].replace(",", "")) // 1000
    return found


def _loops(library: Path, variant: Variant) -> dict[str, str]:
    """By function, its innermost loop with the largest share of multiplications."""
    objdump = "aarch64-linux-gnu-objdump" if variant.machine == "aarch64" else "objdump"
    listed = subprocess.run(
        [objdump, "-d", "--no-show-raw-insn", str(library)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    densest: dict[str, tuple[float, str]] = {}
    for function, count, number in _innermost(listed.splitlines()):
        if number >= 4:
            loop = (number / count, f"{number} of {count} multiply")
            densest[function] = max(densest.get(function, loop), loop)
    return {function: said for function, (_, said) in sorted(densest.items())}


def _innermost(lines: list[str]) -> Iterator[tuple[str, int, int]]:
    places: dict[str, int] = {}
    function, last_end = "", -1
    for index, line in enumerate(lines):
        if match := re.match(r"[0-9a-f]+ <(\S+)>:", line):
            function = match[1]
        if match := re.match(r"\s*([0-9a-f]+):\s", line):
            places[match[1]] = index
        jump = re.match(
            r"\s*[0-9a-f]+:\s+(?:j\w+|b\.\w+|cbn?z\s+\w+,|b)\s+([0-9a-f]+) ", line + " "
        )
        begin = places.get(jump[1]) if jump else None
        if begin is not None and begin > last_end:  # otherwise there is a loop within
            body = lines[begin : index + 1]
            yield function, len(body), sum(bool(_MULTIPLY.search(each)) for each in body)
            last_end = index


def _print(found: dict[str, object]) -> None:
    print(json.dumps(found, indent=1))


def _grown(known: dict[str, object], found: dict[str, object]) -> Iterator[str]:
    before, now = known["instructions"], found["instructions"]
    assert isinstance(before, dict)
    assert isinstance(now, dict)
    for variant, counts in now.items():
        for name, count in counts.items():
            old = before.get(variant, {}).get(name)
            if old is not None and count > _GROWN * old + 1:
                yield f"{variant}, {name}: {old} -> {count} thousand instructions"


if __name__ == "__main__":
    main()
