"""The systems whose checkpoints can be imported: their files, names, equations and preprocessing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from caprun.bundle.vocabulary import Joining
from captioner.importers.files import read_states, read_words
from captioner.importers.ljm565_words import words_of_training


@dataclass(frozen=True)
class Request:
    """The arguments of an import."""

    files: Sequence[Path]
    words: Path
    """The vocabulary file; for ljm565, the folder of its training captions."""
    decoder: str = ""
    """CaRNet's decoder."""
    regions: int = 7
    """Rows and columns of regions that CaRNet's attention covers."""


@dataclass(frozen=True)
class Found:
    """A model of another project, with its own names."""

    state: Mapping[str, Tensor]
    names: Mapping[str, str]
    """Our name prefixes by its name prefixes; see `captioner.importers.weights`."""
    words: Callable[[int], list[str]]
    """Returns the words in the order of their ids, given the number of words in the weights."""
    special: tuple[str, str, str, str]
    """Its words for padding, start, end and unknown words."""
    data: Mapping[str, Any]
    """Settings of `DataConfig`."""
    model: Mapping[str, Any]
    """Settings of `ModelConfig` besides sizes and `_PLAIN`."""
    max_length: int
    """Maximum number of pieces that its own program generates after the start, including the end."""
    joining: Joining = field(default_factory=Joining)


_RESNET = {"encoder.resnet.": "encoder.features."}
_SQUASHED = {"image_size": 224, "resample": "bilinear", "jpeg_decoding": "full", "min_count": 1, "tokenizer": "word"}


def _sgrvinod(request: Request) -> Found:
    state = read_states(request.files[0], {"encoder": "encoder.", "decoder": "decoder."})
    pooled = state.pop("encoder.adaptive_pool.output_size", None)  # its `encoded_image_size`
    return Found(
        state,
        {
            **_RESNET,
            "decoder.attention.encoder_att.": "decoder.attention.key.",
            "decoder.attention.decoder_att.": "decoder.attention.query.",
            "decoder.attention.full_att.": "decoder.attention.score.",
            "decoder.f_beta.": "decoder.attention.gate.",
            "decoder.embedding.": "decoder.embedding.",
            "decoder.init_h.": "initial_hidden.",
            "decoder.init_c.": "initial_cell.",
            "decoder.decode_step.": "lstm.",
            "decoder.fc.": "decoder.output.",
        },
        lambda _: read_words(request.words),
        ("<pad>", "<start>", "<end>", "<unk>"),
        _SQUASHED | {"image_size": 256, "max_length": 50},
        {"project": "none", "attention_activation": "relu", "regions": 14 if pooled is None else int(pooled[0])},
        51,
    )


_CARNET = {"resnet.": "encoder.features.", "words_embedding.": "decoder.embedding.", "lstm_unit.": "lstm."}
_CARNET |= {"linear_1.": "decoder.output."}
_CARNET_ATTENTION = _CARNET | {
    "attention.image_attention_projection.": "decoder.attention.key.",
    "attention.lstm_hidden_state_attention_projection.": "decoder.attention.query.",
    "attention.attention.": "decoder.attention.score.",
    "f_beta.": "decoder.attention.gate.",
    "h_0.": "initial_hidden.",
    "c_0.": "initial_cell.",
}


def _carnet(request: Request) -> Found:
    attends = request.decoder == "rnetvhcattention"
    model: dict[str, Any] = {"decoder": request.decoder, "project": "linear", "initial_state": "projection"}
    if attends:
        model |= {"project": "none", "attention_activation": "relu", "initial_state": "learned"}
        model["regions"] = request.regions
    return Found(
        {name: value for file in request.files for name, value in read_states(file, {"": ""}).items()},
        _CARNET_ATTENTION if attends else _CARNET | {"linear.": "project.0."},
        lambda _: read_words(request.words),
        ("<PAD>", "<START>", "<END>", "<UNK>"),
        _SQUASHED | {"max_length": 15, "punctuation": True},
        model,
        14,
    )


