"""The variants of the kernels: a new one is a row here and an ``isa_NAME.h`` beside it.

The build hook reads this file by its path, before there is a package, so it imports only the
standard library.
"""

from __future__ import annotations

from typing import NamedTuple


class Variant(NamedTuple):
    name: str
    machine: str | None
    """The processor family, as :func:`canonical_machine` spells it; None is any."""
    flags: tuple[str, ...]
    """What the compiler needs on top of :data:`FLAGS`. Named one by one, not as a level
    (``-march=x86-64-v3``), which older compilers do not know and zig spells differently."""
    features: frozenset[str]
    """What the processor must have, in the words of Linux's ``/proc/cpuinfo``."""


_AVX512_FLAGS = (
    *("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni"),
    *("-mfma", "-mbmi", "-mbmi2", "-mprefer-vector-width=512"),
)
_AVX512 = frozenset(
    ("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni", "fma", "bmi1", "bmi2")
)

VARIANTS = (
    Variant(
        "avx512amx",
        "x86_64",
        (*_AVX512_FLAGS, "-mavx512vbmi", "-mamx-tile", "-mamx-int8"),
        _AVX512 | {"avx512vbmi", "amx_tile", "amx_int8"},
    ),
    Variant("avx512vnni", "x86_64", _AVX512_FLAGS, _AVX512),
    Variant(
        "avxvnni",
        "x86_64",
        ("-mavxvnni", "-mavx2", "-mfma", "-mbmi", "-mbmi2"),
        frozenset(("avx_vnni", "avx2", "fma", "bmi1", "bmi2")),
    ),
    Variant(
        "avx2",
        "x86_64",
        ("-mavx2", "-mfma", "-mbmi", "-mbmi2"),
        frozenset(("avx2", "fma", "bmi1", "bmi2")),
    ),
    Variant("neoni8mm", "aarch64", ("-mcpu=generic+dotprod+i8mm",), frozenset(("asimddp", "i8mm"))),
    Variant("neondot", "aarch64", ("-mcpu=generic+dotprod",), frozenset(("asimddp",))),
    Variant("neon", "aarch64", (), frozenset()),
    Variant("generic", None, (), frozenset()),
)
"""Fastest first."""

NUMBERS = ("int16", "float32")
"""The kinds of numbers, for each of which every variant is compiled: integers of 16 or 8 bits, and
single precision. ``numbers_NAME.h`` has the C side."""

FLAGS = (
    *("-O3", "-std=gnu11", "-fPIC", "-shared", "-fno-math-errno", "-Wno-psabi"),
    # Products and sums are fused only where the source says so, or a score's last bit would depend
    # on how the compiler unrolled a loop.
    "-ffp-contract=off",
)


def build_name(variant: str, numbers: str) -> str:
    """What a variant is called when it is compiled for a kind of numbers."""
    return variant if numbers == "int16" else f"{variant}-{numbers}"


def compile_flags(variant: Variant, numbers: str = "int16") -> list[str]:
    macros = (f'-DISA="isa_{variant.name}.h"', f'-DNUMBERS="numbers_{numbers}.h"')
    return [*FLAGS, *variant.flags, *macros]


def variants_for(machine: str) -> list[Variant]:
    """The variants to compile for a machine, named as :func:`platform.machine` does."""
    found = canonical_machine(machine)
    return [variant for variant in VARIANTS if variant.machine in (None, found)]


def canonical_machine(machine: str) -> str:
    """One name where systems have several: ``AMD64`` is ``x86_64``, ``arm64`` is ``aarch64``."""
    lower = machine.lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(lower, lower)
