"""What this installation can do, and how to fix what it cannot: ``rfprm doctor``.

Changes nothing. Knows what to ask each part, but not how any of them works.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, metadata, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from rfprm_runtime import __version__
from rfprm_runtime.errors import (
    ArtifactError,
    BackendError,
    MissingExtraError,
    RfprmError,
    install_command,
)

if TYPE_CHECKING:
    from packaging.requirements import Requirement

State = Literal["ok", "missing", "unusable", "broken"]
"""``missing``: optional and not installed. ``unusable``: installed, but not usable on this machine.
``broken``: installed, but does not work."""
DISTRIBUTION = "rfprm_runtime"


@dataclass(frozen=True)
class Finding:
    area: str
    name: str
    state: State
    detail: str


def examine(artifacts: Iterable[Path] = (), *, check_digests: bool = False) -> list[Finding]:
    """All findings. ``artifacts``: folders to check besides those in ``artifacts/`` and
    ``$RFPRM_ARTIFACT``. ``check_digests``: read their files whole to compare sha256 sums."""
    return [
        *_machine(),
        *_kernels(),
        *_backends(),
        *_extras(),
        *_artifacts(artifacts, check_digests),
    ]


def is_healthy(findings: Iterable[Finding]) -> bool:
    return all(finding.state != "broken" for finding in findings)


def as_json(findings: Iterable[Finding]) -> dict[str, Any]:
    found = list(findings)
    return {"healthy": is_healthy(found), "findings": [asdict(finding) for finding in found]}


def _machine() -> Iterator[Finding]:
    from rfprm_runtime.engine.cores import usable_cores

    where = Path(__file__).parent.parent
    yield Finding("machine", "rfprm_runtime", "ok", f"{__version__} in {where}")
    yield Finding("machine", "Python", "ok", f"{platform.python_version()} ({sys.executable})")
    system = f"{platform.system()} {platform.machine()}, {usable_cores()} usable cores"
    yield Finding("machine", "system", "ok", system)


def built_kernels() -> list[str]:
    """Variants of the native kernels compiled into this installation."""
    from rfprm_runtime.backends.native import library

    folder = Path(library.__file__).parent
    return sorted(path.stem.removeprefix("kernels-") for path in folder.glob("kernels-*.so"))


def _kernels() -> Iterator[Finding]:
    from rfprm_runtime.backends.native import library
    from rfprm_runtime.backends.native.variants import NUMBERS, build_name

    built = built_kernels()
    if not built:
        way_out = (
            "none were compiled, but precisions int16 and int8 need them, and onnxruntime runs "
            "fp32 without shared prefixes. Install gcc or clang, "
            f"then pip install --force-reinstall --no-deps {DISTRIBUTION}"
        )
        yield Finding("kernels", "native", "missing", way_out)
        return
    try:
        usable = [
            build_name(name, numbers)
            for numbers in NUMBERS
            for name in library.available_variants(numbers)
        ]
        in_use, _ = library.load_library()
    except BackendError as error:
        yield Finding("kernels", "native", "broken", str(error))
        return
    yield Finding("kernels", "processor", "ok", f"level {in_use}")
    for name in built:
        if name in usable:
            best = name in [build_name(in_use, numbers) for numbers in NUMBERS]
            yield Finding("kernels", name, "ok", "in use" if best else "usable")
        else:
            yield Finding("kernels", name, "unusable", "this processor lacks the instructions")


def _backends() -> Iterator[Finding]:
    for name, probe in _PROBES.items():
        try:
            state, detail = probe()
        except MissingExtraError as error:
            state, detail = "missing", str(error)
        except (ImportError, OSError, RfprmError) as error:
            state, detail = "broken", str(error)
        yield Finding("backends", name, state, detail)


def _probe_native() -> tuple[State, str]:
    from rfprm_runtime.backends.native import library

    if not built_kernels():
        return "missing", "no kernels were compiled"
    return "ok", f"kernels {library.load_library()[0]}"


def _probe_onnx() -> tuple[State, str]:
    import onnxruntime

    providers = ", ".join(onnxruntime.get_available_providers())
    return "ok", f"onnxruntime {onnxruntime.__version__} with {providers}"


def _probe_torch() -> tuple[State, str]:
    try:
        torch: Any = import_module("torch")
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise MissingExtraError("torch", "train", "the torch backend") from None
    where = "on a CUDA GPU" if torch.cuda.is_available() else "on the CPU (no CUDA GPU found)"
    return "ok", f"torch {torch.__version__} {where}"


def _probe_tensorrt() -> tuple[State, str]:
    from rfprm_runtime.artifact.build_records import EngineFlavour
    from rfprm_runtime.backends.tensorrt.packages import load_flavour

    found, missing = [], MissingExtraError("tensorrt", "tensorrt", "the TensorRT backend")
    for flavour in get_args(EngineFlavour):
        try:
            found.append(f"{flavour} {load_flavour(flavour, 'the TensorRT backend').__version__}")
        except MissingExtraError as error:
            missing = error
    if not found:
        raise missing
    if not any(Path("/dev").glob("nvidia[0-9]*")):
        return "unusable", f"{', '.join(found)}, but no NVIDIA GPU was found"
    return "ok", ", ".join(found)


_PROBES: dict[str, Callable[[], tuple[State, str]]] = {
    "native": _probe_native,
    "onnx": _probe_onnx,
    "torch": _probe_torch,
    "tensorrt": _probe_tensorrt,
}


def _extras() -> Iterator[Finding]:
    """The extras that the package declares, and what it always needs as ``(base)``."""
    try:
        declared = metadata(DISTRIBUTION)
    except PackageNotFoundError:
        way_out = "not installed; in the source folder, run: pip install --editable '.[cli]'"
        yield Finding("extras", "(base)", "missing", way_out)
        return
    texts = declared.get_all("Requires-Dist") or []
    for extra in ["", *sorted(declared.get_all("Provides-Extra") or [])]:
        yield _extra(extra, requirements_of(extra, texts))


def _extra(extra: str, requirements: list[Requirement]) -> Finding:
    missing, broken = [], []
    for requirement in requirements:
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            missing.append(requirement.name)
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            broken.append(f"{requirement.name} is {found}, expected {requirement.specifier}")
    name = extra or "(base)"
    if not missing and not broken:
        return Finding("extras", name, "ok", ", ".join(item.name for item in requirements))
    problems = [*broken, *([f"{', '.join(missing)} missing"] if missing else [])]
    detail = f"{'; '.join(problems)}; run: {install_command(extra, upgrade=True)}"
    return Finding("extras", name, "broken" if broken else "missing", detail)


def requirements_of(extra: str, texts: Sequence[str]) -> list[Requirement]:
    """What ``extra`` adds to the base (``""``), including the extras that it names.

    ``texts``: the ``Requires-Dist`` lines of a package's metadata.
    """
    from packaging.requirements import Requirement

    found = []
    for requirement in map(Requirement, texts):
        marker = requirement.marker
        in_base = marker is None or marker.evaluate({"extra": ""})
        in_extra = marker is not None and marker.evaluate({"extra": extra}) and not in_base
        if not (in_extra if extra else in_base):
            continue
        if requirement.name.replace("-", "_") != DISTRIBUTION:
            found.append(requirement)
            continue
        for other in sorted(requirement.extras):
            found += requirements_of(other, texts)
    return found


def _artifacts(named: Iterable[Path], check_digests: bool) -> Iterator[Finding]:
    from rfprm_runtime.artifact.integrity import check_files
    from rfprm_runtime.artifact.manifest import MANIFEST_NAME, manifest_digest, read_manifest
    from rfprm_runtime.hub.ids import HubId, place_of_model

    usual = sorted(path.parent for path in Path("artifacts").glob(f"*/{MANIFEST_NAME}"))
    chosen = place_of_model(os.environ.get("RFPRM_ARTIFACT") or Path())
    if isinstance(chosen, HubId):
        yield Finding("artifacts", str(chosen), "ok", "on the Hub, fetched when it is used")
    of_variable = [chosen] if isinstance(chosen, Path) and chosen != Path() else []
    folders = list(dict.fromkeys([*named, *of_variable, *usual]))
    if not folders and isinstance(chosen, Path):
        way_out = "none in artifacts/; run 'rfprm demo' to build the shipped PRM"
        yield Finding("artifacts", "(none)", "missing", way_out)
    for folder in folders:
        try:
            manifest = read_manifest(folder)
            check_files(folder, manifest, digests=check_digests)
            own = manifest_digest(folder)
        except ArtifactError as error:
            yield Finding("artifacts", str(folder), "broken", str(error))
            continue
        size = sum(file.num_bytes for file in manifest.files.values()) / 2**20
        verdict = "every sha256 matches" if check_digests else "all files present"
        detail = f"{manifest.name}, {manifest.precision}, {size:,.0f} MiB, {verdict}, sha256 {own}"
        yield Finding("artifacts", str(folder), "ok", detail)
