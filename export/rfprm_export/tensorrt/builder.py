"""Parses a graph of standard ops and builds a plan from it. Knows TensorRT, no artifacts."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import onnx

from rfprm_export import ExportError
from rfprm_runtime.artifact.build_records import EngineFlavour, EngineProfile
from rfprm_runtime.artifact.manifest import Precision
from rfprm_runtime.backends.tensorrt.packages import load_flavour, make_logger
from rfprm_runtime.ground.whole_files import replacing_path

HardwareCompatibility = Literal["none", "ampere_plus", "same_compute_capability"]
EngineWeights = Literal["inside", "stripped"]
ProgressListener = Callable[[str, int, int], bool]
"""Called with a phase, the steps done and the steps to do; False stops the build."""


@dataclass(frozen=True)
class BuildOptions:
    """Options of a TensorRT engine; see ``rfprm export-trt --help``."""

    profiles: tuple[EngineProfile, ...] = ()
    precision: Precision = "fp16"
    """The graph's precision, which decides which GPUs can run it."""
    flavour: EngineFlavour = "tensorrt_rtx"
    compute_capabilities: tuple[str, ...] = ()
    weights: EngineWeights = "inside"
    version_compatible: bool = False
    hardware_compatibility: HardwareCompatibility = "none"
    optimization_level: int | None = None
    workspace_bytes: int | None = None
    timing_cache: Path | None = None


@dataclass(frozen=True)
class BuiltPlan:
    plan: bytes
    version: str
    compute_capabilities: tuple[str, ...]
    parse_seconds: float
    build_seconds: float
    peak_host_bytes: int | None