def _image_cap(request: Request) -> Found:
    return Found(
        read_states(request.files[0], {"": ""}),
        {
            **_RESNET,
            "decoder.attention.U.": "decoder.attention.key.",
            "decoder.attention.W.": "decoder.attention.query.",
            "decoder.attention.A.": "decoder.attention.score.",
            "decoder.embedding.": "decoder.embedding.",
            "decoder.init_h.": "initial_hidden.",
            "decoder.init_c.": "initial_cell.",
            "decoder.lstm_cell.": "lstm.",
            "decoder.fcn.": "decoder.output.",
        },
        lambda _: read_words(request.words),
        ("[PAD]", "[CLS]", "[SEP]", "[UNK]"),
        _SQUASHED | {"max_length": 28, "punctuation": True, "tokenizer": "wordpiece:vocab.txt"},
        {"project": "none", "gate": False, "normalise": False},
        50,
        # as BERT's tokenizer decodes
        Joining(continuation="##", no_space_before=(*".?!,", "'"), no_space_after=("'",)),
    )


def _vvduc(request: Request) -> Found:
    return Found(
        read_states(request.files[0], {"model": ""}),
        {
            "CNN.model.features.": "encoder.features.",
            "CNN.model.classifier.0.": "project.0.",
            "RNN.embed.": "decoder.embedding.",
            "RNN.lstm.": "lstm.",
            "RNN.linear.": "decoder.output.",
        },
        lambda _: read_words(request.words),
        ("<PAD>", "<SOS>", "<EOS>", "<UNK>"),
        _SQUASHED | {"punctuation": True, "tokenizer": "spacy"},
        {"encoder": "efficientnet_b2", "decoder": "rnetvi", "project": "relu"},
        49,
    )


def _ljm565(request: Request) -> Found:
    state = read_states(request.files[0], {"model.encoder": "encoder.", "model.decoder": "decoder."})
    weighted = "decoder.lstm.weight_hh_l1" in state
    pixels = state.get("encoder.hidden_dim_changer.0.weight")
    names = {
        **_RESNET,
        "encoder.hidden_dim_changer.0.": "weigh." if weighted else "",
        "encoder.h_mlp.": "initial_hidden.",
        "encoder.c_mlp.": "initial_cell.",
        "decoder.attention.enc_wts.0.": "decoder.attention.key.1.",
        "decoder.attention.enc_wts.2.": "decoder.attention.key.3.",
        "decoder.attention.dec_wts.0.": "decoder.attention.query.1.",
        "decoder.attention.dec_wts.2.": "decoder.attention.query.3.",
        "decoder.attention.score_wts.": "decoder.attention.score.",
        "decoder.beta.1.": "decoder.attention.gate.1.",
        "decoder.embedding.": "decoder.embedding.",
        "decoder.lstm.": "lstm.",
        "decoder.fc.2.": "decoder.output.",
    }
    model: dict[str, Any] = {"project": "none", "attention_layers": 2, "output": "relu"}
    model["regions"] = 14 if pixels is None else math.isqrt(pixels.shape[1])
    model["initial_state"] = "weighted" if weighted else "learned"
    return Found(
        state,
        names,
        lambda size: words_of_training(request.words, size),
        ("[PAD]", "[BOS]", "[EOS]", "[UNK]"),
        _SQUASHED | {"image_size": 256, "max_length": 62},
        model,
        63,
    )


@dataclass(frozen=True)
class System:
    """A system whose checkpoints can be imported."""

    title: str
    find: Callable[[Request], Found]
    """Reads a model; raises a CaptionerError if the system did not write a file."""
    files: tuple[str, ...]
    """File names of a model."""


SYSTEMS = {
    "sgrvinod": System("sgrvinod's tutorial", _sgrvinod, ("BEST_checkpoint_NAME.pth.tar",)),
    "carnet": System("CaRNet", _carnet, ("NAME_C.pth", "NAME_R.pth")),
    "image-cap": System("image-cap", _image_cap, ("model_weights.pth",)),
    "vvduc": System("vvduc's captioner", _vvduc, ("best.pt",)),
    "ljm565": System("ljm565's captioner", _ljm565, ("model.pt",)),
}
