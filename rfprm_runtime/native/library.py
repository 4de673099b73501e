"""Finds the compiled kernels that this processor can run, and declares their interface.

The structures mirror those of ``kernels.c``; pointers are plain addresses, whose memory
:mod:`rfprm_runtime.native.model_file` keeps.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_double, c_float, c_int64, c_void_p
from functools import cache
from pathlib import Path

from rfprm_runtime.arguments import check_is
from rfprm_runtime.errors import BackendError

INTERFACE_VERSION = 4
# Fastest first; the number is what rfprm_cpu_level must reach.
VARIANTS = {"avx512vnni": 2, "avx2": 1, "generic": 0}


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


def library_path(variant: str) -> Path:
    return Path(__file__).parent / f"kernels-{variant}.so"


def available_variants() -> list[str]:
    """Compiled variants that this processor runs, fastest first; empty where none was built."""
    built = [name for name in VARIANTS if library_path(name).is_file()]
    if not built:
        return []
    # The least demanding one asks the processor; it runs wherever any of them does.
    level = _open(library_path(built[-1])).rfprm_cpu_level()
    return [name for name in built if VARIANTS[name] <= level]


@cache
def load_library(variant: str | None = None) -> tuple[str, ctypes.CDLL]:
    """The name of a variant (the fastest by default) and its library.

    Raises :class:`BackendError` where there is none for this machine.
    """
    available = available_variants()
    check_is("kernels", variant, (str, type(None)), "the name of a variant")
    if variant is not None and variant not in available:
        raise BackendError(
            f"native kernels {variant!r} are not available here, there are {available}"
        )
    if not available:
        raise BackendError(
            "this installation has no native kernels: they are compiled when rfprm_runtime is "
            "built, and no C compiler was found then. Install gcc or clang and reinstall with "
            "pip install --force-reinstall --no-deps, or export the model with --precision fp32 "
            "for onnxruntime"
        )
    name = variant or available[0]
    return name, _open(library_path(name))


def _open(path: Path) -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise BackendError(f"cannot load {path}: {error}; reinstall rfprm_runtime") from None
    for name in ("rfprm_interface_version", "rfprm_cpu_level", "rfprm_page_positions"):
        getattr(library, name).restype = c_int64
    found = library.rfprm_interface_version()
    if found != INTERFACE_VERSION:
        raise BackendError(
            f"{path} has interface {found}, this rfprm_runtime needs {INTERFACE_VERSION}: it is "
            "left from another version; reinstall rfprm_runtime"
        )
    library.rfprm_page_bytes.restype = c_int64
    library.rfprm_page_bytes.argtypes = [POINTER(Model)]
    library.rfprm_scratch_bytes.restype = c_int64
    library.rfprm_scratch_bytes.argtypes = [POINTER(Model), c_int64]
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
        c_void_p,  # scratch
        c_void_p,  # done int64 [num_layers], or NULL
    ]
    return library
