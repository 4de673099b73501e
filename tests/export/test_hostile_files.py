"""Files of others end in a result or in an error of this library, whatever is in them."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from fuzz_mutations import mutate
from fuzz_targets import TARGETS, Target, prepared
from rfprm_export import ExportError
from rfprm_export.base_model import backbone_from_config
from rfprm_export.gguf_file import open_gguf
from rfprm_export.named_base import BASES_VARIABLE, FolderBase, GgufBase, find_base_model
from rfprm_export.weights_folder import INDEX_NAME, open_weights
from rfprm_runtime import ArtifactError, InvalidArgumentError, RfprmError, Scorer
from rfprm_runtime.artifact.manifest import Head
from rfprm_runtime.ground.names import find_package

Ready = tuple[Target, Path, bytes]


@pytest.fixture(scope="module", params=TARGETS)
def ready(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Ready:
    return prepared(request.param, tmp_path_factory.mktemp("fuzz"))


def test_the_seed_of_each_target_is_read(ready: Ready) -> None:
    target, folder, seed = ready
    assert target.attack(folder, seed) is None


@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(number=st.integers(0, 2**32))
def test_a_broken_file_ends_in_a_result_or_an_error_of_ours(ready: Ready, number: int) -> None:
    target, folder, seed = ready
    target.attack(folder, mutate(seed, random.Random(number)))


def test_mutations_leave_some_files_readable(ready: Ready) -> None:
    """Or they would test the first check alone."""
    target, folder, seed = ready
    found = [target.attack(folder, mutate(seed, random.Random(number))) for number in range(60)]
    # Almost every byte of a header of safetensors must fit the others.
    assert None in found or target.file == "x.safetensors"
    assert len({re.sub(r"[0-9]+", "", str(error)) for error in found}) > 5


@pytest.mark.parametrize(
    "name", [name for name in TARGETS if not name.startswith(("gguf", "graph"))]
)
@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe{}", b"[" * 100_000, b'{"a":' * 100_000, b'{"a":1,"a":2}', b"null", b"{" * 9],
    ids=["empty", "UTF-16", "deep-lists", "deep-objects", "twice", "null", "cut"],
)
def test_no_other_json_is_read(name: str, content: bytes, tmp_path: Path) -> None:
    target, folder, _ = prepared(name, tmp_path)
    header = len(content).to_bytes(8, "little") if target.file.endswith(".safetensors") else b""
    assert target.attack(folder, header + content) is not None


def _make_folder(path: Path) -> None:
    path.mkdir()


def _make_pipe(path: Path) -> None:
    os.mkfifo(path)


def _link_out(path: Path) -> None:
    outside = path.parent.parent / "outside"
    outside.write_bytes(b"{}")
    path.symlink_to(outside)


def _link_to_nothing(path: Path) -> None:
    path.symlink_to(path.parent / "absent")


def _link_to_itself(path: Path) -> None:
    path.symlink_to(path)


def _link_to_a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("name", ["index", "config", "adapter", "checkpoint", "heads", "manifest"])
@pytest.mark.parametrize(
    "make",
    [_make_folder, _make_pipe, _link_out, _link_to_nothing, _link_to_itself, _link_to_a_device],
)
def test_only_regular_files_of_the_folder_are_opened(name: str, make: Any, tmp_path: Path) -> None:
    target, folder, _ = prepared(name, tmp_path)
    (folder / target.file).unlink()
    make(folder / target.file)
    with pytest.raises(RfprmError, match=target.file):
        target.run(folder)


@pytest.mark.parametrize("name", ["tokenizer", "graph"])
def test_neither_the_tokenizer_nor_the_weights_may_be_links_out(name: str, tmp_path: Path) -> None:
    target, folder, _ = prepared(name, tmp_path)
    place = folder / ("model.onnx.data" if name == "graph" else target.file)
    place.rename(tmp_path / "outside")
    place.symlink_to(tmp_path / "outside")
    with pytest.raises(RfprmError, match="is a link out of its folder"):
        target.run(folder)


def test_links_of_the_hubs_cache_are_followed(tmp_path: Path) -> None:
    repository = tmp_path / "models--x--y"
    target, made, _ = prepared("config", tmp_path)
    snapshot = repository / "snapshots" / "0f"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for path in made.iterdir():
        path.rename(repository / "blobs" / path.name)
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
    target.run(snapshot)
    # But not where the blobs themselves are elsewhere.
    (repository / "blobs").rename(tmp_path / "elsewhere")
    (repository / "blobs").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ExportError, match="is a link out of its folder"):
        target.run(snapshot)


ESCAPES = ["../w.safetensors", "/w.safetensors", "..\\w.safetensors", "C:w.safetensors", ".."]
ESCAPES += ["a\0.safetensors", f"{'w' * 300}.safetensors", "x/../../w.safetensors", ""]


@pytest.mark.parametrize("name", ESCAPES)
def test_an_index_names_files_of_its_folder_only(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    save_file({"a": np.ones(1, np.float32)}, tmp_path / "w.safetensors")
    (folder / INDEX_NAME).write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(ExportError):
        open_weights(folder)


def test_an_index_and_its_shards_must_agree(tmp_path: Path) -> None:
    save_file({"a": np.ones(1, np.float32)}, tmp_path / "1.safetensors")
    (tmp_path / INDEX_NAME).write_text('{"weight_map": {"b": "1.safetensors"}}')
    with pytest.raises(ExportError, match="lists 'b', which no file has"):
        open_weights(tmp_path)
    save_file({"a": np.ones(1, np.float32)}, tmp_path / "2.safetensors")
    index = {"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}
    (tmp_path / INDEX_NAME).write_text(json.dumps(index))
    with pytest.raises(ExportError, match="holds 'a', and so does another file"):
        open_weights(tmp_path)


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Modules in the working directory, and on the path, that leave a trace when they run."""
    ran = tmp_path / "ran"
    code = f"open({str(ran)!r}, 'w')\n"
    for name in ("weights_helper.py", "trap_package/__init__.py", "trap_package/inner/__init__.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(code)
    (tmp_path / "trap_package" / "x.gguf").write_bytes(b"GGUF")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", str(tmp_path), *sys.path])
    yield tmp_path
    assert not ran.exists(), "the data ran code"


@pytest.mark.parametrize(
    "package", ["weights_helper.x", "trap_package.inner", "trap_package", ".x", "a b", "os;x", "é"]
)
def test_a_checkpoint_runs_no_code(package: str, trap: Path) -> None:
    fields = {"package_version": "1", "file": "x.gguf", "sha256": "0" * 64}
    with pytest.raises(ExportError, match=r"is not the name of a package|is not installed"):
        find_base_model(GgufBase.model_validate({"package": package, **fields}), trap)
    if "." in package:
        with pytest.raises(InvalidArgumentError):
            find_package(package)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("file", "../x.gguf"),
        ("file", "/etc/passwd"),
        ("file", "inner\\x.gguf"),
        ("package_version", "1; rm -rf ~"),
        ("package_version", "1\n2"),
        ("sha256", "0"),
    ],
)
def test_a_base_model_is_described_by_plain_names(field: str, value: str) -> None:
    fields = {"package": "p", "package_version": "1", "file": "x.gguf", "sha256": "0" * 64}
    with pytest.raises(ExportError, match=field):
        GgufBase.model_validate({**fields, field: value})


