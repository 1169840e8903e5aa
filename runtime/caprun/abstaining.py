"""No caption rather than one the model is not sure of: `--min-confidence`, and what is said in a caption's place."""

from typing import TYPE_CHECKING, NamedTuple

import click

from caprun.click_types import Number
from caprun.errors import UsageError

if TYPE_CHECKING:
    from caprun.bundle import ModelSpec
    from caprun.engine import Caption

min_confidence_option = click.option(
    "--min-confidence",
    type=Number("p", 0, 1),
    help="No caption for a photo where the model's confidence, a calibrated probability, is below P.",
)
"""The option, on whichever command captions; P is the parameter `min_confidence`."""


class Abstention(NamedTuple):
    """What there is of a photo in its caption's place."""

    reason: str
    """A sentence."""
    confidence: float
    """In the caption that is not said; as rows have it."""


def refuse_uncalibrated(spec: "ModelSpec", least: float | None, option: str = "--min-confidence") -> None:
    """Refuse to compare the confidence of a model that has none.

    Args:
        spec: the model's.
        least: the confidence that is asked for; None for none.
        option: how that was said.

    Raises:
        UsageError: it was, and there is none.
    """
    if least is not None and spec.confidence is None:
        raise UsageError(f"The model {spec.name} has no calibrated confidence to abstain by; leave out {option}.")


def abstention(caption: "Caption", least: float | None) -> Abstention | None:
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
