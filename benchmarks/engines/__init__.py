"""The engines to compare. Each is a module with a function ``load(folder, option) -> Engine``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EngineSpec:
    module: str
    option: str = ""
    """Passed to the module's ``load``."""
    needs: tuple[str, ...] = ()
    """Required packages; without them the engine is left out, and the table says so."""
    settings: tuple[str, ...] = ("",)
    """Ways to set it up, appended to the option. Each is tried on the first rows to be timed, and
    the fastest is compared: what is best depends on the processor and on the work."""
    instructions: tuple[str, ...] = ()
    """CPU instructions, of which it needs one; otherwise it is left out, because emulation is a
    hundred times slower."""
    venv: str | None = None
    """An environment under the work folder, for an engine that cannot share ours."""
    files: tuple[str, ...] = ()
    """What must have been prepared; not every model has everything."""
    is_ours: bool = False
    only_if_asked: bool = False
    """Left out unless ``--engines`` names it in full."""


_STREAMS = ("/streams=1", "/streams=2")
_GROUPS = tuple(f"{streams},group={size}" for streams in _STREAMS for size in (0, 32, 64))

_ROWS = ("/rows=1", "/rows=1,ubatch=2048", "/rows=8", "/rows=8,ubatch=2048")

ENGINES = {
    "rfprm int16": EngineSpec("ours", "int16", is_ours=True),
    "rfprm int8": EngineSpec("ours", "int8", is_ours=True, files=("artifact-int8",)),
    "rfprm fp32": EngineSpec("ours", "fp32", is_ours=True),
    # Slower kernels than this processor's best, to compare them on one machine.
    **{
        f"rfprm int16, {kernels}": EngineSpec(
            "ours", f"int16/kernels={kernels}", is_ours=True, only_if_asked=True
        )
        for kernels in ("avx512vnni", "avxvnni", "avx2")
    },
    "transformers fp32, one by one": EngineSpec("hf_transformers", "fp32-loop", ("transformers",)),
    "transformers fp32, batched": EngineSpec("hf_transformers", "fp32-batched", ("transformers",)),
    "transformers bf16": EngineSpec(
        "hf_transformers", "bf16", ("transformers",), settings=("-loop", "-batched")
    ),
    "torch.onnx export, fp32": EngineSpec("torch_onnx", "", ("onnxscript",)),
    "OpenVINO fp32": EngineSpec("open_vino", "fp32", ("openvino",), _STREAMS),
    "OpenVINO bf16": EngineSpec(
        "open_vino", "bf16", ("openvino",), _STREAMS, instructions=("avx512_bf16", "amx_bf16")
    ),
    "OpenVINO int8": EngineSpec("open_vino", "int8", ("openvino", "nncf"), _GROUPS),
    "OpenVINO int8 + bf16": EngineSpec(
        "open_vino", "int8-bf16", ("openvino", "nncf"), _GROUPS, ("avx512_bf16", "amx_bf16")
    ),
    "llama.cpp Q8_0": EngineSpec("llama", "Q8_0", settings=_ROWS, venv="llama"),
    "llama.cpp Q4_K_M": EngineSpec("llama", "Q4_K_M", settings=_ROWS, venv="llama"),
    "optimum-onnx, fp32": EngineSpec("optimum_onnx", "", venv="optimum"),
}
