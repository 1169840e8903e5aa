"""Converts weights: other projects' names to ours, and PyTorch's LSTM layers to those of `CaptionDecoder`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from captioner.errors import CaptionerError

Weights = dict[str, Tensor]

_RESNETS: Mapping[tuple[bool, tuple[int, ...]], str] = {
    (True, (3, 4, 6, 3)): "resnet50",
    (True, (3, 4, 23, 3)): "resnet101",
    (True, (3, 8, 36, 3)): "resnet152",
    (False, (2, 2, 2, 2)): "resnet18",
    (False, (3, 4, 6, 3)): "resnet34",
}
"""torchvision's names by whether blocks are bottlenecks, and by the number of blocks in each stage."""


def renamed(state: Mapping[str, Tensor], names: Mapping[str, str], source: str) -> Weights:
    """Renames weights to our names.

    Args:
        state: weights by their own names.
        names: our prefixes by theirs, longer ones first; empty for weights that are not used.
        source: the files, for messages.

    Raises:
        CaptionerError: a prefix matches no weight, or a weight matches no prefix.
    """
    lacking = [begin for begin in names if not any(name.startswith(begin) for name in state)]
    if lacking:
        raise CaptionerError(
            f"There are no weights for {', '.join(begin.rstrip('.') for begin in lacking)} in {source}, only for "
            f"{', '.join(_modules(state))}; name the files of one complete model of this system."
        )
    weights: Weights = {}
    for name, value in state.items():
        begin = next((one for one in names if name.startswith(one)), None)
        if begin is None:
            raise CaptionerError(
                f"There are weights for {name} in {source}, which a model of this system does not have; name the "
                "system and decoder that it was trained with."
            )
        if names[begin]:
            weights[names[begin] + name.removeprefix(begin)] = value
    return weights


def _modules(state: Mapping[str, Tensor]) -> list[str]:
    """Returns the first few modules of a state dict, two names deep."""
    return list(dict.fromkeys(".".join(name.split(".")[:-1][:2]) or name for name in state))[:8]


def converted(weights: Mapping[str, Tensor], order: Sequence[int]) -> Weights:
    """Converts weights to those of `CaptionModel`.

    Args:
        weights: by our names, except for an LSTMCell or LSTM called `lstm`, whose first layer's input is the word,
            then the context. Query and score of the attention can have biases, which are redundant.
        order: their vocabulary id for each of ours.

    Raises:
        KeyError: a part of a layer is missing.
    """
    weights = dict(weights)
    for name in ("decoder.embedding.weight", "decoder.output.weight", "decoder.output.bias"):
        weights[name] = weights[name][list(order)]
    words = weights["decoder.embedding.weight"].shape[1]
    for layer in range(layers_of(weights)):
        end = "" if "lstm.weight_ih" in weights else f"_l{layer}"
        read, recurrent = (weights.pop(f"lstm.weight_{one}{end}") for one in ("ih", "hh"))
        bias = weights.pop(f"lstm.bias_ih{end}") + weights.pop(f"lstm.bias_hh{end}")
        if layer:
            below = f"decoder.below_gates.{layer - 1}"
            weights |= {f"{below}.weight": read, f"{below}.bias": bias}
        else:
            weights |= {"decoder.word_gates.weight": read[:, :words], "decoder.word_gates.bias": bias}
            if read.shape[1] > words:
                weights["decoder.context_gates.weight"] = read[:, words:]
        weights[f"decoder.hidden_gates.{layer}.weight"] = recurrent
    key, query = "decoder.attention.key.bias", "decoder.attention.query.bias"
    if query in weights:
        weights[key] = weights[key] + weights.pop(query)
    weights.pop("decoder.attention.score.bias", None)  # softmax cancels it
    return weights


def layers_of(weights: Mapping[str, Tensor]) -> int:
    """Returns the number of LSTM layers, before conversion (`lstm`) or after."""
    return sum(name.startswith(("lstm.weight_hh", "decoder.hidden_gates.")) for name in weights)


def resnet_of(weights: Mapping[str, Tensor], source: str) -> str:
    """Returns torchvision's name for the encoder, a ResNet.

    Raises:
        CaptionerError: torchvision has no such ResNet.
    """
    stages = tuple(
        len({name.split(".")[3] for name in weights if name.startswith(f"encoder.features.{stage}.")})
        for stage in (4, 5, 6, 7)
    )
    found = _RESNETS.get(("encoder.features.4.0.conv3.weight" in weights, stages))
    if found is None:
        raise CaptionerError(f"{source} has an encoder with {stages} blocks per stage, which is not a known ResNet.")
    return found
