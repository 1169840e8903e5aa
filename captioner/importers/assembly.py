"""Converts a model of another project to a checkpoint."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from caprun.bundle.vocabulary import Vocabulary
from caprun.bundle.writing import describe_file
from caprun.errors import CaprunError
from caprun.search.options import SearchOptions
from captioner.config import Config, DataConfig, ModelConfig
from captioner.errors import CaptionerError
from captioner.importers.systems import SYSTEMS, Found, Request
from captioner.importers.weights import Weights, converted, layers_of, renamed, resnet_of
from captioner.models.caption_model import CaptionModel, build_caption_model
from captioner.models.checkpoint import Checkpoint
from captioner.text.tokenizer import SPECIAL

_PICTURES = 4
_PLAIN = {"output": "linear", "initial_tanh": False, "mask_special": False, "tie_words": False}
"""Settings of `ModelConfig` that all these systems share."""


def import_checkpoint(system: str, request: Request, command: str) -> Checkpoint:
    """Converts a model of another project to a checkpoint that generates the same captions as its own greedy search.

    The special words get our ids, and the rows of the weights are reordered to match. The checkpoint has generated
    pictures for verifying an export, because there are no photos.

    Args:
        system: a key of `SYSTEMS`.
        request: files and options.
        command: the command line, for the provenance.

    Raises:
        CaptionerError: a file cannot be read or is not from this system, or the vocabulary does not fit the weights.
    """
    title, needed = SYSTEMS[system].title, SYSTEMS[system].files
    source = " and ".join(map(str, request.files))
    if len(request.files) != len(needed):
        raise CaptionerError(
            f"A model of {title} has {len(needed)} file{'s' * (len(needed) > 1)}, {' and '.join(needed)}; "
            f"{len(request.files)} given: {source}."
        )
    found = SYSTEMS[system].find(request)
    weights = renamed(found.state, found.names, source)
    table = weights.get("decoder.embedding.weight")
    if table is None or table.ndim != 2:
        raise CaptionerError(
            f"{source} is not a complete model of {title}: 'decoder.embedding.weight' is missing or is not a matrix."
        )
    words = found.words(len(table))
    vocabulary, order = _vocabulary(words, found, request.words)
    if len(words) != len(table):
        raise CaptionerError(
            f"{request.words} has {len(words)} words, but the weights in {source} have {len(table)}; name the "
            "vocabulary that the model was trained with."
        )
    try:
        weights = converted(weights, order)
        config = _config(found, weights, source)
    except (KeyError, IndexError) as error:
        raise CaptionerError(f"{source} is not a complete model of {title}: {error} is missing.") from None
    except CaprunError as error:
        raise CaptionerError(f"{source} cannot be imported as a model of {title}: {error}") from None
    model = build_caption_model(config, len(vocabulary), SPECIAL)
    _load(model, weights, source)
    provenance = {
        "command": command,
        "imported": {
            "system": title,
            "files": [{"name": file.name, "sha256": describe_file(file).sha256} for file in request.files],
        },
        "versions": {"captioner": version("captioner"), "torch": str(torch.__version__)},
    }
    pictures = _pictures(config.data.image_size)
    return Checkpoint(config, vocabulary, SPECIAL, model.state_dict(), pictures, {}, provenance)


def _vocabulary(words: list[str], found: Found, file: Path) -> tuple[Vocabulary, list[int]]:
    """Returns the vocabulary with the special words at our ids, and the former ids of its words."""
    missing = [word for word in found.special if word not in words]
    if missing:
        raise CaptionerError(f"{file} does not have {', '.join(missing)}; it starts with {', '.join(words[:6])}.")
    first = [words.index(word) for word in found.special]
    order = first + [index for index in range(len(words)) if index not in first]
    vocabulary = Vocabulary(tuple(words[index] for index in order), found.joining)
    try:
        vocabulary.check()
    except ValueError as error:
        raise CaptionerError(f"{file} cannot be imported: {error}; replace the word.") from None
    return vocabulary, order


def _config(found: Found, weights: Weights, source: str) -> Config:
    """Returns the configuration, with sizes taken from the weights."""
    sizes: dict[str, Any] = {
        "embedding": weights["decoder.embedding.weight"].shape[1],
        "units": weights["decoder.hidden_gates.0.weight"].shape[1],
        "layers": layers_of(weights),
    }
    if "decoder.attention.score.weight" in weights:
        sizes["attention"] = weights["decoder.attention.score.weight"].shape[1]
    if "project.0.weight" in weights:
        sizes["projection"] = weights["project.0.weight"].shape[0]
    if "encoder" not in found.model:
        sizes["encoder"] = resnet_of(weights, source)
    return Config(
        DataConfig(**found.data),
        ModelConfig(**{**_PLAIN, **sizes, **found.model}),
        search=SearchOptions(beam_size=1, max_length=found.max_length, length_penalty=0.0),
    )


def _load(model: CaptionModel, weights: Weights, source: str) -> None:
    own = model.state_dict()
    counters = {name for name in own if name.endswith("num_batches_tracked")}  # none in files of PyTorch before 0.4.1
    different = sorted((set(own) ^ set(weights)) - counters)
    different += [name for name in own if name in weights and own[name].shape != weights[name].shape]
    if different:
        shapes = (f"{tuple(one[different[0]].shape)}" if different[0] in one else "missing" for one in (weights, own))
        there, expected = shapes
        raise CaptionerError(
            f"The weights in {source} do not fit together: {different[0]} is {there} and should be {expected}."
        )
    model.load_state_dict({**{name: own[name] for name in counters}, **weights})


def _pictures(size: int) -> Tensor:
    """Draws pictures of soft random colours, uint8 (pictures, size, size, 3)."""
    colours = torch.rand(_PICTURES, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    pictures = nn.functional.interpolate(colours, (size, size), mode="bilinear")
    return (255 * pictures).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
