"""A caption, an abstention in its place, and their row: the one definition of a photo's result."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from caprun.arrays import Float32Array


@dataclass(frozen=True, eq=False)
class CaptionWord:
    """One word of a caption."""

    text: str
    log_prob: float
    """Natural logarithm of the probability the model gave to the word, the words before it given."""
    alpha: Float32Array | None
    """(rows, columns): where the model looked; sums to one. Only if asked for, and only of models that attend."""


@dataclass(frozen=True, eq=False)
class Caption:
    """What the model says of a photo."""

    text: str
    log_prob: float
    """Of the whole caption, its end included."""
    words: tuple[CaptionWord, ...]
    finished: bool
    """False where the caption was cut at the maximum length, or bans left nothing to say."""
    alternatives: tuple["Caption", ...] = ()
    """Where `n_best` asks for them, the other captions found, the best first; drawn ones in the order drawn."""
    confidence: float | None = None
    """How likely it is to be good, 0 to 1: the probability of `spec.confidence.event`, calibrated on photos that the
    model was not trained on. None where the model has no such calibration. Whoever would rather have no caption than
    a wrong one compares it with a number of their own."""


class Abstention(NamedTuple):
    """What there is of a photo in its caption's place."""

    reason: str
    """A sentence."""
    confidence: float
    """In the caption that is not said; as rows have it."""


def abstention(caption: Caption, least: float | None) -> Abstention | None:
    """Why a caption is not said; None where it is.

    The first caption found decides, not its alternatives; and its confidence as it is written, so that whoever compares
    what was written comes to the same.

    Args:
        caption: with a confidence, where `least` is one.
        least: the confidence below which nothing is said; None says everything.
    """
    if least is None or caption.confidence is None:
        return None
    confidence = written(caption.confidence)
    if confidence >= least:
        return None
    return Abstention(f"The model abstains: its confidence in its caption is {confidence}, below {least}.", confidence)


def written(confidence: float) -> float:
    """A confidence as rows and answers have it."""
    return round(confidence, 6)


def as_row(photo: str, caption: Caption, least: float | None = None) -> dict[str, Any]:
    """A photo's result as plain data: its caption, or why there is none; see `abstention`."""
    if why := abstention(caption, least):
        return {"image": photo, "abstained": why.reason, "confidence": why.confidence}
    others = [_text_as_dict(other) for other in caption.alternatives]
    return {"image": photo, **_text_as_dict(caption), **({"alternatives": others} if others else {})}


def _text_as_dict(caption: Caption) -> dict[str, Any]:
    return {
        "caption": caption.text,
        "log_prob": round(caption.log_prob, 6),
        **({} if caption.confidence is None else {"confidence": written(caption.confidence)}),
        "words": [{"word": word.text, "log_prob": round(word.log_prob, 6)} for word in caption.words],
    }
