"""Finds the compiled kernels that this processor can run, and declares their interface.

The structures mirror those of ``structures.h`` and are compared with them when a library is loaded.
Pointers are plain addresses; :mod:`~rfprm_runtime.backends.native.model_file` keeps their targets
alive.
"""

from __future__ import annotations

import ctypes
import itertools
import sys
from ctypes import POINTER, c_char_p, c_double, c_float, c_int64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

from rfprm_runtime.backends.native.cpu import cpu_features
from rfprm_runtime.backends.native.variants import VARIANTS, build_name
from rfprm_runtime.errors import BackendError
from rfprm_runtime.ground.arguments import check_is

INTERFACE_VERSION = 7


class Linear(ctypes.Structure):
    _fields_ = (
        ("depth", c_int64),
        ("width", c_int64),
        ("bits", c_int64),
        ("panels", c_void_p),
        ("scales", c_void_p),
        ("bias", c_void_p),
        ("sums", c_void_p),
        ("activation_limit", c_double),
    )


class Layer(ctypes.Structure):
    _fields_ = (
        ("qkv", Linear),
        ("output", Linear),
        ("gate_up", Linear),
        ("down", Linear),
        ("attention_norm", c_void_p),
        ("mlp_norm", c_void_p),
        ("query_norm", c_void_p),
        ("key_norm", c_void_p),
    )


class Model(ctypes.Structure):
    _fields_ = (
        ("num_layers", c_int64),
        ("hidden", c_int64),
        ("num_heads", c_int64),
        ("num_kv_heads", c_int64),
        ("head_dim", c_int64),
        ("inner", c_int64),
        ("num_labels", c_int64),
        ("head_inner", c_int64),
        ("eps", c_float),
        ("embedding", c_void_p),
        ("embedding_scale", c_void_p),
        ("cos", c_void_p),
        ("sin", c_void_p),
        ("final_norm", c_void_p),
        ("head_weight", c_void_p),
        ("head_bias", c_void_p),
        ("head_weight2", c_void_p),
        ("head_bias2", c_void_p),
        ("layers", POINTER(Layer)),
    )


class Segment(ctypes.Structure):
    _fields_ = (("num_tokens", c_int64), ("start", c_int64), ("pages", c_void_p))


STRUCTURES = (Linear, Layer, Model, Segment)


class _Place(ctypes.Structure):
    """A line of the library's description of its structures, which ends with an empty name."""

    _fields_ = (("name", c_char_p), ("offset", c_int64), ("size", c_int64))


def library_path(build: str) -> Path:
    """``build``: a :func:`~rfprm_runtime.backends.native.variants.build_name`."""
    return Path(__file__).parent / f"kernels-{build}.so"


def built_variants(numbers: str = "int16") -> list[str]:
    """Compiled variants, fastest first, whether or not this processor runs them."""
    names = [variant.name for variant in VARIANTS]
    return [name for name in names if library_path(build_name(name, numbers)).is_file()]


def available_variants(numbers: str = "int16") -> list[str]:
    """Compiled variants that this processor runs, fastest first; empty if none was built."""
    built, found = built_variants(numbers), cpu_features()
    return [row.name for row in VARIANTS if row.name in built and row.features <= found]


@cache
def load_library(variant: str | None = None, numbers: str = "int16") -> tuple[str, ctypes.CDLL]:
    """The name of a variant (by default the fastest) and its library. ``numbers``: one of
    :data:`~rfprm_runtime.backends.native.variants.NUMBERS`.

    Raises :class:`BackendError` if there is none for this machine.
    """
    available = available_variants(numbers)
    check_is("kernels", variant, (str, type(None)), "the name of a variant")
    if variant is not None and variant not in available:
        raise BackendError(
            f"native kernels {variant!r} are not available here; those that are: {available}"
        )
    if not available:
        raise BackendError(f"this installation has no native kernels: {_why_none(numbers)}")
    name = variant or available[0]
    return name, open_library(library_path(build_name(name, numbers)))


def _why_none(numbers: str) -> str:
    other = "export the model with --precision fp32 for onnxruntime"
    if numbers == "float32":
        other = "load the model with backend='onnx'"
    if sys.platform == "win32":
        return f"they do not compile on Windows; {other}"
    return (
        "they are compiled when rfprm_runtime is built, and no C compiler was found then. Install "
        f"gcc or clang and reinstall with pip install --force-reinstall --no-deps, or {other}"
    )


def open_library(path: Path) -> ctypes.CDLL:
    """The library at ``path``, its functions declared.

    Raises :class:`BackendError` if it cannot be loaded or was not made for this code.
    """
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise BackendError(f"cannot load {path}: {error}; reinstall rfprm_runtime") from None
    _check_interface(library, path)
    library.rfprm_page_positions.restype = c_int64
    library.rfprm_page_bytes.restype = c_int64
    library.rfprm_page_bytes.argtypes = [POINTER(Model)]
    library.rfprm_scratch_bytes.restype = c_int64
    library.rfprm_scratch_bytes.argtypes = [POINTER(Model), c_int64]
    library.rfprm_examine.restype = c_int64
    library.rfprm_examine.argtypes = [POINTER(Linear)]
    library.rfprm_run.restype = None
    library.rfprm_run.argtypes = [
        POINTER(Model),
        c_void_p,  # ids int64 [num_tokens]
        POINTER(Segment),
        c_int64,  # num_segments
        c_int64,  # keep_layers
        c_void_p,  # markers int64 [num_markers]
        c_int64,  # num_markers
        c_void_p,  # logits float32 [num_markers, num_labels]
        c_void_p,  # rows before float32 [num_tokens, hidden], or NULL
        c_void_p,  # rows after, likewise
        c_void_p,  # scratch
        c_void_p,  # done int64 [num_layers], or NULL
    ]
    return library


def _check_interface(library: ctypes.CDLL, path: Path) -> None:
    """Compare functions by their version, and structures by each field's offset and size."""
    library.rfprm_interface_version.restype = c_int64
    found = library.rfprm_interface_version()
    if found != INTERFACE_VERSION:
        raise BackendError(
            f"{path} has interface {found}, this rfprm_runtime needs {INTERFACE_VERSION}: it is "
            "left over from another version; reinstall rfprm_runtime"
        )
    library.rfprm_layout.restype = POINTER(_Place)
    theirs, ours = _layout_in(library.rfprm_layout()), _own_layout()
    if theirs != ours:
        names = [*ours, *(name for name in theirs if name not in ours)]
        name = next(name for name in names if theirs.get(name) != ours.get(name))
        raise BackendError(
            f"{path} has {_described(name, theirs)}, this rfprm_runtime needs "
            f"{_described(name, ours)}: it was compiled from other sources; reinstall rfprm_runtime"
        )


def _layout_in(places: Any) -> dict[str, tuple[int, int]]:
    """``Linear.bits`` → its offset and size; ``Linear`` → 0 and the size of the whole."""
    lines = itertools.takewhile(lambda place: place.name, (places[i] for i in itertools.count()))
    return {place.name.decode(): (place.offset, place.size) for place in lines}


def _own_layout() -> dict[str, tuple[int, int]]:
    layout = {}
    for structure in STRUCTURES:
        layout[structure.__name__] = (0, ctypes.sizeof(structure))
        for name, *_ in structure._fields_:
            field = getattr(structure, name)
            layout[f"{structure.__name__}.{name}"] = (field.offset, field.size)
    return layout


def _described(name: str, layout: dict[str, tuple[int, int]]) -> str:
    if name not in layout:
        return f"no {name}"
    offset, size = layout[name]
    return f"{name} of {size} bytes at {offset}"
