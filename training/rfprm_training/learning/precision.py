"""The type that frozen weights and activations are computed in.

bfloat16 where the processor multiplies it fast: on a GPU, and on CPUs with AMX or AVX-512 BF16. A
run that has begun keeps its type, wherever it goes on: another type would train other weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from rfprm_runtime.ground.made_from import MadeFrom
from rfprm_training.learning.config import NetworkConfig
from rfprm_training.learning.run_inputs import INPUTS_NAME

Precision = Literal["float32", "bfloat16"]


def precision_of(network: NetworkConfig, device: torch.device, folder: Path) -> Precision:
    """What the run in ``folder``, which may not have begun, computes in on ``device``."""
    if network.precision != "auto":
        return network.precision
    return _begun_in(folder, device) or ("bfloat16" if is_fast_in_bfloat16(device) else "float32")


def recorded_precision(
    network: NetworkConfig, device: torch.device, precision: Precision
) -> dict[str, str]:
    """What a run records of it beside its config: nothing where ``auto`` has always meant this
    type, so that runs of earlier versions go on. In earlier ones, adapters of frozen weights in 16
    bits multiplied in float32."""
    found: dict[str, str] = {} if precision == "float32" else {"products": precision}
    if network.precision == "auto" and precision != _first_meaning(device):
        found["precision"] = precision
    return found


def _begun_in(folder: Path, device: torch.device) -> Precision | None:
    made_from = MadeFrom(folder / INPUTS_NAME)
    # Nothing has begun, or RunFolder says what is wrong.
    machine = (made_from.recorded() or {}).get("machine") if made_from.is_recorded else None
    if not isinstance(machine, dict):
        return None
    found = machine.get("precision", _first_meaning(device))
    return found if found in ("float32", "bfloat16") else None


def _first_meaning(device: torch.device) -> Precision:
    return "bfloat16" if device.type == "cuda" else "float32"


def is_fast_in_bfloat16(device: torch.device) -> bool:
    """Whether ``device`` multiplies bfloat16 by itself, and does not only emulate it."""
    if device.type != "cpu":
        return device.type == "cuda"
    able = torch.cpu.get_capabilities()
    return bool(able.get("amx_bf16", False) or able.get("avx512_bf16", False))
