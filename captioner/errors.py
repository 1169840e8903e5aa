"""The one error of the training package that is meant for a person."""

from caprun.errors import CaprunError


class CaptionerError(CaprunError):
    """What captioner refuses to do: one sentence that says what, with which file, and what to do."""
