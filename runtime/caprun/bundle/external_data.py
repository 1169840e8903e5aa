"""Whether an ONNX file is complete in itself, read from its bytes: ONNX Runtime would follow it to other files.

ONNX is Protocol Buffers, a tree of messages; only those that can hold a tensor are walked, and no tensor's values are
read. Whatever ONNX Runtime's parser might take another way is refused, so that the two cannot see different files.
"""

from collections.abc import Mapping

_Message = Mapping[int, str]
_MESSAGES: Mapping[str, _Message] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: "TensorProto",
        6: "GraphProto",
        10: "TensorProto",
        11: "GraphProto",
        22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
    "TensorProto": {},
}
"""The fields through which a tensor is reached, by number, and the message in each."""

_EXTERNAL_DATA, _DATA_LOCATION = 13, 14  # of TensorProto
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LARGEST_TAG = 2**32 - 1


def has_external_data(model: bytes) -> bool:
    """Whether a tensor of the model, wherever it stands, has its values in another file.

    Raises:
        ValueError: these are not the bytes of an ONNX model.
    """
    pending = [(0, len(model), "ModelProto")]
    try:
        while pending:
            at, end, message = pending.pop()
            inner = _MESSAGES[message]
            while at < end:
                tag, at = _varint(model, at)
                field, wire = tag >> 3, tag & 7
                if wire == _BYTES:
                    size, at = _varint(model, at)
                    if field in inner:
                        pending.append((at, at + size, inner[field]))
                    elif message == "TensorProto" and field == _EXTERNAL_DATA:
                        return True
                    at += size
                elif wire == _VARINT:
                    value, at = _varint(model, at)
                    if message == "TensorProto" and field == _DATA_LOCATION and value:
                        return True
                elif wire in (_FIXED64, _FIXED32):
                    at += 8 if wire == _FIXED64 else 4
                else:
                    raise ValueError("a group, or no field at all")
                if field == 0 or tag > _LARGEST_TAG:
                    raise ValueError("a field without a number")
            if at > end:
                raise ValueError("a field that ends after its message")
    except IndexError:
        raise ValueError("a field that ends after the file") from None
    return False


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at `at`, seven bits a byte and the lowest first, and where it ends."""
    value = data[at]
    if value < 128:
        return value, at + 1
    value &= 127
    for place in range(1, 10):
        byte = data[at + place]
        value |= (byte & 127) << (7 * place)
        if byte < 128:
            return value, at + place + 1
    raise ValueError("a number of more than ten bytes")
