"""A graph names no files but its own, wherever in it a tensor hides."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import helper

from rfprm_runtime import ArtifactError
from rfprm_runtime.artifact.manifest import FileRecord
from rfprm_runtime.artifact.onnx_file import check_external_data, external_names
from tiny_models import byte_tokenizer, tiny_manifest

PATH = Path("model.onnx")


def _external(location: str) -> onnx.TensorProto:
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[1])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="offset", value="0")
    tensor.external_data.add(key="location", value=location)
    return tensor


def _graph(*nodes: onnx.NodeProto, tensors: tuple[onnx.TensorProto, ...] = ()) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), "g", [], [], list(tensors))


def _in_an_initializer(tensor: onnx.TensorProto) -> onnx.ModelProto:
    return helper.make_model(_graph(tensors=(tensor,)))


def _in_a_constant(tensor: onnx.TensorProto) -> onnx.ModelProto:
    return helper.make_model(_graph(helper.make_node("Constant", [], ["y"], value=tensor)))


def _in_a_list_of_constants(tensor: onnx.TensorProto) -> onnx.ModelProto:
    return helper.make_model(_graph(helper.make_node("X", [], ["y"], values=[tensor])))


def _in_a_branch(tensor: onnx.TensorProto) -> onnx.ModelProto:
    inner = _graph(helper.make_node("If", ["c"], ["y"], then_branch=_graph(tensors=(tensor,))))
    return helper.make_model(_graph(helper.make_node("If", ["c"], ["y"], else_branch=inner)))


def _in_a_list_of_graphs(tensor: onnx.TensorProto) -> onnx.ModelProto:
    return helper.make_model(_graph(helper.make_node("X", [], [], all=[_graph(tensors=(tensor,))])))


def _in_a_function(tensor: onnx.TensorProto) -> onnx.ModelProto:
    node = helper.make_node("Constant", [], ["y"], value=tensor)
    model = helper.make_model(_graph())
    model.functions.append(helper.make_function("d", "f", [], ["y"], [node], []))
    return model


def _in_a_default_of_a_function(tensor: onnx.TensorProto) -> onnx.ModelProto:
    model = helper.make_model(_graph())
    function = helper.make_function("d", "f", [], [], [], [])
    function.attribute_proto.append(helper.make_attribute("a", tensor))
    model.functions.append(function)
    return model


def _in_sparse_values(tensor: onnx.TensorProto) -> onnx.ModelProto:
    model = helper.make_model(_graph())
    model.graph.sparse_initializer.add().values.CopyFrom(tensor)
    return model


def _in_sparse_indices_of_a_node(tensor: onnx.TensorProto) -> onnx.ModelProto:
    node = helper.make_node("Constant", [], ["y"])
    attribute = node.attribute.add(name="sparse_value", type=onnx.AttributeProto.SPARSE_TENSOR)
    attribute.sparse_tensor.indices.CopyFrom(tensor)
    return helper.make_model(_graph(node))


def _in_training(tensor: onnx.TensorProto) -> onnx.ModelProto:
    model = helper.make_model(_graph())
    model.training_info.add().algorithm.CopyFrom(_graph(tensors=(tensor,)))
    return model


HIDING = [
    _in_an_initializer,
    _in_a_constant,
    _in_a_list_of_constants,
    _in_a_branch,
    _in_a_list_of_graphs,
    _in_a_function,
    _in_a_default_of_a_function,
    _in_sparse_values,
    _in_sparse_indices_of_a_node,
    _in_training,
]
Hide = Callable[[onnx.TensorProto], onnx.ModelProto]


@pytest.mark.parametrize("hide", HIDING)
def test_a_file_is_found_wherever_it_is_named(hide: Hide) -> None:
    content = hide(_external("weights.bin")).SerializeToString()
    assert external_names(content, PATH) == {"weights.bin"}


@pytest.mark.parametrize("hide", HIDING)
@pytest.mark.parametrize(
    "location", ["../w", "/w", "a/../../w", "C:\\w", "..", "", "a\0b", "*/_ORT_MEM_ADDR_/*"]
)
def test_a_name_that_leads_elsewhere_is_refused(hide: Hide, location: str) -> None:
    with pytest.raises(ArtifactError, match=r"names a file with weights.*is not the name"):
        external_names(hide(_external(location)).SerializeToString(), PATH)


def test_the_last_of_several_locations_counts_and_the_first_too() -> None:
    tensor = _external("a")
    tensor.external_data.add(key="location", value="../b")
    with pytest.raises(ArtifactError, match=r"'\.\./b'"):
        external_names(_in_an_initializer(tensor).SerializeToString(), PATH)


def test_a_graph_compiled_for_a_device_is_refused() -> None:
    node = helper.make_node("EPContext", [], ["y"], domain="com.microsoft")
    with pytest.raises(ArtifactError, match="was compiled for one device"):
        external_names(helper.make_model(_graph(node)).SerializeToString(), PATH)


def test_deep_graphs_take_no_stack() -> None:
    graph = _graph(tensors=(_external("deep.bin"),)).SerializeToString()
    for _ in range(2000):  # graph.node.attribute.g
        for field in (6, 5, 1):
            graph = bytes([field << 3 | 2]) + _varint(len(graph)) + graph
    model = bytes([7 << 3 | 2]) + _varint(len(graph)) + graph
    assert external_names(model, PATH) == {"deep.bin"}


def _varint(number: int) -> bytes:
    parts = []
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


def test_the_files_of_a_graph_are_those_that_the_manifest_lists(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(_in_an_initializer(_external("w.bin")).SerializeToString())
    manifest = tiny_manifest(byte_tokenizer())
    with pytest.raises(ArtifactError, match=r"'w\.bin', which the manifest does not list"):
        check_external_data(path, manifest)
    record = FileRecord(sha256="0" * 64, num_bytes=0)
    manifest = manifest.model_copy(update={"files": {"w.bin": record}})
    with pytest.raises(ArtifactError, match=r"w\.bin is missing"):
        check_external_data(path, manifest)
    (tmp_path / "w.bin").write_bytes(b"")
    check_external_data(path, manifest)