@pytest.mark.parametrize("path", ["../base", "/", "inside/../../base", "link", "a\0b", "C:\\x", ""])
def test_a_checkpoint_does_not_choose_what_is_read_elsewhere(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (tmp_path / "base").mkdir()
    (folder / "link").symlink_to(tmp_path / "base")
    monkeypatch.delenv(BASES_VARIABLE, raising=False)
    with pytest.raises(ExportError, match=r"not inside it.*--base.*RFPRM_BASE_MODELS"):
        find_base_model(FolderBase(path=path), folder)


def test_a_user_may_trust_a_folder_of_base_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = FolderBase(path=str(tmp_path / "models" / "small"))
    monkeypatch.setenv(BASES_VARIABLE, os.pathsep.join(["/elsewhere", str(tmp_path / "models")]))
    assert find_base_model(base, tmp_path / "checkpoint") == tmp_path / "models" / "small"


@pytest.mark.parametrize("name", ["n" * 5000, "a\0b", "/dev/null", "/proc/self/mem"])
def test_a_folder_with_an_impossible_name_is_an_error_of_ours(name: str) -> None:
    with pytest.raises(ArtifactError):
        Scorer.load(name)
    from rfprm_export.checkpoint import load_prm

    with pytest.raises(ExportError):
        load_prm(Path(name))


def _bombs(name: str, seed: bytes) -> list[bytes]:
    """Files of a few bytes that promise gigabytes."""
    huge = (2**40).to_bytes(8, "little")
    return {
        "gguf": [
            seed[:8] + huge * 2,
            seed[:8] + (0).to_bytes(8, "little") + huge + seed[24:],
            # A list of 2^40 numbers.
            b"GGUF\3\0\0\0"
            + (0).to_bytes(8, "little")
            + (1).to_bytes(8, "little")
            + (1).to_bytes(8, "little")
            + b"a"
            + (9).to_bytes(4, "little")
            + (0).to_bytes(4, "little")
            + huge,
        ],
        "safetensors": [huge + seed[8:], (2**63).to_bytes(8, "little") + b"{}"],
        "manifest": [seed.replace(b'"source": {', b'"source": {"a": ' + b"[" * 9000 + b"],")],
        "adapter": [b'{"peft_type": "LORA", "r": 1, "lora_alpha": 1e300}'],
        "tokenizer": [
            seed.replace(b'"normalizer": null', b'"normalizer": ' + _doubling(60)),
            seed.replace(
                b'"padding": null',
                b'"padding": {"strategy": {"Fixed": 99999999999}, '
                b'"direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, '
                b'"pad_token": "x"}',
            ),
        ],
    }.get(name, [])


def _doubling(times: int) -> bytes:
    stage = {"type": "Replace", "pattern": {"String": "2"}, "content": "22"}
    return json.dumps({"type": "Sequence", "normalizers": [stage] * times}).encode()


_IN_LITTLE_MEMORY = """
import resource, sys
from pathlib import Path
from fuzz_targets import prepared
from test_hostile_files import _bombs
folder = Path(sys.argv[1])
for name in ("gguf", "safetensors", "manifest", "adapter", "tokenizer"):
    target, place, seed = prepared(name, folder)
    bombs = _bombs(name, seed)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + 256 * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    for bomb in bombs:
        assert bomb != seed
        print(name, type(target.attack(place, bomb)).__name__)
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_small_files_that_promise_gigabytes_take_little_memory(tmp_path: Path) -> None:
    places = [str(Path(__file__).parent), *sys.path]
    found = subprocess.run(
        [sys.executable, "-c", _IN_LITTLE_MEMORY, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    outcomes = [line.split()[1] for line in found.stdout.splitlines()]
    assert len(outcomes) == 9
    # Padding is switched off before anything is encoded.
    assert outcomes.pop() == "NoneType"
    assert set(outcomes) <= {"ExportError", "ManifestError", "TokenizerMismatchError"}


def test_two_small_matrices_do_not_become_a_huge_one(tmp_path: Path) -> None:
    target, folder, _ = prepared("adapter-weights", tmp_path)
    module = "base_model.model.model.layers.0.mlp.up_proj"
    long = {"A": (1, 500_000), "B": (500_000, 1)}
    save_file(
        {
            f"{module}.lora_{half}.weight": np.ones(shape, np.float32)
            for half, shape in long.items()
        },
        folder / target.file,
    )
    with pytest.raises(ExportError, match=r"has shape \(1, 500000\).*with rank 2"):
        target.run(folder)


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        ("twice", "is there twice"),
        ("shared", "are not its own"),
        ("alignment", "its alignment is 0"),
        ("beyond", "are not its own"),
    ],
)
def test_a_gguf_whose_tensors_are_not_their_own_is_refused(
    kind: str, problem: str, tmp_path: Path
) -> None:
    import gguf

    path = tmp_path / "x.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    if kind == "alignment":
        writer.add_uint32("general.alignment", 0)
    for name in "abc":
        writer.add_tensor(f"tensor-{name}", np.ones((8, 8), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    content = path.read_bytes()
    second = content.index(b"tensor-b")
    place = content.index((256).to_bytes(8, "little"), second)
    before, after = content[:place], content[place + 8 :]
    content = {
        "twice": content.replace(b"tensor-b", b"tensor-a"),
        "shared": before + (0).to_bytes(8, "little") + after,
        "beyond": before + (2**60).to_bytes(8, "little") + after,
    }.get(kind, content)
    path.write_bytes(content)
    with pytest.raises(ExportError, match=problem):
        open_gguf(path)


def test_gguf_fields_and_tensors_are_those_of_the_package(tmp_path: Path) -> None:
    import gguf

    path = tmp_path / "x.gguf"
    chance = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_array("list", [1.5, -2.0])
    writer.add_array("texts", ["a", "é", ""])
    writer.add_bool("flag", True)
    writer.add_int64("negative", -(2**40))
    values = chance.normal(size=(3, 64)).astype(np.float32)
    for kind in ("F32", "F16", "Q4_0", "Q4_1", "Q5_1", "Q8_0"):
        quant = gguf.GGMLQuantizationType[kind]
        writer.add_tensor(kind, gguf.quants.quantize(values, quant), raw_dtype=quant)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    ours, theirs = open_gguf(path), gguf.GGUFReader(path)
    names = [name for name in theirs.fields if not name.startswith("GGUF.")]
    assert {n: ours.fields[n] for n in names} == {n: theirs.fields[n].contents() for n in names}
    for mine, other in zip(ours.tensors, theirs.tensors, strict=True):
        expected = gguf.quants.dequantize(other.data, other.tensor_type)
        assert mine.name == other.name
        assert mine.floats().tolist() == expected.tolist()


def _change_weights(folder: Path, changes: dict[str, Any]) -> None:
    """Replace tensors of the base model's second shard; None removes one."""
    path = folder / "base" / "model-2.safetensors"
    weights = load_file(path)
    for name, array in changes.items():
        weights.pop(name, None)
        if array is not None:
            weights[name] = array
    save_file(weights, path)
    first = path.with_name("model-1.safetensors")
    listed = {name: file.name for file in (first, path) for name in load_file(file)}
    (folder / "base" / INDEX_NAME).write_text(json.dumps({"weight_map": listed}))


NORM = "model.norm.weight"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({NORM: None}, r"lack model\.norm\.weight, of shape \(16,\)"),
        ({NORM: np.ones(17, np.float32)}, r"shape \(17,\), the network needs \(16,\)"),
        ({NORM: np.ones(16, np.int32)}, "is of type int32, expected one of"),
        ({NORM: np.full(16, np.nan, np.float32)}, "holds NaN or infinite numbers"),
        ({NORM: np.full(16, 1e300)}, "holds NaN or infinite numbers"),
        ({"model.layers.x.y": np.ones(1, np.float32)}, "which the network does not have"),
        ({"model.layers.": np.ones(1, np.float32)}, "which the network does not have"),
        ({f"model.layers.{'9' * 5000}.x": np.ones(1, np.float32)}, "the network does not have"),
        ({"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32)}, ""),
        ({"model.layers.2.mlp.up_proj.weight": np.ones(4, np.float32)}, ""),  # cut off
    ],
)
def test_weights_are_those_of_the_network(
    changes: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    target, folder, _ = prepared("checkpoint", tmp_path)
    assert NORM in load_file(folder / "base" / "model-2.safetensors")
    _change_weights(folder, changes)
    if not problem:
        target.run(folder)
        return
    with pytest.raises(ExportError, match=problem):
        target.run(folder)


def test_the_networks_tensors_are_those_of_the_reference() -> None:
    from rfprm_runtime.artifact.network_tensors import network_tensors
    from rfprm_runtime.backends.torch import PRMNetwork

    for kind in ("llama", "qwen2", "qwen3"):
        biased = {"attention_bias": True, "mlp_bias": True} if kind == "llama" else {}
        shape = backbone_from_config({**MODEL, "model_type": kind, **biased})
        for head in (Head(kind="linear", num_labels=2), Head(kind="mlp_relu", num_labels=3)):
            state = PRMNetwork(shape, head).state_dict()
            expected = {name: tuple(tensor.shape) for name, tensor in state.items()}
            assert dict(network_tensors(shape, head)) == expected


MODEL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 100,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10_000.0,
}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_attention_heads", 0),
        ("num_attention_heads", "4"),
        ("num_attention_heads", 4.5),
        ("hidden_size", True),
        ("rope_scaling", "linear"),
        ("rope_parameters", {"rope_theta": [1]}),
        ("rms_norm_eps", None),
        ("head_dim", 7),
        ("num_key_value_heads", 3),
    ],
)
def test_a_config_of_other_types_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ExportError):
        backbone_from_config({**MODEL, "model_type": "llama", name: value})
