"""ONNX files with external data are recognised from their bytes."""

import contextlib
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from caprun.bundle.checking import MESSAGES, has_external_data

Put = Callable[[ModelProto, TensorProto], None]


def inside() -> TensorProto:
    """Returns a tensor that contains its values."""
    return numpy_helper.from_array(np.arange(6, dtype=np.float32), "weights")


def outside() -> TensorProto:
    """Returns a tensor with its values in another file."""
    elsewhere = onnx.StringStringEntryProto(key="location", value="passwords.bin")
    kind = {"data_type": TensorProto.FLOAT, "dims": [6], "data_location": TensorProto.EXTERNAL}
    return TensorProto(name="weights", external_data=[elsewhere], **kind)


def model() -> ModelProto:
    """Returns a model with everything that a model can contain, except external data."""
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 6])
    branch = helper.make_graph([helper.make_node("Identity", ["x"], ["z"])], "branch", [], [value], [inside()])
    nodes = [
        helper.make_node("Constant", [], ["c"], value=inside(), doc_string="location"),
        helper.make_node("If", ["x"], ["z"], then_branch=branch, else_branch=branch),
        helper.make_node("Many", ["x"], ["y"], tensors=[inside(), inside()], graphs=[branch], floats=[1.0, 2.0]),
    ]
    graph = helper.make_graph(nodes, "graph", [value], [value], [inside()], value_info=[value])
    graph.sparse_initializer.append(
        helper.make_sparse_tensor(inside(), numpy_helper.from_array(np.arange(6), "at"), [9])
    )
    function = helper.make_function("domain", "f", ["x"], ["y"], nodes[:1], [helper.make_opsetid("", 20)])
    made = helper.make_model(graph, functions=[function], ir_version=10)
    made.metadata_props.add(key="location", value="passwords.bin")
    made.training_info.add().initialization.CopyFrom(branch)
    made.training_info[0].algorithm.CopyFrom(branch)
    return made


PLACES: dict[str, Put] = {
    "an initializer": lambda model, tensor: model.graph.initializer.append(tensor),
    "the values of a sparse initializer": lambda model, tensor: model.graph.sparse_initializer[0].values.CopyFrom(
        tensor
    ),
    "the indices of a sparse initializer": lambda model, tensor: model.graph.sparse_initializer[0].indices.CopyFrom(
        tensor
    ),
    "a constant": lambda model, tensor: model.graph.node[0].attribute[0].t.CopyFrom(tensor),
    "a list of tensors": lambda model, tensor: model.graph.node[2].attribute[0].tensors.append(tensor),
    "a branch": lambda model, tensor: model.graph.node[1].attribute[1].g.initializer.append(tensor),
    "a list of graphs": lambda model, tensor: model.graph.node[2].attribute[0].graphs.add().initializer.append(tensor),
    "a sparse attribute": lambda model, tensor: (
        model.graph.node[0].attribute.add().sparse_tensor.values.CopyFrom(tensor)
    ),
    "a list of sparse tensors": lambda model, tensor: (
        model.graph.node[0].attribute.add().sparse_tensors.add().indices.CopyFrom(tensor)
    ),
    "a node of a function": lambda model, tensor: model.functions[0].node[0].attribute[0].t.CopyFrom(tensor),
    "an attribute of a function": lambda model, tensor: model.functions[0].attribute_proto.add().t.CopyFrom(tensor),
    "the start of a training": lambda model, tensor: model.training_info[0].initialization.initializer.append(tensor),
    "a step of a training": lambda model, tensor: model.training_info[0].algorithm.initializer.append(tensor),
}


@pytest.mark.parametrize("place", PLACES)
def test_external_data_is_found_wherever_a_tensor_can_be(place: str) -> None:
    harmless, harmful = model(), model()
    PLACES[place](harmless, inside())
    PLACES[place](harmful, outside())
    assert has_external_data(harmless.SerializeToString()) is False
    assert has_external_data(harmful.SerializeToString()) is True


def test_every_path_to_a_tensor_in_the_onnx_schema_is_walked() -> None:
    """Fails if a later version of ONNX allows tensors in new places."""
    fields: dict[str, dict[int, str]] = {}
    pending = [ModelProto.DESCRIPTOR]
    while pending:
        message = pending.pop()
        if message.name not in fields:
            inner = {field.number: field.message_type for field in message.fields if field.message_type}
            fields[message.name] = {number: kind.name for number, kind in inner.items()}
            pending += inner.values()
    leads_there = {"TensorProto"}
    while more := {n for n, inner in fields.items() if leads_there & {*inner.values()}} - leads_there:
        leads_there |= more
    expected = {n: {k: kind for k, kind in fields[n].items() if kind in leads_there} for n in leads_there}
    assert expected == MESSAGES