class EngineBuilder:
    """Parses graphs and builds plans with one flavour of TensorRT."""

    def __init__(self, flavour: EngineFlavour) -> None:
        """Raises :class:`MissingExtraError` without the package, and :class:`ExportError` if the
        package needs a GPU and there is none."""
        self.trt: Any = load_flavour(flavour, f"building a {flavour} engine")
        self.flavour = flavour
        self.logger = make_logger(self.trt)
        self._builder = self.trt.Builder(self.logger)
        if not self._builder:
            raise ExportError(
                f"{flavour} cannot create a builder: {self.logger.last_errors}; build on a machine "
                "with a GPU, or with --flavour tensorrt_rtx, which needs none"
            )

    @property
    def supported_capabilities(self) -> tuple[str, ...]:
        """Compute capabilities that this flavour can build for ahead of time; empty if it builds
        for the GPU of this machine."""
        kinds = getattr(self.trt, "ComputeCapability", None)
        if kinds is None:
            return ()
        names = [name[2:] for name in kinds.__members__ if name.startswith("SM")]
        return tuple(f"{name[:-1]}.{name[-1]}" for name in names)

    def parse(self, graph: Path) -> Any:
        """The network of ``graph``, strongly typed. Raises :class:`ExportError`."""
        # tensorrt_rtx, and TensorRT from 11 on, are always strongly typed.
        kinds = getattr(self.trt, "NetworkDefinitionCreationFlag", None)
        typed = getattr(kinds, "STRONGLY_TYPED", None)
        network = self._builder.create_network(0 if typed is None else 1 << int(typed))
        parser = self.trt.OnnxParser(network, self.logger)
        if not parser.parse(prepared_graph(graph), str(graph)):
            errors = [str(parser.get_error(index)) for index in range(parser.num_errors)]
            raise ExportError(
                f"{self.flavour} {self.trt.__version__} cannot parse {graph}: "
                f"{'; '.join(errors) or self.logger.last_errors}; it needs a graph of standard "
                "ops, which rfprm export --attention standard writes"
            )
        return network

    def build(
        self, graph: Path, options: BuildOptions, on_progress: ProgressListener | None = None
    ) -> BuiltPlan:
        """Build a plan from ``graph``. Raises :class:`ExportError` if the flavour does not support
        the options, or if the build fails."""
        self.check_options(options)
        capabilities = self.chosen_capabilities(options)
        self.logger.errors.clear()
        began = time.perf_counter()
        network = self.parse(graph)
        parsed = time.perf_counter()
        config = self._builder.create_builder_config()
        self._set_options(config, options)
        self._set_profiles(config, network, options.profiles)
        if self.supported_capabilities:
            config.num_compute_capabilities = len(capabilities)
            for index, capability in enumerate(capabilities):
                kind = getattr(self.trt.ComputeCapability, f"SM{capability.replace('.', '')}")
                config.set_compute_capability(kind, index)
        cache = self._load_timing_cache(config, options.timing_cache)
        if on_progress is not None:
            config.progress_monitor = _progress_monitor(self.trt, on_progress)
        plan = self._builder.build_serialized_network(network, config)
        if plan is None:
            raise ExportError(self._why_it_failed(options))
        if cache is not None and options.timing_cache is not None:
            content = bytes(config.get_timing_cache().serialize())
            with replacing_path(options.timing_cache) as partial:
                partial.write_bytes(content)
        return BuiltPlan(
            plan=bytes(plan),
            version=str(self.trt.__version__),
            compute_capabilities=capabilities,
            parse_seconds=parsed - began,
            build_seconds=time.perf_counter() - parsed,
            peak_host_bytes=_peak_bytes(),
        )

    def chosen_capabilities(self, options: BuildOptions) -> tuple[str, ...]:
        """The compute capabilities to build for. Raises :class:`ExportError` if the flavour does
        not support them."""
        supported = self.supported_capabilities
        requested = options.compute_capabilities
        for text in requested:
            if not re.fullmatch(r"\d+\.\d", text):
                raise ExportError(
                    f"--compute-capability is {text!r}, expected MAJOR.MINOR, such as 8.9"
                )
        if not supported:
            from rfprm_runtime.backends.tensorrt.cuda import Cuda

            own = Cuda().compute_capability
            if set(requested) - {own}:
                raise ExportError(
                    f"{self.flavour} builds only for the GPU of this machine, which has compute "
                    f"capability {own}, not for {sorted(requested)}; leave "
                    "--compute-capability out, or build on a machine with that GPU"
                )
            return (own,)
        unknown = sorted(set(requested) - set(supported))
        if unknown:
            raise ExportError(
                f"{self.flavour} {self.trt.__version__} does not build for compute capability "
                f"{', '.join(unknown)}, only for {', '.join(supported)}; for others use the onnx "
                "backend with provider='cuda', or --flavour tensorrt"
            )
        if requested:
            return tuple(dict.fromkeys(requested))
        # On 7.5 tensorrt_rtx has no float32 matrix products, which the head needs; fp8 needs 8.9.
        without = ("7.5", "8.0", "8.6") if options.precision == "fp8" else ("7.5",)
        return tuple(capability for capability in supported if capability not in without)

    def _set_options(self, config: Any, options: BuildOptions) -> None:
        flags = self.trt.BuilderFlag
        if options.weights == "stripped":
            config.set_flag(flags.STRIP_PLAN)
            config.set_flag(flags.REFIT)
        config.clear_flag(flags.TF32)  # it would cut the head's float32 to 10 bits
        if options.version_compatible:
            config.set_flag(flags.VERSION_COMPATIBLE)
        config.hardware_compatibility_level = getattr(
            self.trt.HardwareCompatibilityLevel, options.hardware_compatibility.upper()
        )
        if options.optimization_level is not None:
            config.builder_optimization_level = options.optimization_level
        if options.workspace_bytes is not None:
            config.set_memory_pool_limit(self.trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
        # So that the engine can be inspected.
        config.profiling_verbosity = self.trt.ProfilingVerbosity.DETAILED

    def check_options(self, options: BuildOptions) -> None:
        """Raises :class:`ExportError` for options that this flavour does not support."""
        capabilities = self.chosen_capabilities(options)
        if not self.supported_capabilities:
            return
        if options.weights == "stripped" and len(capabilities) > 1:
            raise ExportError(
                f"--weights stripped: {self.flavour} builds an engine with replaceable weights for "
                "only one GPU, on a machine that has it; give its --compute-capability, once"
            )
        refused = {
            "--hardware-compatibility": options.hardware_compatibility != "none",
            "--version-compatible": options.version_compatible,
            "--optimization-level": options.optimization_level is not None,
            "--timing-cache": options.timing_cache is not None,
        }
        found = [name for name, given in refused.items() if given]
        if found:
            raise ExportError(
                f"{' and '.join(found)}: only for --flavour tensorrt; {self.flavour} compiles and "
                "times kernels on the device, builds for several GPUs at once (one "
                "--compute-capability for each), and its plans run on one version; leave it out"
            )

    def _set_profiles(self, config: Any, network: Any, profiles: tuple[EngineProfile, ...]) -> None:
        expected = {"token_ids": 2, "marker_positions": 1}
        inputs = {
            tensor.name: len(tensor.shape)
            for tensor in (network.get_input(index) for index in range(network.num_inputs))
        }
        if inputs != expected:
            raise ExportError(
                f"the graph has inputs {inputs}, expected {expected} (name: dimensions); export "
                "it again with --attention standard"
            )
        for profile in profiles:
            ranges = {
                "token_ids": (profile.batch, profile.length),
                "marker_positions": (profile.num_markers,),
            }
            made = self._builder.create_optimization_profile()
            for name, dimensions in ranges.items():
                made.set_shape(
                    name,
                    *(
                        tuple(getattr(r, kind) for r in dimensions)
                        for kind in ("min", "opt", "max")
                    ),
                )
            if config.add_optimization_profile(made) < 0:
                raise ExportError(
                    f"{self.flavour} refuses the profile {profile}: {self.logger.last_errors}"
                )

    def _load_timing_cache(self, config: Any, path: Path | None) -> Any:
        if path is None:
            return None
        content = path.read_bytes() if path.is_file() else b""
        cache = config.create_timing_cache(content)
        if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
            raise ExportError(
                f"the timing cache {path} was made by another version of {self.flavour} or for "
                f"another GPU ({self.logger.last_errors}); remove it, or choose another file"
            )
        return cache

    def _why_it_failed(self, options: BuildOptions) -> str:
        reason = f"{self.flavour} {self.trt.__version__} built no engine: {self.logger.last_errors}"
        if options.weights != "inside" and self.supported_capabilities:
            return (
                f"{reason}. An engine with replaceable weights is built for one "
                "--compute-capability, on a machine with that GPU; build there, or leave --weights "
                "out"
            )
        if "7.5" in options.compute_capabilities:
            return f"{reason}. Leave --compute-capability 7.5 out; use the onnx backend for it"
        return f"{reason}. Run with --log-level verbose for details"


def prepared_graph(graph: Path) -> bytes:
    """``graph`` without its weights, adapted for TensorRT's parser.

    No fused attention kernel computes in float32, so TensorRT must be allowed to decompose float32
    attention.
    """
    model = onnx.load(graph, load_external_data=False)
    if _float_type(model) == onnx.TensorProto.FLOAT:
        for node in model.graph.node:
            if node.op_type == "Attention":
                node.attribute.append(onnx.helper.make_attribute("TRT_decomposable", 1))
    return bytes(model.SerializeToString())


def _float_type(model: onnx.ModelProto) -> int:
    """The type of the embedding, and so of everything up to the head."""
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    return int(types.get("embed_tokens", onnx.TensorProto.FLOAT))


def _progress_monitor(trt: Any, on_progress: ProgressListener) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.steps[phase_name] = num_steps
            on_progress(phase_name, 0, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return on_progress(phase_name, step + 1, self.steps.get(phase_name, step + 1))

        def phase_finish(self, phase_name: str) -> None:
            steps = self.steps.pop(phase_name, 0)
            on_progress(phase_name, steps, steps)

    return Monitor()


def _peak_bytes() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
