"""Validates a manifest beyond its schema: ids, shapes and names that the runtime relies on."""

import math
import re
from collections.abc import Iterator
from dataclasses import astuple

from caprun.bundle.confidence import Confidence
from caprun.bundle.language import is_language_code
from caprun.bundle.manifest import FIRST_STATE, NEXT, Graphs, Manifest, TensorSpec
from caprun.bundle.plain_data import shown
from caprun.bundle.vocabulary import Vocabulary

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}(?<!\.)")
"""Names of files and precisions: no system reads them as a path, drive or stream, and no terminal as a control code."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ufffe\uffff]")
"""Characters that XML and terminals cannot show. Lone surrogates are allowed: a folder's name may not be UTF-8."""
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # reserved in every Windows directory
_MOST_SIDE = 2**14  # pixels
_INDICES = ("row", "parent", "token", "k")
_MOST_SENTENCE, _MOST_WEIGHT = 500, 1e9  # larger weights are useless, and their products could be NaN


def is_plain_name(name: str) -> bool:
    """Returns whether a name is a plain file name on every system."""
    return _NAME.fullmatch(name) is not None and not _DEVICES.fullmatch(name)


def problems(manifest: Manifest, vocabulary: Vocabulary) -> Iterator[str]:
    """Describes in a few words each contradiction in a manifest whose keys, types and file names are valid."""
    if _CONTROL.search(manifest.name):
        yield "its name contains a control character"
    special = astuple(manifest.special)
    if len(set(special)) != len(special) or not all(0 <= index < len(vocabulary) for index in special):
        yield "its special ids are not four different ids of the vocabulary"
    image = manifest.image
    if not (1 <= image.height <= _MOST_SIDE and 1 <= image.width <= _MOST_SIDE):
        yield f"its image size is not between 1 and {_MOST_SIDE} pixels per side"
    if not all(map(is_plain_name, manifest.precisions)):
        yield "the name of a precision is not a plain name"
    yield from _problems_of_graphs(manifest.graphs, (image.height, image.width, 3))
    yield from _problems_of_attention(manifest)
    if manifest.search.neutral and manifest.neutral is None:
        yield "its search uses neutral words, but it has none"
    if manifest.neutral is not None:
        yield from manifest.neutral.problems(vocabulary, frozenset(special))
    if manifest.language is not None and not is_language_code(manifest.language):
        yield f"its language {shown(manifest.language)} is not a language code"
    if manifest.confidence is not None:
        yield from _problems_of_confidence(manifest.confidence, manifest.graphs)


def _problems_of_graphs(graphs: Graphs, image: tuple[int, int, int]) -> Iterator[str]:
    encoder, decoder = graphs.encoder, graphs.decoder
    for tensors in (encoder.inputs, encoder.outputs, decoder.inputs, decoder.outputs):
        if len({tensor.name for tensor in tensors}) < len(tensors):
            yield "two tensors of a graph have the same name"
    if [(one.role, one.dtype, one.shape[1:]) for one in encoder.inputs] != [("image", "uint8", image)]:
        yield "its encoder's input is not the image that it describes"
    encoded, given, returned = _by_name(encoder.outputs), _by_name(decoder.inputs), _by_name(decoder.outputs)
    if not {"parent", "token", "k"} <= set(given) <= {*_INDICES, *encoded}:
        yield "its decoder's inputs do not match the outputs of its encoder"
    for name, tensor in returned.items():
        state = given.get(name.removeprefix(NEXT))
        if tensor.role == "state" and (
            not name.startswith(NEXT) or state is None or state.shape[1:] != tensor.shape[1:]
        ):
            yield "its decoder's input state does not match the state that it returns"
    for name, dtype in (("log_prob", "float32"), ("candidate", "int64")):
        if name not in returned or returned[name].dtype != dtype or len(returned[name].shape) != 3:
            yield f"its decoder returns no {name} of type {dtype} and three dimensions"


def _problems_of_attention(manifest: Manifest) -> Iterator[str]:
    if manifest.attention_grid is None:
        return
    rows, columns = manifest.attention_grid
    alpha = _by_name(manifest.graphs.decoder.outputs).get("alpha")
    if rows < 1 or columns < 1 or alpha is None or alpha.shape[2:] != (rows * columns,):
        yield "its decoder returns no alpha for the attention grid"


def _problems_of_confidence(confidence: Confidence, graphs: Graphs) -> Iterator[str]:
    event = confidence.event
    if not event.strip() or len(event) > _MOST_SENTENCE or not event.isprintable():
        yield f"the event of its confidence is not one line of at most {_MOST_SENTENCE} characters"
    parts = confidence.good, confidence.familiar
    if any(abs(weight) > _MOST_WEIGHT for one in parts for weight in (one.bias, *one.caption.values(), *one.photo)):
        yield "its confidence has weights that are too large"
    features = _features(graphs)
    if features is None or any(len(one.photo) not in (0, features) for one in parts):
        yield "its confidence does not fit the state that its encoder returns"


def _features(graphs: Graphs) -> int | None:
    """Counts the numbers in a photo's first hidden and cell state; None without such states."""
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
