"""Whether a manifest makes sense: whoever writes one with the right digest can still write what no runtime can run."""

import math
import re
from collections.abc import Iterator
from dataclasses import astuple

from caprun.bundle.confidence import Confidence
from caprun.bundle.manifest import Graphs, Manifest, TensorSpec

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}(?<!\.)")
"""Of a file or a precision: nothing that any system takes for a path, a drive or a stream, or that a terminal obeys."""
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # what Windows has in every directory
_MOST_SIDE = 2**14  # pixels
_INDICES = ("row", "parent", "token", "k")
NEXT = "next_"
"""A graph cannot have one name for an input and an output: the decoder's output `next_hidden` is its next `hidden`."""

FIRST_STATE = ("hidden", "cell")
"""The encoder's outputs that a confidence sees of a photo, in this order."""
_MOST_SENTENCE, _MOST_WEIGHT = 500, 1e9  # no probability wants larger weights, whose products might be no numbers


def is_plain_name(name: str) -> bool:
    """Whether it is the name of a file in the directory at hand, on every system."""
    return _NAME.fullmatch(name) is not None and not _DEVICES.fullmatch(name)


def problems(manifest: Manifest, pieces: int) -> Iterator[str]:
    """What makes no sense in a manifest that has the right keys and types, in a few words each; none where it does.

    Args:
        manifest: whose files have names that are plain.
        pieces: in its vocabulary.
    """
    if manifest.format_version < 1:
        yield "there is no such format version"
    special = astuple(manifest.special)
    if len(set(special)) != len(special) or not all(0 <= index < pieces for index in special):
        yield "its special ids are not in the vocabulary, or not four"
    image = manifest.image
    if not (1 <= image.height <= _MOST_SIDE and 1 <= image.width <= _MOST_SIDE):
        yield f"its image has not from 1 to {_MOST_SIDE} pixels a side"
    if not all(map(is_plain_name, manifest.precisions)):
        yield "a precision has no plain name"
    yield from _problems_of_graphs(manifest.graphs, (image.height, image.width, 3))
    yield from _problems_of_attention(manifest)
    if manifest.search.neutral and manifest.neutral is None:
        yield "its search says neutral words and it has none"
    if manifest.confidence is not None:
        yield from _problems_of_confidence(manifest.confidence, manifest.graphs)


def _problems_of_graphs(graphs: Graphs, image: tuple[int, int, int]) -> Iterator[str]:
    encoder, decoder = graphs.encoder, graphs.decoder
    for tensors in (encoder.inputs, encoder.outputs, decoder.inputs, decoder.outputs):
        if len({tensor.name for tensor in tensors}) < len(tensors):
            yield "a graph has two tensors of one name"
    if [(one.role, one.dtype, one.shape[1:]) for one in encoder.inputs] != [("image", "uint8", image)]:
        yield "its encoder does not take the image that it describes"
    seen, given = _by_name(encoder.outputs), _by_name(decoder.inputs)
    found = _by_name(decoder.outputs)
    if not {"parent", "token", "k"} <= set(given) <= {*_INDICES, *seen}:
        yield "its decoder does not take what its encoder gives"
    states = {name.removeprefix(NEXT): tensor for name, tensor in found.items() if tensor.role == "state"}
    for name, tensor in states.items():
        if not tensor.name.startswith(NEXT) or name not in given or given[name].shape[1:] != tensor.shape[1:]:
            yield "its decoder does not take the state that it gives"
    for name, dtype in (("log_prob", "float32"), ("candidate", "int64")):
        if name not in found or found[name].dtype != dtype or len(found[name].shape) != 3:
            yield f"its decoder gives no {name}"


def _problems_of_attention(manifest: Manifest) -> Iterator[str]:
    if manifest.attention_grid is None:
        return
    rows, columns = manifest.attention_grid
    alpha = _by_name(manifest.graphs.decoder.outputs).get("alpha")
    if rows < 1 or columns < 1 or alpha is None or alpha.shape[2:] != (rows * columns,):
        yield "its decoder does not attend to such a grid"


def _problems_of_confidence(confidence: Confidence, graphs: Graphs) -> Iterator[str]:
    event = confidence.event
    if not event.strip() or len(event) > _MOST_SENTENCE or not event.isprintable():
        yield f"its confidence does not say in one line of at most {_MOST_SENTENCE} characters what it is of"
    parts = confidence.good, confidence.familiar
    if any(abs(weight) > _MOST_WEIGHT for one in parts for weight in (one.bias, *one.caption.values(), *one.photo)):
        yield "its confidence has weights that are too large"
    features = _features(graphs)
    if features is None or any(len(one.photo) not in (0, features) for one in parts):
        yield "its confidence is not of such a state as its encoder gives"


def _features(graphs: Graphs) -> int | None:
    """How many numbers a photo's first hidden and cell state are together; None where there are no such states."""
    outputs = _by_name(graphs.encoder.outputs)
    sizes: list[int] = []
    for tensor in map(outputs.get, FIRST_STATE):
        if tensor is None or tensor.role != "state" or tensor.dtype != "float32":
            return None
        shape = [size for size in tensor.shape[1:] if isinstance(size, int)]
        if len(shape) != len(tensor.shape) - 1:
            return None
        sizes.append(math.prod(shape))
    return sum(sizes)


def _by_name(tensors: tuple[TensorSpec, ...]) -> dict[str, TensorSpec]:
    return {tensor.name: tensor for tensor in tensors}
