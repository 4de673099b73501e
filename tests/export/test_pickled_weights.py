"""What torch.save wrote is read without torch, and as data: it can call nothing."""

from __future__ import annotations

import os
import pickle
import shutil
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from fuzz_targets import PICKLED, write_pickled
from rfprm_export import ExportError
from rfprm_export.checkpoint import load_prm
from rfprm_export.pickled_weights import open_pickled


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_tensors_of_every_float_type_are_read_exactly(tmp_path: Path, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    values = torch.randn(5, 4).to(dtype)
    state = {
        "whole": values,
        "turned": values.T,
        "part": values[1:3, ::2],
        "parameter": torch.nn.Parameter(values),
        "one": values[2, 1],
        "nothing": values[:0],
    }
    torch.save(state, tmp_path / "x.bin")
    found = open_pickled(tmp_path / "x.bin")
    assert {name: one.shape for name, one in found.stored.items()} == {
        name: tuple(tensor.shape) for name, tensor in state.items()
    }
    for name, tensor in state.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], tensor.detach().float().numpy())


def test_a_checkpoints_state_dict_is_found_and_buffers_of_whole_numbers_do_no_harm(
    tmp_path: Path,
) -> None:
    state = OrderedDict(a=torch.ones(2), steps=torch.tensor([1, 2]))
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "x.pt")
    found = open_pickled(tmp_path / "x.pt")
    assert found["a"].tolist() == [1, 1]
    with pytest.raises(ExportError, match="of type int64"):
        found["steps"]


def test_a_published_model_in_pickles_is_the_one_in_safetensors(
    published_prm: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(published_prm, tmp_path / "model")
    (folder / "model.safetensors").unlink()
    state = {n: torch.tensor(x) for n, x in load_file(published_prm / "model.safetensors").items()}
    names = sorted(state)
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        torch.save({n: state[n] for n in part}, folder / f"pytorch_model-{number:05d}.bin")
    torch.save({"not": "weights"}, folder / "training_args.bin")
    found, expected = load_prm(folder).weights, load_prm(published_prm).weights
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


class _Calls:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self._reduced = (function, arguments)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self._reduced


@pytest.mark.parametrize(
    "attack",
    [
        _Calls(os.system, "touch ran"),
        _Calls(eval, "open('ran', 'w')"),
        _Calls(getattr, "", "join"),
        _Calls(np.load, "ran"),
        _Calls(pickle.loads, b"cos\nsystem\n(S'touch ran'\ntR."),
        _Calls(torch.load, "ran"),
        _Calls(Path, "ran"),
        {"a": _Calls(__import__, "antigravity")},
        np.zeros(3),
    ],
    ids=["os", "eval", "getattr", "np", "pickle", "torch", "Path", "import", "array"],
)
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_pickle_calls_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attack: object, protocol: int
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_pickled(tmp_path / "x.bin", pickle.dumps(attack, protocol))
    with pytest.raises(ExportError, match=r"x\.bin.*calls .*which no file of tensors needs"):
        open_pickled(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.bin"]


def _changed(old: bytes, new: bytes) -> bytes:
    assert PICKLED.count(old) == 1
    return PICKLED.replace(old, new)


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (_changed(b"K\x03K\x02\x86", b"K\x04K\x02\x86"), "larger than its storage"),
        (_changed(b"QK\x00", b"QK\x01"), "larger than its storage"),
        (
            _changed(b"K\x02K\x01\x86", b"K\x00K\x00\x86").replace(
                b"K\x03K\x02\x86", b"K\xffK\xff\x86"
            ),
            "larger than its storage",
        ),
        (
            _changed(b"K\x02K\x01\x86", b"J\xff\xff\xff\xffK\x01\x86"),
            "something else than a storage",
        ),
        (_changed(b"K\x02K\x01\x86", b"K\x01\x85"), "and other strides"),
        (_changed(b"K\x06t", b"K\x07t"), "expected 28"),
        (_changed(b"FloatStorage", b"HalfStorage"), "expected 12"),
        (_changed(b"FloatStorage", b"CharStorage"), "calls torch.CharStorage"),
        (_changed(b"X\x01\x00\x00\x000", b"X\x01\x00\x00\x00/"), "has no name and size"),
        (_changed(b"X\x01\x00\x00\x000", b"X\x01\x00\x00\x001"), "cannot be read"),
        (_changed(b"Rq\rs.", b"Rq\rsK\x01b."), "cannot be read as a file of torch.save"),
        # A state after the tensor was made and checked: it must not change it.
        (_changed(b"Rq\rs.", b"Rq\r}X\x05\x00\x00\x00shapeK\x09sbs."), "cannot be read as a file"),
        (b"\x80\x02K\x01.", "holds int, expected tensors"),
        (b"\x80\x02}.", "holds dict, expected tensors"),
        (b"\x80\x02}K\x01K\x02s.", "holds '1', which is no tensor"),
        (b"\x80\x02", "cannot be read as a file of torch.save"),
        (b"\x80\x02" + b"(" * 100_000, "cannot be read as a file of torch.save"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, pickled: bytes, message: str) -> None:
    path = write_pickled(tmp_path / "x.bin", pickled)
    with pytest.raises(ExportError, match=message):
        dict(open_pickled(path))


def test_other_archives_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    torch.save({"a": torch.ones(3)}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(ExportError, match="save it with a newer PyTorch"):
        open_pickled(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", PICKLED)
    with pytest.raises(ExportError, match="is compressed"):
        open_pickled(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("other", b"")
    with pytest.raises(ExportError, match=r"torch\.save did not write it"):
        open_pickled(path)
    write_pickled(path)
    assert open_pickled(path)["a"].tolist() == [[0, 1], [2, 3], [4, 5]]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", PICKLED)
        archive.writestr("archive/byteorder", "big")
    with pytest.raises(ExportError, match="little-endian"):
        open_pickled(path)