@pytest.mark.parametrize("half", ["data_location", "external_data"])
def test_either_field_of_a_reference_is_recognised(half: str) -> None:
    tensor = outside()
    tensor.ClearField("external_data" if half == "data_location" else "data_location")
    made = model()
    made.graph.initializer.append(tensor)
    assert has_external_data(made.SerializeToString())


def test_a_location_that_onnx_runtime_truncates_to_external_is_external() -> None:
    tensor = inside().SerializeToString() + bytes([14 << 3, 0x81, 0x80, 0x80, 0x80, 0x10])  # 2 ** 32 + 1
    assert TensorProto.FromString(tensor).data_location == TensorProto.EXTERNAL
    graph = bytes([5 << 3 | 2, len(tensor)]) + tensor
    assert has_external_data(bytes([7 << 3 | 2, len(graph)]) + graph)


def test_both_parts_of_a_split_graph_are_walked() -> None:
    """Protocol Buffers merges the two parts."""
    made = model()
    made.graph.initializer.append(outside())
    assert has_external_data(made.SerializeToString() + model().SerializeToString())
    assert has_external_data(model().SerializeToString() + made.SerializeToString())


def test_values_are_not_mistaken_for_references() -> None:
    made, harmful = model(), model()
    harmful.graph.initializer.append(outside())
    made.graph.initializer.append(
        TensorProto(name="w", data_type=TensorProto.UINT8, raw_data=harmful.SerializeToString())
    )
    made.doc_string = "external_data { key: 'location' }"
    assert has_external_data(made.SerializeToString()) is False


def test_values_are_not_read() -> None:
    class Counted(bytes):
        reads = 0

        def __getitem__(self, at: object) -> int:  # type: ignore[override]
            Counted.reads += 1
            return super().__getitem__(at)  # type: ignore[index,return-value]

    made = model()
    has_external_data(Counted(made.SerializeToString()))
    before = Counted.reads
    made.graph.initializer.append(numpy_helper.from_array(np.ones(2**18, np.float32), "large"))
    has_external_data(Counted(made.SerializeToString()))
    assert Counted.reads - before < before + 100 < 5000


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x89PNG\r\n\x1a\n",
        b'{"format": "onnx"}',
        b"\x3b\x3c",  # a group
        b"\x02\x00",  # a field 0
        b"\x3a\x7f\x00",  # a graph longer than the file
        b"\x3a\x02\x2a\x7f",  # a tensor longer than its graph
        b"\x08" + b"\xff" * 10,  # a number that does not end
        b"\x18\x00\x00\x00ORTM" + b"\x00" * 8,  # ONNX Runtime's own format
        b"\xba\x80\x80\x80\x80\x01\x00",  # a tag that a parser may truncate to another one
    ],
)
def test_bytes_that_are_not_an_onnx_model_are_refused(garbage: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        has_external_data(garbage)


def test_a_truncated_model_is_refused_or_has_no_external_data() -> None:
    whole = model().SerializeToString()
    outcomes = set()
    for size in range(len(whole)):
        try:
            outcomes.add(has_external_data(whole[:size]))
        except ValueError:
            outcomes.add(None)
    assert outcomes == {False, None}


def test_damage_never_hides_a_reference_that_the_onnx_package_sees() -> None:
    made = model()
    made.graph.initializer.insert(0, outside())
    whole, rng = made.SerializeToString(), np.random.default_rng(0)
    seen = 0
    for _ in range(400):
        damaged = bytearray(whole)
        for at in rng.integers(len(damaged), size=3):
            damaged[at] ^= 1 << rng.integers(8)
        try:
            parsed = ModelProto.FromString(bytes(damaged))
        except Exception:  # noqa: BLE001 - the class depends on the installed protobuf
            continue
        external = [t for t in parsed.graph.initializer if t.data_location == TensorProto.EXTERNAL]
        seen += len(external)
        with contextlib.suppress(ValueError):  # a refusal is also fine
            assert has_external_data(bytes(damaged)) or not external
    assert seen > 50
