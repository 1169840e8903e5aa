"""A graph with weights in another file is refused, wherever ONNX allows them, before ONNX Runtime reads anything."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import ModelProto, TensorProto

from caprun import BundleError, Captioner
from caprun.bundle.writing import describe_file

Edit = Callable[[Path, Callable[[dict[str, Any]], object]], None]
ENCODER, DECODER = "encoder_model.onnx", "decoder_model.onnx"


def outside() -> TensorProto:
    """Returns a tensor with its values in another file."""
    elsewhere = onnx.StringStringEntryProto(key="location", value="passwords.bin")
    kind = {"data_type": TensorProto.FLOAT, "dims": [6], "data_location": TensorProto.EXTERNAL}
    return TensorProto(name="weights", external_data=[elsewhere], **kind)


PLACES: dict[str, Callable[[ModelProto], object]] = {
    "an initializer": lambda model: model.graph.initializer.append(outside()),
    "a sparse initializer": lambda model: model.graph.sparse_initializer.add().values.CopyFrom(outside()),
    "a constant": lambda model: model.graph.node[0].attribute.add().t.CopyFrom(outside()),
    "a branch": lambda model: model.graph.node[0].attribute.add().g.initializer.append(outside()),
    "a function": lambda model: model.functions.add().node.add().attribute.add().t.CopyFrom(outside()),
}


@pytest.fixture
def load(bundle: Path, edit_manifest: Edit) -> Callable[[str, bytes], str]:
    """Returns a function that replaces a graph of the bundle, and returns the error of loading it."""

    def replace(file: str, content: bytes) -> str:
        (bundle / file).write_bytes(content)
        entry = vars(describe_file(bundle / file))
        edit_manifest(bundle, lambda data: data["files"].update({file: entry}))
        with pytest.raises(BundleError) as caught:
            Captioner.load(bundle, device="cpu")
        return str(caught.value)

    return replace


Load = Callable[[str, bytes], str]


@pytest.mark.parametrize("file", [ENCODER, DECODER])
@pytest.mark.parametrize("place", PLACES)
def test_weights_in_another_file_are_refused(
    load: Load, bundle: Path, sessions: list[object], place: str, file: str
) -> None:
    model = onnx.load(bundle / file)
    PLACES[place](model)
    sentence = load(file, model.SerializeToString())
    assert sentence.startswith(f"{bundle / file} contains the word `location`, which marks weights in another file: ")
    assert sessions == []


def test_the_error_for_a_name_with_the_word_tells_to_rename_it(load: Load, bundle: Path) -> None:
    model = onnx.load(bundle / ENCODER)
    model.graph.node[0].name = "location_attention"
    assert "rename every tensor and node whose name contains it" in load(ENCODER, model.SerializeToString())


@pytest.mark.parametrize("file", [ENCODER, DECODER])
def test_a_graph_that_is_not_an_onnx_file_is_refused(load: Load, bundle: Path, file: str) -> None:
    assert load(file, b"\x89PNG\r\n\x1a\n").startswith(f"ONNX Runtime refuses {bundle / file} (")
